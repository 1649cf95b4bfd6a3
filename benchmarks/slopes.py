"""How much of what a gradient promises comes true: networks and defences, by each backward rule.

    python benchmarks/slopes.py [--images 8]

A table of what the rehearsal looks at before an evaluation (`saplab.defenses.slopes`): outputs are followed along their
gradient for small steps. A slope gives 1; far less is noise, or a backward pass that belongs to another function.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from saturation import disguises
from torch import Tensor, nn

import saplab
from saplab.defenses import parse_defenses
from saplab.defenses.slopes import slopes
from saplab.defenses.stochastic import ready

RULES: tuple[Any, ...] = ("mask", "identity", "relaxed")
NETWORKS = ("dense", "fast", "adversarial", "gaussian-0.25", "lwta")
DEFENSES = ("sap:100", "dropout:0.1", "rsa:0.2", "rna:0.1", "swp:100", "gaussian-noise", "resize-pad", "random-crop",
            "jpeg", "bit-depth", "stochastic-rounding")  # fmt: skip


class Opposite(torch.autograd.Function):
    """Returns its input, and hands back the opposite of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return a copy."""
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the opposite."""
        return -grad


class Misled(nn.Module):
    """A network behind `Opposite`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's logits."""
        return self.net(Opposite.apply(x))  # type: ignore[no-untyped-call,no-any-return]


def cases(images: Tensor) -> Iterator[tuple[str, nn.Module]]:
    """Yield the networks, with their names."""
    for name in NETWORKS:
        yield f"`{name}`", saplab.load_model(f"preact-resnet20-{name}")
    dense = saplab.load_model("preact-resnet20-dense")
    for text in DEFENSES:
        yield f"`dense` behind `{text}`", saplab.defend(dense, *parse_defenses(text))
    for name, net in disguises(dense, images).items():
        if name != "as it is":
            yield f"`dense`, {name}", net.eval()
    yield "`dense` behind the opposite gradient", Misled(dense).eval()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    images = saplab.load_cifar10("sample")[0][: parser.parse_args().images]
    print(f"| network | {' | '.join(RULES)} |\n|---|{'---:|' * len(RULES)}")
    for name, net in cases(images):
        found = {rule: slopes(ready(net, images), images, (rule,))[rule] for rule in RULES}
        cells = (f"{slope.share:.2f}{' (misled)' if slope.misled else ''}" for slope in found.values())
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
