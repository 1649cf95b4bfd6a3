"""Networks by name, weights from files."""

import difflib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load
from torch import nn

from saplab.models import hub, published
from saplab.models.fitting import fit, put_weights
from saplab.models.identity import NAMES, SPEC, TAKEN
from saplab.models.packaged import Packaged, packaged_bytes, read_packaged, require_checksum
from saplab.models.preact_resnet import preact_resnet20
from saplab.models.resnet import resnet20
from saplab.models.weights_file import State, checked_bytes, facts_beside, read_states
from saplab.system.registry import import_object

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "preact-resnet20": preact_resnet20,
    "resnet20": resnet20,
    **published.ARCHITECTURES,
}
PACKAGED: dict[str, Packaged] = read_packaged()
_LOG: Final = logging.getLogger("saplab")


def load_model(spec: str, weights: str | Path | None = None) -> nn.Module:
    """Load a network in evaluation mode; it maps images (N, C, H, W) in [0, 1] to logits.

    Args:
        spec: one of

            - a network of the package (``preact-resnet20-dense``), with its weights or a copy of their file;
            - an architecture (``preact-resnet20``, ``resnet20``) for `weights`, which also set the number of classes;
            - ``package.module:factory``, a function without arguments that returns an `nn.Module`; modules of the
              working folder are found too. In evaluation mode it stays as it is, with the layers that its author
              left in training mode;
            - ``torchvision:NAME`` or ``timm:NAME``, with random weights by default; see `saplab.models.hub`.
        weights: a ``.safetensors`` file, or ``.pt``, ``.pth``, ``.th``, ``.ckpt``, ``.bin`` or ``.tar`` read with
            ``weights_only=True``: a state_dict, in any wrapper and behind any prefix, such as ``state_dict`` and
            ``module.``; an exponential moving average comes before others. The network's attribute `TAKEN` says which
            was taken. The checksum in a ``.json`` file of the same name beside it, as ``saplab train`` writes one, must
            match.

    Raises:
        ValueError: the name is unknown, or the weights are damaged, have another checksum or belong to another network.
        FileNotFoundError: there is no such file.
    """
    model = _load(spec, weights)
    setattr(model, SPEC, spec)
    return model


def _load(spec: str, weights: str | Path | None) -> nn.Module:
    if spec in PACKAGED:
        return _load_packaged(spec, weights)
    if spec in ARCHITECTURES:
        return _load_architecture(spec, weights)
    states = read_states(weights) if weights is not None else []
    if spec.partition(":")[0] in hub.HUBS:
        return _load_from_hub(spec, states, weights)
    if ":" not in spec:
        raise ValueError(_unknown_name(spec))
    model = _call_factory(spec)
    if weights is not None:
        setattr(model, TAKEN, fit(model, states, str(weights)))
    if model.training:
        _LOG.warning(f"{spec} makes a network in training mode, which is put in evaluation mode; a factory that sets"
                     " that mode itself may leave single layers random")  # fmt: skip
        model.eval()
    return model


def _load_packaged(name: str, weights: str | Path | None) -> nn.Module:
    architecture = PACKAGED[name].architecture
    if weights is None:
        content = packaged_bytes(name, PACKAGED)
    else:
        content = checked_bytes(Path(weights))
        fault = f"{weights} does not hold the weights of {name} (for other weights name {architecture!r})"
        require_checksum(content, PACKAGED[name].sha256, fault)
    model = ARCHITECTURES[architecture]()
    put_weights(model, load(content), name)
    return _ready(model)


def _load_architecture(name: str, weights: str | Path | None) -> nn.Module:
    """Load weights into an architecture with their number of classes."""
    if weights is None:
        raise ValueError(f"`weights` must name a file for the architecture {name!r}, got None")
    states, facts = read_states(weights), facts_beside(Path(weights))
    if facts and facts.architecture != name:
        raise ValueError(f"{weights} holds weights of the architecture {facts.architecture!r}, not {name!r}")
    biases = [t for state in states for key, t in state.tensors.items() if f".{key}".endswith(".linear.bias")]
    classes = biases[0].numel() if biases and isinstance(biases[0], torch.Tensor) else 10
    model = ARCHITECTURES[name](classes=max(classes, 1))
    setattr(model, TAKEN, fit(model, states, str(weights)))
    if facts and facts.classes:
        setattr(model, NAMES, facts.classes)
    return _ready(model)


def _load_from_hub(spec: str, states: Sequence[State], weights: str | Path | None) -> nn.Module:
    names = [name for state in states for name in state.tensors]
    model = hub.build(spec, "" if weights is None else str(weights), names)
    if weights is not None:
        taken = fit(model.network, states, str(weights), hub.reader(spec, model.network))
        setattr(model, TAKEN, "; ".join(filter(None, (taken, model.view.note if model.view else ""))))
    return model.eval()


def _ready(model: nn.Module) -> nn.Module:
    """Set evaluation mode and the memory format in which convolutions on a CPU run fastest; maps follow the weights."""
    return model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _call_factory(spec: str) -> nn.Module:
    """Return what the user's ``package.module:factory`` makes; errors inside its code pass through."""
    module, _, name = spec.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise ValueError(f"`model` must be a network's name or package.module:factory, got {spec!r}")
    factory = import_object(spec)
    if not callable(factory):
        raise ValueError(f"`model` {spec!r} must name a function, got {type(factory).__name__}")
    model = factory()
    if not isinstance(model, nn.Module):
        raise ValueError(f"`model` {spec!r} must make an nn.Module, got {type(model).__name__}")
    return model


def _unknown_name(spec: str) -> str:
    names = [*PACKAGED, *ARCHITECTURES]
    close = difflib.get_close_matches(spec, names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    if not close and Path(f"{spec}.py").is_file():
        hint = f"; of the module {spec}, name the function that makes the network, as {spec}:FACTORY"
    others = "torchvision:NAME, timm:NAME or package.module:factory"
    return f"`model` must be one of {', '.join(names)}, {others}, got {spec!r}{hint}"
