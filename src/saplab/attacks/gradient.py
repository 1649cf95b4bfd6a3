"""The gradient of a network whose passes differ: what is averaged, over how many passes, by which backward rule."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Final, Literal, get_args

import torch
from torch import Tensor, nn

from saplab.attacks.attack import Cost
from saplab.attacks.estimate import Estimate, Score, Tally, joined
from saplab.attacks.losses import LOSSES, TARGETED, LossName
from saplab.attacks.passes import Batch, Objective, cut
from saplab.defenses.defended import is_random
from saplab.defenses.prediction import BATCH, require_evaluation_mode
from saplab.pruning.operator import RULES, BackwardRule
from saplab.rng.streams import stream_key

Average = Literal["loss", "logits", "probabilities"]
_A_THREAD: Final = 128  # images of a forward and backward pass for each thread of a CPU


@dataclass(frozen=True)
class MonteCarlo:
    """A Monte Carlo estimate of the gradient of the loss by the image, over passes of the defence.

    Args:
        samples: passes averaged; one is exact for a network without randomness.
        backward: how SAP's gradient is taken: ``mask`` (the scale constant: the paper's adversary), ``probability``
            (through p as well), ``identity`` (BPDA, Athalye et al. 2018).
        average: ``loss``: the mean of the losses' gradients (the paper); ``logits``, ``probabilities``: the gradient
            of the loss of the mean logits or of the mean softmax, which runs each pass forward twice.
        loss: ``cross-entropy``, ``margin`` or ``dlr``; of mean probabilities, it is taken of their logarithm.

    Raises:
        ValueError: an unknown name, or `samples` < 1.
    """

    samples: int = 1
    backward: BackwardRule = "mask"
    average: Average = "loss"
    loss: LossName = "cross-entropy"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"`samples` must be >= 1, got {self.samples}")
        for field, value, known in (
            ("backward", self.backward, RULES),
            ("average", self.average, get_args(Average)),
            ("loss", self.loss, tuple(LOSSES)),
        ):
            if value not in known:
                raise ValueError(f"`{field}` must be one of {', '.join(known)}, got {value!r}")

    @property
    def cost(self) -> Cost:
        """Give the passes of one estimate, for one image."""
        return Cost(self.samples if self.average == "loss" else 2 * self.samples, self.samples)

    def gradient(
        self, adversary: nn.Module, images: Tensor, labels: Tensor, seed: int = 0, *,
        examples: Tensor | None = None, first_sample: int = 0, batch_size: int | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Give the gradient alone, (N, C, H, W), of `estimate`."""
        return self.estimate(
            adversary, images, labels, seed, examples=examples, first_sample=first_sample, batch_size=batch_size,
            targets=targets,
        ).gradient  # fmt: skip

    def estimate(
        self, adversary: nn.Module, images: Tensor, labels: Tensor, seed: int = 0, *,
        examples: Tensor | None = None, first_sample: int = 0, batch_size: int | None = None,
        targets: Tensor | None = None,
    ) -> Estimate:  # fmt: skip
        """Estimate the gradient of each example's loss by its image, and how sure passes are of it and of the label.

        Nothing is computed for, or added to, the gradients of the network's parameters.

        Args:
            adversary: images (N, C, H, W) -> logits (N, classes).
            images, labels: (N, C, H, W) in [0, 1], and (N,) integers.
            seed: of the adversary's own passes, a stream apart from the defender's.
            examples: (N,) number of each image, 0..N-1 by default; with `seed` it decides the draws.
            first_sample: number of the first pass, so that an iterative attack sees fresh ones at each step.
            batch_size: images times passes in one forward pass; by default as many as run fastest: on a CPU 128 for
                each of PyTorch's threads, since larger batches leave its cache.
            targets: (N,) classes to drive towards, by the loss's targeted form; none by default.

        Raises:
            ValueError: a network in training mode, labels it has no class for, or a gradient that is not finite.
        """
        estimates = self.nested(
            adversary, images, labels, (self.samples,), seed, examples=examples, first_sample=first_sample,
            batch_size=batch_size, targets=targets,
        )  # fmt: skip
        return next(estimates)

    def nested(
        self, adversary: nn.Module, images: Tensor, labels: Tensor, budgets: Sequence[int] = (1, 10, 100, 1000),
        seed: int = 0, *, examples: Tensor | None = None, first_sample: int = 0, batch_size: int | None = None,
        targets: Tensor | None = None,
    ) -> Iterator[Estimate]:  # fmt: skip
        """Yield the estimate of each of `budgets`, numbers of samples that take the place of `samples` (Fig. 6).

        The samples are nested: the first 10 of the 100. For the average ``loss`` one run of the largest budget gives
        all of them; the other averages are run for each budget anew, as their gradients share no passes. Separate
        runs give the same numbers up to rounding: of sums, and of the network's own kernels in batches of other sizes.

        Args:
            budgets: ascending numbers of samples.
            adversary, images, labels, seed, examples, first_sample, batch_size, targets: as in `estimate`.

        Raises:
            ValueError: as `estimate`; budgets that do not ascend from 1 or more.
        """
        if not budgets or list(budgets) != sorted(set(budgets)) or budgets[0] < 1:
            raise ValueError(f"`budgets` must be ascending numbers >= 1, got {tuple(budgets)}")
        if targets is not None and (targets.shape != labels.shape or bool((targets == labels).any())):
            raise ValueError(f"`targets` must be {len(labels)} classes, none of them its example's label")
        batches = self._batches(adversary, images, labels, seed, examples, first_sample, batch_size, targets)
        of_batch = self._of_losses if self.average == "loss" else self._of_means
        return (joined(parts) for parts in zip(*(of_batch(batch, budgets) for batch in batches), strict=True))

    def score(
        self, adversary: nn.Module, images: Tensor, labels: Tensor, seed: int = 0, *,
        examples: Tensor | None = None, first_sample: int = 0, batch_size: int | None = None,
    ) -> Score:  # fmt: skip
        """Run `samples` passes forward alone; arguments and errors as in `estimate`."""
        batches = self._batches(adversary, images, labels, seed, examples, first_sample, batch_size, None)
        return joined([self._score(batch, self.samples) for batch in batches])

    def _batches(
        self, adversary: nn.Module, images: Tensor, labels: Tensor, seed: int, examples: Tensor | None,
        first_sample: int, batch_size: int | None, targets: Tensor | None,
    ) -> list[Batch]:  # fmt: skip
        require_evaluation_mode(adversary)
        batch_size = batch_size or (_A_THREAD * torch.get_num_threads() if images.device.type == "cpu" else BATCH)
        numbers = torch.arange(len(images)) if examples is None else examples
        key, random = stream_key(seed, "attack"), is_random(adversary)
        wanted = targets.split(batch_size) if targets is not None else repeat(None)
        columns = [t.split(batch_size) for t in (images.detach(), labels, numbers)]
        return [
            Batch(adversary, x, y, n, t, key, first_sample, self.backward, batch_size, random)
            for x, y, n, t in zip(*columns, wanted, strict=False)
        ]

    def _of_losses(self, batch: Batch, budgets: Sequence[int]) -> Iterator[Estimate]:
        """Yield the mean of the losses' gradients at each budget."""
        halves = {budget // 2 for budget in budgets}
        tally = Tally(batch.labels, batch.random, halves)
        for passes in batch.passes_with_gradient(budgets[-1], self._loss(batch)):
            for piece in cut(passes, tally.samples, halves.union(budgets)):
                tally.add(*piece)
                if tally.samples in budgets:
                    yield tally.estimate()

    def _of_means(self, batch: Batch, budgets: Sequence[int]) -> Iterator[Estimate]:
        """Yield the gradient of the loss of the mean output at each budget: forward for its slope, then backward."""
        for samples in budgets:
            score = self._score(batch, samples)
            value, slope = self._loss_and_slope(batch, score)
            tally = Tally(batch.labels, batch.random, (samples // 2,))
            for passes in batch.passes_with_gradient(samples, self._linear(slope)):
                for piece in cut(passes, tally.samples, {samples // 2}):
                    tally.add(*piece)
            yield replace(tally.estimate(), loss=value)

    @torch.enable_grad()
    def _loss_and_slope(self, batch: Batch, score: Score) -> tuple[Tensor, Tensor]:
        """Give the loss of the mean output, (N,), and its gradient by that output, (N, C)."""
        mean = (score.logits if self.average == "logits" else score.probs).detach().requires_grad_()
        value = self._loss(batch)(mean if self.average == "logits" else mean.log(), _rows(batch))
        (slope,) = torch.autograd.grad(value.sum(), mean)
        return value.detach(), slope

    def _score(self, batch: Batch, samples: int) -> Score:
        tally = Tally(batch.labels, batch.random)
        for passes in batch.passes(samples, self._loss(batch)):
            tally.add(*passes)
        score = tally.score()
        if self.average == "loss":
            return score
        mean = score.logits if self.average == "logits" else score.probs.log()
        return replace(score, loss=self._loss(batch)(mean, _rows(batch)))

    def _loss(self, batch: Batch) -> Objective:
        labels, targets = batch.labels, batch.targets
        if targets is None:
            return lambda z, rows: LOSSES[self.loss](z, labels[rows])
        return lambda z, rows: TARGETED[self.loss](z, labels[rows], targets[rows])

    def _linear(self, slope: Tensor) -> Objective:
        """Give the loss of the mean output, linearised: its gradient is the vector-Jacobian product with `slope`."""
        if self.average == "logits":
            return lambda z, rows: (z * slope[rows].to(z.dtype)).sum(1)
        return lambda z, rows: (z.float().softmax(1) * slope[rows].float()).sum(1)


def _rows(batch: Batch) -> Tensor:
    return torch.arange(len(batch.images), device=batch.images.device)
