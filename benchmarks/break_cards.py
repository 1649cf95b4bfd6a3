"""Attempts to break what a card of the benchmark leaves, by hand: plain PyTorch that shares no attack with saplab.

    python benchmarks/break_cards.py [ENTRY ...] [--lam 2 4 8] [--minutes 60] [--threads 1] [--json PATH]

An entry has so many minutes of the processor, divided among the radii at which its card leaves something. Each attack
runs on the card's images that are still right after the attacks before it, until the time is spent; it begins with
what is cheap and goes on with restarts from other seeds and twice the steps. What is attacked is the mean probability
of fresh passes, the very quantity that is judged. SAP is passed by identity, winner-take-all units by soft ones, JPEG
by the slope of its own; every other network by its gradient. An image counts as broken where 100 passes are wrong on
average, and another 100, which chose nothing, are too. Gradients of random networks are computed in bfloat16 where the
processor has it; float32 judges. With ``--json`` every attack is noted there: stopped and called again, the same
command goes on after the last one, and longer ``--minutes`` go on where shorter ones ended.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from hidden import softened
from suite.machine import machine, print_machine, save
from torch import Tensor, nn

import saplab
from saplab.benchmark.board import stored_cards
from saplab.benchmark.card import Card
from saplab.benchmark.entries import ENTRIES
from saplab.defenses.drawing import GradientRule
from saplab.defenses.stochastic import trust
from saplab.system.precision import computing_in, resolve_precision

PASSES = 100  # that judge, and again that confirm
BATCH = 256  # images a pass
COLUMNS = (
    "entry", "λ", "images", "clean, %", "card leaves, %", "by hand, %", "attacks that broke images", "tried", "minutes",
)  # fmt: skip

Loss = Callable[[Tensor, Tensor], Tensor]  # (samples, N, K) logits and labels (N,) to (N,), to be raised


@dataclass(frozen=True)
class Climb:
    """An attack by hand: steps along the sign of an averaged gradient, at most `eps` from the image.

    Attributes:
        name: in the table.
        loss: that is raised.
        steps: whose length falls from eps / 2 to 0 along half a cosine.
        samples: fresh passes in each step.
        momentum: share of the gradients of the steps before, each of length 1 in L1.
        corner: whether to begin in a random corner of the ball instead of anywhere inside.
    """

    name: str
    loss: Loss
    steps: int
    samples: int
    momentum: float = 0.9
    corner: bool = False

    def __call__(self, net: nn.Module, images: Tensor, labels: Tensor, eps: float, seed: int) -> Tensor:
        """Return the last points (N, ...)."""
        noise = torch.empty_like(images).uniform_(-1, 1, generator=torch.Generator().manual_seed(seed))
        x = (images + eps * (noise.sign() if self.corner else noise)).clamp(0, 1)
        direction = torch.zeros_like(images)
        for step in range(self.steps):
            slope = slope_of(net, x, labels, self.loss, self.samples)
            direction = self.momentum * direction + slope / slope.abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-20)
            length = eps / 4 * (1 + math.cos(math.pi * step / self.steps))
            x = torch.clamp(x + length * direction.sign(), images - eps, images + eps).clamp(0, 1)
        return x


def slope_of(net: nn.Module, x: Tensor, labels: Tensor, loss: Loss, samples: int) -> Tensor:
    """Return the gradient of the loss of `samples` passes, in batches of whole images."""
    size = max(BATCH // samples, 1)
    parts = []
    for some, own in zip(x.split(size), labels.split(size), strict=True):
        point = some.clone().requires_grad_()
        with computing_in(resolve_precision("auto", "cpu") if samples > 1 else "float32", "cpu"):
            logits = net(point.repeat(samples, 1, 1, 1)).float().view(samples, len(some), -1)
        parts.append(torch.autograd.grad(loss(logits, own).sum(), point)[0])
    return torch.cat(parts)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how far the best other class is above the label, averaged over passes."""
    true = logits.gather(2, labels.expand(len(logits), -1).unsqueeze(2)).squeeze(2)
    others = logits.scatter(2, labels.expand(len(logits), -1).unsqueeze(2), -torch.inf)
    return (others.amax(2) - true).mean(0)


def mean_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the same of logarithms of the mean probability: what an averaged prediction is judged by."""
    probs = torch.logsumexp(F.log_softmax(logits, 2), 0)
    return margin(probs.unsqueeze(0), labels)


def entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of the mean probability."""
    return -torch.logsumexp(F.log_softmax(logits, 2), 0).gather(1, labels.unsqueeze(1)).squeeze(1)


@dataclass(frozen=True)
class Towards:
    """Raise the class of this rank among the wrong ones, as a network without noise of its own ranks them."""

    rank: int

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return how far the mean logit of that class is above the label's."""
        mean = logits.mean(0)
        true = mean.gather(1, labels.unsqueeze(1)).squeeze(1)
        others = mean.scatter(1, labels.unsqueeze(1), -torch.inf)
        return others.sort(1, descending=True).values[:, self.rank] - true


