"""The paper's Table 1 and what lies beyond it, as a study of games: its agents, lines, claims and cells."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final

from torch import nn

from saplab.attacks import FGSM, radii_of
from saplab.defenses import label_of, parse_defenses
from saplab.evaluation.paper_numbers import PAPER_CHANGES
from saplab.metrics.scores import mean_score
from saplab.models.identity import network_digest
from saplab.paper.plan import Networks, cell_of_line
from saplab.paper.study import AGENT, Claim, Figure, Line
from saplab.rl.agents import Facts, facts_of, load_agent, load_trained, shipped, trained
from saplab.rl.atari import MAX_FRAMES, PAPER_GAMES, rom_name
from saplab.rl.published import PUBLISHED
from saplab.runs import Curve, GameCell, Network, cut_each
from saplab.system.words import did_you_mean

STRENGTHS: Final = (0.0, 1.0, 2.0, 4.0, 8.0)
_RIVALS: Final = ("dropout:0.1", "rna:0.05", "rsa:0.2", "rnw:0.01", "rsw:0.1", "dwp:60", "swp:200")
_LABELS: Final = (
    "original", "SAP-100, mask backward", "SAP-100, identity backward", "SAP-100, gradient of the original"
)  # fmt: skip


@dataclass(frozen=True)
class Effort:
    """How much is played and averaged.

    Attributes:
        quiet: games of a seed without an attack.
        attacked: games of each λ and seed under attack, which take longer.
        samples, passes: of the attack's gradient, and of an action of a random agent.
        max_frames: after which a game is stopped; 18,000 are the five minutes of Mnih et al. 2015.
        together: games of a cell, which are played side by side; fewer give more workers something to do.
        more: seeds at a game's λ, where `seeds` leave a claim undecided; of the original and of SAP-100 alone.
        rivals: seeds of the other defences, of which nothing is claimed; None for as many.
    """

    quiet: int
    attacked: int
    seeds: int
    samples: int
    passes: int
    max_frames: int
    together: int = 10
    more: Mapping[tuple[str, float], int] = field(default_factory=dict)
    rivals: int | None = None

    @property
    def whole(self) -> bool:
        """Return whether games are as long as those of random play on the agents' cards."""
        return self.max_frames >= MAX_FRAMES

    def seeds_of(self, line: Line, strength: float) -> int:
        """Return the seeds of a line at λ."""
        if line.defense in _RIVALS:
            return self.rivals or self.seeds
        table = line.attack == "fgsm" and line.adversary == "self"
        return self.more.get((line.model.removeprefix(AGENT), strength), self.seeds) if table else self.seeds


EFFORTS: Final[Mapping[str, Effort]] = {
    "smoke": Effort(2, 2, 1, 2, 2, 400),
    "small": Effort(
        34, 14, 3, 4, 4, 108_000, together=17, more={("assault", 0.0): 15, ("battle_zone", 4.0): 14}, rivals=1
    ),
    "paper": Effort(34, 34, 3, 100, 100, 108_000),
}


@dataclass(frozen=True)
class Agents:
    """The agents of the paper's games, by the name of the ROM, and the games that have none."""

    networks: Mapping[str, nn.Module]
    facts: Mapping[str, Facts]
    absent: tuple[str, ...] = ()

    @cached_property
    def named(self) -> Networks:
        """Return the networks as cells name them, by what lines call them."""
        names = {f"{AGENT}{game}": network for game, network in self.networks.items()}
        return {name: Network(name, network_digest(network)) for name, network in names.items()}

    def models(self, device: str) -> dict[tuple[str, str], nn.Module]:
        """Return the networks on a device, as cells name them."""
        named = ((network.model, network.digest) for network in self.named.values())
        return dict(zip(named, (one.to(device) for one in self.networks.values()), strict=True))


def load_agents(folder: Path | None = None, games: Sequence[str] = PAPER_GAMES) -> Agents:
    """Load the agents of games of the paper's: those in a folder of folders, or those of the package.

    Raises ValueError if an agent cannot be used, or if the extra ``rl`` is not installed.
    """
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(2, "there is no such folder of agents", str(folder))
    found = {game: agent for game in games if (agent := _load(folder, game)) is not None}
    networks = {rom_name(game): network for game, (network, _) in found.items()}
    facts = {rom_name(game): known for game, (_, known) in found.items()}
    return Agents(networks, facts, tuple(game for game in games if game not in found))


def read_games(text: str) -> tuple[str, ...]:
    """Return the games of the paper's that a text such as ``Assault,BankHeist`` names, in the paper's order.

    A game is called as in the paper or by its ROM; no text names none. Raises ValueError for one that the paper has
    not, or if the extra ``rl`` is not installed.
    """
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    by_name = {name: game for game in PAPER_GAMES for name in (game, rom_name(game))} if wanted else {}
    for name in wanted:
        if name not in by_name:
            hint = did_you_mean(name, PAPER_GAMES)
            raise ValueError(f"`games` must be some of {', '.join(PAPER_GAMES)}, got {name!r}{hint}")
    found = {by_name[name] for name in wanted}
    return tuple(game for game in PAPER_GAMES if game in found)


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


