"""The networks of the package: which there are, how well each does, and how each is trained."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from saplab.attacks import PGD, eps_of
from saplab.data.dataset import Records
from saplab.data.sample import read_sample
from saplab.models.packaged import CLEAN, Measured
from saplab.system.words import did_you_mean
from saplab.training.choice import Choice
from saplab.training.place import Place
from saplab.training.recipes import FIG_2_RATES, SMOOTHING_STDS
from saplab.training.testing import count_by, count_correct

STRENGTHS: Final = (2.0, 8.0)
STEPS: Final = 20
ATTACK: Final = f"PGD-{STEPS}"


def choose(preset: str, only: str | None) -> dict[str, Choice]:
    """Return how each network of the zoo, or only one of them, is trained with a preset, by the network's name.

    On two CPU cores ``fast`` replaces ``pgd``, and the network trained through SAP gets fewer epochs.
    Raises ValueError, with the names of the networks, if there is no such one.
    """
    robust = "pgd" if preset == "paper" else "fast"
    base = "preact-resnet20"
    known = {
        f"{base}-dense": Choice("dense", preset),
        "resnet20-dense": Choice("dense", preset, network="resnet20"),
        **{f"{base}-dropout-{rate:g}": Choice("dropout", preset, rate=rate) for rate in FIG_2_RATES},
        f"{base}-adversarial": Choice("adversarial", preset),
        f"{base}-{robust}": Choice(robust, preset),
        f"{base}-sap-100": Choice("dense", preset, defense="sap:100", epochs=10 if preset == "small" else None),
        **{f"{base}-gaussian-{std:g}": Choice("gaussian", preset, std=std) for std in SMOOTHING_STDS},
        **{f"{base}-{name}": Choice(name, preset) for name in ("lwta", "pni", "rpf", "rse", "wca", "rna", "bat")},
    }
    if only is not None and only not in known:
        raise ValueError(
            f"`only` must be one of {', '.join(known)} for preset {preset!r}, got {only!r}{did_you_mean(only, known)}"
        )
    return known if only is None else {only: known[only]}


def measure(model: nn.Module, test: Records | None = None) -> Iterator[Measured]:
    """Count the images that a network in eval mode classifies correctly under PGD-20.

    PGD (Madry et al. 2018): 20 steps of λ/8 from one random start, cross-entropy, no restarts, in float32.
    `test` are CIFAR-10's test images, to attack instead of the 1,000 of them in the packaged sample.
    """
    for strength in STRENGTHS:
        yield measure_again(model, Measured(ATTACK, strength, 0, 0, "test" if test else "sample"), test)


def measure_again(model: nn.Module, stored: Measured, test: Records | None) -> Measured:
    """Measure a stored number again, on the same images; ValueError if these are test images and none are given."""
    records = read_sample() if stored.data == "sample" else test
    if records is None:
        raise ValueError(f"`data` must be given to measure on {stored.data} images")
    is_clean = stored.attack == CLEAN
    correct = count_correct(model, records) if is_clean else _count_under_attack(model, records, stored.strength)
    return replace(stored, correct=correct, images=len(records))


def _count_under_attack(model: nn.Module, records: Records, strength: float) -> int:
    attack, eps = PGD(steps=STEPS), eps_of(strength)

    def logits(images: Tensor, labels: Tensor, examples: Tensor) -> Tensor:
        changed = attack(model, images, labels, eps, seed=0, examples=examples)
        with torch.no_grad():
            return model(changed)  # type: ignore[no-any-return]

    return count_by(logits, records, Place())


def agrees(stored: Measured, found: Measured) -> bool:
    """Return whether a new count is the stored one, up to what another machine's rounding may move.

    That is one clean image in a thousand, and one attacked image in a hundred: an attack of many steps amplifies.
    """
    allowed = found.images / (1000 if found.attack == CLEAN else 100)
    return stored.images == found.images and abs(stored.correct - found.correct) <= allowed
