"""The networks of the package: which there are, how well each does, and how a finished run becomes one of them."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from saplab.attacks import PGD
from saplab.attacks.ball import eps_of
from saplab.data.dataset import Records
from saplab.data.sample import read_sample
from saplab.models.packaged import CLEAN, Measured
from saplab.training.batches import network_input
from saplab.training.choice import Choice
from saplab.training.recipes import FIG_2_RATES
from saplab.training.testing import count_correct

STRENGTHS = (2.0, 8.0)
STEPS = 20
ATTACK = f"PGD-{STEPS}"
_BATCH = 500


def choices(preset: str) -> dict[str, Choice]:
    """Give every network of the zoo, and how it is trained under that preset.

    On two CPU cores ``fast`` stands for ``pgd``, and the network trained through SAP gets fewer epochs.
    """
    robust = "pgd" if preset == "paper" else "fast"
    base = "preact-resnet20"
    return {
        f"{base}-dense": Choice("dense", preset),
        "resnet20-dense": Choice("dense", preset, network="resnet20"),
        **{f"{base}-dropout-{rate:g}": Choice("dropout", preset, rate=rate) for rate in FIG_2_RATES},
        f"{base}-adversarial": Choice("adversarial", preset),
        f"{base}-{robust}": Choice(robust, preset),
        f"{base}-sap-100": Choice("dense", preset, defense="sap:100", epochs=10 if preset == "small" else None),
    }


def choose(preset: str, only: str | None) -> dict[str, Choice]:
    """Give the choice of one name, or all.

    Raises:
        ValueError: there is none of that name; the message lists those there are.
    """
    known = choices(preset)
    if only is not None and only not in known:
        raise ValueError(f"`only` must be one of {', '.join(known)} for preset {preset!r}, got {only!r}")
    return known if only is None else {only: known[only]}


def measure(model: nn.Module, test: Records | None = None) -> Iterator[Measured]:
    """Count the images that a network in eval mode gets right under PGD-20.

    PGD (Madry et al. 2018): 20 steps of λ/8 from one random start, cross-entropy, no restarts, in float32.

    Args:
        model: without defences.
        test: CIFAR-10's test images, to attack instead of the 1,000 of them in the packaged sample.
    """
    for strength in STRENGTHS:
        yield measure_again(model, Measured(ATTACK, strength, 0, 0, "test" if test else "sample"), test)


def measure_again(model: nn.Module, stored: Measured, test: Records | None) -> Measured:
    """Measure what a stored number says: the same attack and strength, on the same images.

    Raises:
        ValueError: it needs test images, and there are none.
    """
    records = read_sample() if stored.data == "sample" else test
    if records is None:
        raise ValueError(f"`data` must be given to measure on {stored.data} images")
    is_clean = stored.attack == CLEAN
    correct = count_correct(model, records) if is_clean else _count_under_attack(model, records, stored.strength)
    return replace(stored, correct=correct, images=len(records))


def _count_under_attack(model: nn.Module, records: Records, strength: float) -> int:
    attack, correct = PGD(steps=STEPS), 0
    for start in range(0, len(records), _BATCH):
        part = records.chosen(slice(start, start + _BATCH))
        images, labels, examples = network_input(part.images), torch.from_numpy(part.labels), part.indices
        changed = attack(model, images, labels, eps_of(strength), seed=0, examples=torch.from_numpy(examples))
        with torch.no_grad():
            correct += int((model(changed).argmax(dim=1) == labels).sum())
    return correct


def agrees(stored: Measured, found: Measured) -> bool:
    """Tell whether a new count is the stored one, but for what another machine's rounding may move.

    That is one clean image in a thousand, and one attacked image in a hundred: an attack of many steps amplifies.
    """
    allowed = found.images / (1000 if found.attack == CLEAN else 100)
    return stored.images == found.images and abs(stored.correct - found.correct) <= allowed
