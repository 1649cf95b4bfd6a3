"""The gradient of a network whose passes differ: what is averaged, over how many passes, by which backward rule."""

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, cast, get_args
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saplab.attacks.estimate import Estimate, LogLoss, Score, Tally, joined
from saplab.attacks.flatness import broken
from saplab.attacks.losses import RANKS, Loss, LossName, loss_of, read_loss
from saplab.attacks.passes import Objective, Passes, cut
from saplab.attacks.problem import Problem
from saplab.defenses.drawing import GRADIENT_RULES, GradientRule
from saplab.defenses.relaxed import relaxing
from saplab.defenses.stage import stacked
from saplab.system.counts import check_count
from saplab.system.precision import Precision, check_precision
from saplab.system.words import did_you_mean

_LOG: Final = logging.getLogger("saplab")
_told: Final[WeakSet[nn.Module]] = WeakSet()  # networks whose flat gradient has been told of

Average = Literal["loss", "logits", "probabilities"]


@dataclass(frozen=True)
class Cost:
    """Passes of the adversary for one image, at most.

    Attributes:
        forward: of which a gradient takes one.
        backward: likewise.
    """

    forward: int
    backward: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: int) -> "Cost":
        return Cost(self.forward * times, self.backward * times)

    @property
    def passes(self) -> int:
        """Return the cost as one number: a backward pass counts as two."""
        return self.forward + 2 * self.backward


