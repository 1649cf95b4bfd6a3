"""Networks and what belongs to them, as they travel to other processes and machines."""

import copy
import hashlib
import pickle
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saplab.runs.engines.base import Workload

Dumps = Callable[[Any], bytes]


@dataclass(frozen=True)
class Parcel:
    """What a workload holds, ready to be sent.

    Args:
        kind: the workload's class.
        networks: uint8, pickled, on the CPU; the pickle never leaves the run's own processes.
        beside: what the workload sends beside them.
        numerics: of the sender; another version of saplab would compute other numbers.
        digest: tells one parcel from another.
    """

    kind: type[Workload]
    networks: NDArray[np.uint8]
    beside: Mapping[str, Any]
    numerics: int
    digest: str


def pack(inputs: Workload, dumps: Dumps = pickle.dumps) -> Parcel:
    """Make the parcel of `inputs`.

    Args:
        inputs: what to send.
        dumps: the pickler; Ray's own also sends code that the other side lacks.

    Raises:
        ValueError: if a network cannot be pickled.
    """
    try:
        networks = dumps({name: _on_cpu(model) for name, model in inputs.models.items()})
    except Exception as error:  # whatever the network's own classes raise
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"the network cannot be sent to other processes, compute in process: {reason}") from error
    beside = inputs.beside()
    digest = _digest(networks, beside)
    return Parcel(type(inputs), np.frombuffer(networks, np.uint8), beside, inputs.numerics, digest)


def unpack(parcel: Parcel, device: str) -> Workload:
    """Return the workload of a parcel, on `device`.

    Modules of the working folder are found, as they were where the networks were loaded.

    Raises:
        ValueError: if the parcel was made by a saplab whose numbers are others.
        Exception: whatever loading the networks raises, such as ImportError.
    """
    own = parcel.kind.numerics
    if parcel.numerics != own:
        raise ValueError(f"the worker's saplab computes with numerics {own}, the driver's with {parcel.numerics}")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    models = {name: model.to(device) for name, model in pickle.loads(parcel.networks.data).items()}
    return parcel.kind.unpacked(models, parcel.beside, device)


def shared(array: NDArray[Any]) -> Tensor:
    """Share an array's memory, which may be read-only: nothing writes into a data set."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


def _on_cpu(model: nn.Module) -> nn.Module:
    places = {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}
    return model if places <= {"cpu"} else copy.deepcopy(model).cpu()


def _digest(networks: bytes, beside: Mapping[str, Any]) -> str:
    """Hash what a parcel holds, without a copy of its arrays."""
    buffers: list[pickle.PickleBuffer] = []
    rest = pickle.dumps(beside, protocol=5, buffer_callback=buffers.append)
    total = hashlib.sha256(networks + rest)
    for buffer in buffers:
        total.update(buffer.raw())
    return total.hexdigest()
