"""What the defences of the image cost in clean accuracy, and what an attack that averages over their draws leaves.

    python benchmarks/input_defenses.py [--images 200] [--samples 5] [--passes 20] [--out FOLDER] [DEFENSE ...]

Prints a table: clean accuracy, and what PGD-20 along the defended network's gradient leaves at λ = 2 and 8. Backward
rules make no difference for these defences. With --out a killed run goes on.
"""

import argparse
from pathlib import Path
from typing import Any

import saplab
from saplab.attacks import eps_of
from saplab.defenses import parse_defenses

DEFENSES = ("gaussian-noise", "resize-pad", "random-crop", "bit-depth", "stochastic-rounding", "jpeg")
STRENGTHS = (2, 8)


def main() -> None:
    """Measure each defence and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("defenses", nargs="*", default=DEFENSES)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--passes", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    images, labels = (t[: options.images] for t in saplab.load_cifar10("sample"))
    net = saplab.load_model("preact-resnet20-dense")
    attack = saplab.PGD(saplab.MonteCarlo(options.samples), steps=20)
    print(f"| defence | clean | {' | '.join(f'PGD-20, λ = {lam}' for lam in STRENGTHS)} |")
    print(f"|---|{'---:|' * (1 + len(STRENGTHS))}")
    for text in options.defenses:
        defended, radii = saplab.defend(net, *parse_defenses(text)), list(map(eps_of, STRENGTHS))
        folder = options.out / text.replace(":", "-") if options.out else None
        found = saplab.evaluate(defended, images, labels, attack, radii, passes=options.passes, baseline=False,
                                out=folder, progress=False)  # fmt: skip
        print(f"| `{text}` | {' | '.join(map(_cell, found.rows))} |", flush=True)


def _cell(row: Any) -> str:
    return f"{row['averaged_percent']:.1f} [{row['averaged_low']:.1f}, {row['averaged_high']:.1f}]"


if __name__ == "__main__":
    main()
