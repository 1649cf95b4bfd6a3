"""Defences that act on weights: in each pass a network computes with changed weights, and keeps its own.

They touch the weight tensors of linear, convolution, recurrent and attention layers, the last layer included: what
the paper calls W^i. Biases, batch-norm and embeddings are left alone, unless `parameters=` of `saplab.defend` names
others. One draw serves a whole pass, all examples alike (appendix B).
"""

import math
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor, nn

from saplab.defenses.drawing import moved
from saplab.defenses.settings import Setting, check_setting, setting_at
from saplab.pruning.operator import BackwardRule, prune
from saplab.rng.numbers import normals

_NOT_WEIGHTS: Final = (nn.Embedding, nn.EmbeddingBag)


class WeightDefense(Protocol):
    """What a defence of weights offers."""

    def serves(self, name: str) -> bool:
        """Tell whether the parameter of that name has a number."""
        ...

    def perturb(self, weight: Tensor, stream: Tensor, site: int, name: str, rule: BackwardRule) -> Tensor:
        """Give the weights of one pass, whose noise has the stream (1, 3)."""
        ...


def _finite_from_zero(value: float) -> bool:
    return 0 <= value < math.inf


@dataclass(frozen=True)
class RandomNoisyWeights:
    """Additive Gaussian noise (RNW, appendix B.1): W + η, η ~ N(0, std²), for every entry of a weight tensor.

    Args:
        std: standard deviation, in the weights' own unit.

    Raises:
        ValueError: `std` is negative or not finite.
    """

    std: Setting

    def __post_init__(self) -> None:
        check_setting("std", self.std, ">= 0 and finite", _finite_from_zero)

    def serves(self, name: str) -> bool:
        """Tell whether the parameter of that name has a number."""
        return setting_at(self.std, name) is not None

    def perturb(self, weight: Tensor, stream: Tensor, site: int, name: str, rule: BackwardRule) -> Tensor:
        """Add noise to a weight tensor."""
        return weight + (setting_at(self.std, name) or 0.0) * _normals_like(weight, stream, site)


@dataclass(frozen=True)
class RandomlyScaledWeights:
    """Multiplicative Gaussian noise (RSW, appendix B.2): η · W, η ~ N(1, std²), for every entry of a weight tensor.

    Args:
        std: standard deviation of the factor.

    Raises:
        ValueError: `std` is negative or not finite.
    """

    std: Setting

    def __post_init__(self) -> None:
        check_setting("std", self.std, ">= 0 and finite", _finite_from_zero)

    def serves(self, name: str) -> bool:
        """Tell whether the parameter of that name has a number."""
        return setting_at(self.std, name) is not None

    def perturb(self, weight: Tensor, stream: Tensor, site: int, name: str, rule: BackwardRule) -> Tensor:
        """Scale a weight tensor."""
        return weight * (1.0 + (setting_at(self.std, name) or 0.0) * _normals_like(weight, stream, site))


@dataclass(frozen=True)
class DeterministicWeightPruning:
    """Magnitude pruning (DWP, appendix B.3; Han et al. 2015): the largest entries of each weight tensor stay.

    Args:
        percent: of the entries that stay, k = floor(percent · a / 100); of equal magnitudes, the first ones.

    Raises:
        ValueError: `percent` is not in (0, 100].
    """

    percent: Setting

    def __post_init__(self) -> None:
        check_setting("percent", self.percent, "in (0, 100]", lambda value: 0 < value <= 100)

    def serves(self, name: str) -> bool:
        """Tell whether the parameter of that name has a number."""
        return setting_at(self.percent, name) is not None

    def perturb(self, weight: Tensor, stream: Tensor, site: int, name: str, rule: BackwardRule) -> Tensor:
        """Prune the smallest entries of a weight tensor."""
        kept = int((setting_at(self.percent, name) or 0.0) * weight.numel() / 100)
        order = weight.detach().abs().flatten().sort(descending=True, stable=True).indices
        mask = torch.zeros(weight.numel(), dtype=weight.dtype, device=weight.device)
        mask[order[:kept]] = 1.0
        return weight * mask.view(weight.shape)


@dataclass(frozen=True)
class StochasticWeightPruning:
    """SAP's law over the entries of each weight tensor (SWP, appendix B.4), through the same operator.

    Args:
        percent: categorical draws per 100 entries, with replacement; may exceed 100.

    Raises:
        ValueError: `percent` is not above 0.
    """

    percent: Setting

    def __post_init__(self) -> None:
        check_setting("percent", self.percent, "> 0 and finite", lambda value: 0 < value < math.inf)

    def serves(self, name: str) -> bool:
        """Tell whether the parameter of that name has a number."""
        return setting_at(self.percent, name) is not None

    def perturb(self, weight: Tensor, stream: Tensor, site: int, name: str, rule: BackwardRule) -> Tensor:
        """Prune a weight tensor at random.

        Raises:
            ValueError: the tensor is too small to get a single draw.
        """
        percent = setting_at(self.percent, name) or 0.0
        draws = int(percent * weight.numel() / 100)
        if draws < 1:
            raise ValueError(f"percent={percent:g} gives no draw for weight {name!r} of {weight.numel()} entries")
        return prune(weight.unsqueeze(0), stream, draws, site, rule, f"weight {name!r}").squeeze(0)


def _normals_like(weight: Tensor, stream: Tensor, site: int) -> Tensor:
    there = moved(stream, weight.device)
    return normals(there, weight.numel(), site).view(weight.shape).to(weight.dtype)


def weight_names(model: nn.Module) -> tuple[str, ...]:
    """Name the parameters that the paper's weight defences touch, in the order of `named_parameters()`."""
    modules = dict(model.named_modules())
    return tuple(
        name
        for name, parameter in model.named_parameters()
        if parameter.dim() >= 2
        and "weight" in name.rpartition(".")[2]
        and not isinstance(modules[name.rpartition(".")[0]], _NOT_WEIGHTS)
    )
