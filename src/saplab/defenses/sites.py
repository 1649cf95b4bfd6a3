"""Activation sites: the output of every activation function that a forward pass calls, in the order of the calls.

A `TorchFunctionMode` around the forward pass sees modules, functions and methods alike, and each call of a module
that is called twice. The module in which a call happens gives the site its name.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property, partial
from inspect import isfunction, signature
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from saplab.defenses.base import Defense, Draw
from saplab.defenses.checkpoints import Signs, refuse_checkpoint
from saplab.defenses.drawing import Drawing
from saplab.pruning.normalised import Normalised, normalised
from saplab.rng.streams import SITES

MOST_DEFENSES: Final = 16  # per network: a site's number in the streams is call · MOST_DEFENSES + position
_INPUT_SITE: Final = SITES - MOST_DEFENSES

Acting = tuple[tuple[int, Defense], ...]

_IN_PLACE: Final[dict[Any, str]] = {
    torch.relu_: "relu",
    Tensor.relu_: "relu",
    torch.sigmoid_: "sigmoid",
    Tensor.sigmoid_: "sigmoid",
    torch.tanh_: "tanh",
    Tensor.tanh_: "tanh",
    F.elu_: "elu",
    F.selu_: "selu",
    F.celu_: "celu",
    F.leaky_relu_: "leaky_relu",
    F.hardtanh_: "hardtanh",
    torch.threshold_: "threshold",
    F.rrelu_: "rrelu",
}
_OUT_OF_PLACE: Final[dict[Any, str]] = {
    **{getattr(F, name): name for name in (
        "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish", "hardtanh",
        "hardsigmoid", "softplus", "softsign", "prelu", "rrelu", "logsigmoid", "threshold", "hardshrink",
        "softshrink", "tanhshrink",
    )},
    torch.relu: "relu",
    Tensor.relu: "relu",
    torch.sigmoid: "sigmoid",
    Tensor.sigmoid: "sigmoid",
    torch.tanh: "tanh",
    Tensor.tanh: "tanh",
    torch.prelu: "prelu",
    Tensor.prelu: "prelu",
    torch.selu: "selu",
    torch.celu: "celu",
    torch.rrelu: "rrelu",
}  # fmt: skip
_RECTIFIERS: Final = (F.relu, torch.relu, Tensor.relu)
_INPLACE_POSITION: Final[dict[Any, int]] = {
    f: list(signature(f).parameters).index("inplace")
    for f in _OUT_OF_PLACE
    if isfunction(f) and "inplace" in signature(f).parameters
}
_CLAMPS: Final[dict[Any, bool]] = {  # rectifiers when min=0; the value says whether in place
    torch.clamp: False,
    Tensor.clamp: False,
    torch.clip: False,
    Tensor.clip: False,
    torch.clip_: True,
    Tensor.clip_: True,
    torch.clamp_min: False,
    Tensor.clamp_min: False,
    torch.clamp_: True,
    Tensor.clamp_: True,
    Tensor.clamp_min_: True,
}


@dataclass(frozen=True)
class Site:
    """A place where an activation function's output appears.

    Args:
        index: number of the call within a pass, from 0.
        name: path of the module in which the call happens; "#2" marks a name's second call.
        function: the activation function.
        shape: of one example's map.
        activations: its size a.
        draws: categorical draws of each pass at this site; 0 without a pruning defence.
    """

    index: int
    name: str
    function: str
    shape: tuple[int, ...]
    activations: int
    draws: int


@dataclass(frozen=True)
class Plan:
    """Which defences act where.

    Attributes:
        defenses: in the order in which they act at a place.
        sites: patterns of the defended sites; None for all.
        parameters: names of the defended parameters, in order.
    """

    defenses: tuple[Defense, ...] = ()
    sites: tuple[str, ...] | None = None
    parameters: tuple[str, ...] = ()

    @cached_property
    def inputs(self) -> Acting:
        """Return the defences with an input hook, each with its position among all."""
        return self._with_hook("input")

    @cached_property
    def activations(self) -> Acting:
        """Return the defences with an activation hook, each with its position among all."""
        return self._with_hook("activation")

    @cached_property
    def weights(self) -> Acting:
        """Return the defences with a weight hook, each with its position among all."""
        return self._with_hook("weight")

    def _with_hook(self, hook: str) -> Acting:
        return tuple((k, defense) for k, defense in enumerate(self.defenses) if hook in defense.hooks)

    def at_site(self, name: str) -> Acting:
        """Return the defences that act at the site of that name."""
        if self.sites is not None and not any(fnmatchcase(name, pattern) for pattern in self.sites):
            return ()
        return tuple((position, defense) for position, defense in self.activations if defense.serves(name))

    def changed_input(self, x: Tensor, drawing: Drawing) -> Tensor:
        """Return what the network gets instead of its input (N, ...)."""
        for position, defense in self.inputs:
            draw = Draw(drawing, _INPUT_SITE + position, "input", len(x), x.device)
            x = defense.applied("input", x, draw)
        return x

    def changed_weights(self, named: Mapping[str, Tensor], drawing: Drawing) -> dict[int, Tensor]:
        """Return this pass's weights, by the identity of the tensors that they stand for."""
        result = {}
        for index, name in enumerate(self.parameters):
            weight = changed = named[name]
            for position, defense in self.weights:
                if defense.serves(name):
                    draw = Draw(drawing, index * MOST_DEFENSES + position, name, None, weight.device)
                    changed = defense.applied("weight", changed, draw, name)
            result[id(weight)] = changed
        return result


