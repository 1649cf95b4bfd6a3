"""Defences that act on weights: in each pass a network computes with changed weights, and keeps its own.

They change the weight tensors of linear, convolution, recurrent and attention layers, the last layer included: what
the paper calls W^i. Biases, normalisations and embeddings are left alone, unless `parameters=` of `saplab.defend` names
others. A weight that its layer computes in each pass is changed as the layer uses it (`saplab.defenses.computed`).
One draw serves a whole pass, all examples alike (appendix B).
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from saplab.defenses.base import POSITIVE, Allowed, Draw, Setting, Tuned
from saplab.defenses.computed import weights_by_name
from saplab.pruning.operator import draws_of, prune, share_of
from saplab.rng.numbers import normals
from saplab.system.registry import register

_NOT_WEIGHTS: Final = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)


@register("rnw")
@dataclass(frozen=True)
class RandomNoisyWeights(Tuned):
    """Additive Gaussian noise (RNW, appendix B.1): W + η, η ~ N(0, std²), for every entry of a weight tensor.

    Attributes:
        std: in the weights' own unit, >= 0; one number, or one for each pattern of parameter names.
    """

    std: Setting

    def weight(self, w: Tensor, draw: Draw, where: str) -> Tensor:
        """Add noise to a weight tensor."""
        return w + self.at(where) * _normals_like(w, draw)


@register("rsw")
@dataclass(frozen=True)
class RandomlyScaledWeights(Tuned):
    """Multiplicative Gaussian noise (RSW, appendix B.2): η · W, η ~ N(1, std²), for every entry of a weight tensor.

    Attributes:
        std: of the factor, >= 0; one number, or one for each pattern of parameter names.
    """

    std: Setting

    def weight(self, w: Tensor, draw: Draw, where: str) -> Tensor:
        """Scale a weight tensor."""
        return w * (1.0 + self.at(where) * _normals_like(w, draw))


@register("dwp")
@dataclass(frozen=True)
class DeterministicWeightPruning(Tuned):
    """Magnitude pruning (DWP, appendix B.3; Han et al. 2015): the largest entries of each weight tensor stay.

    Attributes:
        percent: of the entries that stay, in (0, 100]: k = floor(percent · a / 100); of equal magnitudes, the first
            ones. One number, or one for each pattern of parameter names.
    """

    random = False
    allowed = Allowed(lambda percent: 0 < percent <= 100, "in (0, 100]")
    percent: Setting

    def weight(self, w: Tensor, draw: Draw, where: str) -> Tensor:
        """Prune the smallest entries of a weight tensor."""
        kept = share_of(self.at(where), w.numel())
        return w * _largest(w.detach().abs().flatten(), kept).view(w.shape)


@register("swp")
@dataclass(frozen=True)
class StochasticWeightPruning(Tuned):
    """SAP's law over the entries of each weight tensor (SWP, appendix B.4), through the same operator.

    In a pass, a tensor that is too small to get a single draw is an error.

    Attributes:
        percent: categorical draws per 100 entries, with replacement, above 0; may exceed 100. One number, or one for
            each pattern of parameter names.
    """

    allowed = POSITIVE
    percent: Setting

    def weight(self, w: Tensor, draw: Draw, where: str) -> Tensor:
        """Prune a weight tensor at random."""
        percent = self.at(where)
        draws = draws_of(percent, w.numel())
        if draws < 1:
            raise ValueError(f"percent={percent:g} gives no draw for weight {where!r} of {w.numel()} entries")
        return prune(w.unsqueeze(0), draw.rows, draws, draw.site, draw.rule, f"weight {where!r}").squeeze(0)


def _largest(values: Tensor, count: int) -> Tensor:
    """Return which of the values (n,) are the `count` largest, the first ones of equals."""
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    at = len(values) - count  # on a CPU sorting takes 15 times longer, elsewhere few devices can do without
    least = values.kthvalue(at + 1).values if values.is_cpu else values.sort().values[at]
    above, equal = values > least, values == least
    return above | (equal & (equal.cumsum(0, dtype=torch.int32) <= count - above.sum()))


def _normals_like(w: Tensor, draw: Draw) -> Tensor:
    return normals(draw.rows, w.numel(), draw.site).view(w.shape).to(w.dtype)


def weight_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the weights that the paper's weight defences change, in the order of the network."""
    modules = dict(model.named_modules())
    return tuple(
        name
        for name, weight in weights_by_name(model).items()
        if weight.dim() >= 2
        and "weight" in name.rpartition(".")[2]
        and not isinstance(modules[name.rpartition(".")[0]], _NOT_WEIGHTS)
    )
