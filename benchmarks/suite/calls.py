"""Section ``calls``: what a call costs where the maps are tiny, so that neither arithmetic nor memory counts."""

import logging
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

import saplab
from saplab.pruning.cpu import prune_rows
from suite.plan import RELU, Plan
from suite.results import Part, Record
from suite.sampling import maps, streams
from suite.timing import Work, time_in_turn

ROWS, ACTIVATIONS = 64, 256
BARE, KERNEL = "a ReLU", "saplab's kernel alone"
_CALLS: Final = 20  # timed together
_DEFENSES: Final[dict[str, Any]] = {"sap:100": saplab.SAP(100), "dropout:0.1": saplab.Dropout(0.1)}
log = logging.getLogger(__name__)


def measure_calls(plan: Plan) -> Part:
    """Time calls of a network that is a single ReLU: microseconds, and ratios to the undefended network's call."""
    case = f"{RELU}, {ROWS} × {ACTIVATIONS}"
    log.info("calls: %s", case)
    h = maps(RELU, ROWS, ACTIVATIONS, plan.device)
    net = nn.Sequential(nn.ReLU())
    works: dict[str, Work] = {BARE: partial(_call, net, h)}
    works |= {name: partial(_call, saplab.defend(net, one), h) for name, one in _DEFENSES.items()}
    if plan.device == "cpu":
        works[KERNEL] = partial(_prune, h, torch.empty_like(h), streams(ROWS))
    times = time_in_turn({name: partial(_repeated, work) for name, work in works.items()}, plan.rounds, plan.device)
    unit = 1e-6 * _CALLS
    return Part(
        tuple(
            Record("calls", case, name, "µs", t.spread(unit), t.ratio(times[BARE]), BARE, t.processor(unit))
            for name, t in times.items()
        )
    )


def _repeated(work: Work) -> None:
    for _ in range(_CALLS):
        work()


def _call(net: nn.Module, h: Tensor) -> None:
    with torch.no_grad():
        net(h)


def _prune(h: Tensor, out: Tensor, keys: Tensor) -> None:
    bad = np.zeros(ROWS, np.bool_)
    prune_rows(h.numpy(), out.numpy(), keys.numpy(), 0, float(ACTIVATIONS), bad, np.float32(0.0))
