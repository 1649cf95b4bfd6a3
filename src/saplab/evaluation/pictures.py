"""What the attacked images look like: each with its perturbation and its prediction, from stored cells."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from saplab.evaluation.rows import stored
from saplab.report.png import data_uri
from saplab.runs import Curve, ImageCell, ImageResult, Results

MOST_CURVES: Final = 6
_GREY: Final = 128


@dataclass(frozen=True)
class Picture:
    """One image at one strength, as an address for ``<img>``, and its prediction."""

    image: str
    change: str  # the perturbation as `stretched` shows it; "" at λ = 0
    predicted: str
    confidence: float
    right: bool


@dataclass(frozen=True)
class Example:
    """One image of the data set under every curve's attack."""

    number: int  # its position in the data set
    label: str
    rows: tuple[tuple[str, Mapping[float, Picture]], ...]  # (curve's label, its pictures by strength)

    @property
    def strengths(self) -> list[float]:
        """Return every strength at which some curve has a picture, in order."""
        return sorted({strength for _, pictures in self.rows for strength in pictures})


def examples(store: Results, curves: Iterable[Curve]) -> tuple[Example, ...]:
    """Gather the kept images of the first curves that have any, at most `MOST_CURVES`, each cell once."""
    found: dict[str, tuple[Curve, ImageResult]] = {}
    for curve in curves:
        cell = curve.first
        if cell.digest in found or not isinstance(cell, ImageCell):
            continue
        result = stored(store, [cell]).get(cell.digest)
        if result is not None and result.pictures.shape[1]:
            found[cell.digest] = curve, result
        if len(found) == MOST_CURVES:
            break
    return tuple(_examples(list(found.values()), store.request.classes)) if found else ()


def _examples(found: Sequence[tuple[Curve, ImageResult]], classes: Sequence[str]) -> Iterator[Example]:
    first = found[0][1]
    for k in range(first.pictures.shape[1]):
        rows = tuple((curve.label, dict(_pictures(k, curve, result, classes))) for curve, result in found)
        yield Example(int(first.examples[k]), _name(int(first.labels[k]), classes), rows)


def _pictures(k: int, curve: Curve, result: ImageResult, classes: Sequence[str]) -> Iterator[tuple[float, Picture]]:
    threat = curve.first.threat
    strengths = [threat.shown(eps) for eps in curve.first.eps]
    clean = result.pictures[strengths.index(0.0), k] if 0.0 in strengths else None
    for strength, pixels, probs in zip(strengths, result.pictures[:, k], result.probs[:, k], strict=True):
        best = int(probs.argmax())
        change = ""
        if strength > 0 and clean is not None:
            change = data_uri(stretched(pixels, clean, strength if threat.in_steps else _largest(pixels, clean)))
        right = best == int(result.labels[k])
        yield strength, Picture(data_uri(pixels), change, _name(best, classes), float(probs[best]), right)


def stretched(pixels: NDArray[np.uint8], clean: NDArray[np.uint8], strength: float) -> NDArray[np.uint8]:
    """Show the perturbation of an image (H, W, C): grey where there is none, black and full colour at λ > 0 steps."""
    change = (pixels.astype(np.float64) - clean) * (_GREY - 1) / strength
    return np.clip(_GREY + change, 0, 255).round().astype(np.uint8)


def _largest(pixels: NDArray[np.uint8], clean: NDArray[np.uint8]) -> float:
    """Return the largest change of a pixel, at least one step."""
    return max(1.0, float(np.abs(pixels.astype(np.float64) - clean).max()))


def _name(number: int, classes: Sequence[str]) -> str:
    return classes[number] if number < len(classes) else f"class {number}"
