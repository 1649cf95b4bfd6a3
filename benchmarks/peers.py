"""Attack networks with saplab, with other libraries and by hand, in one run; four tables, about an hour on one core.

    python benchmarks/peers.py [--undefended 100] [--hidden 50] [--networks NAME ...] [--strengths 2 8] [--outside FILE]
        [--winners FILE] [--images 64] [--steps 10] [--samples 5] [--lam 2] [--backward identity] [--rounds 3]
        [--passes 20] [--l2 0.5] [--l2-images 200] [--l2-steps 20] [--threads 1] [--json PATH]

1. The battery `standard` beside AutoAttack's standard version on networks without randomness (`undefended.py`).
2. `standard` beside attacks by hand on networks that are random or hide their gradient (`hidden.py`).
3. One attack of saplab's beside others' on SAP-100: all share the network, images, steps, samples per step, step size
   and backward rule; the adversarial images are judged by fresh passes.
4. PGD and APGD in L2 on undefended networks (`l2.py`).

A table of 0 images is left out. Needs the extra `peers`; a missing library is left out. `bench.py` compares the
gradients alone.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import hidden
import l2
import numpy as np
import torch
import undefended
from contenders import ATTACKS, EVERY_STEP, MODULES, OURS, RAND, Attack, Task
from suite.gradients import EOTPGD, installed
from suite.machine import machine, print_machine, save
from suite.timing import Spread, Times, time_once
from torch import Tensor

import saplab
from saplab.defenses import predict_with_votes
from saplab.metrics import Interval, correct, mean_interval, paired_difference, pass_shares
from saplab.pruning.operator import RULES, BackwardRule


@dataclass(frozen=True)
class AttackResult:
    """What one attack left and took, over rounds with different seeds.

    Attributes:
        right: (N,) share of the rounds whose adversarial image the averaged prediction classifies correctly.
        single: (N,) the same for single passes.
        rounds: how many.
        seconds: of a round.
        processor: median processor seconds of a round.
        gradient, plain: examples through the network per image, with and without a gradient.
    """

    right: np.ndarray[Any, np.dtype[np.float64]]
    single: np.ndarray[Any, np.dtype[np.float64]]
    rounds: int
    seconds: Spread
    processor: float
    gradient: float
    plain: float

    @property
    def accuracy(self) -> Interval:
        """The accuracy of the averaged prediction under attack."""
        return mean_interval(self.right, passes=self.rounds)


def measure_attacks(task: Task, rounds: int, attacks: Mapping[str, Attack] = ATTACKS) -> dict[str, AttackResult]:
    """Run all attacks in turn, and judge their images by passes that none of them has seen."""
    tasks = {name: replace(task, counts=Counter()) for name in attacks}
    times = {name: Times() for name in attacks}
    adversarial: dict[str, list[Tensor]] = {name: [] for name in attacks}
    for seed in range(rounds):
        for name, attack in attacks.items():
            adversarial[name].append(time_once(partial(attack, tasks[name], seed), times[name]))
    return {name: _judged(tasks[name], times[name], adversarial[name]) for name in attacks}


def _judged(task: Task, times: Times, adversarial: Sequence[Tensor]) -> AttackResult:
    defender = saplab.defend(task.net, saplab.SAP(percent=100))
    found = [predict_with_votes(defender, x, task.passes, seed=1000 + k) for k, x in enumerate(adversarial)]
    right = np.mean([correct(p.probs, task.labels) for p in found], axis=0)
    single = np.mean([pass_shares(p.votes, task.labels) for p in found], axis=0)
    work = len(adversarial) * len(task.images)
    shares = (task.counts[kind] / work for kind in ("gradient", "plain"))
    return AttackResult(right, single, len(adversarial), times.spread(), times.processor(), *shares)


def print_attacks(results: Mapping[str, AttackResult], task: Task) -> None:
    """Print what each attack left and took, and the differences to saplab's."""
    print(f"{len(task.images)} images, λ = {255 * task.eps:g}, {task.steps} steps of {task.samples} samples,", end=" ")
    print(f"backward {task.backward}; judged by {task.passes} fresh passes; mean over rounds")
    print(f"{'':28}{'accuracy left, %':>20}{'one pass':>10}{'wall s':>9}", end="")
    print(f"{'quartiles':>16}{'cores s':>9}{'passes per image':>26}")
    for name, r in results.items():
        quartiles = f"{r.seconds.low:.1f} - {r.seconds.high:.1f}"
        passes = f"{r.gradient:.0f} gradient, {r.plain:.0f} plain"
        print(
            f"{name:28}{_percent(r.accuracy):>20}{100 * r.single.mean():>10.1f}{r.seconds.median:>9.1f}"
            f"{quartiles:>16}{r.processor:>9.1f}{passes:>26}"
        )
    for name in (EOTPGD, RAND):
        for ours in (OURS, EVERY_STEP):
            if name in results:
                print(f"{ours} - {name}: {_compared(results[ours], results[name])}")
    print()


