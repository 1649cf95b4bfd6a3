"""Files of weights as people have them: what they hold by name, in whatever wrappers. No code in a file is ever run."""

import argparse
import errno
import io
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from saplab.models.packaged import Packaged, require_checksum

PICKLED: Final = (".pt", ".pth", ".th", ".ckpt", ".bin", ".tar")
_DEEPEST: Final = 4  # wrappers around a state_dict
_USUAL: Final = ("", "state_dict", "model_state_dict", "model", "net", "network", "weights")
_AVERAGED: Final = re.compile(r"(^|[._])ema([._]|$)")
_PART: Final = re.compile(r"-\d+-of-\d+\.\w+$|\.index\.json$")
_COUNTERS: Final = ("num_batches_tracked", "total_ops", "total_params", "n_averaged")


@dataclass(frozen=True)
class State:
    """Tensors by name, as a file holds them.

    Attributes:
        where: what lies around them in the file, such as ``state_dict`` or ``models[0]``; "" for nothing.
        tensors: by name; also whatever else lies beside them.
    """

    where: str
    tensors: Mapping[str, Any]


def rank_of(where: str, prefix: str = "") -> int:
    """Return which weights of a file are meant before others: averaged ones, as timm has it, then usual wrappers."""
    return 0 if _AVERAGED.search(f"{where}.{prefix}") else 1 if where in _USUAL else 2


def is_counter(name: str) -> bool:
    """Return whether a tensor only counts, passes or operations, and decides no output in evaluation mode."""
    return name.rpartition(".")[2] in _COUNTERS


def read_states(path: str | Path) -> list[State]:
    """Read every state_dict in a file of weights, in the order of their ranks.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, of another kind, one of several parts, or not what a checksum beside it says.
    """
    path = Path(path)
    content = checked_bytes(path)
    found = sorted(_states(_decoded(path, content)), key=lambda state: rank_of(state.where))
    if not found:
        raise ValueError(f"{path} must hold a state_dict, and it holds no tensors by name")
    return found


def checked_bytes(path: Path) -> bytes:
    """Read a file of weights; ValueError if it is another one than the file of facts beside it says."""
    if _PART.search(path.name):
        raise ValueError(f"{path} is one part of weights in several files; save them as one file first")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: expected a file of weights")
    content = path.read_bytes()
    if facts := facts_beside(path):
        beside = path.with_suffix(".json").name
        require_checksum(content, facts.sha256, f"{path} is damaged or another file than {beside} says")
    return content


def facts_beside(path: Path) -> Packaged | None:
    """Read the file of facts beside weights; None for no file, or somebody else's."""
    beside = path.with_suffix(".json")
    try:
        if beside.exists() and not beside.is_file():  # a pipe would be waited for
            raise OSError(errno.EINVAL, "it is no file")
        content = beside.read_bytes()
        others = json.loads(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise ValueError(f"{beside} may hold the checksum of the weights and cannot be read: {reason}") from None
    own = {"sha256", "architecture", "measured"}
    if not isinstance(others, dict) or ("sha256" not in others and len(own & others.keys()) < 2):
        return None
    try:
        return Packaged.from_json(content)
    except ValueError as error:
        raise ValueError(f"{beside} should hold the checksum of the weights and is damaged: {error}") from None


def _decoded(path: Path, content: bytes) -> Any:
    if path.suffix == ".safetensors":
        try:
            return load(content)
        except (SafetensorError, KeyError) as error:  # KeyError: a type that PyTorch does not have
            raise ValueError(f"{path} is no readable safetensors file: {error}") from None
    if path.suffix not in PICKLED:
        raise ValueError(f"`weights` must end in .safetensors, {', '.join(PICKLED)}, got {path}")
    try:
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch about its own reader, for quantised tensors
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or refused pickle can raise nearly anything
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{path} cannot be read with weights_only=True: {reason}") from None


def _harmless() -> list[Any]:
    """Return what training scripts save beside weights: their arguments, and accuracies as NumPy's numbers."""
    scalar: Any = np.float64(0).__reduce__()[0]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    kinds = (np.float64, np.float32, np.float16, np.int64, np.int32, np.bool_)
    return [argparse.Namespace, np.dtype, *names, *(type(np.dtype(kind)) for kind in kinds)]


def _states(content: Any, where: str = "", depth: int = 0) -> Iterator[State]:
    """Yield the mappings of names to tensors in what a file holds."""
    if depth > _DEEPEST:
        return
    if isinstance(content, Mapping):
        if any(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
            yield State(where, content)
        for name, value in content.items():
            if isinstance(name, str):
                yield from _states(value, f"{where}.{name}" if where else name, depth + 1)
    elif isinstance(content, Sequence) and not isinstance(content, str | bytes):
        for k, value in enumerate(content):
            yield from _states(value, f"{where}[{k}]", depth + 1)
