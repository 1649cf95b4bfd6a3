"""Certificates of an entry, kept beside its results."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import nn

from saplab.benchmark.protocol import PROTOCOL, Tier
from saplab.data.dataset import Dataset
from saplab.defenses import GaussianNoise, defenses_of
from saplab.evaluation.certificates import ABSTAINS, Certificates, certify, radii_of
from saplab.runs.cell import Cell
from saplab.system.folder import read_inside, write_inside


class _File(msgspec.Struct, forbid_unknown_fields=True):
    key: dict[str, Any]
    predictions: list[int]
    votes: list[list[int]]
    seconds: float


@dataclass(frozen=True)
class Proof:
    """Certificates, and how long they took."""

    found: Certificates
    seconds: float


def noise_of(model: nn.Module) -> float | None:
    """Return the deviation of the noise where it is a network's only defence, so that it can be certified."""
    acting = defenses_of(model)
    return acting[0].std if len(acting) == 1 and type(acting[0]) is GaussianNoise else None


def proven(model: nn.Module, std: float, cell: Cell, images: Dataset, tier: Tier, path: Path, progress: bool) -> Proof:
    """Certify all images of a network under noise, or read what was found of the same one before.

    Args:
        model: as `cell` names it.
        std: of its noise.
        cell: of the network under attack.
        path: of the file that keeps them; one of another network or of other numbers is written anew.
    """
    key = {"network": dict(cell.defender.key), "data": images.digest(), "device": cell.device, "n0": tier.n0,
           "n": tier.n, "alpha": PROTOCOL.alpha, "seed": PROTOCOL.seed}  # fmt: skip
    stored = _read(path, key)
    arrays = None if stored is None else _arrays(stored, std, len(images))
    if stored is None or arrays is None:
        begin = perf_counter()
        found = certify(
            model, images.images.to(cell.device), images.labels, n0=tier.n0, n=tier.n, alpha=PROTOCOL.alpha,
            seed=PROTOCOL.seed, examples=images.indices, progress=progress,
        )  # fmt: skip
        seconds = round(perf_counter() - begin, 3)
        stored = _File(key, found.predictions.tolist(), found.votes.tolist(), seconds)
        write_inside(path.parent, path.name, msgspec.json.encode(stored))
        arrays = found.predictions, found.radii, found.votes
    labels, numbers = images.labels.numpy(), images.indices.numpy()
    proof = Certificates(*arrays, labels, std, tier.n0, tier.n, PROTOCOL.alpha, PROTOCOL.seed, numbers)
    return Proof(proof, stored.seconds)


def _arrays(
    stored: _File, std: float, images: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]] | None:
    """Return classes, the radii that their votes certify, and the votes; None where a file cannot be whole."""
    try:
        predictions, votes = np.array(stored.predictions, np.int64), np.array(stored.votes, np.int64)
    except (ValueError, OverflowError):  # rows of several lengths, or a number beyond any
        return None
    if predictions.shape != (images,) or votes.ndim != 2 or len(votes) != images or not votes.size or votes.min() < 0:
        return None
    sure, classes = predictions != ABSTAINS, votes.shape[1]
    if (votes.sum(axis=1) != stored.key["n"]).any() or (predictions < ABSTAINS).any() or (predictions >= classes).any():
        return None
    radii = np.where(sure, radii_of(np.where(sure, predictions, 0), votes, std, PROTOCOL.alpha), 0.0)
    return (predictions, radii, votes) if ((radii > 0) == sure).all() else None


def _read(path: Path, key: Mapping[str, Any]) -> _File | None:
    """Return what a file holds; None where there is none, or one that is damaged or of something else."""
    try:
        found = msgspec.json.decode(read_inside(path.parent, path.name), type=_File)
    except (OSError, ValueError):
        return None
    return found if found.key == msgspec.json.decode(msgspec.json.encode(key)) else None