class ModulePath(threading.local):
    """The modules that the running forward pass is in, innermost last."""

    def __init__(self) -> None:
        self.stack: list[tuple[str, nn.Module]] = []


module_path: Final = ModulePath()


def _enter(name: str, module: nn.Module, args: Any) -> None:
    module_path.stack.append((name, module))


def _leave(module: nn.Module, args: Any, output: Any) -> None:
    module_path.stack.pop()


def announce_modules(model: nn.Module) -> None:
    """Let each submodule of `model` say when a forward pass enters and leaves it, so that sites have names."""
    for name, module in model.named_modules():
        if name:
            module.register_forward_pre_hook(partial(_enter, name))
            module.register_forward_hook(_leave, always_call=True)


def is_announcement(hook: Any) -> bool:
    """Return whether a forward hook is one of `announce_modules`."""
    return hook is _leave or (isinstance(hook, partial) and hook.func is _enter)


def _path(function: str) -> str:
    if not module_path.stack:
        return function
    name, module = module_path.stack[-1]
    own_forward = type(module).__module__ == "torch.nn.modules.activation"
    return name if own_forward else f"{name}.{function}"


@dataclass
class Pass:
    """What one forward pass draws from, and what it has met so far.

    Args:
        plan: which defences act where.
        drawing: the draws.
        weights: this pass's weights, by the identity of the tensors that they stand for.
        record: where to note the sites; None not to.
        calls: the names of the sites met so far.
        paths: how often each name was met before numbering.
        defended: how many sites a defence acted on.
        signs: by which an activation checkpoint that begins inside is known.
        norm: the last batch-norm, where gradients have a way past it.
    """

    plan: Plan
    drawing: Drawing
    weights: Mapping[int, Tensor] = field(default_factory=dict)
    record: list[Site] | None = None
    calls: list[str] = field(default_factory=list)
    paths: dict[str, int] = field(default_factory=dict)
    defended: int = 0
    signs: Signs = (False, None)
    norm: Normalised | None = None

    def call(self, path: str) -> tuple[int, str]:
        """Note a call, and give its number and its site's name."""
        count = self.paths[path] = self.paths.get(path, 0) + 1
        name = path if count == 1 else f"{path}#{count}"
        self.calls.append(name)
        return len(self.calls) - 1, name

    def refuse_checkpoint(self) -> None:
        """Refuse to draw inside an activation checkpoint; see `saplab.defenses.checkpoints`."""
        if not torch.compiler.is_compiling():
            refuse_checkpoint(self.signs)


