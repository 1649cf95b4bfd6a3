"""How a network is trained, as data.

Presets: ``paper`` is as published in the recipe's source; ``small`` is saplab's own, for two CPU cores; ``smoke`` takes
seconds and only shows that the parts work together. Sources:

- ``dense``, ``dropout``, ``adversarial``: Dhillon et al. 2018, sections 4.1, 4.1.2 and 4.1.3;
- ``fast``: Wong, Rice & Kolter 2020, "Fast is better than free";
- ``pgd``: Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks";
- ``trades``: Zhang et al. 2019, as their published code runs it, in whole pixel steps;
- ``gaussian``: Cohen, Rosenfeld & Kolter 2019; ``bat``: Pinot et al. 2020, the second network of a pair;
- ``lwta``, ``pni``, ``rna``, ``rpf``, ``rse``, ``wca``: the files of `saplab.models.published`.
"""

from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Final, Self

import torch

from saplab.defenses import Defense, Dropout
from saplab.system.counts import check_count
from saplab.system.precision import PrecisionChoice, resolve_precision
from saplab.system.words import did_you_mean
from saplab.training.objectives import (
    Aligned,
    CrossEntropy,
    Halves,
    Noisy,
    Objective,
    PreviousEpoch,
    Projected,
    Trades,
    Transferred,
)
from saplab.training.schedules import Steps, WarmupLinear


@dataclass(frozen=True)
class Recipe:
    """Everything about a training run but its data, seed and machine.

    Attributes:
        batch: images in a step; the incomplete last batch of an epoch is left out.
        schedule: the learning rate.
        momentum, nesterov, weight_decay: of stochastic gradient descent; the decay acts on every parameter.
        pad: pixels of zero padding on each side, before a random crop to the image's own size.
        flip: mirror every second image, on average.
        precision: of the network's arithmetic; the weights themselves are always float32. ``auto`` is bfloat16 where
            the device has instructions for it, float32 elsewhere.
        images: use only the first N training images; None for all.
        defenses: on during training, with fresh draws in every pass.
        held_out: number of training images, chosen at random by a fixed rule, that are not trained on; the accuracy on
            them is part of the history.
        check: the attack under which the accuracy on the held-out images is measured after each epoch.
    """

    name: str
    preset: str
    epochs: int
    batch: int
    schedule: Steps | WarmupLinear
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    network: str = "preact-resnet20"
    pad: int = 4
    flip: bool = True
    precision: PrecisionChoice = "float32"
    images: int | None = None
    objective: Objective = field(default_factory=CrossEntropy)
    defenses: tuple[Defense, ...] = ()
    held_out: int = 0
    check: Projected | None = None

    def __post_init__(self) -> None:
        check_count("batch", self.batch)
        least = self.schedule.least_epochs()
        if self.epochs < least:
            raise ValueError(f"`epochs` must be >= {least} for this learning rate, got {self.epochs}")
        check_count("epochs", self.epochs)
        if self.held_out < 0:
            raise ValueError(f"`held_out` must be >= 0, got {self.held_out}")
        if self.check is not None and not self.held_out:
            raise ValueError("`held_out` must be >= 1 for a check, got 0")

    def on(self, device: str | torch.device) -> Self:
        """Return the recipe with the precision that it has on a device."""
        return replace(self, precision=resolve_precision(self.precision, device))

    def described(self) -> dict[str, Any]:
        """Return the recipe in JSON's own types.

        Fields that early versions did not have are left out where they have their default, so that a run begun by an
        early version is found again.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {n: _plain(value) for n, value in values.items() if n not in _LATER or value != _LATER[n]}


_LATER: Final[dict[str, Any]] = {"objective": CrossEntropy(), "defenses": (), "held_out": 0, "check": None}


def _plain(value: Any) -> Any:
    """Return a field in JSON's own types, with the class of a dataclass as its kind."""
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Defense) and not type(value).__module__.startswith("saplab."):
        return Defense.registry.encode(value)  # with a digest of the user's source
    return {"kind": type(value).__name__, **asdict(value)} if is_dataclass(value) else value  # type: ignore[arg-type]


SMOOTHING_STDS = (0.12, 0.25)  # of Gaussian augmentation, two of those of Cohen et al. 2019
FIG_2_RATES = (0.05, 0.1, 0.2, 0.3)  # the figure's legend has its own; the paper's text names none

