"""Randomised smoothing: a radius within which no perturbation changes what a network predicts under Gaussian noise.

Source: Cohen, Rosenfeld & Kolter 2019, "Certified adversarial robustness via randomized smoothing", section 3.2.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import altair as alt
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import binomtest
from torch import Tensor, nn

from saplab.attacks import Bounds, ThreatModel
from saplab.data.given import Array, given_images, given_labels
from saplab.data.load import positions
from saplab.defenses import GaussianNoise, defend
from saplab.defenses.defended import check_network, defenses_of, plan_of, shares_draws, undefended
from saplab.defenses.drawing import drawing
from saplab.defenses.dressing import stripped
from saplab.defenses.parallel import over_threads
from saplab.defenses.prediction import BATCH, for_network, logits, numbered, of_classes
from saplab.defenses.stochastic import learn, ready
from saplab.evaluation.findings import finished_curves
from saplab.evaluation.result import Result
from saplab.evaluation.rows import Row
from saplab.metrics import Interval, mean_interval
from saplab.metrics.accuracy import class_labels
from saplab.metrics.intervals import lower_bound, normal_quantile, wilson
from saplab.models.identity import network_digest
from saplab.report.certificates import certified_chart
from saplab.rng.streams import pass_streams, stream_key
from saplab.runs import ImageCell
from saplab.system.counts import check_count
from saplab.system.progress import Choice, show_of

ABSTAINS: Final = -1
_POINTS: Final = 101  # radii of a curve


@dataclass(frozen=True, eq=False)
class Certificates:
    """What the smoothed network g(x) = argmax_c P(f(x + η) = c), η ~ N(0, std²), is certified to predict.

    Each image's certificate is wrong with a probability of at most `alpha`: within its radius, in the Euclidean norm
    and the unit of the images, g predicts the class. It speaks of g, the class that most passes find, not of averaged
    probabilities.

    Attributes:
        predictions: (N,) classes; -1 where it abstains.
        radii: (N,) certified radii; 0 where it abstains.
        votes: (N, C) how many of the `n` passes found each class.
        labels: (N,), or None.
        std: of the noise, in the unit of the images.
        n0: passes that chose the class.
        n: passes that counted it.
        alpha: chance of a wrong certificate, for one image.
        seed: of the noise.
        examples: (N,) number of each image, which with the seed decides its noise.
        network: digest of the network without the noise; "" where it is not known.
    """

    predictions: NDArray[np.int64]
    radii: NDArray[np.float64]
    votes: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    std: float
    n0: int
    n: int
    alpha: float
    seed: int
    examples: NDArray[np.int64]
    network: str = ""

    @property
    def ceiling(self) -> float:
        """Return the largest radius that `n` passes can certify, where all agree: σ·Φ⁻¹(α^(1/n))."""
        return ceiling(self.std, self.n, self.alpha)

    @property
    def abstained(self) -> Interval:
        """Estimate the share of images that get no certificate."""
        return mean_interval(self.predictions == ABSTAINS)

    def accuracy(self, radius: float = 0.0) -> Interval:
        """Estimate the certified accuracy at a radius: the share of images certified there to be right, of 95 %.

        Raises:
            ValueError: no labels, or a negative radius.
        """
        if self.labels is None:
            raise ValueError("`labels` must be given for an accuracy, got None")
        if not radius >= 0:
            raise ValueError(f"`radius` must be >= 0, got {radius}")
        return mean_interval((self.predictions == self.labels) & (self.radii >= radius))

    @cached_property
    def rows(self) -> list[dict[str, float]]:
        """Return certified accuracy, in %, with its interval, from radius 0 to the largest that can be certified."""
        radii = np.linspace(0, max(self.ceiling, self.std / _POINTS), _POINTS)
        return [_row(float(radius), self.accuracy(float(radius))) for radius in radii]

    def predicted(self, alpha: float | None = None) -> NDArray[np.int64]:
        """Return what g predicts without a radius (PREDICT), (N,); -1 where the first class is not surely ahead.

        The two classes with the most votes are compared by a two-sided binomial test at the level `alpha`.
        """
        order = np.argsort(-self.votes, axis=1, kind="stable")[:, :2]
        tops = np.take_along_axis(self.votes, order, axis=1).tolist()
        level = self.alpha if alpha is None else alpha
        sure = [first > 0 and binomtest(first, first + second, 0.5).pvalue <= level for first, second in tops]
        return np.where(sure, order[:, 0], ABSTAINS)

    def records(self) -> list[dict[str, Any]]:
        """Return a record for each image."""
        labels = [None] * len(self.radii) if self.labels is None else self.labels.tolist()
        columns = zip(self.examples.tolist(), labels, self.predictions.tolist(), self.radii.tolist(), strict=True)
        return [{"example": e, "label": y, "predicted": c, "radius": round(r, 6)} for e, y, c, r in columns]

    def left(self, result: Result) -> list[dict[str, float]]:
        """Return what attacks leave of the vote of passes of the same network, in %, with its interval, at each radius.

        That is the share of images that most of an evaluation's passes get right, under the attack that leaves least
        of it within the radius: the empirical side of the same accuracy that certificates bound from below. Intervals
        are widened for the choice among attacks and radii (Bonferroni).

        Raises:
            ValueError: an evaluation in another norm than L2, without this Gaussian noise, of another network or of
                other images.
        """
        noisy = [
            curve for curve in result.request.curves
            if isinstance(cell := curve.first, ImageCell) and cell.threat.norm == "l2"
            and cell.defender.defenses == (GaussianNoise(self.std),)
        ]  # fmt: skip
        if self.network and any(curve.first.defender.digest != self.network for curve in noisy):
            raise ValueError("`result` must be an evaluation of the network that was certified, got another one's")
        if any(not np.array_equal(one.result.examples, self.examples) for one in finished_curves(result.store, noisy)):
            raise ValueError("`result` must be an evaluation of the images that were certified, got others")
        labels = {curve.label for curve in noisy}
        rows = [row for row in result.summary.rows if isinstance(row, Row) and row.curve in labels]
        if not rows:
            raise ValueError(f"`result` must be an evaluation in L2 of a network under Gaussian noise of {self.std:g}")

        def least(radius: float) -> Interval:
            votes = [row.counts.majority for row in rows if row.eps <= radius]
            return of_chosen(min(votes, key=lambda vote: vote.estimate), len(votes))

        return [_row(radius, least(radius)) for radius in sorted({row.eps for row in rows})]

    def plot(self, empirical: Result | Sequence[Mapping[str, float]] = ()) -> alt.LayerChart:
        """Draw certified accuracy against radius and, of an evaluation, what attacks leave of the same votes.

        Args:
            empirical: a result for `left`, or records as in `saplab.report.certificates.certified_chart`.
        """
        known = self.left(empirical) if isinstance(empirical, Result) else empirical
        return certified_chart(self.rows, known, title=f"Certified accuracy, σ = {self.std:g}")

    def __repr__(self) -> str:
        made = f"{len(self.radii):,} images, σ = {self.std:g}, {self.n:,} passes, α = {self.alpha:g}"
        lines = [f"{made}: abstains on {self.abstained.percent()}"]
        if self.labels is not None:
            lines += [f"radius {r:6.3f}: certified accuracy {self.accuracy(r).percent()}" for r in self.steps]
        return "\n".join(lines)

    @property
    def steps(self) -> list[float]:
        """Return round radii for a table: from 0, as far as something can be certified."""
        top = self.ceiling
        step = next((s for s in (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0) if top <= 8 * s), max(top / 8, 1.0))
        return [step * k for k in range(int(top / step) + 1)] if top > 0 else [0.0]


def certify(
    model: nn.Module, images: Array, labels: Array | None = None, *, std: float | None = None, n0: int = 100,
    n: int = 10_000, alpha: float = 0.001, seed: int = 0, examples: Tensor | None = None, batch_size: int = BATCH,
    bounds: Bounds = (0.0, 1.0), progress: Choice = True,
) -> Certificates:  # fmt: skip
    """Certify a network under Gaussian noise on its input against Euclidean perturbations (CERTIFY).

    The class that most of `n0` passes find is counted in `n` others; with p the lower Clopper-Pearson bound of its
    share at the level `alpha`, the radius is σ·Φ⁻¹(p) where p > 1/2, and else there is none. The noise depends on the
    seed and each example's number alone, not on batches.

    Args:
        model: images (N, C, H, W) -> logits, without a defence or with `GaussianNoise` alone. What is certified of a
            network that is random by itself is the vote over its own draws as well.
        images: (N, C, H, W) within `bounds`.
        labels: (N,) integers, for certified accuracy.
        std: σ of the noise, in the unit of the images; by default that of the network's own `GaussianNoise`.
        n0: passes that choose the class.
        n: passes that count it.
        alpha: chance of a wrong certificate, for one image.
        seed: of the noise.
        examples: (N,) number of each image; by default 0..N-1 or, of images of the packaged sample, their place in
            CIFAR-10's test set, as in `evaluate`.
        batch_size: images times passes in one forward pass.
        bounds: lowest and highest valid value; None where every number is valid.
        progress: True for a bar on a terminal or a line in a notebook, "lines" for lines on stderr, False for nothing.

    Raises:
        ValueError: no images or values outside the bounds, another defence, no or another `std`, bad numbers or
            labels, a network whose outputs depend on the rest of their batch.

    Examples:
        >>> found = saplab.certify(net, images, labels, std=0.25, n=1000)
        >>> found.accuracy(0.25).percent(), found.radii, found.predictions
    """
    _check(n0, n, alpha)
    check_network(model)
    images = for_network(model, given_images(images))
    known = None if labels is None else given_labels(labels, len(images))
    ThreatModel("l2", bounds).check(images, torch.zeros(len(images)).long() if known is None else known, ())
    noisy, sigma = _noisy(model, std)
    plain, (_, observed) = undefended(model), learn(undefended(model), images[:batch_size])
    own = positions(images.float().cpu()) if examples is None else examples
    noisy, key, numbers = ready(noisy, images[:batch_size]), stream_key(seed), numbered(own, len(images))
    with show_of(progress)("noisy passes", (n0 + n) * len(images)) as tick:
        parts = []
        for some, these in zip(images.split(batch_size), numbers.split(batch_size), strict=True):
            stacks = (
                _votes(noisy, some, these, key, passes, batch_size, tick) for passes in (range(n0), range(n0, n0 + n))
            )
            parts.append(tuple(stacks))
    chosen, votes = (np.concatenate(tables) for tables in zip(*parts, strict=True))
    classes = None if known is None else class_labels(known.cpu(), votes.shape)
    predictions, radii = certificates_of(chosen, votes, sigma, alpha)
    digest = network_digest(stripped(plain), observed.written)
    return Certificates(predictions, radii, votes, classes, sigma, n0, n, alpha, seed, numbers.cpu().numpy(), digest)


def of_chosen(share: Interval, count: int) -> Interval:
    """Widen the interval of a share of images that is the least of so many."""
    low, high = wilson(share.estimate, share.n, normal_quantile(1 - 0.05 / count))
    return replace(share, low=low, high=high)


def certificates_of(
    chosen: NDArray[np.int64], votes: NDArray[np.int64], std: float, alpha: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return classes and radii, (N,) each, from the votes (N, C) of passes that choose and of others that count."""
    top = chosen.argmax(axis=1)
    radii = radii_of(top, votes, std, alpha)
    return np.where(radii > 0, top, ABSTAINS), radii


