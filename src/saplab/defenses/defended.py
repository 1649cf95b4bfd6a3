"""Put defences on a network: the same network, with the same keys and parameters, whose every call is a fresh pass."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from saplab.defenses.base import Defense, label_of
from saplab.defenses.checkpoints import refuse_checkpoint, signs
from saplab.defenses.computed import announce_weights, computed_names, meeting, refuse_hidden_weights, weights_by_name
from saplab.defenses.drawing import MOST_DEFENSES, Drawing, GradientRule, check_rule, current, fresh
from saplab.defenses.dressing import Dress, dressed, dresses, undress, view
from saplab.defenses.relaxed import relaxing
from saplab.defenses.site_mode import Pass, Plan, SiteMode
from saplab.defenses.sites import Site, SiteTable, announce_modules, is_announcement
from saplab.defenses.weights import weight_names
from saplab.pruning.finite import check_finite
from saplab.rng.streams import stream_key
from saplab.system.settings import settings_of


class Defended(Dress):
    """The part that `defend` adds to a network's own class."""

    _saplab_plan: Plan

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run one stochastic pass: with the draws that an enclosing `drawing` fixes, else with fresh ones.

        Raises:
            ValueError: the pass called no activation function, or none that the `sites` pattern selects; or it runs
                where its draws would be wrong, such as inside `torch.vmap` or an activation checkpoint.
            NotFiniteError: pruned activations held NaN or infinity.
        """
        begin = _begin_uncompiled if torch.compiler.is_compiling() else Defended._saplab_begin
        run, args, kwargs = begin(self, args, kwargs)
        if run.weights and torch.compiler.is_compiling():  # weights are known by identity, which inputs must not fix
            args, kwargs = tuple(map(_renewed, args)), {name: _renewed(value) for name, value in kwargs.items()}
        computing = meeting(run.meet) if run.plan.computed else nullcontext()
        with relaxing(True) if self._saplab_relaxes() else nullcontext(), computing, SiteMode(run):
            output = super().forward(*args, **kwargs)
        if run.defended == 0 and run.plan.acting["activation"]:
            raise ValueError(_nothing_found(run))
        if not torch.compiler.is_compiling() and run.drawing.fresh and run.drawing.streams.is_cuda:
            check_finite(run.drawing.streams.device)
        return output

    def _saplab_begin(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Pass, tuple[Any, ...], dict[str, Any]]:
        """Return the pass that begins, and the arguments with its input."""
        plan = self._saplab_plan
        inputs, activations = plan.acting["input"], plan.acting["activation"]
        if (inputs or activations) and _maps_examples():
            raise ValueError("inside torch.vmap, examples cannot have draws of their own; give it the whole batch")
        refuse_checkpoint()
        drawing = self._saplab_drawing()
        drawing = (drawing.of_one_pass() if plan.shares_draws else drawing).on(_device_of(self, args, kwargs))
        named = self._saplab_weights()
        weights = {id(weight): plan.changed_weight(name, weight, drawing) for name, weight in named.items()}
        run = Pass(plan, drawing, weights, signs=signs(), batch=_batch_of(args, kwargs))
        with relaxing(self._saplab_relaxes()):
            return (run, *_with_input(plan, drawing, args, kwargs)) if inputs else (run, args, kwargs)

    def _saplab_relaxes(self) -> bool:
        """Return whether a direct call takes its gradient by the rule ``relaxed``, which a `drawing` does by itself."""
        return self._saplab_rule == "relaxed" and current() is None

    def _saplab_weights(self) -> dict[str, Tensor]:
        """Return the tensors to change, which a DataParallel replica holds as attributes, not as parameters."""
        plan = self._saplab_plan
        names = (name for name in plan.parameters if name not in plan.computed)
        places = ((name, *name.rpartition(".")) for name in names)
        return {name: getattr(self.get_submodule(module), leaf) for name, module, _, leaf in places}

    @property
    def _saplab_random(self) -> bool:
        own = any(defense.random for defense in self._saplab_plan.defenses)
        return own or getattr(super(), "_saplab_random", False)  # of a network that draws itself

    @property
    def _saplab_shares(self) -> bool:
        return self._saplab_plan.shares_draws or getattr(super(), "_saplab_shares", False)

    @property
    def _saplab_label(self) -> str:
        return label_of(self._saplab_plan.defenses)


def _begin_in_graph(
    model: Defended, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Pass, tuple[Any, ...], dict[str, Any]]:
    if computed := model._saplab_plan.computed:
        raise ValueError(f"a defence of weights that their layers compute ({min(computed)}) cannot be compiled")
    return model._saplab_begin(args, kwargs)


# What changes from pass to pass stays out of compiled graphs. The public torch.compiler.disable imports the compiler.
_begin_uncompiled: Final = _disable_dynamo(_begin_in_graph)


def _renewed(value: Any) -> Any:
    return value.view_as(value) if isinstance(value, Tensor) else value


def _with_input(
    plan: Plan, drawing: Drawing, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments with the defended input in place of the first tensor among them."""
    for k, value in enumerate(args):
        if isinstance(value, Tensor):
            return (*args[:k], plan.changed_input(value, drawing), *args[k + 1 :]), kwargs
    for name, value in kwargs.items():
        if isinstance(value, Tensor):
            return args, {**kwargs, name: plan.changed_input(value, drawing)}
    raise ValueError("a defence acts on the network's input, but no argument of this call is a tensor")


