"""Where the time of an evaluation by `standard` goes, attack by attack, and what each of them is worth.

    python benchmarks/waste.py [--images 50] [--lam 2 8] [--defense sap:100] [--model preact-resnet20-dense]
        [--passes 20] [--samples 20] [--seed 0] [--threads 1] [--json PATH]

For each attack: processor seconds to make its images and to judge them, passes forward and backward of an image as they
were run and as `Attack.cost` bounds them, what it leaves at each radius, and how many images, that all attacks above it
leave, it breaks. Then the cosine between the gradients of two halves of the samples, at the untouched images, by which
an attack could tell that fewer samples would do.
"""

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from suite.machine import machine, print_machine, save
from torch import Tensor, nn

import saplab
from saplab.attacks import Problem, attackers_of, eps_of
from saplab.attacks.batteries import Attacker
from saplab.defenses import parse_defenses
from saplab.metrics import correct
from saplab.runs.networks import rehearsed, traits_of

SAMPLES = (2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Spent:
    """What one attack of a battery took, and what it left.

    Attributes:
        name: of the attack.
        making, judging: processor seconds of all radii.
        forward, backward: passes of an image, as they were run; a gradient is one of each.
        bound: most passes, of which a backward one counts as two.
        right: (L, N), whether each image is right at each radius.
    """

    name: str
    making: float
    judging: float
    forward: float
    backward: float
    bound: int
    right: np.ndarray[Any, np.dtype[np.bool_]]


@contextmanager
def counting(net: nn.Module) -> Iterator[Counter[str]]:
    """Count the rows that pass a network, forward with a gradient and without."""
    counts: Counter[str] = Counter()

    def note(_: nn.Module, given: tuple[Any, ...], __: object) -> None:
        counts["gradient" if torch.is_grad_enabled() else "plain"] += len(given[0])

    handle = net.register_forward_hook(note)
    try:
        yield counts
    finally:
        handle.remove()


def spent(one: Attacker, nets: tuple[nn.Module, nn.Module], x: Tensor, y: Tensor, args: argparse.Namespace) -> Spent:
    """Run an attack at all radii, and judge its images."""
    defended, plain = nets
    asked = defended if one.whose == "self" else plain
    attack = one.attack
    radii = tuple(eps_of(lam) for lam in args.lam)
    start = time.process_time()
    with counting(asked) as counts:
        points = list(attack.curve(asked, x, y, radii, seed=args.seed))
    made = time.process_time()
    judged = [saplab.predict(defended, p, passes=args.passes, seed=args.seed + 1) for p in points]
    right = np.stack([correct(probs, y) for probs in judged])
    name = attack.describe(True) if one.whose == "self" else f"transfer {attack.describe(False)}"
    forward, backward = (count / len(x) for count in (counts.total(), counts["gradient"]))
    bound = attack.cost(radii).passes
    return Spent(name, made - start, time.process_time() - made, forward, backward, bound, right)


def print_table(found: Sequence[Spent], lams: Sequence[float]) -> None:
    """Print what each attack took and left, and what it alone added."""
    total = sum(one.making + one.judging for one in found)
    heads = [
        "attack",
        "making, s",
        "judging, s",
        "share, %",
        "forward",
        "backward",
        "of the passes that it may take, %",
    ]
    heads += [f"left at λ = {lam:g}, % (newly broken)" for lam in lams]
    print(f"| {' | '.join(heads)} |\n|---|{'---:|' * (len(heads) - 1)}")
    standing = np.ones_like(found[0].right, dtype=bool)
    for one in found:
        new = (standing & ~one.right).sum(1)
        standing &= one.right
        share = 100 * (one.making + one.judging) / total
        passes = one.forward + 2 * one.backward
        cells = [one.name, f"{one.making:.1f}", f"{one.judging:.1f}", f"{share:.0f}", f"{one.forward:.0f}"]
        cells += [f"{one.backward:.0f}", f"{100 * passes / one.bound:.0f}" if one.bound else "–"]
        cells += [f"{100 * left:.1f} ({n})" for left, n in zip(one.right.mean(1), new, strict=True)]
        print(f"| {' | '.join(cells)} |", flush=True)
    print(f"all: {total:.0f} s, of which judging {sum(one.judging for one in found):.0f}", flush=True)


def print_halves(net: nn.Module, x: Tensor, y: Tensor) -> None:
    """Print quartiles of the cosine between two halves of each number of samples, by identity backward."""
    problem = Problem.of(net, x, y, (eps_of(8.0),))
    print("| samples | cosine of the halves: lower quartile | median | upper quartile |\n|---:|---:|---:|---:|")
    for found in saplab.MonteCarlo(backward="identity").nested(problem, SAMPLES):
        quartiles = np.nanquantile(found.half_cosine.numpy(), (0.25, 0.5, 0.75))
        print(f"| {found.samples} | {' | '.join(f'{value:.2f}' for value in quartiles)} |", flush=True)


def main() -> None:
    """Run the battery, and print the tables."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    info = machine(args.threads)
    print_machine(info)
    plain = saplab.load_model(args.model)
    nets = (saplab.defend(plain, *parse_defenses(args.defense)), plain)
    x, y = (t[: args.images] for t in saplab.load_cifar10("sample"))
    seen, reference = (rehearsed(net, x) for net in nets)
    traits = traits_of(seen, x)
    fitted = (one.fitted(traits) for one in attackers_of("standard", saplab.MonteCarlo(args.samples)))
    battery = [one.against(seen.network, reference.network) for one in fitted if one is not None]
    print(f"{args.defense}, {len(x)} images, {args.passes} passes, {args.samples} samples")
    found = []
    for one in battery:
        found.append(spent(one, nets, x, y, args))
        print(found[-1].name, round(found[-1].making, 1), flush=True)
    print_table(found, args.lam)
    print_halves(nets[0], x, y)
    rows = [{**vars(one), "right": one.right.tolist()} for one in found]
    save(args.json, {"machine": info, "arguments": {k: str(v) for k, v in vars(args).items()}, "found": rows})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--lam", type=float, nargs="+", default=[2.0, 8.0])
    parser.add_argument("--defense", default="sap:100")
    parser.add_argument("--model", default="preact-resnet20-dense")
    for name, usual in (("passes", 20), ("samples", 20), ("seed", 0), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
