"""The paper's Table 1 and what lies beyond it, as a study of games: its agents, lines, claims and cells."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Final, TypeVar

from msgspec.structs import replace as replaced
from torch import nn

from saplab.attacks import FGSM, radii_of
from saplab.defenses import label_of, parse_defenses
from saplab.metrics.scores import mean_score
from saplab.models.zoo import weights_digest
from saplab.paper.plan import Digests, cell_of_line
from saplab.paper.study import Claim, Figure, Line
from saplab.rl.agents import Facts, facts_of, load_agent, load_trained, shipped, trained
from saplab.rl.atari import PAPER_GAMES, rom_name
from saplab.rl.published import PUBLISHED
from saplab.runs import Curve, GameCell, Network, cut

STRENGTHS: Final = (0.0, 1.0, 2.0, 4.0, 8.0)
PAPER_CHANGES: Final[Mapping[str, Mapping[float, float]]] = {  # of the mean points, in %, SAP-100 against the original
    "assault": {0: -12.2, 1: 10.4, 2: 9.8, 4: 12.4, 8: 16.6},
    "asterix": {0: -33.4, 1: 13.3, 2: 20.8, 4: 14.0, 8: 7.4},
    "bank_heist": {0: -59.2, 1: 131.7, 2: 204.8, 4: 1760.0, 8: 60.9},
    "battle_zone": {0: -65.8, 1: -22.0, 2: 110.1, 4: 202.6, 8: 134.8},
    "beam_rider": {0: -15.8, 1: 164.5, 2: 92.3},
    "bowling": {0: -4.5, 1: 3425.9},
}
_RIVALS: Final = ("dropout:0.1", "rna:0.05", "rsa:0.2", "rnw:0.01", "rsw:0.1", "dwp:60", "swp:200")
_ORIGINAL, _SAP, _BPDA, _TRANSFER = (
    "original", "SAP-100, mask backward", "SAP-100, identity backward", "SAP-100, gradient of the original"
)  # fmt: skip


@dataclass(frozen=True)
class Effort:
    """How much is played and averaged.

    Attributes:
        episodes: games of each λ and seed.
        seeds: how many.
        samples, passes: of the attack's gradient, and of an action of a random agent.
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
class Agents:
    """The agents that there are of the paper's games.

    Attributes:
        networks: by the name of the ROM.
        notes: what is known of each, in a sentence.
        absent: the paper's games without an agent.
    """

    networks: Mapping[str, nn.Module]
    notes: Mapping[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()

    @cached_property
    def digests(self) -> Digests:
        """Return the digests of the networks, by what lines call them."""
        return {_model(game): weights_digest(network) for game, network in self.networks.items()}

    def models(self, device: str) -> Mapping[tuple[str, str], nn.Module]:
        """Return the networks on a device, as cells name them."""
        return {(_model(g), self.digests[_model(g)]): network.to(device) for g, network in self.networks.items()}


def _model(game: str) -> str:
    return f"agent:{game}"


def load_agents(folder: Path | None = None) -> Agents:
    """Load the agents of the paper's games: those in a folder of folders, or those of the package.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: an agent cannot be used, or the extra ``rl`` is not installed.
    """
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(2, "there is no such folder of agents", str(folder))
    found = {game: agent for game in PAPER_GAMES if (agent := _load(folder, game)) is not None}
    return Agents(
        {rom_name(game): network for game, (network, _) in found.items()},
        {rom_name(game): _note(facts) for game, (_, facts) in found.items()},
        tuple(game for game in PAPER_GAMES if game not in found),
    )


def _load(folder: Path | None, game: str) -> tuple[nn.Module, Facts] | None:
    rom = rom_name(game)
    if folder is None:
        return (load_agent(game), facts_of(game)) if rom in shipped() else None
    own = trained(folder, game)
    if own is None:
        return None
    network, facts = load_trained(own)
    if facts.game != rom:
        raise ValueError(f"{own} holds an agent of {facts.game}, not of {rom}")
    return network, facts


def _note(facts: Facts) -> str:
    own, random = mean_score(facts.scores), mean_score(facts.random_scores)
    known = (
        f"The original agent: Double DQN, preset {facts.preset}, {facts.steps:,} steps (the paper's: 100 million), seed"
        f" {facts.seed}; in {own.games} full games {own} points, random play {random}."
    )
    if (published := PUBLISHED.get(facts.game)) is None:
        return known
    return (
        f"{known} Published means: random play {published.random:,}, a human {published.human:,}, Double DQN after 50"
        f" million steps {published.ddqn:,} (Wang et al. 2016)."
    )


def table_figures(agents: Agents, beyond: bool = False, sticky: float = 0.0) -> tuple[Figure, ...]:
    """Return a figure for each game.

    Args:
        agents: who plays.
        beyond: whether to add what the paper lacks: SAP-100 against BPDA, the original's gradient and random noise, and
            the other defences.
        sticky: chance that the emulator repeats an action; the paper has no numbers with any.
    """
    return tuple(_figure(game, agents.notes.get(game, ""), beyond, sticky) for game in agents.networks)


def _figure(game: str, note: str, beyond: bool, sticky: float) -> Figure:
    model, changes = _model(game), PAPER_CHANGES.get(game, {})
    lines = [Line(_ORIGINAL, model), Line(_SAP, model, "sap:100", paper={} if sticky else changes)]
    if beyond:
        lines += [
            Line(_BPDA, model, "sap:100", "fgsm:backward=identity"),
            Line(_TRANSFER, model, "sap:100", adversary="dense"),
            Line("original, random noise", model, attack="noise"),
            Line("SAP-100, random noise", model, "sap:100", "noise"),
            *(Line(_own_label(defense), model, defense) for defense in _RIVALS),
        ]
    claims = (*_papers_claims(changes), *(_BEYOND if beyond else ()))
    if sticky:
        lines = [_renamed(line, "label") for line in lines]
        claims = tuple(_renamed(claim, "first", "second") for claim in claims)
    return Figure(game, game.title().replace("_", ""), tuple(lines), claims, STRENGTHS, note=note)


def _own_label(defense: str) -> str:
    """Name a defended agent that is attacked through its own gradient."""
    found = parse_defenses(defense)
    return label_of(found) + (", mask backward" if any(one.has_rules for one in found) else "")


T = TypeVar("T", Line, Claim)


def _renamed(part: T, *names: str) -> T:
    return replaced(part, **{name: f"{getattr(part, name)}, sticky actions" for name in names})


def _papers_claims(changes: Mapping[float, float]) -> Iterator[Claim]:
    """Yield the paper's claims about a game (section 4.2)."""
    yield Claim("SAP-100 costs points where nobody attacks.", _SAP, _ORIGINAL, "lower", (0,))
    if gains := tuple(strength for strength, change in changes.items() if strength and change > 0):
        yield Claim("SAP-100 gains points under attack.", _SAP, _ORIGINAL, "higher", gains)
    if losses := tuple(strength for strength, change in changes.items() if strength and change < 0):
        yield Claim("The one exception: SAP-100 loses points under attack.", _SAP, _ORIGINAL, "lower", losses)


_BEYOND: Final = (
    Claim("BPDA (identity backward) takes points that the mask's gradient leaves (Dhillon & Carlini 2020).", _BPDA,
          _SAP, "lower", STRENGTHS[1:]),
    Claim("So does the original agent's gradient.", _TRANSFER, _SAP, "lower", STRENGTHS[1:]),
)  # fmt: skip


def table_curves(
    figures: Sequence[Figure], digests: Digests, effort: Effort, *, sticky: float = 0.0, seed: int = 0,
    precision: str = "float32", device: str = "cpu",
) -> tuple[Curve, ...]:  # fmt: skip
    """Plan the curves of the games' figures.

    Args:
        figures: as `table_figures` made them.
        digests: of the agents, see `Agents.digests`.
        effort: how much is played.
        sticky: chance that the emulator repeats the previous action.
        seed: the first of the seeds.
        precision: ``float32`` or ``bfloat16``.
        device: kind of the device, ``cpu`` or ``cuda``.
    """
    nobody = Network("", "")
    whole = GameCell(
        defender=nobody, adversary=nobody, attack=FGSM(), eps=(1.0,), start=0, stop=effort.episodes, seed=seed,
        precision=precision, device=device, game="", sticky=sticky, max_frames=effort.max_frames,
    )  # fmt: skip
    return tuple(
        _curve(figure, line, replace(whole, game=figure.name), digests, effort)
        for figure in figures
        for line in figure.lines
    )


def _curve(figure: Figure, line: Line, whole: GameCell, digests: Digests, effort: Effort) -> Curve:
    """Plan a line: cells of each radius and seed; its changes are against the agent without defence and so attacked."""
    cell = cell_of_line(line, whole, digests, effort.samples, effort.passes)
    by_radius = [cut(replace(cell, eps=(e,)).plain, effort.together, effort.seeds) for e in radii_of(STRENGTHS)]
    cells, *repeats = (tuple(chain(*parts)) for parts in zip(*by_radius, strict=True))
    alike = (
        other for other in figure.lines if not other.defense and (other.attack == "noise") == (line.attack == "noise")
    )
    against = next(alike).label if line.defense else ""
    return Curve(line.label, cells, paper=line.paper, repeats=tuple(repeats), figure=figure.name, against=against)
