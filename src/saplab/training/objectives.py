"""What a step of training minimises: the loss of clean images, or of images that an adversary changed first.

Each objective is data, and a function of a `Step` that returns the mean loss of the batch and the logits (B, classes)
from which its accuracy is taken. All gradients of an adversary are taken with batch-norm in evaluation mode: an image's
perturbation then depends on no other image of its batch, and the running statistics are those of the images trained on.
λ and steps are in pixel steps of 0..255.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from saplab.attacks import LINF, eps_of
from saplab.defenses.base import POSITIVE
from saplab.models.published.wca import AlignedResNet
from saplab.training.steps import INNER, Step

_TRADES_START: Final = 0.001


@dataclass(frozen=True)
class CrossEntropy:
    """The mean cross-entropy of the clean images."""

    def loss(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits."""
        logits = step.trained(step.images)
        return F.cross_entropy(logits, step.labels), logits


@dataclass(frozen=True)
class PreviousEpoch:
    """Cross-entropy, where FGSM against the network of the previous epoch changes a part of each batch (section 4.1.3).

    In the first epoch, the previous network is the one with the initial weights.

    Attributes:
        share: the changed part, the first images of a batch (the order is random), rounded to whole images.
    """

    share: float
    lam: float

    def loss(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits."""
        count, eps = round(self.share * len(step.images)), eps_of(self.lam)
        clean, labels = step.images[:count], step.labels[:count]
        gradient = _gradient(lambda x: F.cross_entropy(step.other(x, INNER), labels), clean)
        changed = LINF.project(clean + eps * gradient.sign(), clean, eps)
        logits = step.trained(torch.cat((changed, step.images[count:])))
        return F.cross_entropy(logits, step.labels), logits


@dataclass(frozen=True)
class Projected:
    """Cross-entropy, where projected gradient steps from a random start change all images (Madry et al. 2018).

    One step of 1.25 λ is the attack of Wong, Rice & Kolter 2020, "Fast is better than free".

    Attributes:
        lam, step, steps: λ, the length of a step, and the number of steps.
        start: begin at a point drawn uniformly from the λ-ball, not at the image itself.
    """

    lam: float
    step: float
    steps: int
    start: bool = True

    def changed(self, step: Step, network: Callable[[Tensor, int], Tensor] | None = None) -> Tensor:
        """Return the adversarial images (B, C, H, W), made against `network`, by default the step's own."""
        eps, clean, attacked = eps_of(self.lam), step.images, network or step.attacked
        x = LINF.project(clean + eps * (2 * step.uniform() - 1), clean, eps) if self.start else clean
        return _ascend(x, clean, self, lambda x, k: F.cross_entropy(attacked(x, INNER + k), step.labels))

    def loss(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits."""
        logits = step.trained(self.changed(step))
        return F.cross_entropy(logits, step.labels), logits


@dataclass(frozen=True)
class Noisy:
    """Cross-entropy of images with Gaussian noise (Cohen, Rosenfeld & Kolter 2019); no clipping to [0, 1].

    Attributes:
        std: the noise's standard deviation, in the unit of [0, 1] images.
    """

    std: float

    def __post_init__(self) -> None:
        if not POSITIVE.test(self.std):
            raise ValueError(f"`std` must be {POSITIVE.words}, got {self.std}")

    def loss(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits."""
        logits = step.trained(step.images + self.std * step.normal())
        return F.cross_entropy(logits, step.labels), logits


@dataclass(frozen=True)
class Halves:
    """Half the cross-entropy of the clean images and half that of adversarial ones (He, Rakin & Fan 2019).

    Each half is a pass of its own. The logits are those of the clean images.
    """

    attack: Projected

    def loss(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits."""
        changed = self.attack.changed(step)
        logits, attacked = step.trained(step.images), step.trained(changed, INNER + self.attack.steps)
        return (F.cross_entropy(logits, step.labels) + F.cross_entropy(attacked, step.labels)) / 2, logits


@dataclass(frozen=True)
class Transferred:
    """Cross-entropy of images that `attack` changed against another network, trained before and fixed.

    Source: Pinot et al. 2020, "Randomization matters: How to defend against strong adversarial attacks", where the
    second network of a mixture learns what fools the first.

    Attributes:
        source: name of the other network, as `load_model` takes it.
    """

    source: str
    attack: Projected

    def loss(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits."""
        logits = step.trained(self.attack.changed(step, step.other))
        return F.cross_entropy(logits, step.labels), logits


@dataclass(frozen=True)
class Aligned:
    """Cross-entropy - log Σ_c w_cᵀ L Lᵀ w_c, for the network of Eustratiadis et al. 2021 alone."""

    def loss(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits."""
        logits, model = step.trained(step.images), step.networks.model
        if not isinstance(model, AlignedResNet):
            raise ValueError(f"`network` must be wca-resnet20 for this objective, got a {type(model).__name__}")
        return F.cross_entropy(logits, step.labels) - model.alignment(), logits


@dataclass(frozen=True)
class Trades:
    """Cross-entropy of the clean images, plus β times their divergence from the images that an adversary moved.

    Source: Zhang et al. 2019, "Theoretically principled trade-off between robustness and accuracy", equation 5. The
    adversary maximises KL(p(x) ‖ p(x')), from a start 0.001 of a standard normal away.

    Attributes:
        lam, step, steps: as in `Projected`.
        beta: 1/λ in the paper's own notation.
    """

    lam: float
    step: float
    steps: int
    beta: float

    def loss(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits."""
        clean, eps = step.images, eps_of(self.lam)
        with torch.no_grad():
            target = step.attacked(clean, INNER + self.steps + 1).softmax(1)
        x = LINF.project(clean + _TRADES_START * step.normal(), clean, eps)
        changed = _ascend(x, clean, self, lambda x, k: _divergence(target, step.attacked(x, INNER + k)))
        logits = step.trained(clean)
        divergence = _divergence(logits.softmax(1), step.trained(changed, INNER + self.steps))
        return F.cross_entropy(logits, step.labels) + self.beta * divergence, logits


Objective = CrossEntropy | PreviousEpoch | Projected | Trades | Noisy | Halves | Transferred | Aligned


def _ascend(x: Tensor, clean: Tensor, steps: Projected | Trades, loss: Callable[[Tensor, int], Tensor]) -> Tensor:
    eps = eps_of(steps.lam)
    for k in range(steps.steps):
        gradient = _gradient(lambda x, k=k: loss(x, k), x)  # type: ignore[misc]  # mypy sees a second argument
        x = LINF.project(x + eps_of(steps.step) * gradient.sign(), clean, eps)
    return x


def _gradient(loss: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(x), x)
    return gradient


def _divergence(target: Tensor, logits: Tensor) -> Tensor:
    """Return the batch's mean of KL(target ‖ softmax(logits))."""
    return F.kl_div(logits.log_softmax(1), target, reduction="batchmean")
