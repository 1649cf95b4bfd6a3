"""Agents trained elsewhere: Stable-Baselines3's zips of DQN, and plain state_dicts of a NatureDQN network.

No code in a file is ever run: tensors are read with ``weights_only=True`` or from safetensors.
"""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from saplab.models.fitting import put_weights
from saplab.models.qnetwork import QNetwork, new_network
from saplab.models.weights_file import State, read_states

_MEMBER: Final = "policy.pth"
_ONLINE: Final = "q_net."  # beside Stable-Baselines3's target network, "q_net_target."
_LAYERS: Final = ("conv1", "conv2", "conv3", "hidden")


def read_agent(path: str | Path) -> QNetwork:
    """Read an agent's network, in eval mode; the tensors are recognised by their shapes, whatever their names.

    The file holds a state_dict, of which `read_states` takes the first, or is Stable-Baselines3's ``.zip``. The network
    must be appendix A's, on stacks ordered from old to new and divided by 255; ValueError if it is not.
    """
    path = Path(path)
    states = [State("", _zipped(path))] if path.suffix == ".zip" else read_states(path)
    renamed = _by_shape(_tensors(states[0]), str(path))
    network = new_network(len(renamed["head.bias"]), 0)
    put_weights(network, renamed, str(path))
    return network.eval()


def _by_shape(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return a state_dict's tensors by the names that `QNetwork` has for their shapes."""
    with torch.device("meta"):
        own = QNetwork(1).state_dict()
    weights = {layer: _only(state, tuple(own[f"{layer}.weight"].shape), source) for layer in _LAYERS}
    weights["head"] = _only(state, (None, 512), source)
    found: dict[str, Tensor] = {}
    for layer, name in weights.items():
        bias = name.removesuffix("weight") + "bias"
        if not name.endswith("weight") or bias not in state:
            raise ValueError(f"{source} has no bias beside {name}")
        found |= {f"{layer}.weight": state[name], f"{layer}.bias": state[bias]}
    return found


def _tensors(state: State) -> dict[str, Tensor]:
    return {name: value for name, value in state.tensors.items() if isinstance(value, Tensor)}


def _only(state: Mapping[str, Tensor], shape: tuple[int | None, ...], source: str) -> str:
    """Return the name of the one weight of a shape, in which None stands for any length."""
    names = [
        name for name, tensor in state.items()
        if tensor.ndim == len(shape) and all(b in (a, None) for a, b in zip(tensor.shape, shape, strict=True))
    ]  # fmt: skip
    if len(names) != 1:
        wanted = "×".join("actions" if length is None else str(length) for length in shape)
        found = f"several ({', '.join(names[:3])})" if names else "none"
        raise ValueError(f"{source} must hold one weight of shape {wanted}, as appendix A's network has, found {found}")
    return names[0]


def _zipped(path: Path) -> dict[str, Tensor]:
    """Read the network that learned, not its target, from a zip of Stable-Baselines3."""
    if not path.is_file():
        raise FileNotFoundError(2, "there is no such file of an agent", str(path))
    try:
        with zipfile.ZipFile(path) as archive:
            content = torch.load(io.BytesIO(archive.read(_MEMBER)), map_location="cpu", weights_only=True)
    except KeyError:
        raise ValueError(f"{path} is no zip of a Stable-Baselines3 agent: it holds no {_MEMBER}") from None
    except Exception as error:  # a damaged zip or a refused pickle can raise nearly anything
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{path} cannot be read with weights_only=True: {reason}") from None
    own = {name: t for name, t in content.items() if name.startswith(_ONLINE)} if isinstance(content, dict) else {}
    if not own:
        raise ValueError(f"{path} is no zip of a Stable-Baselines3 DQN agent: no tensor's name begins with {_ONLINE}")
    return own
