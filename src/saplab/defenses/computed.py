"""Weights that layers compute anew in each pass from other parameters, and how this pass's changes take their place.

They come from `torch.nn.utils.parametrize` (with its weight_norm, spectral_norm and orthogonal), from the older
weight_norm and spectral_norm, and from pruning. A defence acts on what the layer computes with, under the name that the
weight has without them; the parameters behind it are not weights.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from saplab.defenses.dressing import view

Meet = Callable[[str, Tensor], None]

_LAYERS: Final = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)
_meeting: ContextVar[Meet | None] = ContextVar("saplab_meeting", default=None)


def weights_by_name(model: nn.Module) -> dict[str, Tensor]:
    """Return a network's parameters, with what layers compute in place of those behind it, in the layers' order."""
    every, found, behind = dict(model.named_parameters()), dict[str, Tensor](), set[str]()
    for path, module in model.named_modules():
        made, lead = _computed(module), f"{path}." if path else ""
        behind |= {f"{lead}{name}{ending}" for name in made for ending in ("_g", "_v", "_orig")}
        if isinstance(module, ParametrizationList):
            behind |= {f"{lead}{name}" for name, _ in module.named_parameters()}
        found |= {f"{lead}{name}": weight for name, weight in made.items()}
        own = (f"{lead}{name}" for name, _ in module.named_parameters(recurse=False))
        found |= {name: every[name] for name in own if name in every}
    return {name: weight for name, weight in found.items() if name not in behind}


def computed_names(model: nn.Module) -> frozenset[str]:
    """Return the names of the weights that layers compute in each pass."""
    return frozenset(
        f"{path}.{name}" if path else name for path, module in model.named_modules() for name in _computed(module)
    )


def refuse_hidden_weights(model: nn.Module) -> None:
    """Refuse layers whose weight is neither a parameter nor computed in one of the ways known here."""
    for path, module in model.named_modules():
        known = "weight" in module._parameters or "weight" in _computed(module)
        if isinstance(module, _LAYERS) and not known:
            raise ValueError(f"the weight of {path or 'the network'!r} ({type(module).__name__}) is no parameter and is"
                             " computed in a way that saplab does not see, so a weight defence would leave it out;"
                             " torch.nn.utils.parametrize is seen, and `parameters` chooses other weights")  # fmt: skip


def _computed(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights that a module computes in each pass, as they are now."""
    lists = getattr(module, "parametrizations", {}) if parametrize.is_parametrized(module) else {}
    found = {name: _value(made) for name, made in lists.items()}
    for hook in module._forward_pre_hooks.values():
        if (name := _made_by(hook)) is not None:
            found[name] = getattr(module, name)
    return found


def _value(made: ParametrizationList) -> Tensor:
    """Return the value of a parametrization, without a step of what it keeps from pass to pass."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        value: Tensor = view(made).eval()()
    return value


def _made_by(hook: Any) -> str | None:
    """Return the name of the weight that one of PyTorch's older hooks computes."""
    if isinstance(hook, WeightNorm | SpectralNorm):
        return hook.name
    return hook._tensor_name if isinstance(hook, BasePruningMethod) else None


def announce_weights(model: nn.Module, names: frozenset[str]) -> None:
    """Let the layers of `model` say when they have computed a weight of these names."""
    for full in sorted(names):
        path, _, name = full.rpartition(".")
        module = model.get_submodule(path)
        if parametrize.is_parametrized(module, name):
            module.parametrizations[name].register_forward_hook(partial(_after, full))  # type: ignore[union-attr, index]
        else:
            module.register_forward_pre_hook(partial(_before, full, name))


def _after(full: str, module: nn.Module, args: Any, output: Tensor) -> None:
    if (meet := _meeting.get()) is not None:
        meet(full, output)


def _before(full: str, name: str, module: nn.Module, args: Any) -> None:
    if (meet := _meeting.get()) is not None:
        meet(full, getattr(module, name))


def is_weight_hook(hook: Any) -> bool:
    """Return whether a hook is one of `announce_weights`."""
    return isinstance(hook, partial) and hook.func in (_after, _before)


@contextmanager
def meeting(meet: Meet) -> Iterator[None]:
    """Call `meet` with the name and value of each weight that is computed inside."""
    if parametrize._cache_enabled:
        raise ValueError("inside torch.nn.utils.parametrize.cached() the weights of several passes are one; a weight"
                         " defence needs new ones in each pass")  # fmt: skip
    token = _meeting.set(meet)
    try:
        yield
    finally:
        _meeting.reset(token)
