"""Networks by name, weights from files, and a digest of weights."""

import difflib
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import nn

from saplab.models import hub
from saplab.models.packaged import Packaged, packaged_bytes, read_packaged, require_checksum
from saplab.models.preact_resnet import preact_resnet20
from saplab.models.resnet import resnet20
from saplab.system.digest import tensors_digest
from saplab.system.registry import import_object
from saplab.system.source import source_digest

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {"preact-resnet20": preact_resnet20, "resnet20": resnet20}
PACKAGED: dict[str, Packaged] = read_packaged()
SPEC: Final = "saplab_spec"  # attribute of a loaded network: the name that it was loaded by
_NESTED = ("state_dict", "model")
_PLAIN: Final = str | int | float | tuple | None  # attributes whose text tells their value
_LISTED = 3


def load_model(spec: str, weights: str | Path | None = None) -> nn.Module:
    """Load a network in evaluation mode; it maps images (N, C, H, W) in [0, 1] to logits.

    Args:
        spec: one of

            - a network of the package (``preact-resnet20-dense``), with its weights or a copy of their file;
            - an architecture (``preact-resnet20``, ``resnet20``) for `weights`, which also set the number of classes;
            - ``package.module:factory``, a function without arguments that returns an `nn.Module`; modules of the
              working folder are found too;
            - ``torchvision:NAME`` or ``timm:NAME``, whose weights are random without `weights`.
        weights: a ``.safetensors`` file, or ``.pt``, ``.pth`` or ``.th`` read with ``weights_only=True``: a state_dict,
            or one under ``state_dict`` or ``model``; a ``module.`` prefix is stripped. The checksum in a ``.json`` file
            of the same name beside it, as ``saplab train`` writes one, must match.

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
    model: nn.Module
    if spec.partition(":")[0] in hub.HUBS:
        model = hub.build(spec)
        trained = model.network
    elif ":" in spec:
        model = trained = _call_factory(spec)
    else:
        raise ValueError(_unknown_name(spec))
    if weights is not None:
        put_weights(trained, read_weights(weights), str(weights))
    return model.eval()


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a state_dict from a file; formats and errors as in `load_model`."""
    path = _existing(path)
    _check_beside(path)
    if path.suffix == ".safetensors":
        try:
            return _state_dict(path, load_file(path))
        except SafetensorError as error:
            raise ValueError(f"{path} is no readable safetensors file: {error}") from None
    if path.suffix not in (".pt", ".pth", ".th"):
        raise ValueError(f"`weights` must end in .safetensors, .pt, .pth or .th, got {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or refused pickle can raise nearly anything
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{path} cannot be read with weights_only=True: {reason}") from None
    return _state_dict(path, content)


def put_weights(model: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Copy a state_dict into a network, completely or not at all.

    Batch-norm's ``num_batches_tracked`` may be missing, as in checkpoints older than PyTorch 0.4.1: it only counts
    training steps. The message of an error begins with `source`.
    """
    own = model.state_dict()
    state = {**{name: t for name, t in own.items() if name.endswith("num_batches_tracked")}, **state}
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        parts = (("lacks", missing), ("has unexpected", unexpected))
        raise ValueError(f"{source} " + " and ".join(f"{verb} {_some(names)}" for verb, names in parts if names))
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise ValueError(f"{source}: {name} must have shape {tuple(own[name].shape)}, got {tuple(tensor.shape)}")
        if not tensor.isfinite().all():
            raise ValueError(f"{source}: {name} must be finite, got NaN or infinity")
    model.load_state_dict(state)


def weights_digest(module: nn.Module) -> str:
    """Return the SHA-256, in hexadecimal, of every parameter and buffer: name, type, shape and bits."""
    return tensors_digest({**dict(module.named_parameters()), **dict(module.named_buffers())})


def network_digest(model: nn.Module) -> str:
    """Return the SHA-256, in hexadecimal, of all that decides a network's numbers.

    That is its weights, the classes and plain attributes of its modules, and the source of those of the user's.
    """
    parts = [weights_digest(model)]
    for name, module in model.named_modules():
        kind = type(module)
        source = "" if kind.__module__.startswith("torch.") else source_digest(kind)
        plain = {key: value for key, value in vars(module).items() if key[:1] != "_" and key != SPEC}
        own = sorted((key, repr(value)) for key, value in plain.items() if isinstance(value, _PLAIN))
        parts.append(f"{name} {kind.__module__}.{kind.__qualname__} {source} {module.extra_repr()} {own}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _load_packaged(name: str, weights: str | Path | None) -> nn.Module:
    architecture = PACKAGED[name].architecture
    if weights is None:
        content = packaged_bytes(name, PACKAGED)
    else:
        content = _existing(weights).read_bytes()
        fault = f"{weights} does not hold the weights of {name} (for other weights name {architecture!r})"
        require_checksum(content, PACKAGED[name].sha256, fault)
    model = ARCHITECTURES[architecture]()
    put_weights(model, load(content), name)
    return _ready(model)


def _load_architecture(name: str, weights: str | Path | None) -> nn.Module:
    """Load weights into an architecture with their number of classes."""
    if weights is None:
        raise ValueError(f"`weights` must name a file for the architecture {name!r}, got None")
    state = read_weights(weights)
    classes = state["linear.bias"].numel() if "linear.bias" in state else 10
    model = ARCHITECTURES[name](classes=max(classes, 1))
    put_weights(model, state, str(weights))
    return _ready(model)


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


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing: expected a file of weights")
    return Path(path)


def _check_beside(path: Path) -> None:
    """Compare a file of weights with the checksum in the file of facts beside it, if there is one."""
    beside = path.with_suffix(".json")
    try:
        facts = Packaged.from_json(beside.read_bytes())
    except (FileNotFoundError, ValueError):  # none, or somebody else's file
        return
    require_checksum(path.read_bytes(), facts.sha256, f"{path} is damaged or another file than {beside.name} says")


def _state_dict(path: Path, content: Any) -> dict[str, torch.Tensor]:
    """Return the state_dict in a file's content, without a ``module.`` prefix."""
    for key in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} must hold a state_dict, got {type(content).__name__}")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{path} must hold a state_dict, got {type(tensor).__name__} at {name!r}")
    wrapped = all(name.startswith("module.") for name in content)
    return {name.removeprefix("module.") if wrapped else name: tensor for name, tensor in content.items()}


def _unknown_name(spec: str) -> str:
    names = [*PACKAGED, *ARCHITECTURES]
    close = difflib.get_close_matches(spec, names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    others = "torchvision:NAME, timm:NAME or package.module:factory"
    return f"`model` must be one of {', '.join(names)}, {others}, got {spec!r}{hint}"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_LISTED])
    return f"{shown} and {len(names) - _LISTED} more" if len(names) > _LISTED else shown
