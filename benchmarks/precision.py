"""Attacks whose own passes are computed in bfloat16 beside the same in float32: what they leave, and what they cost.

    python benchmarks/precision.py [--images 200] [--passes 20] [--seed 0]

One thread. Both attacks have the same seed, start and draws, and float32 judges the images of both. Attacks stop at
images that are lost, so that time per attack holds both what a pass costs and how many were needed.
"""

import argparse
from dataclasses import replace
from functools import partial
from typing import Final

import torch
from suite.machine import machine, print_machine
from suite.timing import Times, time_once
from torch import nn

import saplab
from saplab.attacks import Attack, eps_of
from saplab.metrics import correct, paired_difference
from saplab.system.precision import PRECISIONS, resolve_precision

EXACT: Final = saplab.MonteCarlo()
AVERAGED: Final = saplab.MonteCarlo(5, "identity")
HEAD: Final = ("network", "attack", "λ", *(f"{name}, %" for name in PRECISIONS), "difference, points", "time, ratio")


def contests() -> dict[str, tuple[nn.Module, float, saplab.MonteCarlo]]:
    """Return networks by name, with the λ at which something is left, and how their gradients are taken."""
    dense = saplab.load_model("preact-resnet20-dense")
    return {
        "fast": (saplab.load_model("preact-resnet20-fast"), 8.0, EXACT),
        "adversarial": (saplab.load_model("preact-resnet20-adversarial"), 2.0, EXACT),
        "SAP-100 on dense": (saplab.defend(dense, saplab.SAP(100)), 2.0, AVERAGED),
        "Gaussian noise 0.1 on dense": (saplab.defend(dense, saplab.GaussianNoise(0.1)), 2.0, AVERAGED),
    }


def attacks(gradient: saplab.MonteCarlo) -> list[Attack]:
    """Return the attacks of a gradient, and one that queries by as many samples."""
    return [
        saplab.PGD(gradient, steps=20),
        saplab.APGD(replace(gradient, loss="dlr"), steps=20),
        saplab.Square(100, gradient.samples, precision=gradient.precision),
    ]


def main() -> None:
    """Print the table row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("images", 200), ("passes", 20), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print_machine(machine(1))
    print(f"{args.images} images; `auto` is {resolve_precision('auto', 'cpu')} here")
    print(f"| {' | '.join(HEAD)} |\n|---|---|{'---:|' * (len(HEAD) - 2)}")
    images, labels = (t[: args.images] for t in saplab.load_cifar10("sample"))
    for name, (net, lam, gradient) in contests().items():
        pairs = zip(*(attacks(replace(gradient, precision=precision)) for precision in PRECISIONS), strict=True)
        for pair in pairs:
            times, right = Times(), []
            for attack in pair:
                attack(net, images[:2], labels[:2], eps=eps_of(lam))  # warm up
                run = partial(attack, net, images, labels, eps=eps_of(lam), seed=args.seed)
                points = time_once(run, times)
                right.append(correct(saplab.predict(net, points, passes=args.passes, seed=args.seed + 1), labels))
            gap = paired_difference(right[1], right[0])
            change = "{:+.1f} [{:.1f}, {:.1f}]".format(*(100 * end for end in (gap.estimate, gap.low, gap.high)))
            shares = (f"{100 * float(one.mean()):.1f}" for one in right)
            ratio = times.cpu[1] / times.cpu[0]
            cells = (name, pair[0].describe(False), f"{lam:g}", *shares, change, f"{ratio:.2f}")
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
