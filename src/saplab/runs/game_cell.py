"""The unit of work: one agent, defended or not, against one adversary at one strength, over a range of full games."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Final

from saplab.runs.cell import Network

NUMERICS: Final = 3  # raise it when the same cell would give other scores
NO_ATTACK: Final[Mapping[str, Any]] = {"name": "none"}


@dataclass(frozen=True)
class GameCell:
    """One stored result's request; everything that decides its scores, and nothing else.

    Args:
        game: name of the ROM.
        defender, adversary: the agent that plays, and the one whose gradient the attacker uses.
        attack: ``{"name": "fgsm", "samples": 10, …}``: name and settings of the attack.
        strength: λ in pixel steps of 0..255.
        start, stop: the range of episodes; with `seed`, an episode's number decides its game.
        seed: of the games, the random actions, the defence's draws and (as streams apart) the attack's.
        passes: stochastic passes averaged for an action.
        newest: whether the attacker changes the newest frame of each stack only.
        sticky, epsilon, max_frames: as in `saplab.rl.play.Rules`.
        precision: of the network's arithmetic, ``float32`` or ``bfloat16``.

    Raises:
        ValueError: no episode.
    """

    game: str
    defender: Network
    adversary: Network
    attack: Mapping[str, Any]
    strength: float
    start: int
    stop: int
    seed: int = 0
    passes: int = 1
    newest: bool = False
    sticky: float = 0.0
    epsilon: float = 0.05
    max_frames: int = 108_000
    precision: str = "float32"

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"there must be at least one episode, got the range {self.start}..{self.stop}")

    @property
    def plain(self) -> "GameCell":
        """Give the same cell in the one form that cells with equal scores share.

        Without strength there is no attack; random noise has no adversary's network.
        """
        if self.strength == 0:
            return replace(self, strength=0.0, attack=NO_ATTACK, adversary=self.defender, newest=False)
        adversary = self.defender if self.attack["name"] == "noise" else self.adversary
        return replace(self, strength=float(self.strength), adversary=adversary)

    def to_json(self) -> str:
        """Give the canonical JSON text: sorted keys, no spaces, with the version of the numerics."""
        return json.dumps({"numerics": NUMERICS, **asdict(self.plain)}, sort_keys=True, separators=(",", ":"))

    @cached_property
    def digest(self) -> str:
        """Give 16 hexadecimal digits that name this cell's file."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]
