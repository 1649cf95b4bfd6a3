"""The battery `standard` beside attacks by hand on networks that are random or hide their gradient, for `peers.py`.

By hand means: by somebody who knows what the network does, with more samples and steps. What is only multiplied or
renamed is attacked on the network behind it; what rounds is gone straight through; what draws is averaged over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from saturation import Then, disguises, rounded, same
from suite.timing import Times, time_once
from torch import Tensor, nn

import saplab
from saplab.attacks import Attack
from saplab.defenses import parse_defenses
from saplab.metrics import Interval, correct, mean_interval
from saplab.models.published.lwta import LocalWinners

DEFENSES = ("sap:100", "gaussian-noise", "resize-pad", "random-crop", "jpeg", "bit-depth", "stochastic-rounding")
COLUMNS = ("network", "λ", "clean", "plain gradient", "standard", "by hand", "which", "standard s", "masked")
PASSES = 100  # that judge
SOFT = 0.67  # temperature of winner-take-all units on the way back, that of their training


@dataclass(frozen=True)
class Contest:
    """A network, and how somebody who knows it attacks it.

    Attributes:
        net: as it is evaluated.
        seen: the network that is attacked in its place.
        rule: by which a defence is passed.
        steps, samples: of each attack by hand.
    """

    net: nn.Module
    seen: nn.Module
    rule: Any = "mask"
    steps: int = 100
    samples: int = 1

    @property
    def by_hand(self) -> Mapping[str, Attack]:
        """The attacks by name; towards each class where nothing is random."""
        usual = saplab.MonteCarlo(self.samples, self.rule)
        dlr = replace(usual, loss="dlr")
        many = f" ×{self.samples}" if self.samples > 1 else ""
        return {
            f"PGD-{self.steps}{many}": saplab.PGD(usual, steps=self.steps),
            f"APGD-{self.steps} DLR{many}": saplab.APGD(dlr, steps=self.steps, targets=0 if many else 9),
        }


@dataclass(frozen=True)
class Left:
    """What is left of a network at a radius, and the processor seconds of `standard` at all radii.

    Attributes:
        clean, plain: without an attack, and under PGD-20 by the plain gradient, or the defence's own.
        standard: under all attacks of the battery.
        by_hand, which: under the strongest attack by hand.
        masked: what the verdict says of the gradient.
    """

    name: str
    lam: float
    clean: Interval
    plain: Interval
    standard: Interval
    by_hand: Interval
    which: str
    seconds: float
    masked: bool | None


def contests(images: Tensor, steps: int, samples: int, winners: Path | None) -> dict[str, Contest]:
    """Return the contests by name.

    Args:
        images: on which rounded activations find their levels.
        steps, samples: of attacks by hand where passes differ.
        winners: weights of a winner-take-all ResNet-20.
    """
    net = saplab.load_model("preact-resnet20-dense")
    found = {}
    for text in DEFENSES:
        defended = saplab.defend(net, *parse_defenses(text))
        random = any(defense.random for defense in parse_defenses(text))
        found[text] = Contest(defended, defended, "identity", steps, samples) if random else Contest(defended, defended)
    hidden = disguises(net, images)
    straight = Then(net, saplab.bpda(rounded), same)
    for name, disguise in hidden.items():
        seen = {"input rounded to 8 levels": straight, "ReLUs rounded to 8 levels": disguise}.get(name, net)
        found[name] = Contest(disguise.eval(), seen.eval(), "relaxed" if seen is disguise else "mask")
    if winners is not None:
        own, soft = (saplab.load_model("saplab.models.published.lwta:lwta_resnet20", winners) for _ in range(2))
        found["winner-take-all"] = Contest(own, softened(soft), steps=steps, samples=samples)
    return found


class Soft(LocalWinners):
    """Winners by shares as soft as in training: what stands in for them on the way back."""

    def forward(self, u: Tensor) -> Tensor:
        """Return the activations, in the shape of u."""
        first, second = u.chunk(2, dim=1)
        share = torch.sigmoid((first - second + torch.logit(torch.rand_like(first), 2.0**-25)) / SOFT)
        return torch.cat((share * first, (1 - share) * second), 1)


def softened(net: nn.Module) -> nn.Module:
    """Put soft winners in the place of a network's."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, LocalWinners):
                setattr(module, name, Soft())
    return net.eval()


def meet(name: str, contest: Contest, images: Tensor, labels: Tensor, strengths: Sequence[float]) -> list[Left]:
    """Run `standard` at all strengths at once, and each attack by hand at each of them."""
    times, eps = Times(), [lam / 255 for lam in strengths]
    attack = partial(
        saplab.evaluate, contest.net, images, labels, "standard", eps, passes=PASSES, baseline=False, progress=False
    )
    found: saplab.Result = time_once(attack, times)
    bounds = {bound.strength: bound.accuracy for bound in found.verdict.robust}
    plain = plain_gradient(found)
    points = {k: list(a.curve(contest.seen, images, labels, eps, seed=1)) for k, a in contest.by_hand.items()}
    rows = []
    for k, lam in enumerate(strengths):
        hand = {which: accuracy(contest.net, curve[k], labels) for which, curve in points.items()}
        which = min(hand, key=lambda one: hand[one].estimate)
        found_by = (bounds[0.0], plain[lam], bounds[lam], hand[which], which)
        rows.append(Left(name, lam, *found_by, times.cpu[0], found.verdict.masked))
    return rows


def plain_gradient(found: saplab.Result) -> dict[float, Interval]:
    """Return what PGD-20 by the gradient as it is, or as the defence has it, leaves at each strength."""
    for curve in found.request.curves:
        cell: Any = curve.first
        if isinstance(cell.attack, saplab.PGD) and cell.attack.gradient.backward == "mask" and not cell.transferred:
            rows: Any = [one for one in found.summary.rows if one.curve == curve.name]
            return {one.strength: one.averaged for one in rows}
    raise ValueError("the battery has no attack by the plain gradient")


def accuracy(net: nn.Module, points: Tensor, labels: Tensor) -> Interval:
    """Judge by fresh passes."""
    return mean_interval(correct(saplab.predict(net, points, passes=PASSES, seed=99), labels), 1)


def row(left: Left) -> str:
    """Return a row of the table, in Markdown."""
    masked = {True: "yes", False: "no", None: "not known"}[left.masked]
    shares = (f"{100 * share.estimate:.1f}" for share in (left.clean, left.plain, left.standard, left.by_hand))
    cells = (left.name, f"{left.lam:g}", *shares, left.which, f"{left.seconds:.0f}", masked)
    return f"| {' | '.join(cells)} |"


def print_table(
    met: Mapping[str, Contest], images: Tensor, labels: Tensor, strengths: Sequence[float]
) -> list[dict[str, Any]]:
    """Print the table row by row, and return its numbers."""
    print(f"{len(images)} images; accuracy left, %, by {PASSES} passes; processor seconds of all strengths together")
    print(f"| {' | '.join(COLUMNS)} |\n|---|{'---:|' * 5}---|---:|---|")
    found = []
    for name, contest in met.items():
        for left in meet(name, contest, images, labels, strengths):
            print(row(left), flush=True)
            found.append({name: vars(v) if isinstance(v, Interval) else v for name, v in vars(left).items()})
    print()
    return found
