"""Networks and data as they travel to other processes and machines."""

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

from saplab.data.dataset import Dataset
from saplab.runs.local import Inputs
from saplab.studies.cell import NUMERICS

Dumps = Callable[[Any], bytes]


@dataclass(frozen=True)
class Parcel:
    """What `Inputs` hold, ready to be sent.

    Args:
        networks: uint8, pickled, on the CPU; the pickle never leaves the run's own processes.
        arrays: images, labels and indices of the data set.
        name, classes: of the data set.
        numerics: of the sender; another version of saplab would compute other numbers.
        digest: tells one parcel from another.
    """

    networks: NDArray[np.uint8]
    arrays: Mapping[str, NDArray[Any]]
    name: str
    classes: tuple[str, ...]
    numerics: int
    digest: str


def pack(inputs: Inputs, dumps: Dumps = pickle.dumps) -> Parcel:
    """Make the parcel of `inputs`.

    Args:
        inputs: what to send.
        dumps: the pickler; Ray's own also sends code that the other side lacks.

    Raises:
        ValueError: if a network cannot be pickled.
    """
    data = inputs.data
    try:
        networks = dumps({name: _on_cpu(model) for name, model in inputs.models.items()})
    except Exception as error:  # whatever the network's own classes raise
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"the network cannot be sent to other processes, compute in process: {reason}") from error
    arrays = {name: getattr(data, name).numpy() for name in ("images", "labels", "indices")}
    digest = hashlib.sha256(networks + data.digest().encode()).hexdigest()
    return Parcel(np.frombuffer(networks, np.uint8), arrays, data.name, data.classes, NUMERICS, digest)


def unpack(parcel: Parcel, device: str) -> Inputs:
    """Give the inputs of a parcel, on `device`.

    Modules of the working folder are found, as they were where the networks were loaded.

    Raises:
        ValueError: if the parcel was made by a saplab whose numbers are others.
        Exception: whatever loading the networks raises, such as ImportError.
    """
    if parcel.numerics != NUMERICS:
        raise ValueError(f"the worker's saplab computes with numerics {NUMERICS}, the driver's with {parcel.numerics}")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    models = {name: model.to(device) for name, model in pickle.loads(parcel.networks.data).items()}
    tensors = {name: _tensor(array) for name, array in parcel.arrays.items()}
    return Inputs(models, Dataset(parcel.name, classes=parcel.classes, **tensors), device)


def _on_cpu(model: nn.Module) -> nn.Module:
    places = {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}
    return model if places <= {"cpu"} else copy.deepcopy(model).cpu()


def _tensor(array: NDArray[Any]) -> Tensor:
    """Share an array's memory, which may be read-only: nothing writes into a data set."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)
