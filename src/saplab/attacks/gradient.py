"""The gradient of a network whose passes differ: what is averaged, over how many passes, by which backward rule."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from saplab import noise
from saplab.attacks.ball import check_labels
from saplab.attacks.losses import LOSSES, LossName
from saplab.defenses.defended import draws_weights
from saplab.defenses.drawing import drawing
from saplab.defenses.prediction import BATCH, logits, require_evaluation_mode
from saplab.pruning.operator import RULES, BackwardRule

Average = Literal["loss", "logits", "probabilities"]


@dataclass(frozen=True)
class MonteCarlo:
    """A Monte Carlo estimate of the gradient of the loss by the image, over passes of the defence.

    Args:
        samples: passes averaged; one is exact for a network without randomness.
        backward: how SAP's gradient is taken: ``mask`` (the scale constant: the paper's adversary), ``probability``
            (through p as well), ``identity`` (BPDA, Athalye et al. 2018).
        average: ``loss``: the mean of the losses' gradients (the paper); ``logits``, ``probabilities``: the gradient
            of the loss of the mean logits or of the mean softmax.
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

    def gradient(
        self, adversary: nn.Module, images: Tensor, labels: Tensor, seed: int = 0, *,
        examples: Tensor | None = None, first_sample: int = 0, batch_size: int = BATCH,
    ) -> Tensor:  # fmt: skip
        """Estimate the gradient of each example's loss by its image.

        Args:
            adversary: images (N, C, H, W) -> logits (N, classes).
            images, labels: (N, C, H, W) in [0, 1], and (N,) integers.
            seed: of the adversary's own passes, a stream apart from the defender's.
            examples: (N,) number of each image, 0..N-1 by default; with `seed` it decides the draws.
            first_sample: number of the first pass, so that an iterative attack sees fresh ones at each step.
            batch_size: images times passes in one forward pass.

        Returns:
            (N, C, H, W) like `images`.

        Raises:
            ValueError: a network in training mode, labels it has no class for, or a gradient that is not finite.
        """
        require_evaluation_mode(adversary)
        numbers = torch.arange(len(images)) if examples is None else examples
        key = noise.stream_key(seed, "attack")
        parts = []
        for x, y, n in zip(images.split(batch_size), labels.split(batch_size), numbers.split(batch_size), strict=True):
            batch = _Batch(adversary, x.detach(), y, n, key, first_sample, self.backward, batch_size)
            parts.append(self._of_batch(batch))
        return torch.cat(parts)

    def _of_batch(self, batch: "_Batch") -> Tensor:
        loss = LOSSES[self.loss]
        if self.average == "loss":
            return batch.vector_jacobian(self.samples, lambda z, y: loss(z, y).sum() / self.samples)
        mean = batch.mean_output(self.samples, self._output).requires_grad_()
        check_labels(batch.labels, mean.shape[1])
        value = loss(mean if self.average == "logits" else mean.log(), batch.labels).sum()
        (slope,) = torch.autograd.grad(value, mean)

        def linear(z: Tensor, y: Tensor) -> Tensor:
            return (self._output(z) * slope.repeat(len(z) // len(slope), 1)).sum() / self.samples

        return batch.vector_jacobian(self.samples, linear)

    def _output(self, z: Tensor) -> Tensor:
        return z if self.average == "logits" else z.float().softmax(1)


@dataclass(frozen=True)
class _Batch:
    """A batch of images, and the passes to run over them: several stacked where the batch is small."""

    adversary: nn.Module
    images: Tensor
    labels: Tensor
    examples: Tensor
    key: int
    first_sample: int
    rule: BackwardRule
    batch_size: int

    def _stacks(self, samples: int) -> Iterator[tuple[int, Tensor]]:
        """Yield, for each stack of passes, their number k and the streams (k·N, 3)."""
        most = 1 if draws_weights(self.adversary) else max(1, self.batch_size // len(self.images))
        for start in range(0, samples, most):
            passes = range(self.first_sample + start, self.first_sample + min(start + most, samples))
            yield len(passes), torch.cat([noise.streams(self.key, p, self.examples) for p in passes])

    def vector_jacobian(self, samples: int, objective: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Sum, over passes, the gradient by the images of `objective(logits (k·N, C), labels (k·N,))`."""
        total = torch.zeros_like(self.images)
        for count, streams in self._stacks(samples):
            x = self.images.detach().requires_grad_()
            with torch.enable_grad(), drawing(streams, self.rule):
                z = logits(self.adversary, x.expand(count, *x.shape).flatten(0, 1))
                check_labels(self.labels, z.shape[1])
                (gradient,) = torch.autograd.grad(objective(z, self.labels.repeat(count)), x)
            total += gradient
        if not torch.isfinite(total).all():
            raise ValueError("the gradient of the loss by the image is not finite (NaN or infinity)")
        return total

    @torch.no_grad()
    def mean_output(self, samples: int, output: Callable[[Tensor], Tensor]) -> Tensor:
        """Average `output(logits)` (N, C) over passes: the very passes that `vector_jacobian` runs."""
        total: Tensor | None = None
        for count, streams in self._stacks(samples):
            with drawing(streams, self.rule):
                z = output(logits(self.adversary, self.images.expand(count, *self.images.shape).flatten(0, 1)))
            part = z.unflatten(0, (count, -1)).sum(0)
            total = part if total is None else total + part
        assert total is not None
        return total / samples
