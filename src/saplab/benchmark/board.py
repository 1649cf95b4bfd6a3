"""The leaderboard: all cards on one page and in Markdown, and what is claimed against what was found."""

import re
from collections.abc import Iterable, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

from saplab.benchmark.card import Card, schema
from saplab.benchmark.entries import ALL, ENTRIES, TAKEN, Entry, plain_name
from saplab.benchmark.markdown import card_text, leaderboard_text
from saplab.benchmark.plausible import check_card, is_current
from saplab.benchmark.protocol import PROTOCOL
from saplab.benchmark.run import CARD
from saplab.benchmark.words import ball, is_listed, masked_text, published_text, tier_text, time_text, tries
from saplab.defenses import parse_defenses
from saplab.defenses.defended import undefended
from saplab.models.identity import network_digest
from saplab.report.charts import DARK, PAGE, PAPER, to_bytes
from saplab.report.claimed import claimed_chart
from saplab.report.page import template
from saplab.system.folder import inside, read_inside, write_files

_BEGIN, _END = "<!-- leaderboard -->", "<!-- end of the leaderboard -->"
_SECTION: Final = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)


def stored_cards(tier: str) -> dict[str, Card]:
    """Return the cards of a tier inside the package, by the names of their entries."""
    folder = resources.files("saplab.benchmark").joinpath("cards", tier)
    files = (
        sorted((file for file in folder.iterdir() if file.name.endswith(".json")), key=lambda file: file.name)
        if folder.is_dir()
        else []
    )
    return {card.name: card for card in (_card(file, file.read_bytes()) for file in files)}


def _card(file: Traversable | Path, content: bytes) -> Card:
    try:
        card = Card.from_json(content)
        check_card(card)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return card


def read_cards(place: Path) -> list[Card]:
    """Read a card, or all cards in the folders below one.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a file that is no card, or a folder without any.
    """
    if place.is_file():
        return [_card(place, place.read_bytes())]
    if not place.is_dir():
        raise FileNotFoundError(2, "no card, and no folder of cards", str(place))
    files = (str(file.relative_to(place)) for file in sorted(place.rglob(CARD)))
    found = [_card(place / file, read_inside(place, file)) for file in files]
    if not found:
        raise ValueError(f"{place} holds no {CARD}")
    return found


def ranked(cards: Iterable[Card]) -> list[Card]:
    """Return the cards of this version of the protocol, each entry of a tier once, its newest, the strongest first.

    Cards of tiers that prove nothing come last.
    """
    own = [card for card in cards if is_current(card)]
    latest = {(card.tier, card.name): card for card in sorted(own, key=lambda card: card.time)}
    return sorted(latest.values(), key=_rank)


def _rank(card: Card) -> tuple[bool, list[float], str]:
    """Order by what is left at the leaderboard's radius, then at the smaller ones, in the other norm and unattacked."""
    norm, _ = PROTOCOL.headline
    balls = (*((norm, eps) for eps in reversed(PROTOCOL.threats[0].eps)), PROTOCOL.second)
    found = (card.left(*one) for one in balls)
    numbers = [*(-left.worst.percent if left else 1.0 for left in found), -card.clean.averaged.percent]
    return not is_listed(card), numbers, card.name


def refuse_impostors(cards: Iterable[Card]) -> None:
    """Raise ValueError where a card that was sent in has the name of an entry of the package, or of another card.

    That is, where it is of another network or defence, or another card than the package's own, or where its name
    differs by capitals and signs alone, which readers and some file systems do not tell apart. Of several cards of one
    network the newest counts.
    """
    stored = {tier: stored_cards(tier) for tier in PROTOCOL.tiers}
    seen: dict[tuple[str, str], Card] = {}
    for card in filter(is_current, cards):
        name = TAKEN.get(plain_name(card.name))
        known = stored[card.tier].get(card.name)
        if name is not None and card != known:
            if name == ALL:
                raise ValueError(f"{ALL!r} stands for every entry: the card {card.name!r} needs another name")
            if name != card.name or not _is_of(card, ENTRIES[name]):
                raise ValueError(f"the card {card.name!r} is of another network than the package's entry {name}:"
                                 " call it otherwise")  # fmt: skip
            if known is not None:
                raise ValueError(
                    f"the card {card.name!r} is not the package's own of that name; `--check` says whether they agree"
                )
        first = seen.setdefault((card.tier, plain_name(card.name)), card)
        if (first.name, first.network) != (card.name, card.network):
            raise ValueError(f"the cards {first.name!r} and {card.name!r} must be of one network, or have names that"
                             " differ by a letter or a digit")  # fmt: skip


def _is_of(card: Card, entry: Entry) -> bool:
    """Return whether a card is of an entry's network and defence; not, where its weights are not there to tell."""
    if entry.lacking:
        return False
    defense = "+".join(defense.spec for defense in parse_defenses(entry.defense))
    own = (entry.network, network_digest(undefended(entry.build())), defense)
    return (card.network.model, card.network.digest, card.network.defense) == own


