"""A study: figures of curves, with what is claimed of them, as data that a TOML file can hold as well."""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec

from saplab.attacks import NormName, ThreatModel
from saplab.runs.store import STUDY
from saplab.system.folder import inside, read_inside, write_inside

ALONE: Final = ("near chance", "calibrated", "not calibrated")  # relations of one line
RELATIONS: Final = ("higher", "lower", "alike", "not higher", "mostly lower", "better calibrated", *ALONE)
AGENT: Final = "agent:"  # what the models of games begin with
_BESIDE: Final = ("-against", "-reliability")  # what the names of a figure's other charts end with
_LARGEST: Final = sys.float_info.max

Strength = Annotated[float, msgspec.Meta(ge=0, le=255)]  # λ
Percent = Annotated[float, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)]  # neither NaN nor infinite


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One curve of a figure: a defender under an attack.

    Attributes:
        label: in the figure's legend.
        model: the network, as the command line names it; its weights may follow: ``resnet20@FILE``.
        defense: as on the command line; "" for none.
        attack: one attack with its settings, as on the command line; what it leaves open, the preset decides.
        adversary: ``self``; ``dense``: the same network without its defence; or a model whose gradient is used.
        paper: numbers of the paper to show beside, by λ: accuracies in %, or relative changes of points in %.
        at: its place on the axis of the figure's `against`; None for none.
        series: of which lines it is one point there.
    """

    label: str
    model: str = "preact-resnet20-dense"
    defense: str = ""
    attack: str = "fgsm"
    adversary: str = "self"
    paper: Mapping[Strength, Percent] = {}
    at: Annotated[float, msgspec.Meta(gt=0, le=_LARGEST)] | None = None
    series: str = ""

    def __post_init__(self) -> None:
        if not self.label.strip() or not self.label.isprintable():
            raise ValueError(f"`label` must be one line of text, got {self.label!r}")


def split_model(model: str) -> tuple[str, str | None]:
    """Split ``resnet20@FILE`` into the network's name and the file of its weights, None where none is named."""
    name, _, weights = model.partition("@")
    return name, weights or None


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is said of curves, for stored numbers to judge.

    Attributes:
        first: the label of a line, or of several, of each of which it is said.
        relation: to the second: ``higher``, ``lower``, ``alike``, ``not higher`` or, at more than half of the
            strengths, ``mostly lower`` in accuracy or points, or ``better calibrated``; of a line alone ``near
            chance``, ``calibrated`` or ``not calibrated``. `saplab.paper.claims` says what is enough.
        strengths: λ at which it is claimed.
        second: the label of a line, or of several, each of which the first are compared with; none for what is said of
            a line alone.
        by: for points of games, by λ: by at least how many % of the second's the first is ``higher`` (> 0) or
            ``lower`` (< 0); empty where any difference will do.
    """

    text: str
    first: str | tuple[str, ...]
    relation: str
    strengths: Annotated[tuple[Strength, ...], msgspec.Meta(min_length=1)]
    second: str | tuple[str, ...] = ()
    by: Mapping[Strength, Percent] = {}

    def __post_init__(self) -> None:
        _check_distinct(self.strengths)
        if self.relation not in RELATIONS:
            raise ValueError(f"`relation` must be one of {', '.join(RELATIONS)}, got {self.relation!r}")
        if not _several(self.first):
            raise ValueError("`first` must name a line")
        if bool(_several(self.second)) == (self.relation in ALONE):
            wanted = "name no line" if self.relation in ALONE else "name a line"
            raise ValueError(f"`second` must {wanted} where `relation` is {self.relation!r}")
        signs = {"higher": 1, "lower": -1}
        sign = signs.get(self.relation, 0)
        if self.by and (set(self.by) != set(self.strengths) or any(sign * by <= 0 for by in self.by.values())):
            wanted = "say of each of `strengths` how much higher (> 0) or lower (< 0) in %"
            raise ValueError(f"`by` must {wanted}, got {dict(self.by)}")
        if twice := set(_several(self.first)) & set(_several(self.second)):
            raise ValueError(f"a claim must speak of two lines, got {min(twice)!r} twice")

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Return the labels that are compared; the second is "" where a line stands alone."""
        return tuple((a, b) for a in _several(self.first) for b in _several(self.second) or ("",))

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels of all lines that it speaks of."""
        return _several(self.first) + _several(self.second)


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"lines": "line", "claims": "claim"}):
    """Lines in one chart, each with a label of its own, and what is claimed of them.

    Attributes:
        name: as on the command line, and of its files; also the title where there is none.
        strengths: λ in pixel steps, or radii ε in the norm's own unit where it is not ``linf``; None for the preset's.
        against: of what a second chart shows accuracy, a curve for each λ, at the lines' `at`; "" for no such chart.
        note: a paragraph for the report.
        norm: in which strengths are measured, ``linf`` or ``l2``, where they must be given.
        random: points of games of random play, which the lines of a figure of games are compared with.
    """

    name: str
    title: str = ""
    lines: tuple[Line, ...] = ()
    claims: tuple[Claim, ...] = ()
    strengths: Annotated[tuple[Strength, ...], msgspec.Meta(min_length=1)] | None = None
    against: str = ""
    note: str = ""
    norm: NormName = "linf"
    random: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "title", self.title or self.name)
        if self.norm != "linf" and self.strengths is None:
            raise ValueError(f"{self.name}: `strengths` must be given where `norm` is {self.norm}: the presets' are λ")
        if not re.fullmatch(r"\w[\w .+-]{0,79}", self.name):
            wanted = "a name for files: letters, digits, spaces and . + - _, not longer than 80"
            raise ValueError(f"`name` must be {wanted}, got {self.name!r}")
        _check_distinct(self.strengths or ())
        places = [(line.series, line.at) for line in self.lines if line.at is not None]
        if self.against and not places:
            raise ValueError(f"{self.name}: `against` needs lines that say where they are, by `at`")
        if len(set(places)) < len(places):
            raise ValueError(f"{self.name}: lines of one `series` must differ in `at`, got {places}")
        labels = [line.label for line in self.lines]
        if not labels or len(set(labels)) < len(labels):
            raise ValueError(f"{self.name}: `lines` must hold lines with different labels, got {labels}")
        for claim in self.claims:
            if missing := set(claim.labels) - set(labels):
                raise ValueError(f"{self.name}: a claim speaks of {min(missing)!r}, but the lines are {labels}")
            if claim.by and not all(line.model.startswith(AGENT) for line in self.lines):
                raise ValueError(f"{self.name}: `by` is for points of games, and these are images")


class _Study(msgspec.Struct, forbid_unknown_fields=True):
    figure: tuple[Figure, ...] = ()

    def __post_init__(self) -> None:
        names = [figure.name.casefold() for figure in self.figure]  # some file systems know no capitals
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"it must hold figures with different names, got {[figure.name for figure in self.figure]}"
            )
        for name in names:
            if taken := {f"{name}{end}" for end in _BESIDE} & set(names):
                raise ValueError(f"a chart of {name!r} and the figure {taken.pop()!r} would be one file")


def _several(labels: str | tuple[str, ...]) -> tuple[str, ...]:
    return (labels,) if isinstance(labels, str) and labels else tuple(labels)


def _check_distinct(strengths: tuple[float, ...]) -> None:
    if len(set(strengths)) < len(strengths):
        raise ValueError(f"`strengths` must not name a value twice, got {list(strengths)}")


def threat_of(figure: Figure) -> ThreatModel:
    """Return the norm, within [0, 1], in which a figure's strengths are measured."""
    return ThreatModel(figure.norm)


