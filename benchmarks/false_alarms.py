"""How often the verdict calls a gradient masked that is not: undefended and adversarially trained networks.

    python benchmarks/false_alarms.py [--seeds 20] [--images 50] [--strengths 2 8]

Each seed has other images, random starts and windows. The attacks are the cheapest of each kind that a masked gradient
fails: noise, one step, PGD and APGD of 20 steps on two losses, and a black box of 100 queries.
"""

import argparse
from collections import Counter

import torch

import saplab

NETWORKS = ("preact-resnet20-dense", "preact-resnet20-fast", "preact-resnet20-adversarial")
ATTACKS = "noise+fgsm+pgd+apgd:steps=20+apgd:steps=20,loss=dlr+square:queries=100"


def main() -> None:
    """Count the outcomes of every network, and of every check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--strengths", type=float, nargs="+", default=[2.0, 8.0])
    options = parser.parse_args()
    images, labels = saplab.load_cifar10("sample")
    for name in NETWORKS:
        net, said, failed = saplab.load_model(name), Counter[str](), Counter[str]()
        for seed in range(options.seeds):
            rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[: options.images]
            eps = [lam / 255 for lam in options.strengths]
            found = saplab.evaluate(net, images[rows], labels[rows], ATTACKS, eps, seed=seed, progress=False).verdict
            said[{True: "masked", False: "not masked", None: "not known"}[found.masked]] += 1
            failed.update(check.key for check in found.checks if check.outcome == "failed")
        print(f"{name}, {options.seeds} seeds: {dict(said)}; checks that failed: {dict(failed)}", flush=True)


if __name__ == "__main__":
    main()
