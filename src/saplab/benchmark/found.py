"""From the results of an evaluation to a card: every number is one of a `saplab.Result`."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, Final

from saplab.benchmark.card import (
    AttackRow,
    Calibrated,
    Certified,
    CertifiedAt,
    CheckRow,
    Cost,
    Counted,
    Left,
    Machine,
    Network,
    PublishedFound,
    Share,
    Threatened,
)
from saplab.benchmark.methods import Published
from saplab.benchmark.protocol import PROTOCOL
from saplab.evaluation.certificates import Certificates
from saplab.evaluation.findings import CalibrationRow
from saplab.evaluation.result import Result
from saplab.evaluation.rows import Row
from saplab.metrics import Interval
from saplab.metrics.counting import Counts
from saplab.runs.cell import work_of

_RADII: Final = (0.0, 0.1, 0.25, 0.5)  # of certificates, beside the half and the whole of the noise's deviation


def counted(counts: Counts) -> Counted:
    """Return the accuracy of one curve at one radius."""
    averaged, single = Share.of(counts.averaged), Share.of(counts.single_pass)
    return Counted(averaged, single, Share.of(counts.majority).percent, _tries(counts))


def _tries(counts: Counts) -> Share | None:
    left = counts.after.get(PROTOCOL.tries)
    return None if left is None else Share.of(left)


def clean_of(result: Result) -> Counted:
    """Return the accuracy without an attack, the same under every one."""
    return counted(next(row for row in _rows(result) if row.eps == 0).counts)


def threatened(result: Result) -> Threatened:
    """Return what was found in the threat model of a result."""
    verdict, findings, rows = result.verdict, result.findings, _rows(result)
    norm = rows[0].threat.norm
    left = tuple(
        _left([row for row in rows if 0 < row.eps <= bound.eps], bound.eps, bound.accuracy, bound.attack)
        for bound in verdict.robust
        if bound.eps > 0
    )
    checks = tuple(CheckRow(check.key, check.statement, check.outcome, check.evidence) for check in verdict.checks)
    attacks = tuple(AttackRow(_attack(row), row.eps, counted(row.counts)) for row in rows if row.eps > 0)
    strongest = verdict.headline.attack
    calibration = tuple(
        _calibrated(row, result, strongest)
        for row in (findings.calibration if findings else ())
        if row.curve == strongest
    )
    return Threatened(norm, left, verdict.sentence, verdict.masked, checks, attacks, calibration, result.request.notes)


def _left(rows: Sequence[Row], eps: float, worst: Interval, attack: str) -> Left:
    """Return what is left within a radius; balls are nested, so that smaller ones count as well."""
    single = min((row.counts.single_pass for row in rows), key=lambda share: share.estimate)
    majority = min(row.counts.majority.estimate for row in rows)
    tries = [share for row in rows if (share := row.counts.after.get(PROTOCOL.tries)) is not None]
    least = min(tries, key=lambda share: share.estimate, default=None)
    return Left(
        eps, Share.of(worst), _named(attack), Share.of(single), round(100 * majority, 4),
        None if least is None else Share.of(least),
    )  # fmt: skip


def _rows(result: Result) -> list[Row]:
    return [row for row in result.summary.images if not row.across]


def _attack(row: Row) -> str:
    return _named(row.curve)


def _named(label: str) -> str:
    """Return a curve's label without its defender, which the card names."""
    return label.partition(": ")[2] or label


def _calibrated(row: CalibrationRow, result: Result, curve: str) -> Calibrated:
    eps = next(one.eps for one in _rows(result) if one.curve == curve and one.strength == row.strength)
    own = row.averaged
    nll = round(own.nll, 4) if math.isfinite(own.nll) else None
    return Calibrated(
        _named(row.curve), eps, Share.of(own.ece), round(100 * own.adaptive_ece, 4), round(own.brier, 4), nll,
        round(100 * row.single.ece.estimate, 4),
    )  # fmt: skip


def published_found(published: Published, results: Sequence[Result], left: Left | None) -> PublishedFound:
    """Return what the paper's own evaluation says, from its results, beside what the protocol left."""
    runs = [_percent(result, published) for result in results]
    found = None
    if left is not None:
        found = left.single_pass.percent if published.single_pass else left.worst.percent
    return PublishedFound(
        published.attack, published.text, published.void, published.norm, published.eps, published.single_pass,
        round(fmean(runs), 4), tuple(runs), found,
    )  # fmt: skip


def _percent(result: Result, published: Published) -> float:
    (row,) = (row for row in _rows(result) if row.eps == published.eps)
    return Share.of(row.counts.single_pass if published.single_pass else row.counts.averaged).percent


def certified(found: Certificates) -> Certified:
    """Return certified accuracy at round radii as far as anything can be certified."""
    radii = sorted(radius for radius in {*_RADII, found.std / 2, found.std} if radius <= found.ceiling)
    accuracy = tuple(CertifiedAt(radius, Share.of(found.accuracy(radius))) for radius in radii)
    return Certified(found.std, found.n0, found.n, found.alpha, Share.of(found.abstained), accuracy)


def left_in(threats: Iterable[Threatened], published: Published) -> Left | None:
    """Return what the protocol's attacks leave in the ball of a paper's own evaluation; None for another ball."""
    same = (left for found in threats if found.norm == published.norm for left in found.left)
    return next((left for left in same if left.eps == published.eps), None)


def network_of(result: Result, name: str, parameters: int) -> Network:
    """Return the network under attack, as the cells of a result describe it, under its name."""
    own = result.request.cells[0].defender
    return Network(name, own.digest, own.spec, own.sites, own.parameters, own.grain, parameters)


def cost_of(results: Iterable[Result], seconds: float, memory: int) -> Cost:
    """Return what results took, and `seconds` of what they do not hold."""
    every = list(results)
    passes = sum(work_of(result.request.cells) for result in every)
    made = [one for result in every for one in result.summary.made]
    spent, busy = (sum(float(one.get(name, 0)) for one in made) for name in ("seconds", "processor seconds"))
    return Cost(passes, round(seconds + spent, 1), round(busy, 1), memory)


def machine_of(results: Iterable[Result]) -> Machine:
    """Return the machine of the last cell; several machines in one card are named together."""
    made: list[Mapping[str, Any]] = [one for result in results for one in result.summary.made]
    last = max(made, key=lambda one: str(one["time"]))
    processors = dict.fromkeys(str(one["processor"]) for one in made)
    threads = {int(one["threads"]) for one in made}
    device = {result.request.cells[0].device for result in results}
    return Machine(
        "; ".join(processors), str(last["platform"]), "; ".join(sorted(device)),
        threads.pop() if len(threads) == 1 else 0, dict(last["versions"]),
        "; ".join(dict.fromkeys(str(one.get("instructions", "")) for one in made)),
    )  # fmt: skip