def read_study(path: str | Path) -> tuple[Figure, ...]:
    """Read a study of one's own from a TOML file.

    ``[[figure]]`` with ``name`` and any other field of `Figure`; in it ``[[figure.line]]`` with the fields of `Line`,
    and ``[[figure.claim]]`` with those of `Claim`.

    Raises ValueError for no TOML, an unknown or missing field, a value of another type or range, or what `Figure`
    refuses; the message names the file and the line.
    """
    path = Path(path)
    return _decoded(path, path.read_bytes(), msgspec.toml.decode)


def save_figures(root: Path, figures: Iterable[Figure]) -> None:
    """Keep the figures of a study in its run folder."""
    text = msgspec.json.format(msgspec.json.encode(_Study(tuple(figures))), indent=1)
    write_inside(root, STUDY, text + b"\n")


def load_figures(root: Path) -> tuple[Figure, ...]:
    """Read what `save_figures` wrote; ValueError names the file if it holds something else."""
    return _decoded(root / STUDY, read_inside(root, STUDY), msgspec.json.decode)


def _decoded(path: Path, content: bytes, decode: Callable[..., _Study]) -> tuple[Figure, ...]:
    try:
        return decode(content, type=_Study).figure
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        place = line_of(content.decode(errors="replace"), str(error)) if path.suffix == ".toml" else None
        where = "" if place is None else f"line {place}: "
        raise ValueError(f"{path} is no study: {where}{error}") from None
    except RecursionError:
        raise ValueError(f"{path} is no study: its values are nested too deeply") from None


def line_of(text: str, error: str) -> int | None:
    """Return the number of the line of a TOML text that msgspec's message speaks of; None where it cannot be told.

    The message ends with a path such as `$.figure[0].line[1].model`; the line is that of the key, or of the table's
    header.
    """
    lines, place, heading = text.splitlines(), None, ""
    for name, index in re.findall(r"\.(\w+)(?:\[(\d+)\])?", error.rpartition(" `$")[2]):
        start = place or 0
        heading = f"{heading}.{name}".lstrip(".")
        headers = [k for k in range(start, len(lines)) if re.match(rf"\s*\[\[\s*{heading}\s*\]\]", lines[k])]
        if index and int(index) < len(headers):
            place = headers[int(index)] + 1
            continue
        end = next((k for k in range(start, len(lines)) if lines[k].lstrip().startswith("[")), len(lines))
        keys = (k for k in range(start, end) if re.match(rf"""\s*["']?{name}["']?\s*=""", lines[k]))
        return next((k + 1 for k in keys), place)
    return place


def is_study(root: Path | str) -> bool:
    """Return whether a run folder holds a study; a link, or what is no file, in its place is an error."""
    return inside(Path(root), STUDY).exists()


@dataclass(frozen=True)
class Preset:
    """How much is computed of a study.

    Attributes:
        images: how many, from the first; None for all there are.
        samples: Monte Carlo samples of a one-step attack's gradient.
        a_step: of each step's, in attacks of many steps.
        budgets: Monte Carlo budgets that Fig. 6 compares.
        batch: images of one cell.
    """

    images: int | None
    samples: int
    a_step: int
    passes: int
    budgets: tuple[int, ...]
    strengths: tuple[float, ...]
    batch: int


_STRENGTHS: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
PRESETS: Final[Mapping[str, Preset]] = {
    "smoke": Preset(16, 2, 1, 2, (1, 2), (0.0, 2.0, 8.0), 16),
    "small": Preset(500, 20, 5, 20, (1, 10, 100), _STRENGTHS, 250),
    "paper": Preset(None, 100, 10, 100, (1, 10, 100, 1000), _STRENGTHS, 500),
}