def _compared(ours: AttackResult, theirs: AttackResult) -> str:
    difference = paired_difference(ours.right, theirs.right, passes=ours.rounds)
    wall, cores = ours.seconds.median / theirs.seconds.median, ours.processor / theirs.processor
    return f"{_percent(difference)} points; {wall:.2f} times the time, {cores:.2f} times the processor time"


def _percent(interval: Interval) -> str:
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * x for x in (interval.estimate, interval.low, interval.high)))


def main() -> None:
    """Measure and print."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    info = machine(args.threads)
    print_machine(info)
    attacks, left_out = installed(ATTACKS, MODULES)
    for line in left_out:
        print(f"left out: {line}")
    content: dict[str, Any] = {"machine": info, "arguments": {k: str(v) for k, v in vars(args).items()}}
    tables: dict[str, Callable[[], Any]] = {
        "undefended": lambda: _undefended(args), "hidden": lambda: _hidden(args),
        "attacks": lambda: {rule: _attacks(args, attacks, rule) for rule in args.backward if args.images},
        "l2": lambda: _l2(args),
    }  # fmt: skip
    for name, measure in tables.items():
        content[name] = measure()
        save(args.json, content)


def _undefended(args: argparse.Namespace) -> list[dict[str, Any]]:
    _, left_out = installed({undefended.AUTOATTACK: None}, {undefended.AUTOATTACK: "pyautoattack"})
    if left_out or not args.undefended:
        return []
    x, y = (t[: args.undefended] for t in saplab.load_cifar10("sample"))
    return undefended.print_table(undefended.networks(args.outside), x, y, args.strengths)


def _hidden(args: argparse.Namespace) -> list[dict[str, Any]]:
    if not args.hidden:
        return []
    x, y = (t[: args.hidden] for t in saplab.load_cifar10("sample"))
    met = hidden.contests(x, args.hand_steps, args.hand_samples, args.winners)
    if unknown := set(args.networks) - set(met):
        raise SystemExit(f"`--networks` must be among {', '.join(met)}, got {', '.join(sorted(unknown))}")
    met = {name: met[name] for name in args.networks} or met
    return hidden.print_table(met, x, y, args.strengths)


def _attacks(args: argparse.Namespace, attacks: Mapping[str, Attack], rule: BackwardRule) -> dict[str, dict[str, Any]]:
    net = saplab.load_model("preact-resnet20-dense")
    x, y = (t[: args.images] for t in saplab.load_cifar10("sample"))
    task = Task(net, x, y, args.lam / 255, args.steps, args.samples, rule, args.passes)
    measure_attacks(replace(task, images=x[:2], labels=y[:2], steps=1, samples=1), 1, attacks)  # warm up
    results = measure_attacks(task, args.rounds, attacks)
    print_attacks(results, task)
    return {name: _plain(result) for name, result in results.items()}


def _l2(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    attacks, left_out = installed(l2.ATTACKS, l2.MODULES)
    for line in left_out:
        print(f"left out: {line}")
    x, y = (t[: args.l2_images] for t in saplab.load_cifar10("sample"))
    tasks = {name: l2.Plain(saplab.load_model(name), x, y, args.l2, args.l2_steps) for name in l2.NETWORKS}
    return {name: l2.print_l2(task, name, attacks) for name, task in tasks.items() if len(x)}


def _plain(result: AttackResult) -> dict[str, Any]:
    content = asdict(result) | {"accuracy": asdict(result.accuracy)}
    return content | {"right": result.right.tolist(), "single": result.single.tolist()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--undefended", type=int, default=100, help="images of the first table")
    parser.add_argument("--hidden", type=int, default=50, help="images of the second")
    parser.add_argument("--networks", nargs="*", default=[], help="those of the second by name; all where none")
    parser.add_argument("--strengths", type=float, nargs="+", default=[2.0, 8.0], help="λ of both")
    parser.add_argument("--outside", type=Path, help="weights of a ResNet-20 for the first")
    parser.add_argument("--winners", type=Path, help="weights of a winner-take-all ResNet-20 for the second")
    parser.add_argument("--hand-steps", type=int, default=40, help="by hand, where passes differ")
    parser.add_argument("--hand-samples", type=int, default=20)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--lam", type=float, default=2.0)
    parser.add_argument("--backward", nargs="*", choices=RULES, default=["identity"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--l2", type=float, default=0.5)
    parser.add_argument("--l2-images", type=int, default=200)
    parser.add_argument("--l2-steps", type=int, default=20)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
