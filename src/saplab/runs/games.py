"""Compute cells of games: an agent plays full Atari games against an attack, the episodes of a cell side by side."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast

import numpy as np

from saplab.rl.adversary import Adversary
from saplab.rl.atari import FRAME_SKIP
from saplab.rl.play import Moment, Rules, Watch, play
from saplab.rl.player import Player
from saplab.rng.streams import stream_key
from saplab.runs.cell import GameCell, Group
from saplab.runs.engines.base import Models, Tick
from saplab.runs.networks import network_of
from saplab.runs.results import GameResult
from saplab.system.machine import made
from saplab.system.precision import computing_in


@dataclass(frozen=True)
class Games:
    """What cells of games speak of by name: plain agents on a device; a `saplab.runs.engines.base.Workload`."""

    numerics: ClassVar[int] = GameCell.numerics
    models: Models
    device: str = "cpu"

    def compute(self, group: Group, tick: Tick = lambda n: None) -> list[GameResult]:
        """Play the games of each cell; `tick` gets the work since its last call."""
        for cell in group:
            cell.check_device(self.device)
        return [self.play(cast(GameCell, cell), tick) for cell in group]

    def play(self, cell: GameCell, tick: Tick = lambda n: None, watch: Watch = lambda moment: None) -> GameResult:
        """Play the games of one cell; `watch` is told of every step."""
        begin, busy = time.perf_counter(), time.process_time()
        player = Player(network_of(cell.defender, self.models), cell.passes, cell.seed)
        rules = Rules(cell.game, cell.sticky, cell.epsilon, cell.max_frames)
        steps = told = 0

        def on_step(moment: Moment) -> None:
            nonlocal steps, told
            steps += 1
            done = cell.work_after(steps, len(moment.episodes))
            tick(done - told)
            told = done
            watch(moment)

        with computing_in(cell.precision, self.device):
            episodes = play(player, rules, range(cell.start, cell.stop), cell.seed, self._adversary(cell), on_step)
        tick(cell.work_after(steps, 0) - told)
        scores = np.array([episode.score for episode in episodes], np.float64)
        record = made(time.perf_counter() - begin, time.process_time() - busy)
        return GameResult(scores, np.array([e.steps for e in episodes], np.int64), record)

    def _adversary(self, cell: GameCell) -> Adversary | None:
        """Return who changes what the agent sees; it judges the greedy action by the attack's number of passes."""
        if cell.attack is None or cell.eps == (0.0,):
            return None
        network = network_of(cell.adversary, self.models)
        return Adversary(network, cell.attack, cell.eps[0], cell.attack.samples, cell.seed, cell.newest)

    def beside(self) -> Mapping[str, Any]:
        """Return nothing: the games are where the package is."""
        return {}

    @classmethod
    def unpacked(cls, models: Models, beside: Mapping[str, Any], device: str) -> Self:
        """Return the workload again where it has travelled to."""
        return cls(models, device)

    def rehearse(self, cells: Iterable[GameCell]) -> None:
        """Play one short game of each kind of cell, to refuse what cannot be computed before long work begins."""
        short: dict[str, GameCell] = {}
        for cell in cells:
            stream_key(cell.seed)
            alike = replace(cell, start=0, stop=1, seed=0, eps=(float(cell.eps[0] > 0),), max_frames=FRAME_SKIP)
            short.setdefault(alike.digest, alike)
        for cell in short.values():
            self.play(cell)
