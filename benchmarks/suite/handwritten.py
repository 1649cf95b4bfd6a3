"""What a user would write without saplab: Algorithm 1 with PyTorch's operators, a network that uses it, and a loop."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def prune_by_multinomial(h: Tensor, draws: int, generator: torch.Generator | None = None) -> Tensor:
    """Prune rows (N, a) of `h` by r categorical draws of `torch.multinomial`."""
    size = h.abs()
    p = size / size.sum(1, keepdim=True)
    return _scaled(h, p, torch.multinomial(p, draws, replacement=True, generator=generator), draws)


def prune_by_search(h: Tensor, draws: int, generator: torch.Generator | None = None) -> Tensor:
    """Prune rows (N, a) of `h` by r uniform numbers, looked up in the running sums."""
    size = h.abs()
    sums = size.cumsum(1)
    levels = torch.rand(len(h), draws, generator=generator, device=h.device) * sums[:, -1:]
    indices = torch.searchsorted(sums, levels).clamp_(max=h.shape[1] - 1)
    return _scaled(h, size / sums[:, -1:], indices, draws)


def _scaled(h: Tensor, p: Tensor, indices: Tensor, draws: int) -> Tensor:
    """Keep the drawn `indices` (N, r) of `h` (N, a), divided by their inclusion probability."""
    kept = torch.zeros_like(h, dtype=torch.bool).scatter_(1, indices, True)
    return torch.where(kept, h / -torch.expm1(draws * torch.log1p(-p)), 0.0)


class MultinomialSAP(nn.Module):
    """ReLU, then SAP-100 by `prune_by_multinomial`; its gradient is grad · mask."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        """Prune each example's map."""
        h = x.relu()
        rows = h.detach().flatten(1).float()
        kept = prune_by_multinomial(rows, rows.shape[1], self.generator)
        scale = torch.where(kept != 0, kept / rows, 0.0).view(h.shape).to(h.dtype)
        return h * scale


def multinomial_network(dense: nn.Module, device: str = "cpu") -> nn.Module:
    """Copy a network, each `nn.ReLU` replaced by a `MultinomialSAP`."""
    model = copy.deepcopy(dense)
    generator = torch.Generator(device).manual_seed(0)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, MultinomialSAP(generator))
    return model


def gradient_by_loop(model: nn.Module, images: Tensor, labels: Tensor, samples: int) -> Tensor:
    """Average the gradient of the cross-entropy with respect to (N, C, H, W) images, one pass after another."""
    x, total = images.clone().requires_grad_(), torch.zeros_like(images)
    for _ in range(samples):
        total += torch.autograd.grad(F.cross_entropy(model(x), labels, reduction="sum"), x)[0]
    return total / samples
