"""A study: figures of curves, with what the paper says of them, as data that a file can hold as well."""

import json
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

Relation = Literal["higher", "lower", "alike", "better calibrated"]


@dataclass(frozen=True)
class Line:
    """One curve of a figure: a defender under an attack.

    Args:
        label: in the figure's legend.
        model: the network, as the command line names it; its weights may follow: ``resnet20@FILE``.
        defense: as on the command line; "" for none.
        attack: one attack with its settings, as on the command line; what it leaves open, the preset decides.
        adversary: ``self``; ``dense``: the same network without its defence; or a model whose gradient is used.
        paper: the paper's accuracies in %, by λ, where its text states them.
        at: its place on the axis of the figure's `against`; None for none.
        series: of which lines it is one point there.

    Raises:
        ValueError: `at` is not above 0.
    """

    label: str
    model: str = "preact-resnet20-dense"
    defense: str = ""
    attack: str = "fgsm"
    adversary: str = "self"
    paper: Mapping[float, float] = field(default_factory=dict)
    at: float | None = None
    series: str = ""

    def __post_init__(self) -> None:
        if self.at is not None and not 0 < self.at < math.inf:
            raise ValueError(f"`at` must be > 0 and finite, got {self.at}")


def split_model(model: str) -> tuple[str, str | None]:
    """Split ``resnet20@FILE`` into the network's name and the file of its weights, None where none is named."""
    name, _, weights = model.partition("@")
    return name, weights or None


@dataclass(frozen=True)
class Claim:
    """What is said of two curves, for stored numbers to judge.

    Args:
        text: the claim in words, for people.
        first, second: labels of two lines.
        relation: of the first to the second: ``higher``, ``lower`` or ``alike`` in accuracy, or ``better calibrated``.
        strengths: λ at which it is claimed.

    Raises:
        ValueError: an unknown relation, or no λ.
    """

    text: str
    first: str
    second: str
    relation: Relation
    strengths: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.relation not in get_args(Relation):
            raise ValueError(f"`relation` must be one of {', '.join(get_args(Relation))}, got {self.relation!r}")
        if not self.strengths:
            raise ValueError("`strengths` must hold at least one λ, got none")


@dataclass(frozen=True)
class Figure:
    """Lines in one chart, and what is claimed of them.

    Args:
        name: as on the command line.
        title: heading.
        lines: with labels of their own.
        claims: about these lines.
        strengths: λ in pixel steps; None for the preset's.
        against: of what a second chart shows accuracy, a curve for each λ, at the lines' `at`; "" for no such chart.

    Raises:
        ValueError: no line, a label twice, a claim about a line that is not there, `against` without places, or two
            lines of a series in one place.
    """

    name: str
    title: str
    lines: tuple[Line, ...]
    claims: tuple[Claim, ...] = ()
    strengths: tuple[float, ...] | None = None
    against: str = ""

    def __post_init__(self) -> None:
        self._check_places()
        labels = [line.label for line in self.lines]
        if not labels or len(set(labels)) < len(labels):
            raise ValueError(f"{self.name}: `lines` must hold lines with different labels, got {labels}")
        for claim in self.claims:
            if missing := {claim.first, claim.second} - set(labels):
                raise ValueError(f"{self.name}: a claim speaks of {sorted(missing)[0]!r}, but the lines are {labels}")

    def _check_places(self) -> None:
        places = [(line.series, line.at) for line in self.lines if line.at is not None]
        if self.against and not places:
            raise ValueError(f"{self.name}: `against` needs lines that say where they are, by `at`")
        if len(set(places)) < len(places):
            raise ValueError(f"{self.name}: lines of one `series` must differ in `at`, got {places}")


@dataclass(frozen=True)
class Preset:
    """How much is computed of a study.

    Args:
        images: the first so many; None for all there are.
        samples: Monte Carlo samples of a one-step attack's gradient.
        a_step: of each step's, in attacks of many steps.
        passes: averaged for a prediction.
        budgets: Monte Carlo budgets that Fig. 6 compares.
        strengths: λ in pixel steps.
        batch: images of one cell.
    """

    images: int | None
    samples: int
    a_step: int
    passes: int
    budgets: tuple[int, ...]
    strengths: tuple[float, ...]
    batch: int


PAPER_STRENGTHS: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
PRESETS: Final = {
    "smoke": Preset(16, 2, 1, 2, (1, 2), (0.0, 2.0, 8.0), 16),
    "small": Preset(500, 20, 5, 20, (1, 10, 100), PAPER_STRENGTHS, 250),
    "paper": Preset(None, 100, 10, 100, (1, 10, 100, 1000), PAPER_STRENGTHS, 500),
}


def to_json(figures: Sequence[Figure]) -> str:
    """Give the text of a run folder's ``study.json``."""
    return json.dumps([asdict(figure) for figure in figures], ensure_ascii=False, indent=1) + "\n"


def from_json(text: str) -> tuple[Figure, ...]:
    """Read what `to_json` wrote.

    Raises:
        ValueError: any other text.
    """
    try:
        return tuple(
            Figure(entry["name"], entry["title"], tuple(_made(Line, line) for line in entry["lines"]),
                   tuple(_made(Claim, claim) for claim in entry["claims"]),
                   None if entry["strengths"] is None else tuple(entry["strengths"]), entry.get("against", ""))
            for entry in json.loads(text)
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a study: {error!r}") from error


def read_study(path: str | Path) -> tuple[Figure, ...]:
    """Read a study of one's own from a TOML file.

    ``[[figure]]`` with ``name``, ``title``, optionally ``strengths`` and ``against``; in it ``[[figure.line]]`` with
    the fields of `Line`, and ``[[figure.claim]]`` with those of `Claim`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no TOML, an unknown or missing field, or what `Figure` refuses; the message names the file.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        _only(content, {"figure"})
        figures = tuple(_figure(entry) for entry in _tables(content, "figure"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no study: {error}") from None
    names = [figure.name for figure in figures]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{path} is no study: it must hold figures with different names, got {names}")
    return figures


def _figure(entry: Mapping[str, Any]) -> Figure:
    _only(entry, {"name", "title", "strengths", "against", "line", "claim"})
    lines = tuple(_made(Line, line) for line in _tables(entry, "line"))
    claims = tuple(_made(Claim, claim) for claim in _tables(entry, "claim"))
    strengths = tuple(map(float, entry["strengths"])) if "strengths" in entry else None
    title, against = str(entry.get("title", entry["name"])), str(entry.get("against", ""))
    return Figure(str(entry["name"]), title, lines, claims, strengths, against)


def _made(kind: type[Any], entry: Mapping[str, Any]) -> Any:
    _only(entry, {f.name for f in fields(kind)})
    values = dict(entry)
    if "paper" in values:
        values["paper"] = {float(strength): float(percent) for strength, percent in values["paper"].items()}
    if "strengths" in values:
        values["strengths"] = tuple(map(float, values["strengths"]))
    return kind(**values)


def _tables(entry: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    found = entry.get(name, [])
    if not isinstance(found, list) or not all(isinstance(table, dict) for table in found):
        raise ValueError(f"`{name}` must be written [[{name}]]")
    return found


def _only(entry: Mapping[str, Any], known: Iterable[str]) -> None:
    if unknown := sorted(entry.keys() - set(known)):
        raise ValueError(f"unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}")
