"""Randomised features: noise on the maps of chosen stages."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from saplab.defenses.base import Draw, Setting, Tuned
from saplab.system.registry import register

NoiseLaw = Literal["gaussian", "laplace"]


@register("rfd")
@dataclass(frozen=True)
class RandomisedFeatures(Tuned):
    """Noise on the maps of chosen stages, h + ν·z for every entry (RFD: Nguyen et al. 2024, and the authors' code).

    With the law ``gaussian`` and one number for all sites it is `RandomNoisyActivations`; this one is meant for a few
    places, such as those where a stage of the network ends (``rfd:stage2.0.relu1=0.2,stage3.0.relu1=0.2,relu=0.2`` for
    the package's ResNet-20), and has the authors' second law. They choose ν by the clean accuracy that it costs.

    Attributes:
        scale: ν, in the activations' own unit, >= 0; one number, or one for each pattern of site names.
        law: of z: ``gaussian`` of deviation 1, or ``laplace`` of scale 1, whose deviation is √2.
    """

    bends = False
    title = "RFD"
    scale: Setting
    law: NoiseLaw = "gaussian"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.law not in get_args(NoiseLaw):
            raise ValueError(f"`law` must be one of {', '.join(get_args(NoiseLaw))}, got {self.law!r}")

    def activation(self, h: Tensor, draw: Draw, where: str) -> Tensor:
        """Add noise to the maps `h` (N, ...)."""
        z = draw.normal(h.shape) if self.law == "gaussian" else _laplace(draw.uniform(h.shape))
        return h + (self.at(where) * z).to(h.dtype)


def _laplace(uniform: Tensor) -> Tensor:
    """Return Laplace numbers of scale 1 from uniform ones u in [0, 1), by the inverse of their distribution.

    Both tails come from u, a multiple of 2^-24 whose half step keeps the logarithm finite.
    """
    centred = uniform - 0.5 + 2.0**-25
    return -centred.sign() * torch.log1p(-2 * centred.abs())
