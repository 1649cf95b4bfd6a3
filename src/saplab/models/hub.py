"""Classifiers of torchvision and timm by name: ``torchvision:NAME`` and ``timm:NAME``.

Both packages belong to the extra ``vision``. Nothing is downloaded: without a file of weights, a network has random
ones, a function of its name alone.
"""

import difflib
import importlib
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from saplab.models.initialise import untouched_generator
from saplab.models.layers import Normalize

HUBS: Final = ("torchvision", "timm")
_SEED: Final = 0
_LISTED: Final = 3
_SPEC: Final = re.compile(r"(?P<name>[^?]+)(?:\?num_classes=(?P<classes>[1-9][0-9]{0,5}))?(?:[?&]weights=(?P<of>\w+))?")
_OLD_DENSENET: Final = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


@dataclass(frozen=True)
class View:
    """How a network wants its pictures cut.

    Attributes:
        size: height and width of its input in pixels.
        resize: length, before the middle is cut out, of a picture's shorter side; of both for the mode ``squash``, of
            the longer for ``border``.
        interpolation: ``bilinear`` or ``bicubic``.
        mode: ``center``; ``squash``, which does not keep the shape; or ``border``, which cuts nothing off.
        fill: colour of a border, red, green and blue in 0..255.
        note: whose preprocessing this is, where that is a guess.
    """

    size: int
    resize: int
    interpolation: str
    mode: str = "center"
    fill: tuple[int, ...] = (0, 0, 0)
    note: str = ""