def write_board(cards: Sequence[Card], folder: Path) -> tuple[Path, ...]:
    """Write ``leaderboard.html``, ``README.md``, the plot, the schema and each card as Markdown into a folder.

    Of a ``README.md`` that is there, only the part between the leaderboard's marks is written anew.

    Raises:
        ValueError: no cards of this version of the protocol, two whose files would be one, or a ``README.md`` without
            the marks.
    """
    shown = ranked(cards)
    names = [f"{card.tier}/{card.name}".casefold() for card in shown]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"names of cards must differ by more than capitals, got {twice} twice")
    if not shown:
        raise ValueError(f"`cards` must hold at least one card of protocol {PROTOCOL.version}, battery"
                         f" {PROTOCOL.battery} {PROTOCOL.battery_version}; got none")  # fmt: skip
    contents = {
        "leaderboard.html": page(shown).encode(), "README.md": _readme(folder, shown).encode(),
        "card.schema.json": schema(),
        **{f"cards/{card.tier}/{card.name}.md": card_text(card).encode() for card in shown},
    }  # fmt: skip
    if points := claimed_points(shown):
        contents["claimed.svg"] = to_bytes(claimed_chart(points, PAPER), "svg")
    return write_files(folder, contents)


def _readme(folder: Path, cards: Sequence[Card]) -> str:
    path = inside(folder, "README.md")
    plot = "![What is claimed against what was found](claimed.svg)\n\n" if claimed_points(cards) else ""
    section = f"{_BEGIN}\n\n{_counts(cards)}\n\n{plot}{leaderboard_text(cards)}\n\n{_END}"
    if not path.exists():
        return f"# Leaderboard\n\n{section}\n"
    text = read_inside(folder, path.name).decode()
    if not _SECTION.search(text):
        raise ValueError(f"{path} has no part between {_BEGIN} and {_END} to write the leaderboard into")
    return _SECTION.sub(lambda _: section, text)


def _counts(cards: Sequence[Card]) -> str:
    missing = len(_missing(cards))
    told = f"Cards: {len(cards)}; % of {_images(cards)} images, the strongest first."
    return told + (f" Entries without a card: {missing} (`saplab benchmark` lists them)." if missing else "")


def _missing(cards: Sequence[Card]) -> list[Entry]:
    known = {card.name for card in cards}
    return [entry for name, entry in ENTRIES.items() if name not in known]


def _images(cards: Sequence[Card]) -> str:
    listed = [card for card in cards if is_listed(card)] or cards
    return " or ".join(f"{count:,}" for count in sorted({card.data.images for card in listed}))


def claimed_points(cards: Iterable[Card]) -> list[dict[str, Any]]:
    """Return claims with a number, beside what was found in the same ball, and what the paper's evaluation says."""
    points = []
    for card in cards:
        claim = card.claim
        if claim is None or claim.robust is None:
            continue
        where = {"entry": card.name, "ball": ball(claim.norm, claim.eps), "claimed": claim.robust}
        if claim.certified:
            found, kind = card.certified.at(claim.eps) if card.certified else None, "certified here"
        else:
            left = card.left(claim.norm, claim.eps)
            found, kind = left.worst if left else None, "left by the protocol's attacks"
        if found is not None:
            points.append({**where, "found": found.percent, "low": found.low, "high": found.high, "kind": kind})
        theirs = card.published
        if theirs is not None and (theirs.norm, theirs.eps) == (claim.norm, claim.eps):
            points.append({**where, "found": theirs.percent, "low": None, "high": None,
                           "kind": "the paper's own evaluation, here"})  # fmt: skip
    return points


def page(cards: Sequence[Card]) -> str:
    """Return the leaderboard's HTML: everything inside, nothing loaded from anywhere."""
    points = claimed_points(cards)
    return template("leaderboard.html").render(
        title="Stochastic defences: what is claimed, and what is left",
        count=len(cards), records=[_record(card) for card in cards], protocol=PROTOCOL,
        themes={"light": PAPER, "dark": DARK},
        drawing=to_bytes(claimed_chart(points, PAGE), "svg").decode() if points else "", ball=ball,
        images=_images(cards), missing=_missing(cards),
    )  # fmt: skip


def _record(card: Card) -> dict[str, Any]:
    """Return what a row of the page's table shows."""
    norm, eps = PROTOCOL.headline
    smaller = [card.left(norm, e) for e in PROTOCOL.threats[0].eps[:-1]]
    proven = card.certified.at(_CERTIFIED_AT) if card.certified else None
    headline = card.threat(norm)
    calibrated = next((row for row in headline.calibration if row.eps == eps), None) if headline else None
    return {
        "card": card, "left": card.left(norm, eps), "smaller": smaller, "l2": card.left(*PROTOCOL.second),
        "tries": tries(card), "tier": tier_text(card), "theirs": published_text(card),
        "proof": proven, "masked": masked_text(card),
        "notes": dict.fromkeys(note for threat in card.threats for note in threat.notes), "calibrated": calibrated,
        "time": time_text(card.cost.processor_seconds),
    }  # fmt: skip


_CERTIFIED_AT: Final = 0.25  # radius in L2 that the table shows
