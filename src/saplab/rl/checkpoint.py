"""One file that holds an agent's training between two records, replaced whole or not at all."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from saplab.rl.ddqn import Learner
from saplab.system.files import write_atomically

BEST: Final = "best."  # before the names of the tensors of the weights that scored most


@dataclass(frozen=True)
class AgentRecord:
    """What is known of a stretch of training when it is over.

    Args:
        step: steps since the beginning.
        seconds: wall-clock time of the stretch, evaluation included.
        steps_per_second: of the stretch, evaluation left out.
        epsilon, lr: at its end.
        loss: mean over its updates; None where there was none.
        games: games that ended in it.
        score: mean points of those, as the game counts them, at the ε of training; None where none ended.
        evaluation: points of the games of an evaluation at its end; empty where there was none.
    """

    step: int
    seconds: float
    steps_per_second: float
    epsilon: float
    lr: float
    loss: float | None
    games: int
    score: float | None
    evaluation: tuple[float, ...] = ()


def tensors_of(learner: Learner) -> dict[str, Tensor]:
    """Give the network, its target and the optimiser's state, by name."""
    tensors = {f"network.{name}": tensor for name, tensor in learner.network.state_dict().items()}
    tensors |= {f"target.{name}": tensor for name, tensor in learner.target.state_dict().items()}
    for name, parameter in learner.network.named_parameters():
        for key, value in learner.optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = value
    return tensors


def put_back(learner: Learner, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `tensors_of` gave."""
    for part, module in (("network", learner.network), ("target", learner.target)):
        module.load_state_dict({name: tensors[f"{part}.{name}"] for name in module.state_dict()})
    stored = [name.split(".", 2) for name in tensors if name.startswith("optimizer.")]
    for name, parameter in learner.network.named_parameters():
        keys = [key for _, key, owner in stored if owner == name]
        state = {key: tensors[f"optimizer.{key}.{name}"] for key in keys}
        learner.optimizer.state[parameter] = {key: _like(value, parameter) for key, value in state.items()}


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """Store a state tensor as its parameter is stored, so that a continued run computes as an unbroken one."""
    if value.shape != parameter.shape:
        return value.clone()
    return parameter.detach().clone().copy_(value)


def best_record(history: Sequence[AgentRecord]) -> AgentRecord | None:
    """Give the record whose evaluation has the highest mean, the last of equals; None where nothing was evaluated."""
    return max((r for r in reversed(history) if r.evaluation), key=lambda r: fmean(r.evaluation), default=None)


def save_checkpoint(
    path: Path, request: Mapping[str, Any], learner: Learner, history: Sequence[AgentRecord],
    best: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:  # fmt: skip
    """Write a run's tensors, with its request and its history in the file's header.

    Args:
        path, request, learner, history: of the run.
        best: state_dict of the network as it was at `best_record`.

    Raises:
        OSError: the file could not be written; the one before is still there.
    """
    header = {
        "request": json.dumps(request, sort_keys=True),
        "history": json.dumps([asdict(record) for record in history]),
    }
    tensors = tensors_of(learner) | {f"{BEST}{name}": tensor for name, tensor in best.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(tensors, header))


def load_checkpoint(path: Path, request: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[AgentRecord]]:
    """Read what `save_checkpoint` wrote for the same request.

    Raises:
        ValueError: the file is damaged, or belongs to another request; the message says what differs.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable checkpoint: {error}") from None
    if not {"request", "history"} <= header.keys():
        raise ValueError(f"{path} is no checkpoint of an agent's training")
    stored, asked = json.loads(header["request"]), json.loads(json.dumps(request))
    if differing := sorted(key for key in stored.keys() | asked.keys() if stored.get(key) != asked.get(key)):
        key = differing[0]
        raise ValueError(
            f"{path} belongs to another run: its {key} is {stored.get(key)}, asked for {asked.get(key)};"
            " nothing was overwritten, choose another folder"
        )
    records = [AgentRecord(**{**r, "evaluation": tuple(r["evaluation"])}) for r in json.loads(header["history"])]
    return tensors, records
