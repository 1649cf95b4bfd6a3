"""Classifiers of torchvision and timm by name: ``torchvision:NAME`` and ``timm:NAME``.

Both packages belong to the extra ``vision``. Nothing is downloaded: a network has random weights, a function of its
name alone.
"""

import difflib
import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from saplab.models.initialise import untouched_generator
from saplab.models.layers import Normalize

HUBS: Final = ("torchvision", "timm")
_SEED: Final = 0
_LISTED: Final = 3


@dataclass(frozen=True)
class View:
    """How a network wants its pictures cut."""

    size: int  # height and width of its input in pixels
    resize: int  # length of a picture's shorter side before its middle is cut out
    interpolation: str  # ``bilinear`` or ``bicubic``


class Classifier(Normalize):
    """A network behind the normalisation that it was trained with; files of weights belong to `network` itself."""

    def __init__(self, network: nn.Module, view: View, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(mean, std)
        self.view = view
        self.network = network

    def forward(self, images: Tensor) -> Any:
        """Return the logits (N, classes) of images (N, C, H, W) in [0, 1]."""
        return self.network(super().forward(images))


def build(spec: str) -> Classifier:
    """Build ``torchvision:NAME`` or ``timm:NAME`` with random weights, and with its normalisation as a layer.

    The number of classes is ImageNet's, or that of ``torchvision:resnet18?num_classes=10``.
    """
    hub, _, rest = spec.partition(":")
    found = re.fullmatch(r"([^?]+)(?:\?num_classes=([1-9][0-9]*))?", rest)
    if found is None:
        raise ValueError(f"`model` must be {hub}:NAME or {hub}:NAME?num_classes=10, got {spec!r}")
    options = {"num_classes": int(found[2])} if found[2] else {}
    make = _from_torchvision if hub == "torchvision" else _from_timm
    return make(found[1], options)


def _from_torchvision(name: str, options: dict[str, int]) -> Classifier:
    models = _package("torchvision").models
    _check_name("torchvision", name, models.list_models(module=models))
    look = models.get_model_weights(name).DEFAULT.transforms()
    network = _first_weights(lambda: models.get_model(name, weights=None, **options))
    view = View(look.crop_size[0], look.resize_size[0], look.interpolation.value)
    return Classifier(network, view, look.mean, look.std)


def _from_timm(name: str, options: dict[str, int]) -> Classifier:
    timm = _package("timm")
    _check_name("timm", name.partition(".")[0], timm.list_models())
    network = _first_weights(lambda: timm.create_model(name, pretrained=False, **options))
    look = importlib.import_module("timm.data").resolve_model_data_config(network)
    size = look["input_size"][-1]
    interpolation = "bilinear" if look["interpolation"] == "bilinear" else "bicubic"
    return Classifier(network, View(size, int(size / look["crop_pct"]), interpolation), look["mean"], look["std"])


def _first_weights(make: Any) -> nn.Module:
    """Build a network whose own initialisation draws the same each time, without touching the global generator."""
    with untouched_generator():
        torch.default_generator.manual_seed(_SEED)
        network: nn.Module = make()
    return network


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise ValueError(f"`model` needs {name}, which cannot be imported: {error}") from None
        raise ValueError(f"`model` needs {name}: pip install 'saplab[vision]'") from None
    except Exception as error:  # a build for another PyTorch fails in any way
        fault = f"is installed but cannot be imported beside PyTorch {torch.__version__}"
        raise ValueError(f"`model` needs {name}, which {fault}; install a build that fits: {error}") from None


def _check_name(hub: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        close = difflib.get_close_matches(name, names, n=_LISTED)
        hint = f" (did you mean {' or '.join(f'{hub}:{n}' for n in close)}?)" if close else ""
        raise ValueError(f"`model` {hub}:{name} is none of {hub}'s {len(names)} classifiers{hint}")
