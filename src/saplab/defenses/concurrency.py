"""Whether a network may run in several threads at once: where nothing is left behind in it, and nobody looks on."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _hooks

from saplab.defenses.defended import Defended
from saplab.defenses.sites import is_announcement

_KNOWN: Final = ("torch.nn.modules.", "saplab.")  # whose forward passes leave their modules as they are
_DISTRIBUTED: Final = ("torch.nn.parallel.", "torch.distributed.")
_PER_THREAD: Final = "ATen parallel backend: OpenMP" in torch.__config__.parallel_info()

_Kinds = tuple[type[nn.Module], ...]
_tried: WeakKeyDictionary[nn.Module, tuple[_Kinds, bool]] = WeakKeyDictionary()


def may_run_in_threads(model: nn.Module, run: Callable[..., Any], columns: Sequence[Tensor]) -> bool:
    """Tell whether `run`, which calls `model` with rows of `columns`, may be called by several threads at once.

    That is: on the CPU, in evaluation mode, without compiled parts, hooks of others, a profiler, or a mode of PyTorch
    around the caller, which other threads would not see. Modules of other packages are tried once on a single row:
    they must leave no attribute, list, dictionary, buffer or random generator changed.
    """
    modules = list(model.modules())
    tensors = chain(columns, model.parameters(), model.buffers())
    plain = _PER_THREAD and _nobody_looks_on() and all(map(_is_plain, modules)) and all(t.is_cpu for t in tensors)
    if not plain or all(_is_known(module) for module in modules):
        return plain
    kinds = tuple(map(type, modules))
    if _tried.get(model, ((), False))[0] != kinds:
        _tried[model] = kinds, _leaves_no_trace(modules, run, columns)
    return _tried[model][1]


def _nobody_looks_on() -> bool:
    return not (
        torch.compiler.is_compiling()
        or torch._C._len_torch_function_stack()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
        or torch._C._autograd._profiler_enabled()
        or _hooks._has_any_global_hook()
    )


def _is_known(module: nn.Module) -> bool:
    """Tell whether the forward pass, below the one that `defend` adds, is PyTorch's or saplab's own."""
    own = next(kind for kind in type(module).__mro__ if "forward" in vars(kind) and kind is not Defended)
    return own.__module__.startswith(_KNOWN) and "forward" not in vars(module)


def _is_plain(module: nn.Module) -> bool:
    hooks: tuple[Any, ...] = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return not (
        module.training
        or isinstance(module, torch.jit.ScriptModule)
        or type(module).__module__.startswith(_DISTRIBUTED)
        or hasattr(module, "_orig_mod")
        or module._compiled_call_impl is not None
        or module._backward_hooks
        or module._backward_pre_hooks
        or not all(map(is_announcement, hooks))
    )


def _leaves_no_trace(modules: Sequence[nn.Module], run: Callable[..., Any], columns: Sequence[Tensor]) -> bool:
    before = [_state(module) for module in modules]
    generator = torch.default_generator.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            run(*(t[:1] for t in columns))
        except Exception:
            return False  # whoever runs all rows will tell
        drawn = not torch.equal(generator, torch.default_generator.get_state())
    return not drawn and all(_same(old, _state(module)) for old, module in zip(before, modules, strict=True))


def _state(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Give a module's attributes, each with what tells that it was changed in place."""
    held = {**vars(module), **{f"buffer {name}": buffer for name, buffer in module._buffers.items()}}
    return {name: (value, _version(value)) for name, value in held.items() if not name.startswith("_saplab")}


def _version(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, Tensor):
        return None if value.is_inference() else value._version
    return len(value) if isinstance(value, list | dict | set) else None


def _same(old: dict[str, tuple[Any, Any]], new: dict[str, tuple[Any, Any]]) -> bool:
    return old.keys() == new.keys() and all(
        value is new[name][0] and version == new[name][1] for name, (value, version) in old.items()
    )
