"""What attacks leave of mixtures of two packaged networks, expected accuracies, which are exact; and the best weights.

Prints the tables of docs/attacks.md:

    python benchmarks/mixtures.py --images 100 --lam 8
    python benchmarks/mixtures.py --images 50 --lam 8 --game 6
"""

import argparse
import logging
import time
from collections.abc import Mapping

import saplab

PAIRS = (("dense", "fast"), ("fast", "adversarial"))


def attacks(steps: int, samples: int) -> Mapping[str, saplab.Attack]:
    """Return the attacks of the table by name; PGD goes on where the average is wrong, as single passes count here."""
    return {
        f"PGD-{steps} ×{samples}": saplab.PGD(saplab.MonteCarlo(samples), steps=steps, stop_when_lost=False),
        f"ARC-{steps}": saplab.ARC(steps=steps),
    }


def measure(pair: tuple[str, str], images: int, lam: float, steps: int, samples: int) -> None:
    """Print a mixture's expected accuracy without an attack and under each."""
    nets = [saplab.load_model(f"preact-resnet20-{name}") for name in pair]
    mixture = saplab.Mixture(nets)
    x, y = (tensor[:images] for tensor in saplab.load_cifar10("sample"))
    print(f"{' + '.join(pair)}: clean {100 * mixture.accuracy(x, y):.1f}", flush=True)
    for name, attack in attacks(steps, samples).items():
        begin = time.perf_counter()
        points = attack(mixture, x, y, eps=lam / 255)
        left, seconds = 100 * mixture.accuracy(points, y), time.perf_counter() - begin
        each = ", ".join(f"{100 * saplab.Mixture([net]).accuracy(points, y):.1f}" for net in nets)
        print(f"  {name}: {left:.1f} (each network: {each}; {seconds:.0f} s)", flush=True)


def play(pair: tuple[str, str], images: int, lam: float, steps: int, rounds: int) -> None:
    """Print the game of `saplab.mix` for a pair."""
    nets = [saplab.load_model(f"preact-resnet20-{name}") for name in pair]
    x, y = (tensor[:images] for tensor in saplab.load_cifar10("sample"))
    begin = time.perf_counter()
    found = saplab.mix(nets, x, y, lam / 255, reply=saplab.ARC(steps=steps), rounds=rounds)
    print(f"{' + '.join(pair)}, {time.perf_counter() - begin:.0f} s\n{found}\n", flush=True)


def main() -> None:
    """Measure every pair, or play its game."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--lam", type=float, default=8.0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--game", type=int, default=0, help="rounds at most; instead of the attacks")
    given = parser.parse_args()
    logging.getLogger("saplab").setLevel(logging.ERROR)
    for pair in PAIRS:
        if given.game:
            play(pair, given.images, given.lam, given.steps, given.game)
            continue
        measure(pair, given.images, given.lam, given.steps, given.samples)


if __name__ == "__main__":
    main()
