"""Section ``sampler``: one pruning of maps by Algorithm 1, against other ways to draw it and against a plain copy."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import torch
from torch import Tensor

from saplab.pruning.operator import prune
from saplab.rng.streams import pass_streams, stream_key
from suite.handwritten import prune_by_multinomial, prune_by_search
from suite.independent import prune_independently
from suite.measure import Say, Work, time_in_turn
from suite.plan import LOG_NORMAL, RELU, Plan
from suite.results import Part, Record

OURS, BERNOULLI = "saplab", "independent Bernoulli"
MULTINOMIAL, SEARCH, COPY = "torch.multinomial + scatter", "cumsum + searchsorted", "copy"
_SLOW: Final = (MULTINOMIAL, SEARCH)
_LAWS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {RELU: torch.relu, LOG_NORMAL: lambda z: (2 * z).exp()}


def measure_sampler(plan: Plan, say: Say) -> Part:
    """Time every way of pruning on every case; nanoseconds an activation, and ratios to saplab's kernel."""
    records: list[Record] = []
    for law, rows, a in plan.maps:
        case = f"{law}, {rows} × {a:,}"
        say(f"sampler: {case}")
        works = _works(maps(law, rows, a, plan.device))
        rounds = {name: plan.slow_rounds if name in _SLOW else plan.rounds for name in works}
        times = time_in_turn(works, rounds, plan.device)
        unit = 1e-9 * rows * a
        records += [
            Record("sampler", case, name, "ns an activation", t.spread(unit), t.ratio(times[OURS]), OURS,
                   t.processor(unit))
            for name, t in times.items()
        ]  # fmt: skip
    return Part(tuple(records))


def maps(law: str, rows: int, a: int, device: str = "cpu") -> Tensor:
    """Draw maps (N, a) float32 of a law from seed 0."""
    z = torch.randn(rows, a, generator=torch.Generator().manual_seed(0))
    return _LAWS[law](z).to(device)


def pruning(h: Tensor, draws: int) -> Work:
    """Give the work of pruning rows (N, a) by saplab's operator."""
    keys = pass_streams(stream_key(0), 0, torch.arange(len(h))).to(h.device)
    return partial(prune, h, keys, draws)


def _works(h: Tensor) -> dict[str, Work]:
    draws = h.shape[1]
    generator = torch.Generator(h.device).manual_seed(0)
    works: dict[str, Work] = {OURS: pruning(h, draws)}
    if h.device.type == "cpu":  # the kernel of the other law is for the CPU
        works[BERNOULLI] = partial(prune_independently, h, pass_streams(stream_key(0), 0, torch.arange(len(h))), draws)
    return works | {
        MULTINOMIAL: partial(prune_by_multinomial, h, draws, generator),
        SEARCH: partial(prune_by_search, h, draws, generator),
        COPY: partial(torch.empty_like(h).copy_, h),
    }
