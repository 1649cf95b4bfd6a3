"""The laws of PyTorch's random operators: each as a function of numbers that a source gives, not of a generator.

A law gets the call with its arguments by the names of the operator's schema. `Call.result` writes what it returns where
the operator writes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
from scipy import special, stats
from torch import Tensor

from saplab.defenses.drawing import below

_DIGITS: Final = {torch.float64: 53, torch.float32: 24, torch.bfloat16: 8, torch.float16: 11}  # of types' fractions


class Source(Protocol):
    """The numbers of one draw; see `saplab.defenses.keyed.Source`."""

    def uniform(self) -> Tensor:
        """Uniform in [0, 1), float32."""

    def normal(self) -> Tensor:
        """Standard normal, float32."""

    def words(self) -> Tensor:
        """Uniform integers in [0, 2^32), int64."""

    def fine(self) -> Tensor:
        """Uniform in (0, 1), float64, from 52 bits."""


def arguments_of(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return the arguments of an overload's call by the names of its schema, defaults included."""
    names = func._schema.arguments
    given = {a.name: a.default_value for a in names if a.has_default_value()}
    given.pop("dtype", None)  # a number where it is the operator's usual type
    given |= dict(zip((argument.name for argument in names), args, strict=False))
    return {**given, **kwargs}


@dataclass(frozen=True)
class Call:
    """One call of a random operator.

    Attributes:
        name: of the operator.
        given: its arguments by name, defaults included.
        ask: returns a source for a shape and a device.
    """

    name: str
    given: Mapping[str, Any]
    ask: Callable[[Sequence[int], torch.device], Source]

    @classmethod
    def of(cls, func: Any, args: Any, kwargs: Any, ask: Callable[[Sequence[int], torch.device], Source]) -> "Call":
        """Return the call of an overload with arguments."""
        return cls(func._schema.name, arguments_of(func, args, kwargs), ask)

    @property
    def like(self) -> Tensor | None:
        """Return the tensor whose shape, type and device the result has, where there is one."""
        found = next((self.given[name] for name in ("self", "mean", "std") if name in self.given), None)
        if isinstance(found, Tensor):
            return found
        other = self.given.get("std")
        return other if isinstance(other, Tensor) else None

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the result."""
        if "size" in self.given:
            return tuple(self.given["size"])
        if "n" in self.given:
            return (self.given["n"],)
        tensors = [v for name, v in self.given.items() if isinstance(v, Tensor) and name != "out"]
        return tuple(torch.broadcast_shapes(*(tensor.shape for tensor in tensors)))

    @property
    def device(self) -> torch.device:
        """Return where the result goes."""
        given = self.given.get("device")
        return (
            torch.device(given) if given is not None else torch.device("cpu") if self.like is None else self.like.device
        )

    @property
    def generator(self) -> Any:
        """Return the generator that the operator would draw from: the one that it is given, or its device's."""
        given = self.given.get("generator")
        if given is not None:
            return given
        device = next((v.device for v in self.given.values() if isinstance(v, Tensor)), self.device)
        if device.type != "cuda":
            return torch.default_generator
        torch.cuda.init()
        return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]

    def dtype(self, usual: torch.dtype) -> torch.dtype:
        """Return the type that the call asks for: its own, that of its tensor, or `usual`."""
        given = self.given.get("dtype")
        return given if given is not None else usual if self.like is None else self.like.dtype

    def source(self, *shape: int) -> Source:
        """Return the numbers for the result's shape, or for another one."""
        return self.ask(shape or self.shape, self.device)

    def real(self, usual: torch.dtype | None = None) -> bool:
        """Return whether the result holds numbers finer than float32's."""
        return self.dtype(usual or torch.get_default_dtype()) == torch.float64

    def result(self, law: Callable[["Call"], Any]) -> Any:
        """Return what the operator returns, written where it writes."""
        value = law(self)
        if isinstance(value, tuple):
            return value
        target = self.given.get("out", self.given["self"] if self.name.endswith("_") else None)
        if target is not None:
            return (target.resize_(value.shape) if target.shape != value.shape else target).copy_(value)
        return value


def _uniform(call: Call) -> Any:
    """Return numbers uniform in [0, 1) that the result's type holds exactly, so that rounding makes none of them 1."""
    source, digits = call.source(), _DIGITS.get(call.dtype(torch.get_default_dtype()), 24)
    if digits > 24:
        return source.fine()
    return source.uniform() if digits == 24 else (source.words() >> (32 - digits)).float() * 2.0**-digits


def _normal(call: Call) -> Any:
    source = call.source()
    return torch.special.ndtri(source.fine()) if call.real() else source.normal()


def _rand(call: Call) -> Any:
    return _uniform(call).to(call.dtype(torch.get_default_dtype()))


def _randn(call: Call) -> Any:
    return _normal(call).to(call.dtype(torch.get_default_dtype()))


def _randint(call: Call) -> Any:
    high, low = call.given["high"], call.given.get("low", 0)
    return _integers(call, int(low), int(high)).to(call.dtype(torch.int64))


def _integers(call: Call, low: int, high: int) -> Tensor:
    return low + below(high - low, call.source().words)


def _random(call: Call) -> Any:
    """Draw integers: from `from` to `to` - 1, or all from 0 that the type holds exactly (53 bits of float64).

    Of int64 the largest one is left out, whose span would not fit.
    """
    given, dtype = call.given, call.dtype(torch.float32)
    if dtype in _DIGITS:
        most = 2 ** _DIGITS[dtype] + 1
    else:
        most = 2 if dtype == torch.bool else min(torch.iinfo(dtype).max + 1, torch.iinfo(torch.int64).max)
    low, high = given.get("from") or 0, given.get("to")
    return _integers(call, low, most if high is None else high).to(dtype)


