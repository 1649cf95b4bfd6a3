"""Defences that act on activation maps, at the sites that a forward pass calls.

A number may be one for all sites, or a mapping of name patterns to numbers (``{"stage3.*": 50, "*": 100}``): the first
pattern that matches counts, and a site that none matches is left alone.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from saplab.defenses.drawing import Drawing, moved
from saplab.defenses.settings import Setting, check_setting, setting_at
from saplab.pruning.fused_noise import can_noise, noised
from saplab.pruning.normalised import Normalised, prune_normalised
from saplab.pruning.operator import prune
from saplab.rng.numbers import normals, uniforms


def _finite_from_zero(value: float) -> bool:
    return 0 <= value < math.inf


@dataclass(frozen=True)
class SAP:
    """Stochastic Activation Pruning (Dhillon et al. 2018, Algorithm 1).

    Args:
        percent: categorical draws per 100 activations of a site, with replacement; may exceed 100. r = floor(percent
            · a / 100), as in the authors' code.

    Raises:
        ValueError: `percent` is not above 0.
    """

    percent: Setting = 100.0

    def __post_init__(self) -> None:
        check_setting("percent", self.percent, "> 0 and finite", lambda value: 0 < value < math.inf)

    def draws(self, activations: int, name: str) -> int:
        """Give r, the number of categorical draws at the site of that name and size."""
        percent = setting_at(self.percent, name)
        return 0 if percent is None else int(percent * activations / 100)

    def serves(self, name: str) -> bool:
        """Tell whether the site of that name has a number."""
        return setting_at(self.percent, name) is not None

    def apply(self, h: Tensor, drawing: Drawing, site: int, name: str) -> Tensor:
        """Prune the maps `h` (N, ...); `site` and `name` say where, for the noise and for errors.

        Raises:
            ValueError: the site is too small to get a single draw.
        """
        draws = self._checked_draws(h, name)
        return prune(h, drawing.rows(h.shape[0], name), draws, site, drawing.rule, f"site {name!r}")

    def rectify_and_apply(
        self, h: Tensor, drawing: Drawing, site: int, name: str, norm: Normalised | None = None
    ) -> Tensor:
        """Do as `apply` to relu(h) in one go, and with the batch-norm before it where `h` is the output of `norm`."""
        draws, streams, where = self._checked_draws(h, name), drawing.rows(h.shape[0], name), f"site {name!r}"
        if norm is not None and drawing.rule != "probability":
            return prune_normalised(norm, streams, draws, site, where, drawing.rule)
        return prune(h, streams, draws, site, drawing.rule, where, rectify=True)

    def _checked_draws(self, h: Tensor, name: str) -> int:
        activations = h[:1].numel()
        draws = self.draws(activations, name)
        if draws < 1 and len(h) > 0:
            percent = setting_at(self.percent, name)
            raise ValueError(f"percent={percent:g} gives no draw at site {name!r} of {activations} activations")
        return max(draws, 1)


@dataclass(frozen=True)
class Dropout:
    """Dropout at test time (section 4.1.2): each activation is 0 with probability `rate`, else h / (1 - rate).

    Args:
        rate: in [0, 1).

    Raises:
        ValueError: `rate` is outside [0, 1).
    """

    rate: Setting

    def __post_init__(self) -> None:
        check_setting("rate", self.rate, "in [0, 1)", lambda value: 0 <= value < 1)

    def draws(self, activations: int, name: str) -> int:
        """Give 0: no categorical draws."""
        return 0

    def serves(self, name: str) -> bool:
        """Tell whether the site of that name has a number."""
        return setting_at(self.rate, name) is not None

    def apply(self, h: Tensor, drawing: Drawing, site: int, name: str) -> Tensor:
        """Drop entries of the maps `h` (N, ...)."""
        rate = setting_at(self.rate, name) or 0.0
        if can_noise(h):
            return noised(h, drawing.rows(h.shape[0], name), site, "dropout", rate, drawing.rule != "identity")
        u = uniforms(moved(drawing.rows(h.shape[0], name), h.device), h[:1].numel(), site)
        factor = u.ge_(rate).mul_(torch.ones(()) / (1.0 - rate))
        return _scaled(h, factor.view(h.shape), drawing)


@dataclass(frozen=True)
class RandomNoisyActivations:
    """Additive Gaussian noise (RNA, appendix B.5): h + η, η ~ N(0, std²), for every entry, zeros included.

    Args:
        std: standard deviation, in the activations' own unit.

    Raises:
        ValueError: `std` is negative or not finite.
    """

    std: Setting

    def __post_init__(self) -> None:
        check_setting("std", self.std, ">= 0 and finite", _finite_from_zero)

    def draws(self, activations: int, name: str) -> int:
        """Give 0: no categorical draws."""
        return 0

    def serves(self, name: str) -> bool:
        """Tell whether the site of that name has a number."""
        return setting_at(self.std, name) is not None

    def apply(self, h: Tensor, drawing: Drawing, site: int, name: str) -> Tensor:
        """Add noise to the maps `h` (N, ...)."""
        std = setting_at(self.std, name) or 0.0
        if can_noise(h):
            return noised(h, drawing.rows(h.shape[0], name), site, "add", std)
        return h + _normals_like(h, drawing, site, name).mul_(std)


@dataclass(frozen=True)
class RandomlyScaledActivations:
    """Multiplicative Gaussian noise (RSA, appendix B.6): η · h, η ~ N(1, std²), for every entry.

    Args:
        std: standard deviation of the factor.

    Raises:
        ValueError: `std` is negative or not finite.
    """

    std: Setting

    def __post_init__(self) -> None:
        check_setting("std", self.std, ">= 0 and finite", _finite_from_zero)

    def draws(self, activations: int, name: str) -> int:
        """Give 0: no categorical draws."""
        return 0

    def serves(self, name: str) -> bool:
        """Tell whether the site of that name has a number."""
        return setting_at(self.std, name) is not None

    def apply(self, h: Tensor, drawing: Drawing, site: int, name: str) -> Tensor:
        """Scale the maps `h` (N, ...)."""
        std = setting_at(self.std, name) or 0.0
        if can_noise(h):
            return noised(h, drawing.rows(h.shape[0], name), site, "scale", std, drawing.rule != "identity")
        factor = _normals_like(h, drawing, site, name).mul_(std).add_(1.0)
        return _scaled(h, factor, drawing)


def _normals_like(h: Tensor, drawing: Drawing, site: int, name: str) -> Tensor:
    """Draw normal numbers in the maps' shape and type, which nobody else holds."""
    drawn = normals(moved(drawing.rows(h.shape[0], name), h.device), h[:1].numel(), site)
    return drawn.view(h.shape).to(h.dtype)


def _scaled(h: Tensor, factor: Tensor, drawing: Drawing) -> Tensor:
    """Multiply; under the rule ``identity`` the gradient passes as if nothing had been scaled."""
    out = h * factor.to(h.dtype)
    return h + (out - h).detach() if drawing.rule == "identity" else out
