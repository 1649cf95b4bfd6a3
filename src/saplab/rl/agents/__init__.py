"""Agents that a checkout brings or that were trained by the user: weights (float16), facts and a card."""

import json
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Final

import msgspec
import torch
from safetensors.torch import load, save
from torch import nn

from saplab.models.fitting import put_weights
from saplab.models.packaged import require_checksum
from saplab.models.qnetwork import QNetwork, new_network
from saplab.rl.atari import rom_name
from saplab.rl.formats import read_agent
from saplab.system.folder import inside, read_inside, write_files

MODEL: Final = "model.safetensors"
FACTS: Final = "agent.json"
CARD: Final = "card.md"


@dataclass(frozen=True)
class Facts:
    """What is known of an agent beside its weights.

    Attributes:
        steps: of the whole training.
        sha256: of its file of weights.
        scores, random_scores: points of single games (ε = 0.05, no adversary), its own and those of random play.
        weights_step: after which step the weights were kept; None for the last one.
    """

    game: str
    preset: str
    steps: int
    seed: int
    sha256: str
    scores: tuple[float, ...]
    random_scores: tuple[float, ...]
    weights_step: int | None = None

    @property
    def age(self) -> str:
        """Return how long the agent learned, in words."""
        whole = f"{self.steps:,} steps"
        return whole if self.weights_step in (None, self.steps) else f"{self.weights_step:,} of {whole}"

    @classmethod
    def from_json(cls, text: str) -> "Facts":
        """Read what `to_json` wrote; ValueError if it is something else."""
        return msgspec.json.decode(text, type=cls)

    def to_json(self) -> str:
        """Return the text of ``agent.json``."""
        return json.dumps(asdict(self)) + "\n"


def shipped() -> tuple[str, ...]:
    """Return the ROM names of the games that there is an agent for in this installation; none in a wheel's."""
    names = (file.name for file in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in names if name.endswith(".json")))


def facts_of(game: str) -> Facts:
    """Return the facts of the agent that ships for a game; ValueError if there is none."""
    rom = rom_name(game)
    if rom not in shipped():
        known = ", ".join(shipped()) or "none; the wheel leaves them out, a checkout of the repository has them"
        raise ValueError(
            f"no agent ships for {game} (those that do: {known}); name a file by --agent, or train one by"
            f" saplab train-agent {game}"
        )
    return Facts.from_json(resources.files(__name__).joinpath(f"{rom}.json").read_text(encoding="utf-8"))


def load_agent(game: str, weights: str | Path | None = None) -> QNetwork:
    """Load an agent's network in eval mode: stacks (N, 4, 84, 84) in [0, 1] -> values (N, actions).

    `weights` is a file for `saplab.rl.formats.read_agent`; by default it is the agent that ships for the game. Raises
    ValueError if none does, or if the file is damaged or not an agent's.
    """
    if weights is not None:
        return read_agent(weights)
    facts = facts_of(game)
    content = resources.files(__name__).joinpath(f"{rom_name(game)}.safetensors").read_bytes()
    require_checksum(content, facts.sha256, f"the packaged agent of {game} is damaged")
    return unpack(content)


def trained(folder: Path, game: str) -> Path | None:
    """Find the folder of a game's agent, named after the game or its ROM, in a folder of ``train-agent --out``.

    Raises ValueError where both are there: one may be old.
    """
    found = [folder / name for name in dict.fromkeys((game, rom_name(game))) if inside(folder / name, FACTS).exists()]
    if len(found) > 1 and not found[0].samefile(found[1]):
        raise ValueError(f"{folder} holds two agents of {game}, {found[0].name} and {found[1].name}: remove one")
    return found[0] if found else None


def load_trained(folder: Path) -> tuple[QNetwork, Facts]:
    """Load the agent that `write_agent` wrote; ValueError if its facts cannot be read or its weights are not theirs."""
    try:
        facts = Facts.from_json(read_inside(folder, FACTS).decode())
    except ValueError as error:
        raise ValueError(f"{folder / FACTS} holds no facts of an agent: {error}") from None
    content = inside(folder, MODEL).read_bytes()
    require_checksum(content, facts.sha256, f"{folder / MODEL} is damaged")
    return unpack(content), facts


def pack(network: nn.Module) -> bytes:
    """Return the file of a network's weights: float16, the same bytes for the same weights."""
    return save({name: t.detach().cpu().to(torch.float16).contiguous() for name, t in network.state_dict().items()})


def unpack(content: bytes) -> QNetwork:
    """Return the network of a file that `pack` made, in float32 and in eval mode."""
    state = {name: tensor.float() for name, tensor in load(content).items()}
    network = new_network(len(state["head.bias"]), 0)
    put_weights(network, state, "the agent's file")
    return network.eval()


def write_agent(out: Path, content: bytes, facts: Facts, card: str) -> None:
    """Write an agent's three files into a folder; renamed after its ROM, they can ship."""
    write_files(out, {MODEL: content, FACTS: facts.to_json().encode(), CARD: card.encode()})
