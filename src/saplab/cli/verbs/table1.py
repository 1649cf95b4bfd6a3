"""What ``saplab reproduce table1`` does: agents play the paper's six games, and the page shows its Table 1."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from saplab.system.words import counted

if TYPE_CHECKING:
    from torch import nn

    from saplab.cli.console import Console
    from saplab.paper.table1 import Entry, TableRequest
    from saplab.rl.agents import Facts
    from saplab.runs.engines.base import Engine
    from saplab.runs.games import Agents

TABLES = ("table1", "table1-beyond")
_GROUPS = ("all", "paper")


@dataclass(frozen=True)
class TableJob:
    """What the command asks of Table 1.

    Args:
        names: of all that is to be reproduced.
        preset: how much is played.
        agents: folder with one trained agent a game; None for those of the package.
        sticky, seed, precision: as in `TableRequest`.
        device: of PyTorch.
        engine: who plays; None for this process.
        out: run folder; None for ``runs/PRESET-NAME``.
        dry_run: only say what would be played.
    """

    names: tuple[str, ...]
    preset: str
    agents: Path | None
    sticky: float
    seed: int
    precision: str
    device: str
    engine: "Engine | None"
    out: Path | None
    dry_run: bool

    @property
    def explicit(self) -> bool:
        """Say whether a table is asked for by its own name."""
        return any(name in TABLES for name in self.names)

    @property
    def folder(self) -> Path:
        """Give the run folder; beside figures, one inside theirs."""
        if len(self.names) == 1 and self.explicit:
            return self.out or Path("runs") / f"{self.preset}-{self.names[0]}"
        inner = "table1-beyond" if "table1-beyond" in self.names else "table1"
        return self.out / inner if self.out else Path("runs") / f"{self.preset}-{inner}"


def reproduce_tables(job: TableJob, console: "Console") -> tuple[list[str], bool]:
    """Play what is missing of Table 1 if it is among the names, show it and write its page.

    Returns:
        The other names, and whether all games of the table that can be played are there.

    Raises:
        ValueError: a table is asked for by name and no agent is there, or an agent cannot be used.
    """
    others = [name for name in job.names if name not in TABLES]
    wanted = job.explicit or any(name in _GROUPS for name in others)
    return others, _reproduce(job, console) if wanted else True


def _reproduce(job: TableJob, console: "Console") -> bool:
    from saplab.cli.running import fill
    from saplab.paper.table1_folder import open_table
    from saplab.runs.games import rehearse

    found = _entries(job, console)
    if found is None:
        return True
    entries, agents = found
    request = _request(job, entries)
    rehearse(request.cells, agents)
    if job.dry_run:
        _show_plan(request, console)
        return True
    store = open_table(job.folder, request)
    whole = fill(store, store.survey(), agents, job.engine, console, "games", "episodes")
    if whole or store.survey().stored:
        show_table(job.folder, console)
    return whole


def _request(job: TableJob, entries: "Sequence[Entry]") -> "TableRequest":
    from saplab.paper.table1 import EFFORTS, TableRequest

    if job.preset not in EFFORTS:
        raise ValueError(f"`preset` must be one of {', '.join(EFFORTS)}, got {job.preset!r}")
    name = "table1-beyond" if "table1-beyond" in job.names else "table1"
    command = shlex.join(["saplab", *sys.argv[1:]])
    return TableRequest(
        f"{name}: {job.preset}", command, tuple(entries), EFFORTS[job.preset], name == "table1-beyond", job.sticky,
        job.seed, job.precision,
    )  # fmt: skip


def _entries(job: TableJob, console: "Console") -> "tuple[list[Entry], Agents] | None":
    """Load the agents of the paper's games; say which games are left out for want of one."""
    from saplab.models.zoo import weights_digest
    from saplab.paper.table1 import Entry
    from saplab.rl.atari import PAPER_GAMES, rom_name
    from saplab.runs.games import Agents

    if job.agents is not None and not job.agents.is_dir():
        raise FileNotFoundError(2, "there is no such folder of agents", str(job.agents))
    try:
        rom_name(PAPER_GAMES[0])
    except ValueError as error:  # the extra is missing
        _leave_out(job, console, str(error))
        return None
    entries, networks, absent = [], {}, []
    for game in PAPER_GAMES:
        if (loaded := _loaded(job.agents, game)) is None:
            absent.append(game)
            continue
        network, facts = loaded
        entry = Entry(rom_name(game), weights_digest(network), _note(facts))
        entries.append(entry)
        networks[f"agent:{entry.game}", entry.digest] = network.to(job.device)
    where = f"in {job.agents}" if job.agents else "in the package"
    how = f"saplab train-agent {absent[0]} --out {job.agents or 'runs/agents'}/{absent[0]}" if absent else ""
    if not entries:
        reason = f"no agent of its games is {where}; train one ({how}) and name their folder by --agents"
        _leave_out(job, console, reason)
        return None
    if absent:
        console.say(f"left out, as no agent is {where}: {', '.join(absent)} (to train one: {how})")
    return entries, Agents(networks, job.device)


def _leave_out(job: TableJob, console: "Console", reason: str) -> None:
    """Say why a table of a group is not made; one that is asked for by name is an error."""
    if job.explicit:
        raise ValueError(f"table1: {reason}")
    console.say(f"table1 is left out: {reason}")


def _loaded(folder: Path | None, game: str) -> "tuple[nn.Module, Facts] | None":
    from saplab.rl.agents import facts_of, load_agent, load_trained, shipped, trained
    from saplab.rl.atari import rom_name

    if folder is None:
        return (load_agent(game), facts_of(game)) if rom_name(game) in shipped() else None
    own = trained(folder, game)
    if own is None:
        return None
    network, facts = load_trained(own)
    if facts.game != rom_name(game):
        raise ValueError(f"{own} holds an agent of {facts.game}, not of {rom_name(game)}")
    return network, facts


def _note(facts: "Facts") -> str:
    from saplab.metrics.scores import mean_score

    own, random = mean_score(facts.scores), mean_score(facts.random_scores)
    return (
        f"The original agent: Double DQN, preset {facts.preset}, {facts.steps:,} steps (the paper's: 100 million), seed"
        f" {facts.seed}; in {own.games} full games {own} points, random play {random}."
    )


def _show_plan(request: "TableRequest", console: "Console") -> None:
    for game, lines in request.lines.items():
        console.say(f"{game}: " + "; ".join(one.label for one in lines))
    games = counted(sum(cell.stop - cell.start for cell in request.cells), "game")
    longest = request.effort.max_frames // 4
    console.say(f"{counted(len(request.cells), 'cell')}, {games} of at most {longest:,} actions each")


def show_table(folder: Path, console: "Console", title: str = "") -> None:
    """Write the page of a table's run folder, and show what it says."""
    from dataclasses import asdict

    from saplab.cli.verbs.play import show_games
    from saplab.paper.game_table import to_records
    from saplab.paper.table1_report import write_table

    report = write_table(folder, title)
    if report.finished < report.total:
        console.say(f"unfinished: {report.finished} of {report.total} cells are stored")
    show_games(console, report.rows)
    console.show_claims(report, of="game")
    console.say(f"\nReport: {folder / 'report.html'}")
    if console.json:
        claims = [{"game": game, **asdict(found)} for game, found in report.judged]
        files = [str(path) for path in report.files]
        console.emit_json({"out": str(folder), "claims": claims, "rows": to_records(report.rows), "files": files})
