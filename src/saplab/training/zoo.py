"""The networks of the package: which there are, how well each does, and how a finished run becomes one of them."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from saplab.attacks import PGD
from saplab.attacks.ball import eps_of
from saplab.data.cifar10 import Records
from saplab.data.sample import read_sample
from saplab.models.packaged import CLEAN, Measured
from saplab.training.batches import network_input
from saplab.training.recipes import FIG_2_RATES
from saplab.training.testing import count_correct

STRENGTHS = (2.0, 8.0)
STEPS = 20
ATTACK = f"PGD-{STEPS}"
_BATCH = 500


@dataclass(frozen=True)
class Entry:
    """A network of the zoo, as the options of ``saplab train`` that make it.

    Args:
        name: of the network.
        recipe, preset, network, rate, defense, epochs: the options; None and "" leave them out.
    """

    name: str
    recipe: str
    preset: str
    network: str | None = None
    rate: float | None = None
    defense: str = ""
    epochs: int | None = None

    def command(self, threads: int | None = None, seed: int = 0) -> str:
        """Give the command that makes it."""
        options = {
            "--preset": self.preset,
            "--network": self.network,
            "--rate": self.rate,
            "--defense": self.defense or None,
            "--epochs": self.epochs,
            "--data": "cifar10:DIR",
            "--threads": threads,
            "--seed": seed or None,
        }
        given = [text for name, value in options.items() if value is not None for text in (name, str(value))]
        return shlex.join(["saplab", "train", self.recipe, *given])


def entries(preset: str) -> tuple[Entry, ...]:
    """Give every network of the zoo as that preset trains it.

    On two CPU cores ``fast`` stands for ``pgd``, and the network trained through SAP gets fewer epochs.
    """
    robust = "pgd" if preset == "paper" else "fast"
    base = "preact-resnet20"
    return (
        Entry(f"{base}-dense", "dense", preset),
        Entry("resnet20-dense", "dense", preset, network="resnet20"),
        *(Entry(f"{base}-dropout-{rate:g}", "dropout", preset, rate=rate) for rate in FIG_2_RATES),
        Entry(f"{base}-adversarial", "adversarial", preset),
        Entry(f"{base}-{robust}", robust, preset),
        Entry(f"{base}-sap-100", "dense", preset, defense="sap:100", epochs=20 if preset == "small" else None),
    )


def find_entry(name: str, preset: str) -> Entry:
    """Give the network of that name, as that preset trains it.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    known = {entry.name: entry for entry in entries(preset)}
    if name not in known:
        raise ValueError(f"`only` must be one of {', '.join(known)} for preset {preset!r}, got {name!r}")
    return known[name]


def measure(model: nn.Module, test: Records | None, attacked: Records | None = None) -> Iterator[Measured]:
    """Count the images that a network in eval mode gets right, clean and under PGD-20.

    PGD (Madry et al. 2018): 20 steps of λ/8 from one random start, cross-entropy, no restarts, in float32.

    Args:
        model: without defences.
        test: CIFAR-10's test images; None leaves the clean accuracy out.
        attacked: attack these instead of the 1,000 images of the packaged sample.
    """
    if test is not None:
        yield Measured(CLEAN, 0.0, count_correct(model, test), len(test), "test")
    records, data = (read_sample(), "sample") if attacked is None else (attacked, "test")
    for strength in STRENGTHS:
        yield Measured(ATTACK, strength, _count_under_attack(model, records, strength), len(records), data)


def _count_under_attack(model: nn.Module, records: Records, strength: float) -> int:
    attack, correct = PGD(steps=STEPS), 0
    for start in range(0, len(records), _BATCH):
        part = records.chosen(slice(start, start + _BATCH))
        images, labels, examples = network_input(part.images), torch.from_numpy(part.labels), part.indices
        changed = attack(model, images, labels, eps_of(strength), seed=0, examples=torch.from_numpy(examples))
        with torch.no_grad():
            correct += int((model(changed).argmax(dim=1) == labels).sum())
    return correct


def read_request(checkpoint: Path) -> dict[str, Any]:
    """Read what a training run was asked for.

    Raises:
        ValueError: the file is no checkpoint of a training run.
        FileNotFoundError: it is missing.
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(f"{checkpoint} is missing: expected the checkpoint of a training run")
    with safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata() or {}
    if "request" not in metadata:
        raise ValueError(f"{checkpoint} is no checkpoint of a training run")
    request: dict[str, Any] = json.loads(metadata["request"])
    return request


def agrees(stored: Measured, found: Measured) -> bool:
    """Tell whether a new count is the stored one, but for what another machine's rounding may move.

    That is one clean image in a thousand, and one attacked image in a hundred: an attack of many steps amplifies.
    """
    allowed = found.images / (1000 if found.attack == CLEAN else 100)
    return stored.images == found.images and abs(stored.correct - found.correct) <= allowed
