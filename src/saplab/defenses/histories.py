"""Tensors that a network keeps between calls and that autograd made, which PyTorch does not copy."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from torch import Tensor, nn

_DEEPEST: Final = 3  # containers around a tensor


def with_history(model: nn.Module) -> Iterator[Tensor]:
    """Yield the tensors with a history that the modules of a network hold as attributes, or in lists and mappings.

    `torch.nn.utils.prune`, weight_norm and spectral_norm make such weights anew in each pass, before they are used, and
    a network may keep what it made last.
    """
    for module in model.modules():
        yield from _inside(vars(module), 0)


def _inside(value: Any, depth: int) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.grad_fn is not None:
            yield value
    elif depth <= _DEEPEST and isinstance(value, Mapping | list | tuple | set):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _inside(inner, depth + 1)
