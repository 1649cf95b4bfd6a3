"""Section ``sampler``: one pruning of maps by Algorithm 1, other ways to draw it, and a plain copy."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import torch
from torch import Tensor

from saplab.pruning.operator import prune
from saplab.rng.streams import pass_streams, stream_key
from suite.handwritten import prune_by_multinomial, prune_by_search
from suite.kernels import prune_independently
from suite.plan import LOG_NORMAL, RELU, Plan
from suite.results import Part, Record
from suite.timing import Work, time_in_turn

OURS, BERNOULLI = "saplab", "independent Bernoulli"
MULTINOMIAL, SEARCH, COPY = "torch.multinomial + scatter", "cumsum + searchsorted", "copy"
_SLOW: Final = (MULTINOMIAL, SEARCH)
_LAWS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {RELU: torch.relu, LOG_NORMAL: lambda z: (2 * z).exp()}
log = logging.getLogger(__name__)


def measure_sampler(plan: Plan) -> Part:
    """Time every contender on every case: nanoseconds per activation, and ratios to saplab's kernel."""
    records: list[Record] = []
    for law, rows, a in plan.maps:
        case = f"{law}, {rows} × {a:,}"
        log.info("sampler: %s", case)
        works = _works(maps(law, rows, a, plan.device))
        rounds = {name: plan.slow_rounds if name in _SLOW else plan.rounds for name in works}
        times = time_in_turn(works, rounds, plan.device)
        unit = 1e-9 * rows * a
        records += [
            Record("sampler", case, name, "ns per activation", t.spread(unit), t.ratio(times[OURS]), OURS,
                   t.processor(unit))
            for name, t in times.items()
        ]  # fmt: skip
    return Part(tuple(records))


def maps(law: str, rows: int, a: int, device: str = "cpu") -> Tensor:
    """Draw maps (N, a) float32 of a law from seed 0."""
    z = torch.randn(rows, a, generator=torch.Generator().manual_seed(0))
    return _LAWS[law](z).to(device)


def streams(rows: int, seed: int = 0) -> Tensor:
    """Return the streams (N, 3) of the rows in the first pass."""
    return pass_streams(stream_key(seed), 0, torch.arange(rows))


def pruning(h: Tensor, draws: int) -> Work:
    """Return the work of pruning rows (N, a) with saplab's operator."""
    return partial(prune, h, streams(len(h)).to(h.device), draws)


def _works(h: Tensor) -> dict[str, Work]:
    draws = h.shape[1]
    generator = torch.Generator(h.device).manual_seed(0)
    works: dict[str, Work] = {OURS: pruning(h, draws)}
    if h.device.type == "cpu":  # there is no GPU kernel of independent Bernoulli pruning
        works[BERNOULLI] = partial(prune_independently, h, streams(len(h)), draws)
    return works | {
        MULTINOMIAL: partial(prune_by_multinomial, h, draws, generator),
        SEARCH: partial(prune_by_search, h, draws, generator),
        COPY: partial(torch.empty_like(h).copy_, h),
    }
