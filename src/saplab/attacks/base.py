"""What every attack offers: perturbed images for one radius or a whole curve of them, facts about it, and its cost."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, Final, Literal, Self, cast

import torch
from torch import Tensor, nn

from saplab.attacks.flatness import Flatness
from saplab.attacks.gradient import Cost, MonteCarlo
from saplab.attacks.losses import loss_of
from saplab.attacks.norms import Bounds, NormName
from saplab.attacks.problem import Problem
from saplab.attacks.threat import ThreatModel
from saplab.data.given import Array
from saplab.system.registry import Named, Registry
from saplab.system.settings import unusual_settings
from saplab.system.words import meant

Knowledge = Literal["gradient", "scores", "nothing"]


@dataclass(frozen=True)
class Craft:
    """One attack's images, and what its gradient at the clean image was like.

    Attributes:
        attack: that made them.
        images: (N, C, H, W) for each radius, in order.
        half_cosine: (N,) cosine between the gradients of two halves of the samples; None where there is no such thing.
        gradient_norm: (N,) norm of the gradient; None likewise.
        flatness: which gradients were flat, known of a radius when its images have been made.
    """

    attack: "Attack"
    images: Iterator[Tensor]
    half_cosine: Tensor | None = None
    gradient_norm: Tensor | None = None
    flatness: Flatness | None = None


class Attack(Named, ABC):
    """An attack: derive a frozen dataclass of its settings and write `ascending` and `cost`.

    Attributes:
        knowledge: what it sees of the network: its ``gradient``, its ``scores`` or ``nothing``.
        title: what a sentence calls it; by default the name of the class.
        claim: what its attacker knows or does, in one sentence; by default that is told from the other facts.
    """

    registry: ClassVar[Registry["Attack"]] = Registry("attack")
    knowledge: ClassVar[Knowledge] = "gradient"
    title: ClassVar[str]
    claim: ClassVar[str] = ""

    def __new__(cls, *values: object, **settings: object) -> Self:
        """Make an attack; TypeError, with what to write instead, for what belongs elsewhere."""
        _refuse_misplaced(cls, values, settings)
        return super().__new__(cls)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.title = vars(cls).get("title", cls.__name__)

    def __call__(
        self, adversary: nn.Module, images: Array, labels: Array, eps: float, seed: int = 0, *,
        examples: Tensor | None = None, norm: NormName = "linf", bounds: Bounds = (0.0, 1.0),
        targets: Array | None = None,
    ) -> Tensor:  # fmt: skip
        """Return `images` (N, C, H, W) perturbed within `eps` and `bounds`; see `curve`."""
        return next(
            self.curve(
                adversary, images, labels, (eps,), seed, examples=examples, norm=norm, bounds=bounds, targets=targets
            )
        )

    def curve(
        self, adversary: nn.Module, images: Array, labels: Array, eps: Sequence[float], seed: int = 0, *,
        examples: Tensor | None = None, norm: NormName = "linf", bounds: Bounds = (0.0, 1.0),
        targets: Array | None = None,
    ) -> Iterator[Tensor]:  # fmt: skip
        """Yield perturbed images for each of `eps`, in that order.

        Args:
            adversary: the network that the attacker asks; the defender may be another.
            images: (N, C, H, W), or (N, ...) for what is no image, within `bounds`.
            labels: (N,) integers.
            eps: radii in the unit of the images; in the maximum norm λ pixel steps are λ/255.
            seed: of the attack's draws, and of the adversary's passes in it.
            examples: (N,) number of each image, 0..N-1 by default; with `seed` it decides the draws.
            norm: in which a perturbation is measured, ``linf`` or ``l2``.
            bounds: lowest and highest valid value; None where every number is valid.
            targets: (N,) classes that the network shall give instead of the labels, by the loss's targeted form. Such
                an attack takes all its steps: a wrong class is not yet the one that is wanted.

        Raises:
            ValueError: images outside the bounds, bad labels or targets, a radius that is not within the bounds, a
                network in training mode, a gradient that is not finite.
        """
        threat = ThreatModel(norm, bounds)
        problem = Problem.of(
            adversary, images, labels, eps, seed, examples=examples, threat=threat, targets=targets,
            asked=self.knowledge != "nothing",
        )  # fmt: skip
        return self.points(problem, eps)

    def points(self, problem: Problem, eps: Sequence[float]) -> Iterator[Tensor]:
        """Yield perturbed images for each of `eps`, in that order; see `curve`."""
        attack = self if problem.targets is None else self._tireless
        return _in_order(eps, lambda radii: attack._checked(problem, radii))

    def _checked(self, problem: Problem, radii: Sequence[float]) -> Iterator[Tensor]:
        untouched = replace(problem, images=problem.images.clone())  # an attack may write into what it gets
        for eps, points in zip(radii, self.ascending(untouched, radii), strict=True):
            if not problem.threat.holds(points, problem.images, eps):
                raise ValueError(f"{type(self).__name__} left the ball of radius {eps:g} or the valid values")
            if problem.flatness is not None:
                problem.flatness.done(eps)
            yield points.clone() if len(radii) > 1 else points

    @abstractmethod
    def ascending(self, problem: Problem, radii: Sequence[float]) -> Iterator[Tensor]:
        """Yield the points (N, C, H, W) for each of `radii`, which ascend."""

    @abstractmethod
    def cost(self, eps: Sequence[float]) -> Cost:
        """Return the most passes of the adversary that a curve takes for one image."""

    def check_classes(self, classes: int) -> None:
        """Refuse, by a ValueError, a network of so many classes that the attack cannot work on."""

    @property
    def family(self) -> "Attack":
        """Return what stands for all attacks whose images are made together; see `craft`."""
        return self

    def craft(self, members: Sequence["Attack"], problem: Problem, eps: Sequence[float]) -> Iterator[Craft]:
        """Make the images of all `members` of the attack's family, each once; see `points`."""
        for member in members:
            flatness = Flatness(problem.examples)
            yield Craft(member, member.points(replace(problem, flatness=flatness), eps), flatness=flatness)

    @property
    def samples(self) -> int:
        """Return how many passes one question to the network averages; 0 for an attack that asks none."""
        return 0

    def steps_at(self, eps: float) -> int:
        """Return how many steps the attack takes at a radius: gradient steps, or queries of a black box."""
        return 1

    @property
    def tries(self) -> int:
        """Return how often the attack takes all its steps at a radius: restarts, times targets."""
        return 1

    @property
    def iterative(self) -> bool:
        """Return whether it takes more than one step."""
        return self.steps_at(1.0) > 1

    def plain(self, random: bool, rules: bool, own: bool) -> Self:
        """Return the attack with the settings that make no difference at their plainest.

        Args:
            random: whether the passes of the network that it asks differ.
            rules: whether that network's defences make a difference between the rules that pass a defence.
            own: whether that network is the defender. An example that another network gets wrong may still be right.
        """
        return self if own else self._tireless

    @property
    def _tireless(self) -> Self:
        """Return the attack that goes on with examples that are lost already."""
        if getattr(self, "stop_when_lost", False):
            return cast(Self, replace(cast(Any, self), stop_when_lost=False))
        return self

    def describe(self, rules: bool) -> str:
        """Return the attack's name for people, with the settings that are not its defaults.

        Args:
            rules: whether to name the backward rule; ``relaxed`` is always named.
        """
        return " ".join([self.title, *self._unusual()])

    def _unusual(self, *shown: str) -> list[str]:
        return [f"{name}={value}" for name, value in unusual_settings(self) if name not in (*shown, "stop_when_lost")]


