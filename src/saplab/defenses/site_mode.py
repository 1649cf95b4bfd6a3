"""Which defences act where, and the mode of PyTorch in which a forward pass meets them.

A `TorchFunctionMode` around the forward pass sees modules, functions and methods alike.
"""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from saplab.defenses.base import HOOKS, Defense
from saplab.defenses.checkpoints import Signs, refuse_checkpoint
from saplab.defenses.drawing import MOST_DEFENSES, Draw, Drawing, not_examples
from saplab.defenses.sites import RECTIFIERS, Site, classify, in_parametrization, path_of
from saplab.pruning.normalised import Normalised, normalised
from saplab.rng.streams import SITES

_INPUT_SITE: Final = SITES - MOST_DEFENSES

Acting = tuple[tuple[int, Defense], ...]  # defences, each with its position among all


@dataclass(frozen=True)
class Plan:
    """Which defences act where.

    Attributes:
        defenses: in the order in which they act at a place.
        sites: patterns of the defended sites; None for all.
        parameters: names of the defended weights, in order.
        computed: those among them that layers compute in each pass.
    """

    defenses: tuple[Defense, ...] = ()
    sites: tuple[str, ...] | None = None
    parameters: tuple[str, ...] = ()
    computed: frozenset[str] = frozenset()

    @cached_property
    def acting(self) -> dict[str, Acting]:
        """Return the defences with each hook."""
        return {hook: tuple((k, d) for k, d in enumerate(self.defenses) if hook in d.hooks) for hook in HOOKS}

    @cached_property
    def shares_draws(self) -> bool:
        """Return whether one draw of some defence serves a whole pass."""
        return any(defense.shares_draws for defense in self.defenses)

    def at_site(self, name: str) -> Acting:
        """Return the defences that act at the site of that name."""
        if self.sites is not None and not any(fnmatchcase(name, pattern) for pattern in self.sites):
            return ()
        return tuple((position, defense) for position, defense in self.acting["activation"] if defense.serves(name))

    def changed_input(self, x: Tensor, drawing: Drawing) -> Tensor:
        """Return what the network gets instead of its input (N, ...)."""
        for position, defense in self.acting["input"]:
            x = defense.applied("input", x, Draw(drawing, _INPUT_SITE + position, "input", x.shape[0], x.device))
        return x

    def changed_weight(self, name: str, weight: Tensor, drawing: Drawing) -> Tensor:
        """Return this pass's tensor in place of the weight of that name."""
        index = self.parameters.index(name)
        for position, defense in self.acting["weight"]:
            if defense.serves(name):
                draw = Draw(drawing, index * MOST_DEFENSES + position, name, None, weight.device)
                weight = defense.applied("weight", weight, draw, name)
        return weight


@dataclass
class Pass:
    """What one forward pass draws from, and what it has met so far.

    Attributes:
        plan: which defences act where.
        drawing: the draws.
        weights: this pass's weights, by the identity of the tensors that they stand for.
        met: the computed ones among these tensors, which must live as long as their identity counts.
        record: where to note the sites; None not to.
        calls: the names of the sites met so far.
        paths: how often each name was met before numbering.
        defended: how many sites a defence acted on.
        signs: by which an activation checkpoint that begins inside is known.
        norm: the last batch-norm, where gradients have a way past it.
        batch: examples of the pass; 0 where no input tells.
    """

    plan: Plan
    drawing: Drawing
    weights: dict[int, Tensor] = field(default_factory=dict)
    met: list[Tensor] = field(default_factory=list)
    record: list[Site] | None = None
    calls: list[str] = field(default_factory=list)
    paths: dict[str, int] = field(default_factory=dict)
    defended: int = 0
    signs: Signs = (False, None)
    norm: Normalised | None = None
    batch: int = 0

    def call(self, path: str) -> tuple[int, str]:
        """Note a call, and return its number and its site's name."""
        count = self.paths[path] = self.paths.get(path, 0) + 1
        name = path if count == 1 else f"{path}#{count}"
        self.calls.append(name)
        return len(self.calls) - 1, name

    def meet(self, name: str, weight: Tensor) -> None:
        """Note a weight that a layer has just computed: its changed form takes its place from here on."""
        self.met.append(weight)
        self.weights[id(weight)] = self.plan.changed_weight(name, weight, self.drawing)

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
            args, kwargs = tuple(map(self._weight, args)), {k: self._weight(value) for k, value in kwargs.items()}
        kind = classify(func, args, kwargs)
        if kind is None or in_parametrization():
            result = func(*args, **kwargs)
            if func is F.batch_norm and self.run.drawing.inputs_only:
                self.run.norm = normalised(args, kwargs, result)
            return result
        function, in_place = kind
        if func in RECTIFIERS and not in_place:
            return self._serve(function, args[0] if args else kwargs["input"], rectify=True)
        if not in_place:
            return self._serve(function, func(*args, **kwargs))
        x = args[0] if args else kwargs.pop("input")
        return x.copy_(self._serve(function, func(x.clone(), *args[1:], **kwargs)))

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
        index, name = run.call(path_of(function))
        run.refuse_checkpoint()
        defenses = run.plan.at_site(name)
        run.defended += bool(defenses)
        if run.record is not None and (defenses or not run.plan.acting["activation"]):
            activations = h.shape[1:].numel()
            draws = sum(defense.draws(activations, name) for _, defense in defenses)
            run.record.append(Site(index, name, function, tuple(h.shape[1:]), activations, draws))
        norm, run.norm = run.norm, None if rectify else run.norm
        for position, defense in defenses:
            count = h.shape[0]  # len(h) would fix the size of batches in torch.export
            if run.batch and count % run.batch:
                raise ValueError(not_examples(name, count, run.batch))
            draw = Draw(run.drawing, index * MOST_DEFENSES + position, name, count, h.device)
            if rectify and h.is_cpu:
                norm = norm if norm is not None and norm.is_the_origin_of(h) else None
                h, rectify = defense.rectified(h, draw, name, norm), False
                continue
            h, rectify = torch.relu(h) if rectify else h, False
            h = defense.applied("activation", h, draw, name)
        return torch.relu(h) if rectify else h
