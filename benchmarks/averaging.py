"""Attacks on SAP-100 that average the noise of its passes over samples, over steps by momentum, or both.

    python benchmarks/averaging.py [--images 24] [--lam 2] [--passes 100] [--seed 1]

What each leaves of the first packaged images by the averaged prediction of fresh passes, by how much the likeliest
wrong class leads the label on average, and the processor seconds that it took, on one thread. All pass SAP straight
through.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Final

import torch
from suite.machine import machine, print_machine
from suite.timing import Times, time_once

import saplab
from saplab.attacks import Attack, eps_of
from saplab.metrics import correct

HEAD: Final = ("attack", "left, %", "mean lead of a wrong class", "s")


def attacks() -> Iterator[Attack]:
    """Yield the attacks, with 5 samples a step and with more."""
    few, more, most = (saplab.MonteCarlo(samples, "identity") for samples in (5, 10, 20))
    for gradient in (few, more):
        along = replace(gradient, loss="margin")
        yield saplab.PGD(gradient, steps=40)
        yield saplab.PGD(gradient, steps=40, momentum=0.9)
        yield saplab.PGD(along, steps=40, momentum=0.9)
    yield saplab.PGD(along, steps=40, momentum=0.9, relative_step=0.15)
    yield saplab.PGD(along, steps=40, momentum=0.9, relative_step=0.3)
    for gradient in (more, most):
        yield saplab.APGD(replace(gradient, loss="dlr"), steps=40)


def main() -> None:
    """Print the table row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, kind, default in (("images", int, 24), ("lam", float, 2.0), ("passes", int, 100), ("seed", int, 1)):
        parser.add_argument(f"--{name}", type=kind, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print_machine(machine(1))
    print(f"{args.images} images, λ = {args.lam:g}\n| {' | '.join(HEAD)} |\n|---|{'---:|' * (len(HEAD) - 1)}")
    sap = saplab.defend(saplab.load_model("preact-resnet20-dense"), saplab.SAP(100))
    images, labels = (t[: args.images] for t in saplab.load_cifar10("sample"))
    for attack in attacks():
        times = Times()
        points = time_once(partial(attack, sap, images, labels, eps=eps_of(args.lam), seed=args.seed), times)
        probs = saplab.predict(sap, points, passes=args.passes, seed=args.seed + 1)
        own = probs.gather(1, labels[:, None])
        lead = (probs.scatter(1, labels[:, None], -1.0).amax(1, keepdim=True) - own).mean()
        left = 100 * float(correct(probs, labels).mean())
        print(f"| {attack.describe(False)} | {left:.1f} | {float(lead):.2f} | {times.cpu[0]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
