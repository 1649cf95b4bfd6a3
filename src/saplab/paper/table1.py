"""The paper's Table 1 and what lies beyond it, as lines of cells; and the request that a run folder keeps."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Final

from saplab.paper.game_table import Line, line
from saplab.runs.cell import Network
from saplab.runs.game_cell import GameCell

STRENGTHS: Final = (0.0, 1.0, 2.0, 4.0, 8.0)
_RIVALS: Final = ("dropout:0.1", "rna:0.05", "rsa:0.2", "rnw:0.01", "rsw:0.1", "dwp:60", "swp:200")


@dataclass(frozen=True)
class Effort:
    """How much is played and averaged for a table.

    Args:
        episodes: games of each strength and seed.
        seeds: how many.
        samples, passes: of the attack's gradient, and of an action of a defended agent.
        max_frames: after which a game is stopped; 18,000 are the five minutes of Mnih et al. 2015.
        together: games of a cell, which are played side by side; fewer give more workers something to do.
    """

    episodes: int
    seeds: int
    samples: int
    passes: int
    max_frames: int
    together: int = 10


EFFORTS: Final[Mapping[str, Effort]] = {
    "smoke": Effort(2, 1, 2, 2, 400),
    "small": Effort(10, 3, 4, 4, 18_000),
    "paper": Effort(30, 3, 100, 100, 108_000),
}


@dataclass(frozen=True)
class Entry:
    """An agent of a table: the game's ROM, its weights' digest, and what is known of it in a sentence."""

    game: str
    digest: str
    note: str = ""


@dataclass(frozen=True)
class TableRequest:
    """Everything that a table's run folder asks for.

    Args:
        title, command: for the page.
        entries: the agents, in the order of the page.
        effort: how much is played.
        beyond: with the lines that the paper lacks.
        sticky: chance that the emulator repeats the previous action, in all lines.
        seed: the first of the seeds.
        precision: ``float32`` or ``bfloat16``.
    """

    title: str
    command: str
    entries: tuple[Entry, ...]
    effort: Effort
    beyond: bool = False
    sticky: float = 0.0
    seed: int = 0
    precision: str = "float32"

    @property
    def lines(self) -> dict[str, tuple[Line, ...]]:
        """Plan the lines of each game."""
        return {entry.game: self._lines(entry) for entry in self.entries}

    @property
    def cells(self) -> tuple[GameCell, ...]:
        """Give every cell once."""
        found = (cell for lines in self.lines.values() for one in lines for cell in one.all_cells)
        return tuple({cell.digest: cell for cell in found}.values())

    def _lines(self, entry: Entry) -> tuple[Line, ...]:
        agent, effort = Network(f"agent:{entry.game}", entry.digest), self.effort
        plain = GameCell(
            entry.game, agent, agent, _fgsm(1), 1.0, 0, effort.episodes, self.seed, sticky=self.sticky,
            max_frames=effort.max_frames, precision=self.precision,
        )  # fmt: skip
        original, sap = paper_lines(plain, effort)
        return (original, sap, *(further_lines(plain, effort, original) if self.beyond else ()))

    def to_json(self) -> str:
        """Give the text of a run folder's ``table1.json``."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "TableRequest":
        """Read what `to_json` wrote.

        Raises:
            ValueError: any other text.
        """
        try:
            fields = json.loads(text)
            entries = tuple(Entry(**entry) for entry in fields["entries"])
            return cls(**{**fields, "entries": entries, "effort": Effort(**fields["effort"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a table's request: {error!r}") from error


def paper_lines(plain: GameCell, effort: Effort) -> tuple[Line, Line]:
    """Give the lines of Table 1 for one game: the original agent, and SAP-100, each against its own gradient.

    Args:
        plain: the original agent's games of one strength and seed.
        effort: how much is played.
    """
    original = _planned(plain, effort)
    return original, _planned(_defended(plain, "sap:100", effort), effort, original)


def further_lines(plain: GameCell, effort: Effort, original: Line) -> tuple[Line, ...]:
    """Give what the paper lacks: SAP-100 against BPDA, the dense gradient and random noise, and the other defences."""
    sap = _defended(plain, "sap:100", effort)

    noise = _planned(replace(plain, attack={"name": "noise"}), effort)
    return (
        _planned(replace(sap, attack={**sap.attack, "backward": "identity"}), effort, original),
        _planned(replace(sap, adversary=plain.defender, attack=plain.attack), effort, original),
        noise,
        _planned(replace(sap, attack={"name": "noise"}), effort, noise),
        *(_planned(_defended(plain, defense, effort), effort, original) for defense in _RIVALS),
    )


def _planned(cell: GameCell, effort: Effort, against: Line | None = None) -> Line:
    return line(cell, STRENGTHS, effort.seeds, against, effort.together)


def _defended(plain: GameCell, defense: str, effort: Effort) -> GameCell:
    """Give the cell of the defended agent, attacked through its own gradient."""
    network = replace(plain.defender, defense=defense)
    return replace(plain, defender=network, adversary=network, attack=_fgsm(effort.samples), passes=effort.passes)


def _fgsm(samples: int) -> dict[str, object]:
    return {"name": "fgsm", "samples": samples, "backward": "mask", "average": "loss", "loss": "cross-entropy"}
