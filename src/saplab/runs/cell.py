"""The unit of work: one defender against one adversary on a range of examples, at several strengths."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

NUMERICS = 5  # raise it when the same cell would give other numbers


@dataclass(frozen=True)
class Network:
    """A network as a cell names it: where it comes from, what its weights are, what defends it.

    Args:
        model: a zoo name or ``package.module:factory``.
        digest: SHA-256 over the parameters and buffers, so that other weights are another cell.
        defense: as on the command line (``sap:100``); empty for the plain network.
        sites: pattern of the sites that the defence acts on; empty for all.
    """

    model: str
    digest: str
    defense: str = ""
    sites: str = ""


@dataclass(frozen=True)
class Cell:
    """One stored result's request; everything that decides its numbers, and nothing else.

    Args:
        defender, adversary: the network under attack and the one whose gradient the attacker uses.
        attack: ``{"name": "fgsm", "samples": 100, ...}``: name and settings of the attack.
        strengths: λ in pixel steps of 0..255.
        data: digest of the data set (images and labels).
        start, stop: the range of examples, by their position in the data set.
        passes: stochastic passes averaged for a prediction.
        seed: of the defence's draws and (as a separate stream) the attack's.
        precision: of the network's arithmetic, ``float32`` or ``bfloat16``.
    """

    defender: Network
    adversary: Network
    attack: Mapping[str, Any]
    strengths: tuple[float, ...]
    data: str
    start: int
    stop: int
    passes: int
    seed: int
    precision: str = "float32"

    def to_json(self) -> str:
        """Give the canonical JSON text: sorted keys, no spaces, with the version of the numerics."""
        values = {"numerics": NUMERICS, **self._values(), "strengths": [float(strength) for strength in self.strengths]}
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    @cached_property
    def digest(self) -> str:
        """Give 16 hexadecimal digits that name this cell's file."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @property
    def images(self) -> str:
        """Give, as JSON, what decides the adversarial images: all but the defender and its passes."""
        return self._images(dict(self.attack))

    @property
    def crafting(self) -> str:
        """Give, as JSON, what cells have in common whose adversarial images are made together.

        As `images`, but for FGSM's number of samples: a larger budget's gradient passes through the smaller ones'.
        """
        attack = dict(self.attack)
        if attack["name"] == "fgsm" and attack["average"] == "loss":
            del attack["samples"]
        return self._images(attack)

    def _images(self, attack: Mapping[str, Any]) -> str:
        values = {name: value for name, value in self._values().items() if name not in ("defender", "passes")}
        return json.dumps({**values, "attack": attack}, sort_keys=True)

    def _values(self) -> dict[str, Any]:
        """Give the fields as plain values, without the deep copies of `dataclasses.asdict`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "defender": vars(self.defender), "adversary": vars(self.adversary)}


@dataclass(frozen=True)
class Curve:
    """What a chart draws as one line: a label and the cells whose examples, together, are its images.

    Args:
        label: what a person reads ("SAP-100, identity backward").
        cells: same request but for ``start`` and ``stop``, in order, no gap.
        claim: what the label's adversary knows or does, one sentence for the report.
        paper: the paper's accuracies in %, by strength, where they exist.
        repeats: the same cells with other seeds, one tuple a seed.
        figure: name of the figure that the curve belongs to; "" where a run has but one.
    """

    label: str
    cells: tuple[Cell, ...]
    claim: str = ""
    paper: Mapping[float, float] = field(default_factory=dict)
    repeats: tuple[tuple[Cell, ...], ...] = ()
    figure: str = ""
