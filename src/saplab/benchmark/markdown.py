"""Cards and the leaderboard as Markdown."""

from collections.abc import Iterator, Sequence

from saplab.benchmark.card import Card, Counted, Left, Threatened
from saplab.benchmark.protocol import PROTOCOL
from saplab.benchmark.words import (
    MASKED,
    ball,
    masked_text,
    number_text,
    published_text,
    share_text,
    tier_text,
    time_text,
    tries,
)
from saplab.report.markdown import code, escaped, fenced, paragraphs, table_text

_WAYS = ("averaged", "one pass", "majority", "10 tries")


def card_text(card: Card) -> str:
    """Return a card as a page of Markdown."""
    parts = [
        f"# {escaped(card.name)}: {escaped(card.title)}",
        *_about(card),
        "## What is left, %",
        _table(card),
        *(escaped(f"{_norm(threat)}: {threat.sentence}") for threat in card.threats),
        *_notes(card),
        *_published(card),
        *_certified(card),
        *(text for threat in card.threats for text in _threat(threat)),
        *_made(card),
    ]
    return paragraphs(*parts) + "\n"


def _about(card: Card) -> Iterator[str]:
    trained = ", trained for it" if card.trained else ", defended after training" if card.network.defense else ""
    yield f"Random: {escaped(card.what)}. Source: {escaped(card.source)}. Network: {code(card.network.model)}{trained}."
    if card.claim is not None:
        of = f" ({escaped(card.claim.network)})" if card.claim.network else ""
        yield f"**Claimed**{of}: {escaped(card.claim.text)} Read in: {escaped(card.claim.source)}."
    if card.found_elsewhere:
        yield f"**Found by others**: {escaped(card.found_elsewhere)}"


def _table(card: Card) -> str:
    """Return accuracy without an attack and under the worst of all, counted in each way."""
    rows = [("no attack", *_counted(card.clean), "–")]
    rows += [(ball(threat.norm, left.eps), *_left(left), escaped(left.attack)) for threat in card.threats
             for left in threat.left]  # fmt: skip
    note = (
        "Averaged: the prediction averaged over the passes, under the worst attack on each image, cross-fitted; the"
        " other columns are the least that one attack leaves. Each half of the passes judges the attack that the other"
        " half finds worst, so that an average under attack is of half the passes, and may lie a little above what the"
        " best single attack leaves. 10 tries: right in each of ten passes."
    )
    return paragraphs(table_text(("", *_WAYS, "strongest attack"), rows), note)


def _counted(found: Counted) -> tuple[str, ...]:
    return (
        share_text(found.averaged), share_text(found.single_pass), number_text(found.majority), share_text(found.tries)
    )  # fmt: skip


def _left(left: Left) -> tuple[str, ...]:
    return share_text(left.worst), share_text(left.single_pass), number_text(left.majority), share_text(left.tries)


def _norm(threat: Threatened) -> str:
    return {"linf": "L∞", "l2": "L2"}[threat.norm]


def _notes(card: Card) -> Iterator[str]:
    """Yield what the rehearsal said of the network, once for all norms."""
    notes = dict.fromkeys(note for threat in card.threats for note in threat.notes)
    yield "\n".join(f"- {escaped(note)}" for note in notes)


def _published(card: Card) -> Iterator[str]:
    found = card.published
    if found is None:
        return
    yield "## As the paper evaluates"
    where = ball(found.norm, found.eps)
    spread = f" ({', '.join(map(number_text, found.runs))} with {len(found.runs)} draws)" if len(found.runs) > 1 else ""
    judged = "by one pass" if found.single_pass else "by the averaged prediction"
    left = number_text(found.found)
    truth = "" if found.found is None else f"The protocol's attacks leave {left} %, judged alike."
    what = escaped(found.text[:1].upper() + found.text[1:])
    yield (
        f"{what} ({code(found.attack)}), at {where}, judged {judged}, leaves **{published_text(card)}"
        f" %**{spread}. {truth}"
    )
    if found.void:
        yield f"**That evaluation is void**: {escaped(found.void)}."


def _certified(card: Card) -> Iterator[str]:
    if card.certified is None:
        return
    proof = card.certified
    yield "## Certified"
    rows = [(f"{at.radius:g}", share_text(at.accuracy)) for at in proof.accuracy]
    yield table_text(("radius in L2", "certified accuracy, %"), rows)
    yield (
        f"Randomised smoothing with σ = {proof.std:g}: {proof.n0} passes choose, {proof.n:,} count, α ="
        f" {proof.alpha:g}; it abstains on {share_text(proof.abstained)} % of the images."
    )


