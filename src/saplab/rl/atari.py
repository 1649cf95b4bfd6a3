"""Atari games by ale-py's `AtariVectorEnv`, with every setting that decides a score written down here."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from saplab.models.qnetwork import SIZE, STACK

INSTALL: Final = "pip install 'saplab[rl]'"
NOOPS: Final = 30
FRAME_SKIP: Final = 4
MAX_FRAMES: Final = 108_000  # half an hour of play at 60 frames a second
PAPER_GAMES: Final = ("Assault", "Asterix", "BankHeist", "BattleZone", "BeamRider", "Bowling")


@dataclass(frozen=True)
class TimeStep:
    """What E games show after one action each.

    Attributes:
        stacks: (E, 4, 84, 84) uint8, the last four frames, oldest first; zeros before a game's first frame.
        rewards: (E,) float64, points as the game counts them, unclipped.
        terminated, truncated: (E,) whether the game is over, and whether it was stopped at the limit of frames.
        lives: (E,) lives left; 0 in games without lives.
    """

    stacks: NDArray[np.uint8]
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    lives: NDArray[np.int64]

    @property
    def over(self) -> NDArray[np.bool_]:
        """Return which games ended; whatever action comes next, they begin anew."""
        return self.terminated | self.truncated


class Games:
    """E games of one kind, played side by side.

    An observation is the last four frames, each the pixel-wise maximum of the last two of four emulated ones, as gray
    levels of 84×84 pixels. An action is repeated for four emulated frames; the actions are the game's own (minimal)
    set. A game begins with 0 to 29 no-ops. A lost life does not end it; ale-py's own "episodic life" is not used, as
    it begins a new game at each lost life, so that no second life is ever seen.

    Args:
        game: name as in the paper (``BankHeist``) or of the ROM; ValueError if ale-py is missing or has no such game.
        count: E.
        sticky: probability that the emulator repeats the previous action instead (0.25 in Machado et al. 2018).
        max_frames: emulated frames after which a game is stopped.
        threads: of the emulators; they run while Python does other things between `send` and `receive`.
    """

    def __init__(
        self, game: str, count: int, sticky: float = 0.0, max_frames: int = MAX_FRAMES, threads: int = 1
    ) -> None:
        if not 0 <= sticky < 1:
            raise ValueError(f"`sticky` must be within [0, 1), got {sticky}")
        rom = rom_name(game)
        self._env: Any = _vector_env()(
            rom, count, num_threads=threads, max_num_frames_per_episode=max_frames, repeat_action_probability=sticky,
            full_action_space=False, continuous=False, autoreset_mode="NextStep", img_height=SIZE, img_width=SIZE,
            grayscale=True, stack_num=STACK, frameskip=FRAME_SKIP, maxpool=True, noop_max=NOOPS, episodic_life=False,
            life_loss_info=False, reward_clipping=False, use_fire_reset=False,
        )  # fmt: skip
        self.count = count
        self.actions = int(self._env.single_action_space.n)

    def reset(self, seeds: Sequence[int]) -> TimeStep:
        """Begin new games, each with a seed in 0..2^31-1, which decides its no-ops and sticky actions."""
        stacks, info = self._env.reset(seed=np.asarray(seeds))
        nothing = np.zeros(self.count, np.bool_)
        return TimeStep(stacks, np.zeros(self.count), nothing, nothing, info["lives"].astype(np.int64))

    def send(self, actions: NDArray[np.int64]) -> None:
        """Make the emulators begin a step with actions (E,); `receive` must follow."""
        self._env.send(actions)

    def receive(self) -> TimeStep:
        """Wait for the step that `send` began."""
        stacks, rewards, terminated, truncated, info = self._env.recv()
        return TimeStep(stacks, rewards.astype(np.float64), terminated, truncated, info["lives"].astype(np.int64))

    def step(self, actions: NDArray[np.int64]) -> TimeStep:
        """Take one action (E,) in each game."""
        self.send(actions)
        return self.receive()


def rom_name(game: str) -> str:
    """Return the ROM of a game: ``bank_heist`` for ``BankHeist`` and ``bank_heist``; ValueError if there is none."""
    _vector_env()
    from ale_py import roms as shipped

    roms = list(shipped.get_all_rom_ids())
    rom = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", game).lower()
    if rom not in roms:
        close = difflib.get_close_matches(rom, roms, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(
            f"`game` {game!r} is none of the {len(roms)} games whose ROMs ale-py holds{hint};"
            " a newer ale-py may hold more: pip install --upgrade ale-py"
        )
    return rom


def action_names(game: str) -> tuple[str, ...]:
    """Return the names of a game's actions (``NOOP``, ``FIRE``, ``RIGHT``, …), in the order of their numbers."""
    import ale_py
    from ale_py import roms

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    emulator = ale_py.ALEInterface()
    emulator.loadROM(roms.get_rom_path(rom_name(game)))  # type: ignore[arg-type]
    return tuple(action.name for action in emulator.getMinimalActionSet())


def _vector_env() -> Any:
    try:
        from ale_py.vector_env import AtariVectorEnv
    except ImportError as error:
        raise ValueError(f"Atari games need ale-py and gymnasium ({error}); install them: {INSTALL}") from None
    return AtariVectorEnv
