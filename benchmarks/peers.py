"""Attack and differentiate one defended network with saplab and with other libraries, in one run.

    python benchmarks/peers.py [--part attacks gradients] [--images 64] [--steps 10] [--samples 5] [--lam 2]
        [--backward identity] [--rounds 3] [--passes 20] [--gradient-images 64] [--gradient-samples 10]
        [--gradient-rounds 5] [--slow-rounds 1] [--threads 2] [--json PATH]

Attacks: the same network, images, steps, samples a step, step size and backward rule for all; what is left is judged by
fresh passes. Gradients: images times samples a second of a Monte Carlo gradient, on saplab's SAP-100 and on one written
with `torch.multinomial`. Needs the extra `peers`; a library that is absent is left out.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from contenders import (
    ALONE,
    ATTACKS,
    EOTPGD,
    EVERY_STEP,
    GRADIENTS,
    MONTE_CARLO,
    OURS,
    RAND,
    Attack,
    Gradient,
    Task,
    installed,
)
from gradient_pass import MULTINOMIAL, network
from measure import Times, machine, print_machine, save
from torch import Tensor, nn

import saplab
from saplab.defenses import predict_with_votes
from saplab.measures import Interval, correct, mean_interval, paired_difference, pass_shares
from saplab.pruning.operator import RULES, BackwardRule

Outcome = TypeVar("Outcome")


def take_turns(
    works: Mapping[str, Callable[[int], Outcome]], rounds: Mapping[str, int]
) -> dict[str, tuple[Times, list[Outcome]]]:
    """Time each work in turn, round after round, and keep what it gives; a work gets the number of its round.

    Work that has fewer rounds than others drops out earlier.
    """
    results: dict[str, tuple[Times, list[Outcome]]] = {name: (Times(), []) for name in works}
    for turn in range(max(rounds.values())):
        for name, work in works.items():
            if turn < rounds[name]:
                times, outcomes = results[name]
                wall, cpu = time.perf_counter(), time.process_time()
                outcomes.append(work(turn))
                times.wall.append(time.perf_counter() - wall)
                times.cpu.append(time.process_time() - cpu)
    return results


@dataclass(frozen=True)
class AttackResult:
    """What one attack left, over rounds with other seeds, and what it took.

    Args:
        right: (N,) share of the rounds whose adversarial image the averaged prediction got right.
        single: (N,) the same of single passes.
        rounds: how many.
        seconds: of a round, see `Times.summary`.
        gradient, plain: examples through the network for each image, with and without a gradient.
    """

    right: np.ndarray[Any, np.dtype[np.float64]]
    single: np.ndarray[Any, np.dtype[np.float64]]
    rounds: int
    seconds: dict[str, float]
    gradient: float
    plain: float

    @property
    def accuracy(self) -> Interval:
        """Give the accuracy left by the averaged prediction."""
        return mean_interval(self.right, passes=self.rounds)


def measure_attacks(task: Task, rounds: int, attacks: Mapping[str, Attack] = ATTACKS) -> dict[str, AttackResult]:
    """Run all attacks in turn, and judge what they find by passes that none of them has seen."""
    tasks = {name: replace(task, counts=Counter()) for name in attacks}
    works = {name: partial(attack, tasks[name]) for name, attack in attacks.items()}
    return {
        name: _judged(tasks[name], times, adversarial)
        for name, (times, adversarial) in take_turns(works, dict.fromkeys(works, rounds)).items()
    }


def _judged(task: Task, times: Times, adversarial: Sequence[Tensor]) -> AttackResult:
    defender = saplab.defend(task.net, saplab.SAP(percent=100))
    found = [predict_with_votes(defender, x, task.passes, seed=1000 + k) for k, x in enumerate(adversarial)]
    right = np.mean([correct(p.probs, task.labels) for p in found], axis=0)
    single = np.mean([pass_shares(p.votes, task.labels) for p in found], axis=0)
    work = len(adversarial) * len(task.images)
    shares = (task.counts[kind] / work for kind in ("gradient", "plain"))
    return AttackResult(right, single, len(adversarial), times.summary(1.0), *shares)


def measure_gradients(
    images: Tensor, labels: Tensor, samples: int, rounds: int, slow_rounds: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Time every way to a gradient on SAP-100 of saplab's, and on one of `torch.multinomial`; give seconds an example.

    Of the slow network one sample is enough: it is long, and cost grows linearly.
    """
    ways = installed(GRADIENTS)
    theirs = {name: way for name, way in ways.items() if name not in (MONTE_CARLO, ALONE)}
    slow, fast = (network(name, "float32 channels_last") for name in (MULTINOMIAL, "SAP-100"))
    return {
        "SAP-100 of saplab": _examples(ways, fast, images, labels, samples, rounds),
        "SAP-100 by torch.multinomial": _examples(theirs, slow, images, labels, 1, slow_rounds),
    }


