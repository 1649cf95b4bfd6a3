"""Attack one defended network with saplab and with other libraries, in one run.

    python benchmarks/peers.py [--images 64] [--steps 10] [--samples 5] [--lam 2] [--backward identity] [--rounds 3]
        [--passes 20] [--threads 2] [--json PATH]

The same network, images, steps, samples a step, step size and backward rule for all; what is left is judged by fresh
passes. Needs the extra `peers`; a library that is absent is left out. `saplab bench` compares the gradients alone.
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
from contenders import ATTACKS, EOTPGD, EVERY_STEP, OURS, RAND, Attack, Task, installed
from measure import Times, machine, print_machine, save
from torch import Tensor

import saplab
from saplab.defenses import predict_with_votes
from saplab.metrics import Interval, correct, mean_interval, paired_difference, pass_shares
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
        seconds: of a round, see `suite.measure.Spread`, and of the processor.
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
    return AttackResult(right, single, len(adversarial), {**asdict(times.spread()), "cpu": times.processor()}, *shares)


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


def main() -> None:
    """Measure and print."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    info = machine(args.threads)
    print_machine(info)
    images, labels = saplab.load_cifar10("sample")
    content: dict[str, Any] = {"machine": info, "arguments": {k: str(v) for k, v in vars(args).items()}}
    content["attacks"] = {rule: _attacks(args, images, labels, rule) for rule in args.backward}
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
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--lam", type=float, default=2.0)
    parser.add_argument("--backward", nargs="*", choices=RULES, default=["identity"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