def _randperm(call: Call) -> Any:
    return call.source().words().argsort(stable=True).to(call.dtype(torch.int64))


def _gaussian(call: Call) -> Any:
    """Draw normal(mean, std), each a number or a tensor."""
    mean, std = call.given.get("mean", 0.0), call.given.get("std", 1.0)
    return (_normal(call) * std + mean).to(call.dtype(torch.get_default_dtype()))


def _between(call: Call) -> Any:
    low, high = call.given["from"], call.given["to"]
    return (_uniform(call) * (high - low) + low).to(call.dtype(torch.float32))


def _bernoulli(call: Call) -> Any:
    p = call.given.get("p")
    chance = call.given["self"] if p is None else p
    return (call.source().uniform() < chance).to(call.dtype(torch.float32))


def _exponential(call: Call) -> Any:
    """Draw exponential numbers, none of them 0: their logarithm must be finite."""
    return (-call.source().fine().log() / call.given["lambd"]).to(call.dtype(torch.float32))


def _cauchy(call: Call) -> Any:
    turns = call.source().fine() - 0.5
    return (call.given["median"] + call.given["sigma"] * (math.pi * turns).tan()).to(call.dtype(torch.float32))


def _log_normal(call: Call) -> Any:
    return (_normal(call) * call.given["std"] + call.given["mean"]).exp().to(call.dtype(torch.float32))


def _geometric(call: Call) -> Any:
    trials = call.source().fine().log() / math.log1p(-call.given["p"]) if call.given["p"] < 1 else call.source().fine()
    return trials.ceil().clamp(min=1).to(call.dtype(torch.float32))


def _multinomial(call: Call) -> Any:
    """Draw indices by the rows' weights: with replacement by their sums, else the first exponential clocks to ring."""
    weights, draws = call.given["self"].double(), call.given["num_samples"]
    rows, options = weights.shape[:-1], weights.shape[-1]
    if not call.given["replacement"]:
        clocks = -call.source(*rows, options).fine().log() / weights
        return clocks.topk(draws, -1, largest=False).indices
    edges = weights.cumsum(-1)
    points = call.source(*rows, draws).fine() * edges[..., -1:]
    return torch.searchsorted(edges, points, right=True).clamp(max=options - 1)


def _dropout(call: Call) -> tuple[Tensor, Tensor]:
    x, p, train = call.given["input"], call.given["p"], call.given["train"]
    if train is False or p == 0:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    keep = call.ask(x.shape, x.device).uniform() >= p
    return (x * keep / (1 - p) if p < 1 else torch.zeros_like(x)), keep


def _rrelu(call: Call) -> Any:
    """Multiply negative entries by a slope of their own, which `noise` keeps for the backward pass."""
    x, noise, low, high = (call.given[name] for name in ("self", "noise", "lower", "upper"))
    if not call.given["training"]:
        noise.fill_(1.0)
        return torch.where(x > 0, x, x * (low + high) / 2)
    slopes = torch.where(x > 0, torch.ones_like(x), (call.source().uniform() * (high - low) + low).to(x.dtype))
    noise.copy_(slopes)
    return x * slopes


def _by_quantile(name: str, quantile: Callable[..., Any]) -> Callable[[Call], Any]:
    """Return the law of a distribution whose quantile function SciPy has, of the tensors that the schema names."""

    def law(call: Call) -> Any:
        parameters = [call.given[one] for one in name.split()]
        u = call.source(*torch.broadcast_shapes(*(p.shape for p in parameters))).fine()
        values = quantile(u.cpu().numpy(), *(p.detach().double().cpu().numpy() for p in parameters))
        return torch.from_numpy(np.asarray(values)).to(parameters[0])

    return law


def _gamma(u: Any, shape: Any) -> Any:
    return np.maximum(special.gammaincinv(shape, u), np.finfo(np.float32).tiny)


def _dirichlet(call: Call) -> Any:
    drawn = _by_quantile("self", _gamma)(call).double()
    return (drawn / drawn.sum(-1, keepdim=True)).to(call.given["self"])


LAWS: Final[dict[str, Callable[[Call], Any]]] = {
    f"aten::{name}": law
    for law, names in (
        (_rand, "rand rand_like"), (_randn, "randn randn_like"), (_randint, "randint randint_like"),
        (_random, "random random_"), (_randperm, "randperm"), (_gaussian, "normal normal_"),
        (_between, "uniform uniform_"), (_bernoulli, "bernoulli bernoulli_"),
        (_exponential, "exponential exponential_"), (_cauchy, "cauchy cauchy_"),
        (_log_normal, "log_normal log_normal_"), (_geometric, "geometric geometric_"),
        (_multinomial, "multinomial"), (_dropout, "native_dropout"), (_rrelu, "rrelu_with_noise rrelu_with_noise_"),
        (_by_quantile("self", lambda u, rate: stats.poisson.ppf(u, rate)), "poisson"),
        (_by_quantile("count prob", lambda u, n, p: stats.binom.ppf(u, n, p)), "binomial"),
        (_by_quantile("self", _gamma), "_standard_gamma"), (_dirichlet, "_sample_dirichlet"),
    )
    for name in names.split()
}  # fmt: skip
