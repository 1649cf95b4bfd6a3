"""Whether a network's gradient is the slope of what it computes: steps along it, and how far outputs rise."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from saplab.defenses.defended import is_random
from saplab.defenses.drawing import GradientRule, drawing
from saplab.defenses.gradient import reach
from saplab.defenses.prediction import as_logits
from saplab.rng.streams import pass_streams, stream_key

_IMAGES: Final = 8
_PASSES: Final = 6  # of each image, where passes differ
_STEPS: Final = (1e-3, 4e-3, 16e-3)  # of the images' range
_LEAST: Final = 0.1  # of what a gradient promises: less than that is no slope
_MOST: Final = 3.0  # beyond which a ratio, of outputs that jump, counts no more


@dataclass(frozen=True)
class Slope:
    """How much of what a gradient promises comes true.

    Attributes:
        share: by how much outputs rise along it, as a share of what it promises, on average and at the step where that
            is most; 0 where the gradient is 0.
        misled: whether that is surely less than a tenth, so that an attack along the gradient sees next to nothing.
        flat: whether the gradient is 0 everywhere.
    """

    share: float
    misled: bool
    flat: bool = False


def slopes(model: nn.Module, images: Tensor, rules: Sequence[GradientRule]) -> dict[GradientRule, Slope]:
    """Look along the gradient of a network at the first images (N, ...), by each rule until one is not misled."""
    few = images[:_IMAGES].detach()
    passes = range(_PASSES if is_random(model) else 1)

    def found(rule: GradientRule, pass_: int) -> Tensor:
        with drawing(pass_streams(stream_key(0), pass_, torch.arange(len(few))), rule):
            return rises(model, few)

    judged: dict[GradientRule, Slope] = {}
    for rule in rules:
        judged[rule] = _slope(torch.cat([found(rule, k) for k in passes], 1))
        if not judged[rule].misled:
            break
    return judged


def rises(model: nn.Module, images: Tensor) -> Tensor:
    """Return by how much outputs rise along their gradient, as shares of what it promises: (3, N), NaN where it is 0.

    Followed is the sum of an image's squared outputs, without what all of its classes share, which saturates nowhere,
    along the sign of its gradient, for three small steps within the range of the images (N, ...). A slope gives about 1
    at the smallest step; a function with steps of its own, whose gradient is passed straight through, at the largest.
    """
    gradient, low, high = reach(model, images, _size).gradient, images.min(), images.max()
    found = []
    with torch.no_grad():
        before = _sizes(model(images.clone()))
        for step in _STEPS:
            moved = (images + step * (high - low) * gradient.sign()).clamp(low, high)
            promised = (gradient * (moved - images)).double().flatten(1).sum(1)
            found.append(torch.where(promised > 0, (_sizes(model(moved.clone())) - before) / promised, torch.nan))
    return torch.stack(found)


def _slope(ratios: Tensor) -> Slope:
    """Judge ratios (3, N): the mean and two standard errors, so that outputs that jump with each draw prove nothing."""
    known = ratios[:, ~ratios.isnan().any(0)].clamp(-_MOST, _MOST)
    if known.shape[1] < 2:
        return Slope(float(known.mean(1).max()), misled=False) if known.numel() else Slope(0.0, misled=True, flat=True)
    means, errors = known.mean(1), known.std(1) / known.shape[1] ** 0.5
    return Slope(float(means.max()), misled=bool((means + 2 * errors < _LEAST).all()))


def _size(output: Any) -> Tensor:
    return _sizes(output).sum()


def _sizes(output: Any) -> Tensor:
    """Return the sum of squared outputs of each image, of logits without their mean, which decides nothing."""
    rows = [_apart(t.double().flatten(1)).square().sum(1) for t in tree_leaves(output) if _is_of_rows(t)]
    if not rows:
        as_logits(output)  # says what is wrong
    return torch.stack(rows).sum(0)


def _apart(rows: Tensor) -> Tensor:
    return rows - rows.mean(1, keepdim=True) if rows.shape[1] > 1 else rows


def _is_of_rows(output: Any) -> bool:
    return isinstance(output, Tensor) and output.is_floating_point() and output.ndim > 1