_OF_THE_CALL: Final = ("eps", "norm", "bounds", "seed", "targets", "examples")
_OF_THE_GRADIENT: Final = frozenset(field.name for field in fields(MonteCarlo))


def _refuse_misplaced(kind: type[Attack], values: Sequence[object], settings: Mapping[str, object]) -> None:
    """Refuse a network and what belongs to a call or a gradient, among the settings of an attack."""
    name = kind.__name__
    own: list[str] = [field.name for field in fields(kind)] if is_dataclass(kind) else []
    if any(isinstance(value, nn.Module) for value in (*values, *settings.values())):
        raise TypeError(f"{name} takes settings, not a network: write {name}()(net, images, labels, eps=8 / 255)")
    for given in (name for name in settings if name not in own):
        if given in _OF_THE_CALL:
            call = f"{name}()(net, images, labels, eps=8 / 255)"
            raise TypeError(f"`{given}` is no setting of {name}, but of its call: write {call}")
        if given in _OF_THE_GRADIENT and "gradient" in own:
            gradient = f"MonteCarlo({given}={settings[given]!r})"
            raise TypeError(f"`{given}` is a setting of the gradient: write {name}({gradient})")
        if own and (near := meant(given, own)):
            raise TypeError(f"{name} has no setting `{given}`: did you mean `{near}`?")
    found = {**dict(zip(own, values, strict=False)), **settings}.get("gradient", MonteCarlo())
    if issubclass(kind, GradientAttack) and not isinstance(found, MonteCarlo):
        raise TypeError(f"`gradient` of {name} must be a saplab.MonteCarlo, got {found!r}")


