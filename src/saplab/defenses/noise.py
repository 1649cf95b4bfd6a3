"""Defences that put noise on activation maps."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from saplab.defenses.base import Allowed, Draw, Setting, Tuned
from saplab.pruning.fused_noise import Law, can_noise, noised
from saplab.pruning.normalised import Normalised
from saplab.rng.numbers import normals, uniforms
from saplab.system.registry import register


class _FusedNoise(Tuned):
    """A defence whose noise is drawn and applied in one pass over memory where a kernel can, behind a ReLU too."""

    law: ClassVar[Law]

    @abstractmethod
    def _apart(self, h: Tensor, draw: Draw, amount: float) -> Tensor:
        """Return the maps under noise by PyTorch's own operations."""

    def activation(self, h: Tensor, draw: Draw, where: str) -> Tensor:
        """Apply the noise to the maps `h` (N, ...)."""
        return self._noised(h, draw, where) if can_noise(h) else self._apart(h, draw, self.at(where))

    def rectified(self, h: Tensor, draw: Draw, where: str, norm: Normalised | None) -> Tensor:
        """Apply it to relu(h)."""
        return self._noised(h, draw, where, True) if can_noise(h) else super().rectified(h, draw, where, norm)

    def _noised(self, h: Tensor, draw: Draw, where: str, rectify: bool = False) -> Tensor:
        return noised(h, draw.rows, draw.site, self.law, self.at(where), draw.rule != "identity", rectify)


@register("dropout")
@dataclass(frozen=True)
class Dropout(_FusedNoise):
    """Dropout at test time (section 4.1.2): each activation is 0 with probability `rate`, else h / (1 - rate).

    Attributes:
        rate: in [0, 1); one number, or one for each pattern of site names.
    """

    allowed = Allowed(lambda rate: 0 <= rate < 1, "in [0, 1)")
    law = "dropout"
    rate: Setting

    def _apart(self, h: Tensor, draw: Draw, amount: float) -> Tensor:
        """Drop entries of the maps `h` (N, ...)."""
        kept = uniforms(draw.rows, h.shape[1:].numel(), draw.site).ge_(amount)
        return _scaled(h, kept.mul_(torch.ones(()) / (1.0 - amount)).view(h.shape), draw)


@register("rna")
@dataclass(frozen=True)
class RandomNoisyActivations(_FusedNoise):
    """Additive Gaussian noise (RNA, appendix B.5): h + η, η ~ N(0, std²), for every entry, zeros included.

    Attributes:
        std: in the activations' own unit, >= 0; one number, or one for each pattern of site names.
    """

    bends = False
    law = "add"
    std: Setting

    def _apart(self, h: Tensor, draw: Draw, amount: float) -> Tensor:
        """Add noise to the maps `h` (N, ...)."""
        return h + _normals_like(h, draw).mul_(amount)


@register("rsa")
@dataclass(frozen=True)
class RandomlyScaledActivations(_FusedNoise):
    """Multiplicative Gaussian noise (RSA, appendix B.6): η · h, η ~ N(1, std²), for every entry.

    Attributes:
        std: of the factor, >= 0; one number, or one for each pattern of site names.
    """

    law = "scale"
    std: Setting

    def _apart(self, h: Tensor, draw: Draw, amount: float) -> Tensor:
        """Scale the maps `h` (N, ...)."""
        return _scaled(h, _normals_like(h, draw).mul_(amount).add_(1.0), draw)


def _normals_like(h: Tensor, draw: Draw) -> Tensor:
    return normals(draw.rows, h.shape[1:].numel(), draw.site).view(h.shape).to(h.dtype)


def _scaled(h: Tensor, factor: Tensor, draw: Draw) -> Tensor:
    """Multiply; under the rule ``identity`` the gradient passes as if nothing had been scaled."""
    out = h * factor.to(h.dtype)
    return h + (out - h).detach() if draw.rule == "identity" else out