def _examples(
    ways: Mapping[str, Gradient], model: nn.Module, images: Tensor, labels: Tensor, samples: int, rounds: int
) -> dict[str, dict[str, float]]:
    for way in ways.values():
        way(model, images[:2], labels[:2], 1)  # imports, and the kernels' first call
    works = {name: lambda _, way=way: way(model, images, labels, samples) for name, way in ways.items()}
    results = take_turns(works, dict.fromkeys(works, rounds))
    return {name: times.summary(len(images) * samples) for name, (times, _) in results.items()}


def print_attacks(results: Mapping[str, AttackResult], task: Task) -> None:
    """Print what each attack left and took, and the differences to saplab's."""
    print(f"{len(task.images)} images, λ = {255 * task.eps:g}, {task.steps} steps of {task.samples} samples,", end=" ")
    print(f"backward {task.backward}; judged by {task.passes} fresh passes; images: mean of rounds")
    print(f"{'':28}{'accuracy left, %':>20}{'one pass':>10}{'wall s':>9}", end="")
    print(f"{'quartiles':>16}{'cores s':>9}{'passes an image':>26}")
    for name, r in results.items():
        quartiles = f"{r.seconds['low']:.1f} - {r.seconds['high']:.1f}"
        passes = f"{r.gradient:.0f} gradient, {r.plain:.0f} plain"
        print(
            f"{name:28}{_percent(r.accuracy):>20}{100 * r.single.mean():>10.1f}{r.seconds['median']:>9.1f}"
            f"{quartiles:>16}{r.seconds['cpu']:>9.1f}{passes:>26}"
        )
    for name in (EOTPGD, RAND):
        for ours in (OURS, EVERY_STEP):
            if name in results:
                print(f"{ours} - {name}: {compared(results[ours], results[name])}")
    print()


def compared(ours: AttackResult, theirs: AttackResult) -> str:
    """Say how much more accuracy ours leaves, with its interval, and how much longer it takes."""
    difference = paired_difference(ours.right, theirs.right, passes=ours.rounds)
    wall, cores = (ours.seconds[key] / theirs.seconds[key] for key in ("median", "cpu"))
    return f"{_percent(difference)} points; {wall:.2f} times the time, {cores:.2f} times that of the cores"


def _percent(interval: Interval) -> str:
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * x for x in (interval.estimate, interval.low, interval.high)))


def print_gradients(results: Mapping[str, Mapping[str, Mapping[str, float]]], images: int, samples: int) -> None:
    """Print throughput, and how many times faster saplab's is."""
    print(f"Monte Carlo gradients of {images} images, {samples} samples; examples (images x samples) a second")
    ours = results["SAP-100 of saplab"][MONTE_CARLO]
    print(f"{'':62}{'a second':>10}{'quartiles':>14}{'saplab is':>14}{'by cores':>14}")
    for model, ways in results.items():
        for name, found in ways.items():
            quartiles = f"{1 / found['high']:.0f} - {1 / found['low']:.0f}"
            line = f"{name + ', ' + model:62}{1 / found['median']:>10.0f}{quartiles:>14}"
            print(f"{line}{found['median'] / ours['median']:>8.2f} times{found['cpu'] / ours['cpu']:>8.2f} times")
    print()


def main() -> None:
    """Measure and print."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    info = machine(args.threads)
    print_machine(info)
    images, labels = saplab.load_cifar10("sample")
    content: dict[str, Any] = {"machine": info, "arguments": {k: str(v) for k, v in vars(args).items()}}
    if "attacks" in args.part:
        content["attacks"] = {rule: _attacks(args, images, labels, rule) for rule in args.backward}
    if "gradients" in args.part:
        x, y = images[: args.gradient_images], labels[: args.gradient_images]
        found = measure_gradients(x, y, args.gradient_samples, args.gradient_rounds, args.slow_rounds)
        print_gradients(found, len(x), args.gradient_samples)
        content["seconds_an_example"] = found
    save(args.json, content)


def _attacks(args: argparse.Namespace, images: Tensor, labels: Tensor, rule: BackwardRule) -> dict[str, dict[str, Any]]:
    net = saplab.load_model("preact-resnet20-dense")
    x, y = images[: args.images], labels[: args.images]
    task = Task(net, x, y, args.lam / 255, args.steps, args.samples, rule, args.passes)
    attacks = installed(ATTACKS)
    measure_attacks(replace(task, images=x[:2], labels=y[:2], steps=1, samples=1), 1, attacks)  # warm up
    results = measure_attacks(task, args.rounds, attacks)
    print_attacks(results, task)
    return {name: _plain(result) for name, result in results.items()}


def _plain(result: AttackResult) -> dict[str, Any]:
    content = asdict(result) | {"accuracy": asdict(result.accuracy)}
    return content | {"right": result.right.tolist(), "single": result.single.tolist()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="*", choices=("attacks", "gradients"), default=["attacks", "gradients"])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--lam", type=float, default=2.0)
    parser.add_argument("--backward", nargs="*", choices=RULES, default=["identity"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=20)
    parser.add_argument("--gradient-images", type=int, default=64)
    parser.add_argument("--gradient-samples", type=int, default=10)
    parser.add_argument("--gradient-rounds", type=int, default=5)
    parser.add_argument("--slow-rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