class Classifier(Normalize):
    """A network behind the normalisation that it was trained with; files of weights belong to `network` itself.

    Attributes:
        view: how pictures are cut; None where the network's input is not square.
        classes: names of its classes, alternatives joined by ", "; empty where they are not known.
    """

    def __init__(
        self, network: nn.Module, view: View | None, mean: Sequence[float], std: Sequence[float],
        classes: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__(mean, std)
        self.view = view
        self.classes = list(classes)
        self.network = network

    def forward(self, images: Tensor) -> Any:
        """Return the logits (N, classes) of images (N, C, H, W) in [0, 1]."""
        return self.network(super().forward(images))


def build(spec: str, file: str = "", names: Sequence[str] = ()) -> Classifier:
    """Build ``torchvision:NAME`` or ``timm:NAME`` with random weights, and with its normalisation as a layer.

    The number of classes is ImageNet's, or that of ``torchvision:resnet18?num_classes=10``. Preprocessing is that of
    the standard weights, of those that an official file's name tells, or of ``torchvision:resnet50?weights=NAME``.

    Args:
        spec: the name.
        file: name of the file of weights that will be loaded.
        names: of the tensors in it.
    """
    hub, _, rest = spec.partition(":")
    found = _SPEC.fullmatch(rest)
    if found is None:
        raise ValueError(f"`model` must be {hub}:NAME or {hub}:NAME?num_classes=10, got {spec!r}")
    options = {"num_classes": int(found["classes"])} if found["classes"] else {}
    if hub == "torchvision":
        return _from_torchvision(found["name"], options, found["of"] or "", Path(file).name, names)
    if found["of"]:
        raise ValueError(
            f"`model` of timm names its weights in timm's own way, such as timm:resnet50.a1_in1k, got {spec!r}"
        )
    return _from_timm(found["name"], options)


def reader(spec: str, network: nn.Module) -> Callable[[Mapping[str, Any]], Mapping[str, Any] | None]:
    """Return a function that gives tensors in a file the names that the library itself gives them, None for failure."""
    hub, _, rest = spec.partition(":")
    if hub == "torchvision":
        return lambda tensors: {_OLD_DENSENET.sub(r"\1\2.", name): value for name, value in tensors.items()}
    return lambda tensors: _as_timm_reads(rest.partition("?")[0], getattr(network, "num_classes", None), tensors)


def _from_torchvision(
    name: str, options: dict[str, Any], of: str, file: str, names: Sequence[str]
) -> Classifier:  # fmt: skip
    models = _package("torchvision").models
    _check_name("torchvision", name, models.list_models(module=models))
    weights, note = _torchvision_weights(name, models.get_model_weights(name), of, file)
    look = weights.transforms()
    options |= _like_pretrained(models.get_model_builder(name), weights, file, names)
    network = _first_weights(lambda: models.get_model(name, weights=None, **options))
    view = View(look.crop_size[0], look.resize_size[0], look.interpolation.value, note=note)
    classes = weights.meta["categories"]
    own = len(classes) == options.get("num_classes", len(classes))
    return Classifier(network, view, look.mean, look.std, _with_synsets(classes) if own else ())


def _torchvision_weights(name: str, every: Any, of: str, file: str) -> tuple[Any, str]:
    """Return the weights whose preprocessing is meant, and what to say where a choice had to be guessed."""
    if of:
        if of not in every.__members__:
            known = ", ".join(one.name for one in every)
            raise ValueError(f"`model` torchvision:{name} has weights {known}, got {of!r}")
        return every[of], ""
    for weights in every:
        if file and Path(urlparse(weights.url).path).name == file:
            return weights, ""
    usual = every.DEFAULT
    others = [one.name for one in every if repr(one.transforms()) != repr(usual.transforms())]
    if not file or not others:
        return usual, ""
    hint = " or ".join(f"torchvision:{name}?weights={other}" for other in others)
    return usual, f"pictures are cut and normalised as for torchvision's {usual.name}; otherwise name {hint}"


def _like_pretrained(builder: Any, weights: Any, file: str, names: Sequence[str]) -> dict[str, Any]:
    """Return those options that torchvision's builder sets itself where it is given weights."""
    kind = inspect.signature(builder).return_annotation
    known = inspect.signature(kind).parameters if isinstance(kind, type) else {}
    options: dict[str, Any] = {}
    if "transform_input" in known:  # from the normalisation of the weights to the one that they were trained with
        options["transform_input"] = True
    if "image_size" in known:
        options["image_size"] = weights.meta["min_size"][0]
    if "init_weights" in known and known["init_weights"].default is None:
        options["init_weights"] = not file
    if "aux_logits" in known and file:  # official files hold the auxiliary classifiers; networks saved again do not
        options["aux_logits"] = any("aux" in name.lower() for name in names)
    return options


def _from_timm(name: str, options: dict[str, Any]) -> Classifier:
    timm = _package("timm")
    _check_name("timm", name.partition(".")[0], timm.list_models())
    try:
        network = _first_weights(lambda: timm.create_model(name, pretrained=False, **options))
    except (RuntimeError, ValueError) as error:  # an unknown tag
        raise ValueError(f"`model` timm:{name} cannot be made: {' '.join(str(error).split())}") from None
    data = importlib.import_module("timm.data")
    look = data.resolve_data_config(model=network, use_test_size=True)
    _, height, width = look["input_size"]
    interpolation = "bilinear" if look["interpolation"] == "bilinear" else "bicubic"
    fill = tuple(round(255 * value) for value in look["mean"]) if look["crop_mode"] == "border" else (0, 0, 0)
    view = View(height, math.floor(height / look["crop_pct"]), interpolation, look["crop_mode"], fill)
    classes = _imagenet_names() if getattr(network, "num_classes", 0) == 1000 else ()
    return Classifier(network, view if height == width else None, look["mean"], look["std"], classes)


def _as_timm_reads(name: str, classes: int | None, tensors: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what timm makes of a file's tensors: it has a filter of names and shapes for most networks."""
    overlay = {"state_dict": dict(tensors), "num_classes": classes}
    try:
        make = lambda: _package("timm").create_model(  # noqa: E731 - called under a generator of its own
            name, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay
        )
        return dict(_first_weights(make).state_dict())
    except Exception:  # a filter that meets names that are not its own can raise anything
        return None


def _with_synsets(classes: Sequence[str]) -> list[str]:
    """Return ImageNet's names, with those of the folders in its archives where timm tells them."""
    names = _imagenet_names() if len(classes) == 1000 else ()
    return [f"{name}, {more}" for name, more in zip(classes, names, strict=True)] if names else list(classes)


def _imagenet_names() -> Sequence[str]:
    try:
        info = importlib.import_module("timm.data").ImageNetInfo("imagenet-1k")
    except Exception:  # not installed, or a build for another PyTorch
        return ()
    return [f"{info.index_to_description(k)}, {name}" for k, name in enumerate(info.label_names())]


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