def _device_of(model: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> torch.device:
    """Return the device of a pass's inputs, or of the network where no input is a tensor."""
    for value in chain(args, kwargs.values(), model.parameters()):
        if isinstance(value, Tensor):
            return value.device
    return torch.device("cpu")


def _batch_of(args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    """Return the examples of a pass: the first axis of its first tensor, and 0 while it is compiled."""
    if torch.compiler.is_compiling():
        return 0
    first = next((v for v in chain(args, kwargs.values()) if isinstance(v, Tensor)), None)
    return 0 if first is None or first.dim() == 0 else len(first)


def _maps_examples() -> bool:
    """Return whether a `torch.vmap` is running."""
    levels = torch._C._functorch.get_interpreter_stack() or ()
    return any(level.key() == torch._C._functorch.TransformType.Vmap for level in levels)


def _nothing_found(run: Pass) -> str:
    if not run.calls:
        return "the network called no activation function, so there is no site to defend"
    every = f"{len(run.calls)} sites: {', '.join(run.calls)}"
    if run.plan.sites is None:
        return f"no defence has a number for any of the network's {every}"
    return f"`sites` {', '.join(map(repr, run.plan.sites))} selects none of the network's {every}"


def _parts(model: nn.Module) -> list["Defended"]:
    return [module for module in model.modules() if isinstance(module, Defended)]


def defenses_of(model: nn.Module) -> tuple[Defense, ...]:
    """Return the defences on all parts of a network."""
    return tuple(defense for part in _parts(model) for defense in part._saplab_plan.defenses)


def is_random(model: nn.Module) -> bool:
    """Return whether some part of `model` draws at random, so that passes differ."""
    return any(part._saplab_random for part in dresses(model))


def shares_draws(model: nn.Module) -> bool:
    """Return whether one draw of some part serves a whole pass, so that a batch must be one pass."""
    return any(part._saplab_shares for part in dresses(model))


def plan_of(model: nn.Module) -> Plan | None:
    """Return where the defences of a network act, its parameters named only where they are not the default ones.

    None for a network that is not defended.
    """
    if not isinstance(model, Defended):
        return None
    plan = model._saplab_plan
    usual = _plan(model, plan.defenses, plan.sites, None).parameters
    return replace(plan, parameters=()) if plan.parameters == usual else plan


def defend(
    model: nn.Module,
    *defenses: Defense,
    sites: str | Sequence[str] | None = None,
    parameters: str | Sequence[str] | None = None,
    seed: int = 0,
    backward: GradientRule = "mask",
) -> nn.Module:
    """Put one or more defences on a trained network.

    The result shares the parameters and buffers of `model`, which stays as it is; keys, attributes and class (by
    `isinstance`) are the same. Move a network to its device and type first: `.to()` and its like replace buffers, which
    are then shared no more. Each call is one fresh pass. Its training mode decides nothing about the defences.

    Args:
        model: any network whose forward pass calls activation functions, as modules, functions or methods.
        defenses: any of saplab's or of one's own, applied in the order given.
        sites: name pattern, or several, of the sites to defend (``"stage3.*"``); all by default.
        parameters: name pattern, or several, of the parameters that weight defences change; by default all weight
            tensors (see `saplab.defenses.weights`). A weight that its layer computes (weight_norm, pruning) goes by the
            name that the layer calls it.
        seed: of the draws of direct calls, which are other draws than those of `predict` or `evaluate` with this seed:
            whoever attacks through direct calls has not seen the passes that judge. Networks with the same seed draw
            the same.
        backward: how the gradient of direct calls passes the defences, for training code and for other libraries'
            attacks: ``mask``, ``probability``, ``identity`` or ``relaxed`` (see `MonteCarlo`, whose own choice decides
            in the attacks of saplab).

    Raises:
        TypeError: `model` is not an `nn.Module`, or a defence is none.
        ValueError: a model whose inside cannot be seen (TorchScript, compiled, a weight computed in an unknown way) or
            that is defended already, no defence, too many of them, a bad `seed`, an unknown `backward`. A forward pass
            that finds no site raises as well.

    Examples:
        >>> sap = saplab.defend(net, saplab.SAP(percent=100), seed=0)
        >>> logits = sap(images)
    """
    _check(model, defenses)
    check_rule(backward)
    plan = _plan(model, defenses, _patterns(sites), _patterns(parameters))
    return _defended(model, plan, stream_key(seed, "call"), backward)


def _patterns(given: str | Sequence[str] | None) -> tuple[str, ...] | None:
    patterns = (given,) if isinstance(given, str) else None if given is None else tuple(given)
    if patterns == ():
        raise ValueError("`sites` and `parameters` must hold at least one pattern, got none")
    return patterns


def _plan(
    model: nn.Module, defenses: Sequence[Defense], sites: tuple[str, ...] | None, parameters: tuple[str, ...] | None
) -> Plan:
    plan = Plan(tuple(defenses), sites)
    acting = [defense for _, defense in plan.acting["weight"]]
    if sites is not None and not plan.acting["activation"]:
        raise ValueError("`sites` selects activation maps, but no defence acts on activations; see `parameters`")
    if parameters is not None and not acting:
        raise ValueError("`parameters` selects weights, but no defence acts on weights; see `sites`")
    if not acting:
        return plan
    names = _defended_parameters(model, acting, parameters)
    return replace(plan, parameters=names, computed=computed_names(model).intersection(names))


def _defended_parameters(
    model: nn.Module, defenses: Sequence[Defense], patterns: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Name the parameters to change; refuse a choice of none, and orders that decide the outcome."""
    if patterns is None:
        refuse_hidden_weights(model)
    every = list(weights_by_name(model))
    chosen = [n for n in every if any(fnmatchcase(n, p) for p in patterns)] if patterns else weight_names(model)
    acting = {name: [d for d in defenses if d.serves(name)] for name in chosen}
    names = tuple(name for name, some in acting.items() if some)
    if not names:
        asked = f"`parameters` {', '.join(map(repr, patterns))} selects" if patterns else "a weight defence finds"
        raise ValueError(f"{asked} none of the network's {len(every)} parameters")
    for name, some in acting.items():
        if len({type(d) for d in some}) > 1:
            kinds = " and ".join(sorted(type(d).__name__ for d in some))
            raise ValueError(f"{kinds} act both on {name!r}, where their order would decide")
    return names


def _defended(model: nn.Module, plan: Plan, key: int, rule: GradientRule = "mask") -> Defended:
    """Return a view of the model that runs by the plan."""
    defended = dressed(model, Defended, key, rule)
    announce_modules(defended)
    announce_weights(defended, plan.computed)
    defended._saplab_plan = plan
    return defended


def check_network(model: Any) -> None:
    """Refuse what is no network, by a TypeError that says what to write instead."""
    if isinstance(model, nn.Module):
        return
    wanted = f"`model` must be an nn.Module, got {type(model).__name__}"
    if isinstance(model, str):
        wanted += f"; write saplab.load_model({model!r})"
    elif isinstance(model, type) and issubclass(model, nn.Module):
        wanted = f"`model` must be an nn.Module, got the class {model.__name__}; write {model.__name__}()"
    elif isinstance(model, Defense) or (isinstance(model, type) and issubclass(model, Defense)):
        wanted += "; the network comes first: saplab.defend(net, saplab.SAP(100))"
    raise TypeError(wanted)


def _check(model: nn.Module, defenses: Sequence[Any]) -> None:
    check_network(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("`model` is a TorchScript module, whose inside cannot be seen; defend the Python module")
    if hasattr(model, "_orig_mod"):
        raise ValueError("`model` is compiled; defend it first, then torch.compile the result")
    for name, part in model.named_modules():
        if isinstance(part, torch.jit.ScriptModule) or hasattr(part, "_orig_mod"):
            what = "a TorchScript module" if isinstance(part, torch.jit.ScriptModule) else "compiled"
            raise ValueError(
                f"the part {name!r} of the network is {what}, whose inside cannot be seen; give it as it was"
            )
    if _parts(model):
        raise ValueError("`model` is defended already; give all defences in one call of defend()")
    if not 1 <= len(defenses) <= MOST_DEFENSES:
        raise ValueError(f"`defenses` must hold at least one defence and at most {MOST_DEFENSES}, got {len(defenses)}")
    for defense in defenses:
        if not isinstance(defense, Defense):
            raise TypeError(f"`defenses` must hold defences such as SAP(percent=100), got {_instead(defense)}")
        if not defense.hooks:
            raise TypeError(f"{type(defense).__name__} has none of the hooks input, activation and weight")


def _instead(given: Any) -> str:
    """Return what was given in the place of a defence, and what to write."""
    if isinstance(given, type) and issubclass(given, Defense):
        settings = ", ".join(setting.name for setting in settings_of(given))
        return f"the class {given.__name__}; write {given.__name__}({settings and settings + '=…'})"
    if isinstance(given, str):
        return f"{given!r}; text is for the command line (--defense {given})"
    if isinstance(given, list | tuple):
        return f"a {type(given).__name__}; write defend(net, *defences)"
    return repr(given) if not isinstance(given, nn.Module) else f"a network, {type(given).__name__}"


def undefended(model: nn.Module) -> nn.Module:
    """Return a network without the defences on it and its parts: the same parameters and buffers, of its own class.

    A network that is not defended is returned as it is.
    """
    if not _parts(model):
        return model
    plain = view(model)
    for part in _parts(plain):
        undress(part, Defended, "_saplab_plan")
        for module in part.modules():
            _silence(module)
    return plain


def _silence(module: nn.Module) -> None:
    """Take the announcements of `announce_modules` away."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key in [key for key, hook in hooks.items() if is_announcement(hook)]:
            del hooks[key]
            module._forward_hooks_always_called.pop(key, None)


def sites(model: nn.Module, images: Tensor) -> SiteTable:
    """List the sites that one pass over `images` (N, ...) defends, in the order of the calls.

    For an undefended network, list every site there is.

    Raises:
        ValueError: no site was found.
    """
    record: list[Site] = []
    view = model if isinstance(model, Defended) else _defended(model, Plan(), 0)
    plan, drawing = view._saplab_plan, fresh(view._saplab_key, 0).of_one_pass().on(images.device)
    run = Pass(plan, drawing, record=record)
    with torch.no_grad(), SiteMode(run):
        super(Defended, view).forward(plan.changed_input(images.clone(), drawing))
    if not record:
        raise ValueError(_nothing_found(run))
    return SiteTable(record)