class SiteMode(TorchFunctionMode):
    """Inside, activation functions' outputs go through the plan's defences, and weights give way to this pass's."""

    def __init__(self, run: Pass) -> None:
        super().__init__()
        self.run = run

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.run.weights:
            args, kwargs = self._with_weights(args), {name: self._weight(value) for name, value in kwargs.items()}
        kind = _classify(func, args, kwargs)
        if kind is None:
            result = func(*args, **kwargs)
            if func is F.batch_norm and self.run.drawing.inputs_only:
                self.run.norm = normalised(args, kwargs, result)
            return result
        function, in_place = kind
        if func in _RECTIFIERS and not in_place:
            return self._serve(function, args[0] if args else kwargs["input"], rectify=True)
        if not in_place:
            return self._serve(function, func(*args, **kwargs))
        x = args[0] if args else kwargs.pop("input")
        h = self._serve(function, func(x.clone(), *args[1:], **kwargs))
        return x.copy_(h)

    def _with_weights(self, args: Any) -> Any:
        return tuple(map(self._weight, args))

    def _weight(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            changed = self.run.weights.get(id(value))
            if changed is None:
                return value
            self.run.refuse_checkpoint()
            return changed
        if isinstance(value, list | tuple) and type(value) in (list, tuple):  # recurrent layers give a list of weights
            return type(value)(map(self._weight, value))
        return value

    def _serve(self, function: str, h: Tensor, rectify: bool = False) -> Tensor:
        """Return the defended maps of h, or of relu(h), which a defence on the CPU may take in the same pass."""
        run = self.run
        index, name = run.call(_path(function))
        run.refuse_checkpoint()
        defenses = run.plan.at_site(name)
        run.defended += bool(defenses)
        if run.record is not None and (defenses or not run.plan.activations):
            run.record.append(_site(index, name, function, h, defenses))
        norm, run.norm = run.norm, None if rectify else run.norm
        for position, defense in defenses:
            draw = Draw(run.drawing, index * MOST_DEFENSES + position, name, len(h), h.device)
            if rectify and h.is_cpu:
                norm = norm if norm is not None and norm.is_the_origin_of(h) else None
                h, rectify = defense.rectified(h, draw, name, norm), False
                continue
            h, rectify = torch.relu(h) if rectify else h, False
            h = defense.applied("activation", h, draw, name)
        return torch.relu(h) if rectify else h


def _classify(func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[str, bool] | None:
    """Return (activation function, whether it writes into its input), or None for any other function."""
    if func in _OUT_OF_PLACE:
        position = _INPLACE_POSITION.get(func, len(args))
        return _OUT_OF_PLACE[func], bool(kwargs.get("inplace", args[position] if position < len(args) else False))
    if func in _IN_PLACE:
        return _IN_PLACE[func], True
    if func in _CLAMPS:
        low = kwargs.get("min", args[1] if len(args) > 1 else None)
        high = kwargs.get("max", args[2] if len(args) > 2 else None)
        if isinstance(low, int | float) and low == 0:
            return ("relu" if high is None else "clamp"), _CLAMPS[func]
    return None


def _site(index: int, name: str, function: str, h: Tensor, defenses: Acting) -> Site:
    activations = h[:1].numel()
    draws = sum(defense.draws(activations, name) for _, defense in defenses)
    return Site(index, name, function, tuple(h.shape[1:]), activations, draws)


class SiteTable(Sequence[Site]):
    """The sites of a network, in the order of their calls; prints as a table."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = tuple(sites)

    def __getitem__(self, index: Any) -> Any:
        return self._sites[index]

    def __len__(self) -> int:
        return len(self._sites)

    def __repr__(self) -> str:
        rows = [("#", "site", "function", "shape", "activations", "draws")]
        for s in self._sites:
            shape = "×".join(map(str, s.shape))
            rows.append((str(s.index), s.name, s.function, shape, f"{s.activations:,}", f"{s.draws:,}"))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join(_line(row, widths) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    """Align texts to the left and numbers to the right."""
    cells = zip((str.rjust, str.ljust, str.ljust, str.rjust, str.rjust, str.rjust), row, widths, strict=True)
    return "  ".join(align(text, width) for align, text, width in cells).rstrip()
