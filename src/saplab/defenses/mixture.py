"""Finite mixtures of networks, one of which answers each pass, as in BAT (Pinot et al. 2020)."""

import math
from collections.abc import Sequence
from typing import Final, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saplab.data.given import Array, given_images, given_labels
from saplab.defenses.defended import is_random
from saplab.defenses.host import undrawn
from saplab.defenses.prediction import BATCH, for_network, logits, of_classes

Drawn = Literal["pass", "example"]

_ROUNDING: Final = 1e-6  # how far weights may be from adding up to 1


class Mixture(nn.Module):
    """A mixture of networks: each pass draws one of them, by `weights`, for its whole batch.

    As any network that draws by itself, it is found to be random where saplab runs it, and its draws are keyed.

    Args:
        nets: images (N, ...) -> logits (N, classes), at least one, none of them defended or `Stochastic`. Of one whose
            own code draws, passes differ as well; what the mixture answers is then not known exactly, so that
            `expected` refuses it and batteries leave ARC out.
        weights: probability of each; all the same by default.
        drawn: whether one net is drawn for each ``pass``, or for each ``example`` of it.

    Raises:
        ValueError: no net, one that is defended or `Stochastic`, weights that are no distribution, an unknown `drawn`.

    Examples:
        >>> mixture = saplab.Mixture([first, second], weights=[0.9, 0.1])
        >>> result = saplab.evaluate(mixture, images, labels, attacks="standard")
    """

    weights: Tensor

    def __init__(
        self, nets: Sequence[nn.Module], weights: Sequence[float] | None = None, drawn: Drawn = "pass"
    ) -> None:
        super().__init__()
        if len(nets) == 0:
            raise ValueError("`nets` must hold at least one network, got none")
        if any(is_random(net) for net in nets):
            raise ValueError("`nets` must not be random themselves, got one whose passes differ")
        if drawn not in get_args(Drawn):
            raise ValueError(f"`drawn` must be one of {', '.join(get_args(Drawn))}, got {drawn!r}")
        shares = [1 / len(nets)] * len(nets) if weights is None else [float(weight) for weight in weights]
        whole = len(shares) == len(nets) and all(0 <= share <= 1 for share in shares)
        if not (whole and math.isclose(math.fsum(shares), 1, abs_tol=_ROUNDING)):
            raise ValueError(f"`weights` must be {len(nets)} numbers >= 0 that add up to 1, got {shares}")
        self.nets, self.drawn = nn.ModuleList(nets), drawn
        self.register_buffer("weights", torch.tensor(shares, dtype=torch.float64) / math.fsum(shares))
        self.training = self.nets.training = any(net.training for net in nets)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, classes) of the net that is drawn, for the pass or for each image."""
        if len(self.nets) == 1:
            return cast(Tensor, self.nets[0](images))
        if self.drawn == "pass":
            return cast(Tensor, self.nets[int(self._choice(torch.rand((), device=images.device)))](images))
        chosen = self._choice(torch.rand(len(images), device=images.device))
        rows = [(chosen == k).nonzero()[:, 0] for k in range(len(self.nets))]
        parts = [net(images[some]) for net, some in zip(self.nets, rows, strict=True) if len(some)]
        return torch.cat(parts)[torch.cat(rows).argsort()]

    def _choice(self, uniform: Tensor) -> Tensor:
        """Return the number of the net whose share of [0, 1) holds each uniform number."""
        return torch.searchsorted(self.weights.cumsum(0)[:-1], uniform.to(self.weights), right=True)

    @torch.no_grad()
    def expected(self, images: Array) -> Tensor:
        """Return the probability of each class being answered, exactly: Σ_i α_i·1[argmax f_i = c], (N, C) float64.

        Raises:
            ValueError: a net that draws random numbers after all, or returns no finite logits.
        """
        points = for_network(self, given_images(images))
        with undrawn(self):
            return torch.cat([self._answers(some) for some in points.split(BATCH)])

    def _answers(self, images: Tensor) -> Tensor:
        shares = zip(self.nets, self.weights.double(), strict=True)
        return torch.stack([share * _one_hot(of_classes(logits(net, images))) for net, share in shares]).sum(0)

    def accuracy(self, images: Array, labels: Array) -> float:
        """Return the expected share of right answers, exactly; errors as in `expected`."""
        answers = self.expected(images)
        wanted = given_labels(labels, len(answers)).to(answers.device)
        return float(answers.gather(1, wanted[:, None]).mean())

    def extra_repr(self) -> str:
        """Return the weights and who is drawn for."""
        return f"weights={[round(share, 6) for share in self.weights.tolist()]}, drawn={self.drawn!r}"


def _one_hot(z: Tensor) -> Tensor:
    return F.one_hot(z.argmax(1), z.shape[1])