@dataclass(frozen=True)
class MonteCarlo:
    """A Monte Carlo estimate of the gradient of the loss by the image, over passes of the defence.

    Attributes:
        samples: passes averaged; one is exact for a network without randomness.
        backward: how the gradient passes a defence: ``mask`` (its own; of SAP with the scale constant: the paper's
            adversary), ``probability`` (of SAP through p as well), ``identity`` (straight through: BPDA, Athalye et al.
            2018). ``relaxed`` is the identity's, of a network whose saturated and stepwise functions have smooth slopes
            on the way back, defended or not.
        average: ``loss``: the mean of the losses' gradients (the paper); ``logits``, ``probabilities``: the gradient
            of the loss of the mean logits or of the mean softmax, which runs each pass forward twice.
        loss: ``cross-entropy``, as frameworks compute its slope, ``exact-cross-entropy``, which loses no digits where a
            network is sure, ``margin``, ``dlr``, or a function of one's own, (logits (N, C), labels (N,)) -> (N,), also
            as ``package.module:function``; of mean probabilities, it is taken of their logarithm. Results name a
            function by its module and source, so it must be defined at the top of a module to be evaluated.
        redraw: whether each step of an attack sees fresh passes. Without, all its steps see the same ones, as in
            evaluations that draw once for a whole attack and so find what fools that draw, not the network.
        precision: of the gradient's passes alone, ``float32`` (or what else the evaluation computes in) or
            ``bfloat16``, which is faster on processors with instructions for it. Whatever judges a point, in an attack
            too, keeps the evaluation's.

    Raises:
        ValueError: an unknown name, or `samples` < 1.
    """

    samples: int = 1
    backward: GradientRule = "mask"
    average: Average = "loss"
    loss: LossName | Loss = "cross-entropy"
    redraw: bool = True
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_count("samples", self.samples)
        for field, value, known in (
            ("backward", self.backward, GRADIENT_RULES),
            ("average", self.average, get_args(Average)),
        ):
            if value not in known:
                hint = "; what papers call bpda is identity" if str(value).casefold() == "bpda" else ""
                hint = hint or did_you_mean(str(value), known)
                raise ValueError(f"`{field}` must be one of {', '.join(known)}, got {value!r}{hint}")
        check_precision(self.precision)
        object.__setattr__(self, "loss", read_loss(self.loss))

    @property
    def loss_name(self) -> str:
        """Return the loss's name, or that of its function."""
        return self.loss if isinstance(self.loss, str) else getattr(self.loss, "__name__", type(self.loss).__name__)

    @property
    def cost(self) -> Cost:
        """Return the passes of one estimate, for one image."""
        return Cost(self.samples if self.average == "loss" else 2 * self.samples, self.samples)

    def estimate(self, problem: Problem, block: int = 0) -> Estimate:
        """Estimate the gradient of each example's loss by its image, and how sure passes are of it and of the label.

        Nothing is computed for, or added to, the gradients of the network's parameters.

        Args:
            problem: the examples; at their images the gradient is taken.
            block: number of the block of samples, so that each step of an attack sees fresh ones.

        Raises:
            ValueError: a network in training mode, labels it has no class for, or a gradient that is not finite.

        Examples:
            >>> gradient = saplab.MonteCarlo(samples=10).estimate(saplab.Problem.of(sap, images, labels)).gradient
        """
        return next(self._nested(problem, (self.samples,), self._first_sample(block)))

    def nested(self, problem: Problem, budgets: Sequence[int] = (1, 10, 100, 1000)) -> Iterator[Estimate]:
        """Yield the estimate of each of `budgets`, numbers of samples that take the place of `samples` (Fig. 6).

        The samples are nested: the first 10 of the 100. For the average ``loss`` one run of the largest budget gives
        all of them; the other averages are run for each budget anew, as their gradients share no passes. Separate
        runs give the same numbers up to rounding: of sums, and of the network's own kernels in batches of other sizes.

        Raises:
            ValueError: as `estimate`; budgets that do not ascend from 1 or more.
        """
        if not budgets or list(budgets) != sorted(set(budgets)) or budgets[0] < 1:
            raise ValueError(f"`budgets` must be ascending numbers >= 1, got {tuple(budgets)}")
        return self._nested(problem, budgets, 0)

    def score(self, problem: Problem, block: int = 0) -> Score:
        """Run `samples` passes forward alone; arguments and errors as in `estimate`."""
        batches = self._batches(problem, self._first_sample(block))
        return joined([self._score(passes, self.samples) for passes in batches])

    def query(self, problem: Problem, block: int = 0) -> Score:
        """Score as `score` does, in the gradient's precision: to search by, not to judge by."""
        batches = self._batches(problem, self._first_sample(block))
        return joined([self._score(passes, self.samples, self.precision) for passes in batches])

    def leads(self, problem: Problem, rivals: Tensor, first_pass: int, passes: int) -> Tensor:
        """Return by how much a class leads the label in each pass, forward alone: (passes, N) float64.

        Args:
            problem: the examples.
            rivals: (N,) the classes, whose probabilities are held against the labels'.
            first_pass: number of the first pass.
            passes: how many.
        """
        parts = self._batches(replace(problem, targets=rivals), first_pass)
        found = (some.forward(passes, _lead(some.batch)) for some in parts)
        return torch.cat([torch.cat([lead for _, lead in stack]) for stack in found], 1)

    def _first_sample(self, block: int) -> int:
        return block * self.samples if self.redraw else 0

    def _nested(self, problem: Problem, budgets: Sequence[int], first_sample: int) -> Iterator[Estimate]:
        of_batch = self._of_losses if self.average == "loss" else self._of_means
        batches = self._batches(problem, first_sample)
        found = zip(*(of_batch(passes, budgets) for passes in batches), strict=True)
        return (_checked(problem, joined(parts)) for parts in found)

    def _batches(self, problem: Problem, first_sample: int) -> list[Passes]:
        size = problem.batch_size or stacked(problem.images.device)
        return [Passes(batch, first_sample, self.backward, size, self.precision) for batch in problem.split(size)]

    def _of_losses(self, passes: Passes, budgets: Sequence[int]) -> Iterator[Estimate]:
        """Yield the mean of the losses' gradients at each budget."""
        halves = {budget // 2 for budget in budgets}
        tally = self._tally(passes.batch, halves)
        for some in passes.with_gradient(budgets[-1], self._loss(passes.batch)):
            for piece in cut(some, tally.samples, halves.union(budgets)):
                tally.add(*piece)
                if tally.samples in budgets:
                    yield tally.estimate()

    def _of_means(self, passes: Passes, budgets: Sequence[int]) -> Iterator[Estimate]:
        """Yield the gradient of the loss of the mean output at each budget: forward for its slope, then backward."""
        for samples in budgets:
            score = self._score(passes, samples)
            value, slope = self._loss_and_slope(passes.batch, score)
            tally = self._tally(passes.batch, (samples // 2,))
            for some in passes.with_gradient(samples, self._linear(slope, score)):
                for piece in cut(some, tally.samples, {samples // 2}):
                    tally.add(*piece)
            yield replace(tally.estimate(), loss=value, rank=score.rank)

    @torch.enable_grad()
    def _loss_and_slope(self, batch: Problem, score: Score) -> tuple[Tensor, Tensor]:
        """Return the loss of the mean output, (N,), and its gradient by that output, or its logarithm, (N, C)."""
        mean = self._mean(score, batch).detach().requires_grad_()
        with relaxing(self.backward == "relaxed"):
            value = self._loss(batch)(mean, batch.everyone())
        (slope,) = torch.autograd.grad(value.sum(), mean)
        return value.detach(), slope

    def _score(self, passes: Passes, samples: int, precision: Precision = "float32") -> Score:
        tally = self._tally(passes.batch)
        for some in passes.forward(samples, self._loss(passes.batch), precision):
            tally.add(*some)
        score = tally.score()
        if self.average == "loss":
            return score
        batch = passes.batch
        mean, log_loss = self._mean(score, batch), self._log_loss(batch)
        loss = self._loss(batch)(mean, batch.everyone())
        return replace(score, loss=loss, rank=loss if log_loss is None else log_loss(mean, batch.labels))

    def _tally(self, batch: Problem, halves: Collection[int] = ()) -> Tally:
        return Tally(batch.labels, batch.random, halves, self._log_loss(batch))

    def _mean(self, score: Score, batch: Problem) -> Tensor:
        """Return the mean logits, or the logarithm of the mean probabilities; the same to a loss without randomness."""
        return score.logits if self.average == "logits" or not batch.random else score.log_probs

    def _log_loss(self, batch: Problem) -> LogLoss | None:
        return RANKS.get(self.loss) if isinstance(self.loss, str) and batch.targets is None else None

    def _loss(self, batch: Problem) -> Objective:
        labels, targets = batch.labels, batch.targets
        return lambda z, rows: loss_of(self.loss, z, labels[rows], None if targets is None else targets[rows])

    def _linear(self, slope: Tensor, score: Score) -> Objective:
        """Return the loss of the mean output, linearised: its gradient is the vector-Jacobian product with `slope`.

        The logarithm of the mean of p_k has the gradient Σ_k p_k ∇log p_k / Σ_k p_k, whose weights do not underflow.
        """
        if self.average == "logits":
            return lambda z, rows: (z * slope[rows].to(z.dtype)).sum(1)

        def of_logs(z: Tensor, rows: Tensor) -> Tensor:
            logs = F.log_softmax(z.float(), 1).clamp(min=torch.finfo(torch.float32).min)
            weights = (logs.detach().double() - score.log_probs[rows]).exp().nan_to_num(0.0)
            return (logs * (slope[rows] * weights).float()).sum(1)

        return of_logs


def _lead(batch: Problem) -> Objective:
    """Return by how much the target's probability exceeds the label's."""
    targets = cast(Tensor, batch.targets)

    def lead(z: Tensor, rows: Tensor) -> Tensor:
        p = z.double().softmax(1)
        theirs, own = (p.gather(1, classes[rows][:, None])[:, 0] for classes in (targets, batch.labels))
        return theirs - own

    return lead


def _checked(problem: Problem, estimate: Estimate) -> Estimate:
    """Refuse gradients that are not finite, or note flat ones where the problem says where."""
    bad = broken(estimate.gradient)
    if problem.flatness is None:
        if bad.any():
            raise ValueError("the gradient of the loss by the image is not finite (NaN or infinity)")
        if not estimate.gradient.any() and problem.adversary not in _told:
            _told.add(problem.adversary)
            _LOG.warning("The gradient of the loss is zero at all %d images, so that this attack does not move; try"
                         " backward='relaxed', saplab.bpda or saplab.Square.", len(problem.images))  # fmt: skip
        return estimate
    problem.flatness.note(problem.examples, estimate)
    if not bad.any():
        return estimate
    rows = bad.view(-1, *[1] * (estimate.gradient.dim() - 1))
    return replace(estimate, gradient=estimate.gradient.masked_fill(rows, 0.0))