_LOSSES: Final = {"cross-entropy": "CE", "exact-cross-entropy": "exact CE", "dlr": "DLR"}


class GradientAttack(Attack):
    """An attack along a Monte Carlo gradient, which is one of its fields."""

    gradient: MonteCarlo
    names_loss: ClassVar[bool] = False  # also where it is the usual one

    @property
    def samples(self) -> int:
        """Return the samples of one gradient."""
        return self.gradient.samples

    def check_classes(self, classes: int) -> None:
        """Refuse too few classes for the loss."""
        super().check_classes(classes)
        if isinstance(self.gradient.loss, str):
            one = torch.zeros(1, dtype=torch.int64)
            targets = one if getattr(self, "targets", 0) else None
            loss_of(self.gradient.loss, torch.zeros(1, classes), one, targets)

    def plain(self, random: bool, rules: bool, own: bool) -> Self:
        """Return the attack with the settings that make no difference at their plainest; see `Attack.plain`."""
        samples = self.gradient.samples if random else 1
        kept = rules or self.gradient.backward == "relaxed"
        backward, redraw = self.gradient.backward if kept else "mask", self.gradient.redraw or not random
        gradient = replace(self.gradient, samples=samples, backward=backward, redraw=redraw)
        return replace(cast(Any, super().plain(random, rules, own)), gradient=gradient)  # type: ignore[no-any-return]

    def describe(self, rules: bool) -> str:
        """Return the attack's name for people: kind, steps, loss, samples, backward rule, other settings."""
        gradient, parts = self.gradient, [self._head()]
        if gradient.loss != "cross-entropy" or self.names_loss:
            parts.append(_LOSSES.get(gradient.loss_name, gradient.loss_name))
        if gradient.samples > 1:
            parts.append(f"×{gradient.samples}")
        if rules or gradient.backward == "relaxed":
            parts.append(gradient.backward)
        if gradient.average != "loss":
            parts.append(f"of {gradient.average}")
        if not gradient.redraw:
            parts.append("by one draw")
        if gradient.precision != "float32":
            parts.append(gradient.precision)
        return " ".join(parts + self._unusual("steps", *_OF_THE_GRADIENT))

    def _head(self) -> str:
        return self.title


def _in_order(eps: Sequence[float], ascending: Callable[[Sequence[float]], Iterator[Tensor]]) -> Iterator[Tensor]:
    """Yield for each of `eps`, in the order asked, what `ascending` yields for them sorted and without repeats."""
    radii = sorted(set(eps))
    results = zip(radii, ascending(radii), strict=True)
    waiting: dict[float, Tensor] = {}
    for i, radius in enumerate(eps):
        while radius not in waiting:
            waiting.update((next(results),))
        points = waiting[radius]
        if radius not in eps[i + 1 :]:
            del waiting[radius]
        yield points
