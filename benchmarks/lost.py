"""How often an attack calls lost what is right, and what it costs to be sure.

python benchmarks/lost.py [--people 200000] [--images 200] [--samples 5] [--seed 0]

The first table: examples whose averaged prediction is as good as wrong (the mean lead of the rival is 0), under laws of
single passes; the share that some look of an attack calls lost, over looks of several passes each, each at another
point. The level of `saplab.attacks.Watch` is 0.135 % over all looks. The second: passes of one image that PGD-20 takes
against SAP-100 at 8/255, with and without leaving lost images alone, and what is left. Needs nothing but the package.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

import saplab
from saplab.attacks import Problem, Watch
from saplab.attacks.lost import ERROR

Law = Callable[[tuple[int, ...], torch.Generator], Tensor]


def two_points(chance: float, low: float, high: float) -> Law:
    """Return the law of `high` with a chance, else `low`."""
    return lambda shape, rng: torch.where(torch.rand(shape, generator=rng) < chance, high, low).double()


LAWS: dict[str, Law] = {
    "all or nothing, -1 or 1": two_points(0.5, -1.0, 1.0),
    "-0.9 or 0.1": two_points(0.9, -0.9, 0.1),
    "-0.1 or 0.9": two_points(0.1, -0.1, 0.9),
    "uniform": lambda shape, rng: 2 * torch.rand(shape, generator=rng).double() - 1,
    "normal, deviation 0.3": lambda shape, rng: (0.3 * torch.randn(shape, generator=rng).double()).clamp(-1, 1),
}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, default in (("people", 200_000), ("images", 200), ("samples", 5), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    cases = [(samples, looks) for samples in (2, 5, 10, 20) for looks in (1, 20, 100)]
    if args.people:
        print(f"called lost, % of {args.people:,} (level {100 * ERROR:.3f})")
    for name, law in LAWS.items() if args.people else ():
        for samples, looks in cases:
            share = ever_lost(law, samples, looks, args.people, args.seed)
            print(f"{name:25} {samples:3} passes, {looks:3} looks: {100 * share:.4f}", flush=True)
    if args.images:
        show_cost(args.images, args.samples, args.seed)


def ever_lost(law: Law, samples: int, looks: int, people: int, seed: int) -> float:
    """Return the share of examples that some look calls lost."""
    rng = torch.Generator().manual_seed(seed)
    nobody = Problem.of(nn.Flatten(), torch.zeros(people, 1, 1, 1), torch.zeros(people, dtype=torch.long))
    watch, found = Watch.over(nobody), torch.zeros(people, dtype=torch.bool)
    for _ in range(looks):
        doubtful = law((samples, people), rng).mean(0) > 0
        found |= watch.answer(doubtful, samples, lambda rows, _, passes: law((passes, len(rows)), rng))
    return float(found.double().mean())


def show_cost(count: int, samples: int, seed: int) -> None:
    """Print the passes of PGD-20 against SAP-100, counted at the network, and what it leaves."""
    images, labels = (part[:count] for part in saplab.load_cifar10("sample"))
    sap = saplab.defend(saplab.load_model("preact-resnet20-dense"), saplab.SAP(100))
    passes = {"forward": 0, "backward": 0}

    def note(_: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        passes["backward" if out.requires_grad else "forward"] += len(given[0])

    for stops in (True, False):
        passes.update(forward=0, backward=0)
        hook = sap.register_forward_hook(note)
        attack = saplab.PGD(saplab.MonteCarlo(samples, "identity"), steps=20, stop_when_lost=stops)
        points = attack(sap, images, labels, eps=8 / 255, seed=seed)
        hook.remove()
        forward, both = passes["forward"] / count, passes["backward"] / count
        right = saplab.predict(sap, points, passes=50, seed=seed).argmax(1) == labels
        print(f"PGD-20 of {samples} samples, stop_when_lost={stops}, per image: {forward:.1f} passes forward alone, "
              f"{both:.1f} both ways, {forward + 3 * both:.1f} in all where backward counts twice; "
              f"{100 * right.double().mean():.1f} % of {count} left", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