def table_figures(agents: Agents, beyond: bool = False, sticky: float = 0.0, whole: bool = True) -> tuple[Figure, ...]:
    """Return a figure for each game; the paper has no numbers with sticky actions.

    `beyond` adds what the paper lacks: other defences, and SAP-100 against BPDA, noise and the original's gradient.
    Lines are compared with the cards' random play where games are `whole` as there, without sticky actions.
    """
    end = ", sticky actions" if sticky else ""
    return tuple(_figure(game, facts, beyond, end, whole and not sticky) for game, facts in agents.facts.items())


def _figure(game: str, facts: Facts, beyond: bool, end: str, as_random: bool) -> Figure:
    model, changes = f"{AGENT}{game}", PAPER_CHANGES[game]
    original, sap, bpda, transfer = (f"{label}{end}" for label in _LABELS)
    lines = [Line(original, model), Line(sap, model, "sap:100", paper={} if end else changes)]
    claims = list(_claims(changes, original, sap, sized=not end))
    if beyond:
        lines += [
            Line(bpda, model, "sap:100", "fgsm:backward=identity"),
            Line(transfer, model, "sap:100", adversary="dense"),
            Line(f"original, random noise{end}", model, attack="noise"),
            Line(f"SAP-100, random noise{end}", model, "sap:100", "noise"),
            *(Line(f"{_rival(defense)}{end}", model, defense) for defense in _RIVALS),
        ]
        claims += [
            Claim("BPDA (identity backward) takes points that the mask's gradient leaves (Dhillon & Carlini 2020).",
                  bpda, "lower", STRENGTHS[1:], sap),
            Claim("So does the original agent's gradient.", transfer, "lower", STRENGTHS[1:], sap),
        ]  # fmt: skip
    name = game.title().replace("_", "")
    random = tuple(facts.random_scores) if as_random else ()
    return Figure(name, name, tuple(lines), tuple(claims), STRENGTHS, note=_note(game, facts), random=random)


def _rival(defense: str) -> str:
    found = parse_defenses(defense)
    return label_of(found) + (", mask backward" if any(one.has_rules for one in found) else "")


def _claims(changes: Mapping[float, float], original: str, sap: str, sized: bool) -> Iterator[Claim]:
    """Yield what the paper says of a game: which way points change and, if `sized`, by at least half as much."""
    said = {
        "SAP-100 costs {} where nobody attacks.": {0.0: changes[0.0]},
        "SAP-100 gains {} under attack.": {s: change for s, change in changes.items() if s and change > 0},
        "The one exception: SAP-100 loses {} under attack.": {s: c for s, c in changes.items() if s and c < 0},
    }
    for text, those in said.items():
        if those:
            relation = "higher" if min(those.values()) > 0 else "lower"
            yield Claim(text.format("points"), sap, relation, tuple(those), original)
            half = {strength: change / 2 for strength, change in those.items()}
            size = text.format("at least half of what the paper says")
            if sized:
                yield Claim(size, sap, relation, tuple(those), original, half)


def _note(game: str, facts: Facts) -> str:
    own, random, published = mean_score(facts.scores), mean_score(facts.random_scores), PUBLISHED[game]
    return (
        f"The original agent: Double DQN, preset {facts.preset}, {facts.age} (the paper's: 100 million), seed"
        f" {facts.seed}; in the {own.games} games of its card {own} points, random play {random}. Published means:"
        f" random play {published.random:,}, a human {published.human:,}, Double DQN after 50 million steps"
        f" {published.ddqn:,} (Wang et al. 2016)."
    )


def table_curves(
    figures: Iterable[Figure], networks: Networks, effort: Effort, *, sticky: float = 0.0, seed: int = 0,
    precision: str = "float32", device: str = "cpu",
) -> tuple[Curve, ...]:  # fmt: skip
    """Plan the curves of the figures of `table_figures`."""
    nobody = Network("", "")
    whole = GameCell(
        defender=nobody, adversary=nobody, attack=FGSM(), eps=(1.0,), start=0, stop=effort.quiet, seed=seed,
        precision=precision, device=device, game="", sticky=sticky, max_frames=effort.max_frames,
    )  # fmt: skip
    return tuple(_curve(figure, line, whole, networks, effort) for figure in figures for line in figure.lines)


def _curve(figure: Figure, line: Line, whole: GameCell, networks: Networks, effort: Effort) -> Curve:
    """Plan a line: cells of each radius and seed. Changes are against the undefended agent under such an attack."""
    cell = cell_of_line(line, whole, networks, effort.samples, effort.passes)
    cell = replace(cell, game=line.model.removeprefix(AGENT))
    wholes = (
        (replace(cell, eps=(radius,), stop=effort.attacked if radius else effort.quiet).plain,
         effort.seeds_of(line, strength))
        for strength, radius in zip(STRENGTHS, radii_of(STRENGTHS), strict=True)
    )  # fmt: skip
    cells, *repeats = cut_each(wholes, effort.together)
    noise = line.attack == "noise"
    plain = next(one.label for one in figure.lines if not one.defense and (one.attack == "noise") == noise)
    against = plain if line.defense else ""
    return Curve(line.label, cells, paper=line.paper, repeats=tuple(repeats), figure=figure.name, against=against)
