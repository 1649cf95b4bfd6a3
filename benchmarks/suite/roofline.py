"""Section ``roofline``: the least time that the work can take on this machine, and how far each kernel is from it.

The model is that of Williams et al. 2009 ("Roofline: an insightful visual performance model for multicore
architectures"), with several kinds of operations. An activation needs `bytes` of memory, `words` of Philox4x32-10,
`exponentials` 1 - e^-x, and other `flops`. Each kind has a ceiling, measured here. Memory is moved while arithmetic
goes on, but all kinds of arithmetic share the same vector units, so the least time of an activation is

    max(bytes / bandwidth, words / word rate + exponentials / exponential rate + flops / flop rate).

Pruning needs what independent Bernoulli pruning needs, the cheapest kernel that decides by a uniform number and divides
by the probability: one loop of `kernels.independent_rows`. What the exact law costs beyond that is the kernel's own.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from saplab.pruning.cpu import prune_rows
from saplab.pruning.gradient import scale_gradient
from saplab.pruning.layouts import prune_bfloat16_rows
from saplab.rng.simd import PIECE
from saplab.rng.threads import over_rows
from suite.kernels import FUSED, draw_words, exponentials, fuse, independent_rows
from suite.plan import RELU, Plan
from suite.results import Part, Record
from suite.sampling import maps, pruning, streams
from suite.timing import Times, Work, time_in_turn

COPY, BERNOULLI = "copy, float32", "independent Bernoulli, float32"
PRUNE, PRUNE_LOW = "saplab, float32", "saplab, bfloat16"
MASK, MASK_LOW = "gradient by the mask, float32", "gradient by the mask, bfloat16"
BANDWIDTH, FLOPS, WORDS, EXPONENTIALS = "copy, GB/s", "multiply-add, Gflop/s", "Philox, Gwords/s", "1 - e^-x, G/s"

_ELEMENTS: Final = 4096  # float32 numbers of a loop that stays in the first cache
_REPEATS: Final = 32  # a call takes 1 to 2 ms, short enough that the fastest round is uninterrupted
_SLICES: Final = 16
_A: Final = 16_384

Array = np.ndarray[Any, np.dtype[Any]]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Need:
    """What an activation needs; a multiply-add is two `flops`, comparisons and selections are none."""

    bytes: float
    words: float = 0.0
    exponentials: float = 0.0
    flops: float = 0.0

    def least(self, ceilings: Mapping[str, float]) -> tuple[float, float | None]:
        """Return the nanoseconds for memory and for arithmetic at the ceilings; None without ceilings of arithmetic."""
        memory = self.bytes / ceilings[BANDWIDTH]
        if FLOPS not in ceilings:
            return memory, None
        parts = ((self.words, WORDS), (self.exponentials, EXPONENTIALS), (self.flops, FLOPS))
        return memory, sum(amount / ceilings[name] for amount, name in parts)


# the sum 1, the rate 1, p 1, r·log1p(-p) as rate · (1 + p/2 + p²/3 + p³/4 + p⁴/5) 9, the uniform 1, the quotient 1
_BERNOULLI_FLOPS: Final = 1 + 1 + 1 + (4 * 2 + 1) + 1 + 1
NEEDS: Final = {
    COPY: Need(4 + 4),  # bytes read and written
    BERNOULLI: Need(4 + 4, 1, 1, _BERNOULLI_FLOPS),
    PRUNE: Need(4 + 4, 1, 1, _BERNOULLI_FLOPS),
    PRUNE_LOW: Need(2 + 2, 1, 1, _BERNOULLI_FLOPS),
    MASK: Need(3 * 4 + 4, flops=2),  # gradient, map and output are read; a quotient and a product
    MASK_LOW: Need(3 * 2 + 2, flops=2),
}


def measure_roofline(plan: Plan) -> Part:
    """Measure the ceilings and the kernels: nanoseconds per activation, and ratios to the least time."""
    log.info("roofline: what the machine can do")
    ceilings = measure_ceilings(plan)
    log.info("roofline: kernels")
    unit = 1e-9 * plan.ceiling_bytes / 4
    times = time_in_turn(_works(plan), plan.rounds, plan.device)
    return Part(tuple(_record(name, t, unit, ceilings) for name, t in times.items()), ceilings=ceilings)


def _record(name: str, times: Times, unit: float, ceilings: Mapping[str, float]) -> Record:
    need = NEEDS[name]
    memory, arithmetic = need.least(ceilings)
    least = max(memory, arithmetic or 0.0)
    details = {**vars(need), "memory": memory, "least": least}
    details |= {} if arithmetic is None else {"arithmetic": arithmetic}
    away = times.spread(unit * least)
    return Record("roofline", "kernels", name, "ns per activation", times.spread(unit), away,
                  "the least time", times.processor(unit), details=details)  # fmt: skip


def measure_ceilings(plan: Plan) -> dict[str, float]:
    """Measure what the machine can do on all of the plan's threads: the best of the rounds, in 10^9 per second.

    ``copy, GB/s`` counts bytes read and written of an array far larger than the caches, as STREAM does. On a GPU it
    is the only ceiling.
    """
    source = torch.zeros(plan.ceiling_bytes // 4, device=plan.device)
    works: dict[str, Work] = {BANDWIDTH: partial(torch.empty_like(source).copy_, source)}
    amounts = {BANDWIDTH: 2 * plan.ceiling_bytes}
    if plan.device == "cpu":
        loops = _REPEATS * _SLICES * _ELEMENTS
        works |= {FLOPS: _fused, WORDS: _words, EXPONENTIALS: _exponentials}
        amounts |= {FLOPS: 2 * FUSED * loops, WORDS: loops, EXPONENTIALS: loops}
    times = time_in_turn(works, plan.rounds, plan.device)
    return {name: amounts[name] * 1e-9 / times[name].spread().best for name in works}


def _fused() -> None:
    ones = np.ones((_SLICES, _ELEMENTS), np.float32)
    _on_slices(lambda k: fuse(ones[k], np.float32(0.5), np.float32(0.5), _REPEATS))


def _words() -> None:
    _on_slices(lambda _: draw_words(_REPEATS * _ELEMENTS // PIECE))


def _exponentials() -> None:
    x = np.linspace(0, 10, _ELEMENTS, dtype=np.float32)
    outs = np.empty((_SLICES, _ELEMENTS), np.float32)
    _on_slices(lambda k: exponentials(x, outs[k], _REPEATS))


def _on_slices(work: Callable[[int], object]) -> None:
    """Spread the slices over the same threads that the kernels use."""
    _over_rows(lambda rows: [work(k) for k in range(rows.start, rows.stop)], _SLICES, _REPEATS * _ELEMENTS)


def _over_rows(work: Callable[[slice], object], rows: int, a: int) -> None:
    def some(start: int, stop: int) -> None:
        work(slice(start, stop))

    over_rows(some, rows, a)


def _works(plan: Plan) -> dict[str, Work]:
    """Return the kernels' works on `ceiling_bytes` / 4 activations: on a GPU as operators, with allocation."""
    h = maps(RELU, plan.ceiling_bytes // 4 // _A, _A, plan.device)
    works: dict[str, Work] = {COPY: partial(torch.empty_like(h).copy_, h)}
    low = h.bfloat16()
    if plan.device == "cpu":
        return works | kernels(Buffers.of(h), Buffers.of(low))
    return works | {PRUNE: pruning(h, _A), PRUNE_LOW: pruning(low, _A), MASK: _mask(h), MASK_LOW: _mask(low)}


@dataclass(frozen=True)
class Buffers:
    """Maps (N, a), and memory for the outputs; of bfloat16 the bits, as the kernels take them."""

    x: Array
    out: Array
    result: Array

    @classmethod
    def of(cls, h: Tensor) -> "Buffers":
        """Take maps, and allocate their outputs."""
        bits = h.view(torch.int16).numpy().view(np.uint16) if h.dtype == torch.bfloat16 else h.numpy()
        return cls(bits, np.zeros_like(bits), np.zeros_like(bits))

    def flat(self, rows: slice) -> list[Array]:
        """Return gradient, map, output and result of some rows, as the gradient's kernels take them."""
        return [array[rows].reshape(-1) for array in (self.x, self.x, self.out, self.result)]


def kernels(full: Buffers, low: Buffers) -> dict[str, Work]:
    """Return the CPU's kernels alone, on maps in float32 and in bfloat16; the maps serve as gradients too."""
    rows, a = full.x.shape
    keys = streams(rows).numpy()
    bad, no_floor = np.zeros(rows, np.bool_), np.float32(-np.inf)
    works: dict[str, Callable[[slice], object]] = {
        BERNOULLI: lambda s: independent_rows(full.x[s], full.out[s], keys[s], float(a)),
        PRUNE: lambda s: prune_rows(full.x[s], full.out[s], keys[s], 0, float(a), bad[s], no_floor),
        PRUNE_LOW: lambda s: prune_bfloat16_rows(low.x[s], low.out[s], keys[s], 0, float(a), bad[s], no_floor),
        MASK: lambda s: scale_gradient(*full.flat(s)),
        MASK_LOW: lambda s: scale_gradient(*low.flat(s)),
    }
    return {name: partial(_over_rows, work, rows, a) for name, work in works.items()}


def _mask(h: Tensor) -> Work:
    """Return the work of the backward pass through a pruning."""
    x = h.clone().requires_grad_()
    out: Tensor = pruning(x, _A)()  # type: ignore[assignment]
    gradient = torch.ones_like(out)
    return lambda: torch.autograd.grad(out, x, gradient, retain_graph=True)
