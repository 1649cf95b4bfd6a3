"""Compute cells of games in this process, one after the other; the episodes of a cell are played side by side."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from saplab.arcade.cell import GameCell
from saplab.arcade.store import GameResult, GameStore
from saplab.attacks import RandomNoise, Square, eps_of
from saplab.defenses import defend
from saplab.rl.adversary import Adversary
from saplab.rl.atari import FRAME_SKIP
from saplab.rl.play import Moment, Rules, Watch, play
from saplab.rl.player import Player
from saplab.runs.local import PRECISIONS
from saplab.runs.machine import made
from saplab.studies import Network
from saplab.studies.adversaries import Attack, attack_of
from saplab.studies.specs import parse_defenses

Tick = Callable[[int], None]


@dataclass(frozen=True)
class Agents:
    """What cells speak of by name: plain networks by (model, digest)."""

    networks: Mapping[tuple[str, str], nn.Module]

    def network(self, network: Network) -> nn.Module:
        """Give the network, defended as the cell says."""
        plain = self.networks[network.model, network.digest]
        defenses = parse_defenses(network.defense)
        return defend(plain, *defenses, sites=network.sites or None) if defenses else plain


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
    if cell.precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {', '.join(PRECISIONS)}, got {cell.precision!r}")
    player = Player(agents.network(cell.defender), cell.passes, cell.seed)
    rules = Rules(cell.game, cell.sticky, cell.epsilon, cell.max_frames)
    going = cell.stop - cell.start

    def on_step(moment: Moment) -> None:
        nonlocal going
        tick(going - len(moment.episodes))
        going = len(moment.episodes)
        watch(moment)

    dtype = PRECISIONS[cell.precision]
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
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


def run(store: GameStore, cells: Iterable[GameCell], agents: Agents, tick: Tick = lambda n: None) -> None:
    """Compute and save every one of `cells` that the store does not hold yet; a damaged one counts as not held.

    Killed at any moment, a second call goes on with the first cell that is missing.
    """
    for cell in store.missing(cells):
        store.save(cell, compute(cell, agents, tick))