_DENSE = Recipe("dense", "paper", epochs=150, batch=512, schedule=Steps(((0.5, 100), (0.05, 30), (0.005, 20))))
_DROPOUT = replace(
    _DENSE, name="dropout", epochs=250, defenses=(Dropout(0.1),),
    schedule=Steps(((0.5, 100), (0.05, 50), (0.005, 40), (0.0005, 30), (0.00005, 30))),
)  # fmt: skip
_ADVERSARIAL = replace(
    _DENSE, name="adversarial", epochs=100, objective=PreviousEpoch(share=0.2, lam=2),
    schedule=Steps(tuple((0.5 / 2**k, 10) for k in range(10))),
)  # fmt: skip
_ONE_STEP, _FIRST = Projected(lam=8, step=10, steps=1), "preact-resnet20-fast"
_FAST = Recipe(
    "fast", "paper", epochs=15, batch=128, schedule=WarmupLinear(peak=0.2, warmup=6), weight_decay=5e-4,
    objective=_ONE_STEP, held_out=500, check=Projected(lam=8, step=2, steps=10),
)  # fmt: skip
_PGD = replace(
    _FAST, name="pgd", epochs=205, weight_decay=2e-4, objective=Projected(lam=8, step=2, steps=7),
    schedule=Steps(((0.1, 102), (0.01, 52), (0.001, 51))),  # 40, 20 and 20 thousand steps
)  # fmt: skip
_TRADES = replace(
    _PGD, name="trades", epochs=76, objective=Trades(lam=8, step=2, steps=10, beta=6),
    schedule=Steps(((0.1, 74), (0.01, 2))),
)  # fmt: skip
_THIRDS = Steps(((0.1, 100), (0.01, 50), (0.001, 50)))
_RNA = replace(
    _PGD, name="rna", epochs=200, weight_decay=5e-4, network="rna-resnet20", schedule=_THIRDS,
    objective=Projected(lam=8, step=2, steps=10),
)  # fmt: skip
_RPF = replace(_RNA, name="rpf", network="rpf-resnet20")
_PNI = replace(
    _RNA, name="pni", epochs=160, weight_decay=3e-4, network="pni-resnet20",
    schedule=Steps(((0.1, 80), (0.01, 40), (0.001, 40))), objective=Halves(Projected(lam=8, step=2.55, steps=7)),
)  # fmt: skip
_LWTA = replace(
    _RNA, name="lwta", epochs=84, weight_decay=2e-4, network="lwta-resnet20",
    schedule=Steps(((0.1, 74), *((0.1 / 2**k, 1) for k in range(1, 11)))),
)  # fmt: skip
_BAT = replace(_PGD, name="bat", objective=Transferred(_FIRST, Projected(lam=8, step=2, steps=7)))
_GAUSSIAN = Recipe(
    "gaussian", "paper", epochs=90, batch=256, schedule=Steps(((0.1, 30), (0.01, 30), (0.001, 30))),
    objective=Noisy(0.25),
)  # fmt: skip
_RSE = Recipe(
    "rse", "paper", epochs=200, batch=128, weight_decay=5e-4, network="rse-resnet20",
    schedule=Steps(((0.1, 80), (0.01, 60), (0.001, 40), (0.0001, 20))),
)  # fmt: skip
_WCA = Recipe(  # 600 epochs by Adam there; the noise grows until rates of 0.2 diverge
    "wca", "paper", epochs=600, batch=128, schedule=Steps(((0.03, 300), (0.003, 200), (0.0003, 100))),
    network="wca-resnet20", objective=Aligned(),
)  # fmt: skip


def _small(recipe: Recipe, epochs: int, **changes: Any) -> Recipe:
    """Shorten a recipe for two cores: batch, schedule, precision and decay as in dense's, unless told otherwise."""
    own: dict[str, Any] = {"nesterov": True, "weight_decay": 5e-4, "batch": 256, "schedule": WarmupLinear(0.2, 5)}
    return replace(recipe, preset="small", epochs=epochs, precision="auto", **(own | changes))


_ROBUST: dict[str, Any] = {"batch": 128, "weight_decay": 2e-4}  # a network this small underfits adversarial images
_PUBLISHED: dict[str, Any] = {"schedule": WarmupLinear(0.2, 8), **_ROBUST}
_SMALL = (
    _small(_DENSE, 45),
    _small(_DROPOUT, 24),
    _small(_ADVERSARIAL, 30, held_out=500, check=Projected(lam=4, step=4, steps=1, start=False)),
    _small(_FAST, 30, schedule=WarmupLinear(0.2, 10), **_ROBUST),
    _small(_PGD, 15, schedule=WarmupLinear(0.2, 5), **_ROBUST),
    _small(_TRADES, 15, schedule=WarmupLinear(0.2, 5), **_ROBUST),
    _small(_GAUSSIAN, 30),
    _small(_RSE, 30, weight_decay=2e-4),
    _small(_WCA, 30, schedule=WarmupLinear(0.03, 5)),
    *(_small(recipe, 24, objective=_ONE_STEP, **_PUBLISHED) for recipe in (_LWTA, _RNA, _RPF)),
    _small(_PNI, 24, objective=Halves(_ONE_STEP), **_PUBLISHED),
    _small(_BAT, 24, objective=Transferred(_FIRST, Projected(lam=8, step=4, steps=3)), **_PUBLISHED),
)


def _smoke(recipe: Recipe) -> Recipe:
    schedule = WarmupLinear(peak=0.05, warmup=1)
    held_out = 64 if recipe.held_out else 0
    return replace(recipe, preset="smoke", epochs=2, batch=64, schedule=schedule, images=512, held_out=held_out)


_PAPER = (
    _DENSE, _DROPOUT, _ADVERSARIAL, _FAST, _PGD, _TRADES, _GAUSSIAN, _RSE, _WCA, _LWTA, _RNA, _RPF, _PNI, _BAT,
)  # fmt: skip
RECIPES = {(recipe.name, recipe.preset): recipe for recipe in (*_PAPER, *_SMALL, *map(_smoke, _SMALL))}


def find_recipe(name: str, preset: str) -> Recipe:
    """Return the recipe with a name and preset; ValueError lists what there is, where there is none."""
    if (name, preset) in RECIPES:
        return RECIPES[name, preset]
    names = sorted({known for known, _ in RECIPES})
    if name not in names:
        raise ValueError(f"`recipe` must be one of {', '.join(names)}, got {name!r}{did_you_mean(name, names)}")
    presets = sorted(known for other, known in RECIPES if other == name)
    raise ValueError(f"`preset` must be one of {', '.join(presets)} for recipe {name!r}, got {preset!r}")
