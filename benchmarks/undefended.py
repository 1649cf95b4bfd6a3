"""The battery `standard` beside AutoAttack's standard version where passes do not differ: a table of `peers.py`."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from suite.timing import Times, time_once
from torch import Tensor, nn

import saplab
from saplab.evaluation.findings import finished_curves
from saplab.metrics import mean_interval, paired_difference

NETWORKS = ("preact-resnet20-dense", "preact-resnet20-fast", "preact-resnet20-adversarial")
AUTOATTACK = "pyautoattack"
COLUMNS = ("network", "λ", "clean", "standard", "AutoAttack", "difference, points", "standard s", "AutoAttack s",
           "masked")  # fmt: skip


@dataclass(frozen=True)
class Both:
    """What both leave of a network at a radius, image by image, and the processor seconds that they took in all.

    Attributes:
        ours, theirs: (N,) whether each image is still right.
        seconds: of `standard` at all radii together, and of AutoAttack at all of them.
        masked: what the verdict says of the gradient.
    """

    name: str
    lam: float
    clean: float
    ours: np.ndarray[Any, Any]
    theirs: np.ndarray[Any, Any]
    seconds: tuple[float, float]
    masked: bool | None


def networks(outside: Path | None) -> dict[str, Callable[[], nn.Module]]:
    """Return the packaged networks, and a ResNet-20 from elsewhere where its weights are given."""
    found: dict[str, Callable[[], nn.Module]] = {name: partial(saplab.load_model, name) for name in NETWORKS}
    if outside is not None:
        found[f"resnet20@{outside.name}"] = partial(saplab.load_model, "resnet20", outside)
    return found


def compare(name: str, net: nn.Module, images: Tensor, labels: Tensor, strengths: Sequence[float]) -> list[Both]:
    """Run `standard` at all strengths at once, and AutoAttack at each."""
    times, eps = Times(), [lam / 255 for lam in strengths]
    attack = partial(saplab.evaluate, net, images, labels, "standard", eps, progress=False)
    found: saplab.Result = time_once(attack, times)
    ours, clean = left(found), found.verdict.robust[0].accuracy.estimate
    theirs = [time_once(partial(autoattack, net, images, labels, radius), times) for radius in eps]
    seconds, masked = (times.cpu[0], sum(times.cpu[1:])), found.verdict.masked
    return [Both(name, lam, clean, ours[lam], right, seconds, masked)
            for lam, right in zip(strengths, theirs, strict=True)]  # fmt: skip


def left(found: saplab.Result) -> dict[float, np.ndarray[Any, Any]]:
    """Return for each strength which images no attack of an evaluation broke, there or in a smaller ball."""
    curves = list(finished_curves(found.store, found.request.curves))
    points = [(one.shown(eps), one.right_at(eps)) for one in curves for eps in one.cell.eps]
    return {lam: np.min([right for at, right in points if at <= lam], axis=0) for lam, _ in points}


def autoattack(net: nn.Module, images: Tensor, labels: Tensor, eps: float) -> np.ndarray[Any, Any]:
    """Run the standard version: APGD on cross-entropy, targeted APGD and FAB, Square; return who is still right."""
    from pyautoattack import AutoAttack

    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    attack = AutoAttack(net, norm="Linf", eps=eps, version="standard", seed=0)
    points = attack.run_standard_evaluation(images, labels)[0]
    with torch.no_grad():
        right: np.ndarray[Any, Any] = (net(points).argmax(1) == labels).double().numpy()
    return right


def row(both: Both) -> str:
    """Return a row of the table, in Markdown."""
    ours, theirs = (f"{100 * mean_interval(right, 1).estimate:.1f}" for right in (both.ours, both.theirs))
    gap = paired_difference(both.ours, both.theirs)
    points = "{:+.1f} [{:.1f}, {:.1f}]".format(*(100 * end for end in (gap.estimate, gap.low, gap.high)))
    masked = {True: "yes", False: "no", None: "not known"}[both.masked]
    cells = (f"`{both.name}`", f"{both.lam:g}", f"{100 * both.clean:.1f}", ours, theirs, points,
             *(f"{seconds:.0f}" for seconds in both.seconds), masked)  # fmt: skip
    return f"| {' | '.join(cells)} |"


def print_table(
    nets: Mapping[str, Callable[[], nn.Module]], images: Tensor, labels: Tensor, strengths: Sequence[float]
) -> list[dict[str, Any]]:
    """Print the table row by row, and return its numbers."""
    print(f"{len(images)} images; accuracy left, %; processor seconds of all strengths together")
    print(f"| {' | '.join(COLUMNS)} |\n|---|{'---:|' * (len(COLUMNS) - 1)}")
    found = []
    for name, load in nets.items():
        for both in compare(name, load(), images, labels, strengths):
            print(row(both), flush=True)
            found.append({**vars(both), "ours": both.ours.tolist(), "theirs": both.theirs.tolist()})
    print()
    return found