def radii_of(classes: NDArray[np.int64], votes: NDArray[np.int64], std: float, alpha: float) -> NDArray[np.float64]:
    """Return the radius (N,) that votes (N, C) certify for a class of each image, (N,); 0 where they certify none."""
    hits = votes[np.arange(len(votes)), classes]
    lower = lower_bound(hits, votes.sum(axis=1), alpha)
    sure = lower > 0.5
    return np.where(sure, std * ndtri(np.where(sure, lower, 0.5)), 0.0)


def ceiling(std: float, n: int, alpha: float) -> float:
    """Return the largest radius that `n` passes can certify, where all agree: σ·Φ⁻¹(α^(1/n))."""
    return std * float(ndtri(lower_bound(n, n, alpha)))


def _votes(
    model: nn.Module, images: Tensor, examples: Tensor, key: int, passes: range, batch_size: int, tick: Any
) -> NDArray[np.int64]:
    """Count which class each pass finds, (N, C)."""

    def run(some: Tensor, streams: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad(), drawing(streams):
            z = of_classes(logits(model, some))
            return (torch.nn.functional.one_hot(z.argmax(1), z.shape[1]),)

    votes: Tensor | int = 0
    most = 1 if shares_draws(model) else max(1, batch_size // len(images))
    for stack in _stacks(passes, most):
        streams = torch.cat([pass_streams(key, pass_, examples) for pass_ in stack])
        repeated = images.repeat(len(stack), *[1] * (images.ndim - 1))
        (found,) = over_threads(model, run, repeated, streams)
        votes = votes + found.unflatten(0, (len(stack), -1)).sum(0)
        tick(len(stack) * len(images))
    return torch.as_tensor(votes).cpu().numpy()


def _stacks(passes: range, most: int) -> Iterator[range]:
    return (passes[start : start + most] for start in range(0, len(passes), most))


def _noisy(model: nn.Module, std: float | None) -> tuple[nn.Module, float]:
    """Return the network under noise, and the noise's σ."""
    acting = plan_of(model)
    if not defenses_of(model):
        if std is None:
            raise ValueError("`std` must be given for a network without Gaussian noise, got None")
        return defend(model, GaussianNoise(std)), std
    defenses = acting.defenses if acting else ()
    if len(defenses) != 1 or type(defenses[0]) is not GaussianNoise:  # a subclass may add other noise than its std
        raise ValueError("`model` must be undefended, or defended by GaussianNoise alone: no other noise is certified")
    if std not in (None, defenses[0].std):
        raise ValueError(f"`std` must be that of the network's own noise, {defenses[0].std:g}, got {std}")
    return defend(undefended(model), defenses[0]), defenses[0].std


def _check(n0: int, n: int, alpha: float) -> None:
    for name, value in (("n0", n0), ("n", n)):
        check_count(name, value)
    if not 0 < alpha < 1:
        raise ValueError(f"`alpha` must be in (0, 1), got {alpha}")


def _row(radius: float, accuracy: Interval) -> dict[str, float]:
    shares = {"percent": accuracy.estimate, "low": accuracy.low, "high": accuracy.high}
    return {"radius": round(radius, 6), **{name: round(100 * share, 4) for name, share in shares.items()}}
