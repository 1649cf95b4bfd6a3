"""Networks and what belongs to them, as they travel to other processes and machines, and what is computed there."""

import copy
import os
import pickle
import sys
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saplab.runs.engines.base import Trouble, Workload, trouble_of

Dumps = Callable[[Any], bytes]


@dataclass(frozen=True)
class Parcel:
    """What a workload holds, ready to be sent."""

    kind: type[Workload]
    networks: NDArray[np.uint8]  # pickled, on the CPU; the pickle never leaves the run's own processes
    beside: Mapping[str, Any]
    numerics: int  # of the sender
    name: str  # tells one parcel from another


def pickled(value: Any, dumps: Dumps = pickle.dumps) -> bytes:
    """Pickle networks or cells for other processes; Ray's own pickler also sends code that the other side lacks.

    Raises:
        ValueError: a network, a defence or an attack that cannot be pickled.
    """
    try:
        return dumps(value)
    except Exception as error:  # whatever the user's classes raise
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"this cannot be sent to other processes, compute in process: {reason}") from error


def pack(inputs: Workload, dumps: Dumps = pickle.dumps) -> Parcel:
    """Make the parcel of `inputs`; see `pickled`."""
    networks = pickled({name: _on_cpu(model) for name, model in inputs.models.items()}, dumps)
    return Parcel(type(inputs), np.frombuffer(networks, np.uint8), inputs.beside(), inputs.numerics, uuid.uuid4().hex)


def unpack(parcel: Parcel, device: str) -> Workload:
    """Return the workload of a parcel, on `device`; modules of the working folder are found after all others.

    Raises:
        Exception: whatever loading the networks raises; a ValueError for a parcel of other numerics.
    """
    own = parcel.kind.numerics
    if parcel.numerics != own:
        raise ValueError(f"the worker's saplab computes with numerics {own}, the driver's with {parcel.numerics}")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    models = {name: model.to(device) for name, model in pickle.loads(parcel.networks.data).items()}
    return parcel.kind.unpacked(models, parcel.beside, device)


def compute(group: bytes, inputs: Workload) -> Sequence[Any] | Trouble:
    """Compute a pickled group in a worker process; the parcel may have made classes of the user's known there.

    A process whose GPU an earlier group has left unusable ends, so that its engine starts another one.
    """
    if not _computes(inputs.device):
        os._exit(1)
    try:
        return inputs.compute(pickle.loads(group), lambda n: None)
    except Exception as error:  # whatever the user's classes raise
        return trouble_of(error)


def _computes(device: str) -> bool:
    """Return whether a device still answers: after some errors a process can use its GPU no more."""
    if not device.startswith("cuda"):
        return True
    try:
        return int(torch.ones(1, device=device).sum()) == 1
    except (RuntimeError, AssertionError):
        return False


def shared(array: NDArray[Any]) -> Tensor:
    """Share an array's memory, which may be read-only: nothing writes into a data set."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


def _on_cpu(model: nn.Module) -> nn.Module:
    places = {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}
    return model if places <= {"cpu"} else copy.deepcopy(model).cpu()
