"""What a step of training minimises: the loss of clean images, or of images that an adversary changed first.

Each objective is data, and a function of a `Step`. All of an adversary's gradients are taken with batch-norm in
evaluation mode: an image's perturbation then depends on no other image of its batch, and the running statistics are
those of the images trained on. λ and steps are in pixel steps of 0..255.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from saplab.attacks.ball import eps_of, project

MAIN, START, INNER = 0, 1, 2  # numbers of a step's passes: the one trained on, the random start, the adversary's first
PASSES = 64  # that one step may run
_TRADES_START = 0.001


class Step(Protocol):
    """What the loop offers an objective: a batch, and passes of the network over images like it."""

    @property
    def images(self) -> Tensor:
        """Give the batch, (B, C, H, W) in [0, 1]."""

    @property
    def labels(self) -> Tensor:
        """Give its labels, (B,)."""

    def trained(self, images: Tensor, pass_: int = MAIN) -> Tensor:
        """Run the network in training mode; float32 logits (B, classes)."""

    def attacked(self, images: Tensor, pass_: int, previous: bool = False) -> Tensor:
        """Run the network, or that of the epoch before, in evaluation mode, over the batch's first images."""

    def uniform(self) -> Tensor:
        """Draw numbers in [0, 1) like the images, a function of seed, step and image."""

    def normal(self) -> Tensor:
        """Draw standard normal numbers like the images, a function of seed, step and image."""


@dataclass(frozen=True)
class CrossEntropy:
    """The mean cross-entropy of the clean images."""

    def loss(self, step: Step) -> tuple[Tensor, Tensor]:
        """Give the batch's mean loss, and the logits (B, classes) that its accuracy is taken of."""
        logits = step.trained(step.images)
        return F.cross_entropy(logits, step.labels), logits


@dataclass(frozen=True)
class PreviousEpoch:
    """A share of each batch is changed by FGSM against the network of the epoch before (section 4.1.3).

    In the first epoch that is the network's first weights.

    Args:
        share: of the images; those of a batch's first ones, in an epoch's own order, rounded to whole images.
        lam: λ, in pixel steps.
    """

    share: float
    lam: float

    def loss(self, step: Step) -> tuple[Tensor, Tensor]:
        """Give the batch's mean loss, and the logits (B, classes) that its accuracy is taken of."""
        count, eps = round(self.share * len(step.images)), eps_of(self.lam)
        clean, labels = step.images[:count], step.labels[:count]
        gradient = _gradient(lambda x: F.cross_entropy(step.attacked(x, INNER, previous=True), labels), clean)
        changed = project(clean + eps * gradient.sign(), clean, eps)
        logits = step.trained(torch.cat((changed, step.images[count:])))
        return F.cross_entropy(logits, step.labels), logits


@dataclass(frozen=True)
class Projected:
    """All images are changed by projected gradient steps from a random start (Madry et al. 2018).

    One step of 1.25 λ is the attack of Wong, Rice & Kolter 2020, "Fast is better than free".

    Args:
        lam: λ, in pixel steps.
        step: length of a step, in pixel steps.
        steps: number of steps.
        start: begin at a point drawn uniformly from the λ-ball, or at the image itself.
    """

    lam: float
    step: float
    steps: int
    start: bool = True

    def changed(self, step: Step) -> Tensor:
        """Give the images (B, C, H, W) that the adversary makes of the batch."""
        eps, clean = eps_of(self.lam), step.images
        x = project(clean + eps * (2 * step.uniform() - 1), clean, eps) if self.start else clean
        return _ascend(x, clean, self, lambda x, k: F.cross_entropy(step.attacked(x, INNER + k), step.labels))

    def loss(self, step: Step) -> tuple[Tensor, Tensor]:
        """Give the batch's mean loss, and the logits (B, classes) that its accuracy is taken of."""
        logits = step.trained(self.changed(step))
        return F.cross_entropy(logits, step.labels), logits


@dataclass(frozen=True)
class Trades:
    """Cross-entropy of the clean images, and β times the divergence to those that an adversary moved most.

    Source: Zhang et al. 2019, "Theoretically principled trade-off between robustness and accuracy", equation 5: the
    adversary maximises KL(p(x) ‖ p(x')), from a start 0.001 of a standard normal away.

    Args:
        lam, step, steps: as for `Projected`.
        beta: 1/λ in the paper's own letters.
    """

    lam: float
    step: float
    steps: int
    beta: float

    def loss(self, step: Step) -> tuple[Tensor, Tensor]:
        """Give the batch's mean loss, and the logits (B, classes) that its accuracy is taken of."""
        clean, eps = step.images, eps_of(self.lam)
        with torch.no_grad():
            target = step.attacked(clean, INNER + self.steps + 1).softmax(1)
        x = project(clean + _TRADES_START * step.normal(), clean, eps)
        changed = _ascend(x, clean, self, lambda x, k: _divergence(target, step.attacked(x, INNER + k)))
        logits = step.trained(clean)
        divergence = _divergence(logits.softmax(1), step.trained(changed, INNER + self.steps))
        return F.cross_entropy(logits, step.labels) + self.beta * divergence, logits


Objective = CrossEntropy | PreviousEpoch | Projected | Trades


def _ascend(x: Tensor, clean: Tensor, steps: Projected | Trades, loss: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Take the steps, each to the sign of the gradient and back into the λ-ball and the cube."""
    eps = eps_of(steps.lam)
    for k in range(steps.steps):
        gradient = _gradient(lambda x, k=k: loss(x, k), x)  # type: ignore[misc]  # mypy sees a second argument
        x = project(x + eps_of(steps.step) * gradient.sign(), clean, eps)
    return x


def _gradient(loss: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Give the gradient of a loss by the images; no parameter's is computed."""
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(x), x)
    return gradient


def _divergence(target: Tensor, logits: Tensor) -> Tensor:
    """Give the batch's mean of KL(target ‖ softmax(logits))."""
    return F.kl_div(logits.log_softmax(1), target, reduction="batchmean")