def _threat(threat: Threatened) -> Iterator[str]:
    yield f"## {_norm(threat)}: every attack and every check"
    rows = [(escaped(row.attack), ball(threat.norm, row.eps), *_counted(row.counted)) for row in threat.attacks]
    yield table_text(("attack", "", *_WAYS), rows)
    checks = [(escaped(check.statement), check.outcome, escaped(check.evidence)) for check in threat.checks]
    yield f"Is the gradient masked? **{MASKED[threat.masked]}**."
    yield table_text(("statement", "outcome", "evidence"), checks, mark="---")
    calibrated = [
        (ball(threat.norm, row.eps), share_text(row.ece), number_text(row.adaptive_ece), f"{row.brier:.3f}",
         "–" if row.nll is None else f"{row.nll:.3f}", number_text(row.single_pass_ece))
        for row in threat.calibration
    ]  # fmt: skip
    if calibrated:
        yield f"Calibration under {escaped(threat.calibration[0].attack)}:"
        yield table_text(("", "ECE, %", "adaptive ECE, %", "Brier", "NLL", "one pass: ECE, %"), calibrated)


def _made(card: Card) -> Iterator[str]:
    if card.departures:
        yield "## Departures from the source"
        yield "\n".join(f"- {escaped(text)}" for text in card.departures)
    yield "## Made by"
    yield fenced(card.command)
    machine, cost, network = card.machine, card.cost, card.network
    facts = (machine.processor, machine.instructions, machine.device, _threads(machine.threads), machine.platform)
    defense = f", {code(network.defense)}" if network.defense else ""
    places = " and ".join((*network.sites, *network.parameters))
    where = f" at {code(places)}" if places else ""
    yield "\n".join(
        (
            f"- protocol {escaped(card.protocol)}, battery {escaped(card.battery)}, tier {card.tier}:"
            f" {card.data.images:,} images"
            f" ({escaped(card.data.name)}, SHA-256 {card.data.digest[:12]}…), {card.passes} passes,"
            f" {card.samples} samples, seed {card.seed}",
            f"- {code(network.model)}{defense}{where}: {network.parameter_count:,} parameters,"
            f" SHA-256 {network.digest[:12]}…",
            f"- at most {cost.passes:,} passes of an image in the evaluations; {time_text(cost.seconds)} by the clock,"
            f" {time_text(cost.processor_seconds)} of processors; {cost.memory:,} MiB",
            f"- {', '.join(map(escaped, filter(None, facts)))}",
            f"- {', '.join(escaped(f'{name} {version}') for name, version in machine.versions.items())}; {card.time}",
        )
    )


def _threads(count: int) -> str:
    return "one thread a process" if count == 1 else f"{count} threads a process" if count else "several threads"


def leaderboard_text(cards: Sequence[Card]) -> str:
    """Return all cards as one table, the strongest first."""
    norm, eps = PROTOCOL.headline
    rows = []
    for card in cards:
        left = card.left(norm, eps)
        strengths = (number_text(found.worst.percent) if (found := card.left("linf", e)) else "–"
                     for e in PROTOCOL.threats[0].eps[:-1])  # fmt: skip
        l2 = card.left(*PROTOCOL.second)
        beside = f" ({told})" if (told := tier_text(card)) else ""
        rows.append((
            f"[{escaped(card.name)}](cards/{card.tier}/{card.name}.md){beside}",
            number_text(card.clean.averaged.percent),
            *strengths, share_text(left.worst if left else None),
            number_text(least.percent if (least := tries(card)) else None),
            number_text(l2.worst.percent if l2 else None), masked_text(card), _claim(card),
        ))  # fmt: skip
    radii = (ball("linf", e) for e in PROTOCOL.threats[0].eps[:-1])
    columns = ("entry", "clean", *radii, ball(norm, eps), f"10 tries, {ball(norm, eps)}", ball(*PROTOCOL.second),
               "masked gradient", "claimed")  # fmt: skip
    return table_text(columns, rows)


def _claim(card: Card) -> str:
    claim = card.claim
    if claim is None or claim.robust is None:
        return "–"
    kind = "certified " if claim.certified else ""
    return f"{kind}{number_text(claim.robust)} at {ball(claim.norm, claim.eps)}"