def attacks(random: bool) -> Iterator[Climb]:
    """Return attacks without end: each round with more steps than the one before."""
    samples, steps = (8, 100) if random else (1, 100)
    while True:
        for corner in (False, True):
            yield Climb(f"mean probability {steps}", mean_probability, steps, samples, corner=corner)
            yield Climb(f"margin {steps}", margin, steps, samples, corner=corner)
        yield Climb(f"entropy {steps}", entropy, steps, samples, momentum=0.75)
        for rank in range(1, 4):
            yield Climb(f"class {rank + 1} {steps}", Towards(rank), steps, samples)
        if random:
            yield Climb(f"mean probability {steps}, 64 passes", mean_probability, steps // 2, 64)
        steps *= 2


def wrong(net: nn.Module, x: Tensor, labels: Tensor, passes: int) -> Tensor:
    """Return which images the mean of that many fresh passes misclassifies."""
    found = []
    with torch.no_grad():
        for some, own in zip(x.split(BATCH), labels.split(BATCH), strict=True):
            probs = sum(net(some).softmax(1) for _ in range(passes))
            found.append(probs.argmax(1) != own)
    return torch.cat(found)


def both(name: str) -> tuple[nn.Module, nn.Module]:
    """Return the network that judges, and the one whose gradient is taken, by draws of its own."""
    entry = ENTRIES[name]
    rule: GradientRule = "identity" if entry.method in ("sap", "sap-trained") else "mask"
    judge, seen = trust(entry.build().eval()), trust(entry.build(seed=1, backward=rule).eval())
    return judge, softened(seen) if entry.method == "lwta" else seen


def left_of(card: Card, eps: float) -> float:
    """Return what a card leaves in a ball, in %; ValueError where it has none of that radius."""
    known = {one.eps: one.worst.percent for t in card.threats if t.norm == "linf" for one in t.left}
    for radius, percent in known.items():
        if math.isclose(radius, eps):
            return percent
    raise ValueError(f"the card of {card.name} has λ = {', '.join(f'{255 * e:g}' for e in known)}, not {255 * eps:g}")


def radii(card: Card, lams: Sequence[float]) -> list[float]:
    """Return those of some λ at which a card leaves anything."""
    return [lam for lam in lams if left_of(card, lam / 255) > 0]


@dataclass
class Attempt:
    """How far an entry has been attacked in a ball.

    Attributes:
        entry, lam: what is attacked.
        images: how many there are.
        clean, left: accuracy without an attack, and what the card leaves, in %.
        lost: numbers of the images that the network is wrong on, without an attack or by one.
        by: attacks that broke images, and how many.
        tried: how many attacks have run.
        minutes: of the processor.
    """

    entry: str
    lam: float
    images: int
    clean: float
    left: float
    lost: list[int]
    by: list[str] = field(default_factory=list)
    tried: int = 0
    minutes: float = 0.0

    @property
    def row(self) -> tuple[object, ...]:
        """Return the values of `COLUMNS`."""
        hand = 100 * (1 - len(self.lost) / self.images)
        told = (self.entry, self.lam, self.images, self.clean, self.left, hand)
        return (*told, "; ".join(self.by), self.tried, self.minutes)


def go_on(name: str, lam: float, minutes: float, earlier: Attempt | None, keep: Callable[[Attempt], None]) -> Attempt:
    """Attack an entry in a ball until the time is spent, after what was tried `earlier`, and `keep` each attempt."""
    begin, eps = time.process_time(), lam / 255
    card = stored_cards("small")[name]
    images, labels = (part[: card.data.images] for part in saplab.load_cifar10("sample"))
    judge, seen = both(name)
    random = card.clean.tries is not None
    passes = PASSES if random else 1
    if earlier is None:
        torch.manual_seed(0)
        lost = wrong(judge, images, labels, passes)
        clean = 100 * float((~lost).double().mean())
        earlier = Attempt(name, lam, len(images), clean, left_of(card, eps), lost.nonzero().flatten().tolist())
    now, spent = earlier, earlier.minutes
    for seed, attack in enumerate(attacks(random)):
        alive = torch.tensor(sorted(set(range(len(images))) - set(now.lost)))
        if not len(alive) or now.minutes >= minutes:
            return now
        if seed < now.tried:
            continue
        torch.manual_seed(seed)
        points = attack(seen, images[alive], labels[alive], eps, seed)
        found = wrong(judge, points, labels[alive], passes)
        some = alive[found]
        confirmed = some[wrong(judge, points[found], labels[some], passes)] if len(some) else some
        now.lost += confirmed.tolist()
        now.by += [f"{attack.name}: {len(confirmed)}"] if len(confirmed) else []
        now.tried, now.minutes = seed + 1, spent + (time.process_time() - begin) / 60
        print(f"  {name} λ = {lam:g}: {attack.name} broke {len(confirmed)} of {len(alive)}", flush=True)
        keep(now)
    raise AssertionError("attacks never end")


def main() -> None:
    """Print the table row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entries", nargs="*", help="by default all with a card that leaves something")
    parser.add_argument("--lam", type=float, nargs="+", default=[2.0, 4.0, 8.0])
    parser.add_argument("--minutes", type=float, default=60.0, help="of the processor, for an entry")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = machine(args.threads)
    print_machine(found)
    cards = stored_cards("small")
    stored = json.loads(args.json.read_text())["rows"] if args.json and args.json.exists() else []
    rows = {(row["entry"], row["lam"]): Attempt(**row) for row in stored}

    def keep(attempt: Attempt) -> None:
        rows[attempt.entry, attempt.lam] = attempt
        save(args.json, {"machine": found, "rows": [asdict(one) for one in rows.values()]})

    for name in args.entries or cards:
        lams = radii(cards[name], args.lam)
        for lam in lams:
            keep(go_on(name, lam, args.minutes / len(lams), rows.get((name, lam)), keep))
    print(f"\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for attempt in rows.values():
        cells = (f"{value:.1f}" if isinstance(value, float) else str(value) for value in attempt.row)
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
