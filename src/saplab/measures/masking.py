"""Is a gain real, or is the adversary's gradient a masked one? Decided on stored predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saplab.measures.intervals import Interval, mean_interval, paired_difference


@dataclass(frozen=True)
class Gap:
    """What a second adversary takes away that a first one left, at the strength where it shows most.

    Args:
        strength: λ in pixel steps.
        first, second: accuracy under each adversary.
        difference: first minus second, paired by image.
    """

    strength: float
    first: Interval
    second: Interval
    difference: Interval

    @property
    def certain(self) -> bool:
        """Tell whether the difference's interval lies above 0."""
        return self.difference.low > 0


def widest_gap(strengths: Sequence[float], first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Gap:
    """Find the strength λ > 0 at which the second adversary leaves least, against the first, beyond chance.

    "Beyond chance" is the lower end of the paired 95 % interval, Bonferroni's correction for the choice among
    strengths left out: the gaps that matter are many intervals wide.

    Args:
        strengths: λ of each row.
        first, second: (L, N) whether each image is still right, under one adversary and the other.

    Raises:
        ValueError: no strength above 0, or arrays of different shapes.
    """
    rows = [i for i, strength in enumerate(strengths) if strength > 0]
    if not rows or first.shape != second.shape or len(first) != len(strengths):
        raise ValueError(f"`strengths` must name a λ > 0 for rows of {first.shape} and {second.shape}")
    gaps = [
        Gap(strengths[i], mean_interval(first[i]), mean_interval(second[i]), paired_difference(first[i], second[i]))
        for i in rows
    ]
    return max(gaps, key=lambda gap: gap.difference.low)


def finding(strengths: Sequence[float], right: Mapping[str, NDArray[np.bool_]]) -> str:
    """Say in one sentence what a run shows.

    Args:
        strengths: λ of each row.
        right: (L, N) whether the averaged prediction of each image is right, for ``dense`` (the undefended network
            under its own gradient) and for the defended one under ``mask``, ``identity``, ``transfer`` (the gradient
            of the undefended one), as far as they were run.

    Returns:
        The sentence; empty where the run compares nothing, or has no λ > 0.
    """
    if not any(strength > 0 for strength in strengths):
        return ""
    stronger = [kind for kind in ("identity", "transfer") if kind in right]
    if "mask" in right and stronger:
        return _masking_sentence(strengths, right, stronger[0])
    defended = [kind for kind in right if kind != "dense"]
    if "dense" in right and defended:
        return _gain_sentence(widest_gap(strengths, right[defended[0]], right["dense"]), defended[0])
    return ""


_ADVERSARIES = {"mask": "the paper's own adversary", "identity": "an adversary with identity backward",
                "transfer": "an attack made on the undefended network"}  # fmt: skip


def _gain_sentence(gain: Gap, kind: str) -> str:
    adversary = _ADVERSARIES.get(kind, f"an adversary with {kind} backward" if kind else "random noise")
    if not gain.certain:
        return f"Under {adversary} the defence gains nothing beyond chance over the undefended network."
    text = (
        f"At λ = {gain.strength:g}, under {adversary}, the defended network is right on {gain.first.percent()} of the "
        f"images, the undefended one on {gain.second.percent()}"
    )
    if kind != "mask":
        return f"{text}."
    return f"{text}; one adversary proves no robustness: run --backward identity and --adversary dense as well."


def _masking_sentence(strengths: Sequence[float], right: Mapping[str, NDArray[np.bool_]], stronger: str) -> str:
    gap = widest_gap(strengths, right["mask"], right[stronger])
    gain = widest_gap(strengths, right["mask"], right["dense"]) if "dense" in right else gap
    if not gain.certain:
        return _gain_sentence(gain, "mask")
    head = (
        f"At λ = {gain.strength:g}, under the paper's own adversary, SAP is right on {gain.first.percent()} of images"
    )
    if "dense" in right:
        head += f" where the undefended network is right on {gain.second.percent()}"
    if not gap.certain:
        return f"{head}, and {_ADVERSARIES[stronger]} takes none of it away beyond chance."
    return (
        f"{head}; but the paper's gradient is a masked one: at λ = {gap.strength:g} {_ADVERSARIES[stronger]} leaves "
        f"{gap.second.percent()} of what looks like {gap.first.percent()}."
    )
