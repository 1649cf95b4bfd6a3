"""Defences that put noise on activation maps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from saplab.defenses.base import Allowed, Draw, Setting, Tuned
from saplab.pruning.fused_noise import can_noise, noised
from saplab.pruning.normalised import Normalised
from saplab.rng.numbers import normals, uniforms
from saplab.system.registry import register


@register("dropout")
@dataclass(frozen=True)
class Dropout(Tuned):
    """Dropout at test time (section 4.1.2): each activation is 0 with probability `rate`, else h / (1 - rate).

    Attributes:
        rate: in [0, 1); one number, or one for each pattern of site names.
    """

    allowed = Allowed(lambda rate: 0 <= rate < 1, "in [0, 1)")
    rate: Setting

    def activation(self, h: Tensor, draw: Draw, where: str) -> Tensor:
        """Drop entries of the maps `h` (N, ...)."""
        rate = self.at(where)
        if can_noise(h):
            return noised(h, draw.rows, draw.site, "dropout", rate, draw.rule != "identity")
        kept = uniforms(draw.rows, h[:1].numel(), draw.site).ge_(rate)
        return _scaled(h, kept.mul_(torch.ones(()) / (1.0 - rate)).view(h.shape), draw)

    def rectified(self, h: Tensor, draw: Draw, where: str, norm: Normalised | None) -> Tensor:
        """Drop entries of relu(h) in one pass over memory."""
        if can_noise(h):
            return noised(h, draw.rows, draw.site, "dropout", self.at(where), draw.rule != "identity", rectify=True)
        return super().rectified(h, draw, where, norm)


@register("rna")
@dataclass(frozen=True)
class RandomNoisyActivations(Tuned):
    """Additive Gaussian noise (RNA, appendix B.5): h + η, η ~ N(0, std²), for every entry, zeros included.

    Attributes:
        std: in the activations' own unit, >= 0; one number, or one for each pattern of site names.
    """

    bends = False
    std: Setting

    def activation(self, h: Tensor, draw: Draw, where: str) -> Tensor:
        """Add noise to the maps `h` (N, ...)."""
        if can_noise(h):
            return noised(h, draw.rows, draw.site, "add", self.at(where))
        return h + _normals_like(h, draw).mul_(self.at(where))

    def rectified(self, h: Tensor, draw: Draw, where: str, norm: Normalised | None) -> Tensor:
        """Add noise to relu(h) in one pass over memory."""
        if can_noise(h):
            return noised(h, draw.rows, draw.site, "add", self.at(where), rectify=True)
        return super().rectified(h, draw, where, norm)


@register("rsa")
@dataclass(frozen=True)
class RandomlyScaledActivations(Tuned):
    """Multiplicative Gaussian noise (RSA, appendix B.6): η · h, η ~ N(1, std²), for every entry.

    Attributes:
        std: of the factor, >= 0; one number, or one for each pattern of site names.
    """

    std: Setting

    def activation(self, h: Tensor, draw: Draw, where: str) -> Tensor:
        """Scale the maps `h` (N, ...)."""
        if can_noise(h):
            return noised(h, draw.rows, draw.site, "scale", self.at(where), draw.rule != "identity")
        return _scaled(h, _normals_like(h, draw).mul_(self.at(where)).add_(1.0), draw)

    def rectified(self, h: Tensor, draw: Draw, where: str, norm: Normalised | None) -> Tensor:
        """Scale relu(h) in one pass over memory."""
        if can_noise(h):
            return noised(h, draw.rows, draw.site, "scale", self.at(where), draw.rule != "identity", rectify=True)
        return super().rectified(h, draw, where, norm)


def _normals_like(h: Tensor, draw: Draw) -> Tensor:
    return normals(draw.rows, h[:1].numel(), draw.site).view(h.shape).to(h.dtype)


def _scaled(h: Tensor, factor: Tensor, draw: Draw) -> Tensor:
    """Multiply; under the rule ``identity`` the gradient passes as if nothing had been scaled."""
    out = h * factor.to(h.dtype)
    return h + (out - h).detach() if draw.rule == "identity" else out
