"""Section ``scaling``: how time grows with images, samples, activations, percent and threads, with a fitted power."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import numpy as np
from scipy import stats

import saplab
from saplab.rng.threads import torch_threads
from suite.gradients import gradient_by_saplab
from suite.networks import DENSE, network, sample_images
from suite.plan import RELU, Plan
from suite.results import Fit, Part, Record
from suite.sampling import maps, pruning
from suite.timing import Times, Work, time_in_turn

EXPECTED: Final = {
    "images": 1.0,
    "samples": 1.0,
    "activations": 1.0,
    "percent": 0.0,
    "percent of a pass": 0.0,
    "threads": -1.0,
    "threads of a pass": -1.0,
}
_PERCENT_A: Final = 4096  # activations of a map where percent grows
log = logging.getLogger(__name__)


def fit_power(case: str, sizes: Sequence[float], values: Sequence[float], expected: float) -> Fit:
    """Fit value = constant · size^exponent by least squares of the logarithms.

    Args:
        case: what grows.
        sizes, values: positive, of equal number, two or more.
        expected: exponent of ideal scaling, for the record.

    Raises:
        ValueError: for fewer than two different sizes.
    """
    if len(set(sizes)) < 2:
        raise ValueError(f"`sizes` must hold two different ones or more, got {list(sizes)}")
    x, y = np.log(sizes), np.log(values)
    line = stats.linregress(x, y)
    points = len(x)
    error = float(stats.t.ppf(0.975, points - 2) * line.stderr) if points > 2 else None
    off = float(np.abs(np.expm1(y - (line.intercept + line.slope * x))).max())
    return Fit(case, float(line.slope), error, expected, float(np.exp(line.intercept)), off)


def measure_scaling(plan: Plan) -> Part:
    """Time each growth in interleaved rounds, in milliseconds, and fit its exponent."""
    records: list[Record] = []
    fits: list[Fit] = []
    for case, works in _growths(plan).items():
        if len(works) < 2:
            continue
        log.info("scaling: %s", case)
        times = time_in_turn(works, plan.scaling_rounds, plan.device)
        found = [_record(case, size, measured, times[min(works)]) for size, measured in times.items()]
        fits.append(fit_power(case, list(times), [record.value.median for record in found], EXPECTED[case]))
        records += found
    alone = plan.device == "cpu" and plan.threads == 1
    return Part(tuple(records), tuple(fits), left_out=("scaling: threads, as there is only one",) if alone else ())


def _record(case: str, size: int, times: Times, first: Times) -> Record:
    value, processor = times.spread(1e-3), times.processor(1e-3)
    return Record("scaling", case, f"{size:,}", "ms", value, times.ratio(first), "the first", processor, size)


def _growths(plan: Plan) -> Mapping[str, Mapping[int, Work]]:
    """Return the works of each growth by size, the smallest first."""
    images, labels = sample_images(max(plan.grows["images"]), plan.device)
    some = images[: plan.scaling_images], labels[: plan.scaling_images]
    dense, sap = network(DENSE, plan.device), network("sap:100", plan.device)
    rows = plan.scaling_rows
    percents = plan.grows["percent"]
    map_ = maps(RELU, rows, _PERCENT_A, plan.device)
    sampling = pruning(map_, _PERCENT_A)
    growths: dict[str, dict[int, Work]] = {
        "images": {n: partial(gradient_by_saplab, sap, images[:n], labels[:n]) for n in plan.grows["images"]},
        "samples": {n: partial(gradient_by_saplab, sap, *some, n) for n in plan.grows["samples"]},
        "activations": {a: pruning(maps(RELU, rows, a, plan.device), a) for a in plan.grows["activations"]},
        "percent": {p: pruning(map_, p * _PERCENT_A // 100) for p in percents},
        "percent of a pass": {
            p: partial(gradient_by_saplab, saplab.defend(dense, saplab.SAP(p)), *some) for p in percents
        },
    }
    if plan.device == "cpu":
        growths["threads"] = {n: partial(_on_threads, n, sampling) for n in _doubled(plan.threads)}
        growths["threads of a pass"] = {
            n: partial(_on_threads, n, partial(gradient_by_saplab, sap, *some)) for n in _doubled(plan.threads)
        }
    return growths


def _doubled(count: int) -> list[int]:
    """Return 1, 2, 4, … and `count`."""
    return sorted({*(1 << k for k in range(count.bit_length()) if 1 << k <= count), count})


def _on_threads(count: int, work: Work) -> None:
    with torch_threads(count):
        work()
