"""Accuracy under the authors' attack, which ran batch-norm in training mode, and under the same attack without that.

    python benchmarks/batch_norm.py [--images 1000] [--batch 100] [--samples 20] [--passes 20]

Prints a table of accuracies under FGSM: with the gradient of the network as it predicts, and with that of a copy in
training mode, which normalises by the batch's own statistics.
"""

import argparse
import copy

import torch
from suite.handwritten import gradient_by_loop
from torch import Tensor, nn

import saplab
from saplab.evaluation.paper_numbers import DENSE_FGSM, SAP_100_FGSM
from saplab.metrics.intervals import wilson
from saplab.paper.figures import ADV_FGSM

STRENGTHS = (0, 1, 2, 4, 8, 16)
NETWORKS = (
    ("dense", "preact-resnet20-dense", None, DENSE_FGSM),
    ("SAP-100", "preact-resnet20-dense", saplab.SAP(100), SAP_100_FGSM),
    ("ADV", "preact-resnet20-adversarial", None, ADV_FGSM),
)


def main() -> None:
    """Measure each network both ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--passes", type=int, default=20)
    options = parser.parse_args()
    images, labels = (t[: options.images] for t in saplab.load_cifar10("sample"))
    print(f"| network | gradient | {' | '.join(f'λ = {lam}' for lam in STRENGTHS)} |")
    print(f"|---|---|{'---:|' * len(STRENGTHS)}")
    for name, model, defense, paper in NETWORKS:
        network = saplab.load_model(model)
        training = copy.deepcopy(network).train()
        samples, passes = (options.samples, options.passes) if defense else (1, 1)
        defender, *adversaries = (_defended(one, defense) for one in (network, network, training))
        cells = [f"{paper[lam]:.1f}" if lam in paper else "" for lam in STRENGTHS]
        print(f"| {name} | the paper's numbers | {' | '.join(cells)} |")
        for how, adversary in zip(("of the network", "batch-norm in training mode"), adversaries, strict=True):
            pairs = zip(images.split(options.batch), labels.split(options.batch), strict=True)
            sign = torch.cat([gradient_by_loop(adversary, x, y, samples) for x, y in pairs]).sign()
            cells = [_accuracy(defender, images, labels, lam / 255 * sign, passes) for lam in STRENGTHS]
            print(f"| {name} | {how} | {' | '.join(cells)} |", flush=True)


def _defended(network: nn.Module, defense: saplab.SAP | None) -> nn.Module:
    return saplab.defend(network, defense, seed=0) if defense else network


def _accuracy(defender: nn.Module, images: Tensor, labels: Tensor, change: Tensor, passes: int) -> str:
    probs = saplab.predict(defender, (images + change).clamp(0, 1), passes=passes, seed=1)
    correct = int((probs.argmax(1) == labels).sum())
    low, high = (100 * bound for bound in wilson(correct / len(labels), len(labels), 1.96))
    return f"{100 * correct / len(labels):.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    main()
