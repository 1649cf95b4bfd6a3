"""One file that holds a training run between two epochs, replaced whole or not at all."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from saplab.system.files import write_atomically


@dataclass(frozen=True)
class EpochRecord:
    """What is known of an epoch when it is over.

    Args:
        epoch: from 1.
        lr: learning rate of its last step.
        train_loss, train_accuracy: means over the epoch's augmented images, each taken before the step it led to.
        test_accuracy: on the test images after the epoch, in the recipe's own precision; None without test images.
        images_per_second: training alone, without the test.
        seconds: training and test.
        busy: share of the training time spent in forward and backward passes and steps, an adversary's included; the
            rest is waiting for batches and measuring.
        held_out_accuracy: on the held-out images; None without.
        robust_accuracy: on the held-out images under the recipe's check; None without.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    test_accuracy: float | None
    images_per_second: float
    seconds: float
    busy: float | None = None
    held_out_accuracy: float | None = None
    robust_accuracy: float | None = None


def save_checkpoint(
    path: Path, request: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], history: list[EpochRecord]
) -> None:
    """Write the run's tensors, with its request and its history in the file's header.

    Raises:
        OSError: the file could not be written; the one before is still there.
    """
    metadata = {
        "request": json.dumps(request, sort_keys=True),
        "history": json.dumps([asdict(record) for record in history]),
    }
    write_atomically(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))


def load_checkpoint(path: Path, request: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], list[EpochRecord]]:
    """Read what :func:`save_checkpoint` wrote for the same request.

    Raises:
        ValueError: the file is damaged, or belongs to another request; the message says what differs.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable checkpoint: {error}") from None
    if "request" not in metadata or "history" not in metadata:
        raise ValueError(f"{path} is no checkpoint of a training run")
    _require_same(path, json.loads(metadata["request"]), json.loads(json.dumps(request)))
    return tensors, [EpochRecord(**record) for record in json.loads(metadata["history"])]


def _require_same(path: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    differing = sorted(key for key in stored.keys() | asked.keys() if stored.get(key) != asked.get(key))
    if differing:
        key = differing[0]
        raise ValueError(
            f"{path} belongs to another run: its {key} is {stored.get(key)}, asked for {asked.get(key)}; "
            "nothing was overwritten, choose another folder"
        )
