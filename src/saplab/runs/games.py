"""Compute cells of games; the episodes of a cell are played side by side."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from torch import nn

from saplab.attacks import RandomNoise, Square, eps_of
from saplab.attacks.batteries import Attack, attack_of
from saplab.defenses import defend
from saplab.defenses.specs import parse_defenses
from saplab.rl.adversary import Adversary
from saplab.rl.atari import FRAME_SKIP
from saplab.rl.play import Moment, Rules, Watch, play
from saplab.rl.player import Player
from saplab.runs.cell import Network
from saplab.runs.engines.base import Tick
from saplab.runs.game_cell import NUMERICS, GameCell
from saplab.runs.game_store import GameResult
from saplab.system.machine import made
from saplab.system.precision import computing_in

Group = tuple[GameCell, ...]


@dataclass(frozen=True)
class Agents:
    """What cells of games speak of by name: plain networks by (model, digest), and the device that they are on.

    It is a `saplab.runs.engines.base.Workload`; its unit of work is one full game.
    """

    numerics: ClassVar[int] = NUMERICS
    models: Mapping[tuple[str, str], nn.Module]
    device: str = "cpu"

    def network(self, network: Network) -> nn.Module:
        """Give the network, defended as the cell says."""
        plain = self.models[network.model, network.digest]
        defenses = parse_defenses(network.defense)
        return defend(plain, *defenses, sites=network.sites or None) if defenses else plain

    def groups(self, cells: Iterable[GameCell]) -> Sequence[Group]:
        """Give each cell alone: no two share their games."""
        return [(cell,) for cell in cells]

    def work(self, group: Group) -> int:
        """Count the games of a group."""
        return sum(cell.stop - cell.start for cell in group)

    def compute(self, group: Group, tick: Tick = lambda n: None) -> list[GameResult]:
        """Compute the cells of a group; see `compute`."""
        return [compute(cell, self, tick) for cell in group]

    def beside(self) -> Mapping[str, Any]:
        """Give nothing: the games are where the package is."""
        return {}

    @classmethod
    def unpacked(cls, models: Mapping[tuple[str, str], nn.Module], beside: Mapping[str, Any], device: str) -> Self:
        """Take the networks."""
        return cls(models, device)


def compute(
    cell: GameCell, agents: Agents, tick: Tick = lambda n: None, watch: Watch = lambda moment: None
) -> GameResult:  # fmt: skip
    """Play the episodes of one cell.

    Args:
        cell: what to play.
        agents: its networks.
        tick: called with 1 as each episode ends.
        watch: told of every step.

    Raises:
        ValueError: see `saplab.defend`, the attacks and `saplab.rl.play.play`.
    """
    begin = time.perf_counter()
    player = Player(agents.network(cell.defender), cell.passes, cell.seed)
    rules = Rules(cell.game, cell.sticky, cell.epsilon, cell.max_frames)
    going = cell.stop - cell.start

    def on_step(moment: Moment) -> None:
        nonlocal going
        tick(going - len(moment.episodes))
        going = len(moment.episodes)
        watch(moment)

    with computing_in(cell.precision, agents.device):
        episodes = play(player, rules, range(cell.start, cell.stop), cell.seed, adversary_of(cell, agents), on_step)
    tick(going)
    scores, steps = tuple(e.score for e in episodes), tuple(e.steps for e in episodes)
    return GameResult(scores, steps, made(time.perf_counter() - begin))


def rehearse(cells: Iterable[GameCell], agents: Agents) -> None:
    """Play one short game of each kind of cell, so that what cannot be computed is refused before long work begins.

    Raises:
        ValueError: as `compute`.
    """
    short = [replace(cell, start=0, stop=1, seed=0, max_frames=FRAME_SKIP) for cell in cells]
    for cell in {replace(cell, strength=float(cell.strength > 0)).digest: cell for cell in short}.values():
        compute(cell, agents)


def adversary_of(cell: GameCell, agents: Agents) -> Adversary | None:
    """Make the adversary that a cell describes; none for strength 0.

    It judges which action is the greedy one by as many passes as its attack averages.
    """
    if cell.strength == 0:
        return None
    network, attack = agents.network(cell.adversary), attack_of(cell.attack)
    return Adversary(network, attack, eps_of(cell.strength), _passes(attack), cell.seed, cell.newest)


def _passes(attack: Attack) -> int:
    """Give the passes that an attack averages; 0 for one that looks at no network."""
    if isinstance(attack, RandomNoise):
        return 0
    return attack.passes if isinstance(attack, Square) else attack.gradient.samples
