"""What attacks leave of one network in six disguises that hide its gradient, and hardly change what it computes.

Prints the table of docs/attacks.md:

    python benchmarks/saturation.py --images 200 --lam 8
"""

import argparse
import copy
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import saplab

LEVELS = 8


class Then(nn.Module):
    """A network, and what is done before or after it."""

    def __init__(self, net: nn.Module, before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes) of images (N, C, H, W)."""
        return self.after(self.net(self.before(x)))


class RoundedReLU(nn.Module):
    """A ReLU in `LEVELS` levels up to `top`."""

    def __init__(self) -> None:
        super().__init__()
        self.top = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Return the rounded maps."""
        return rounded(F.relu(x).clamp(max=self.top) / self.top) * self.top


class TwoWaySoftmax(nn.Module):
    """x · softmax((x, 0) / T)_1, a ReLU but for |x| about T."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps."""
        return x * torch.softmax(torch.stack((x, torch.zeros_like(x))) / 0.01, 0)[0]


def same(x: Tensor) -> Tensor:
    """Return what it gets."""
    return x


def rounded(x: Tensor) -> Tensor:
    """Round values in [0, 1] to `LEVELS` levels."""
    return (x * (LEVELS - 1)).round() / (LEVELS - 1)


def with_activations(net: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    """Copy a network with other activation functions in the place of its ReLUs."""
    net = copy.deepcopy(net)
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(module, name, make())
    return net


def with_rounded_activations(net: nn.Module, images: Tensor) -> nn.Module:
    """Round each ReLU's map, with its 99.8 % quantile on some images as the top level."""
    plain, coarse = with_activations(net, nn.ReLU), with_activations(net, RoundedReLU)
    pairs = zip(
        *([m for m in n.modules() if isinstance(m, k)] for n, k in ((plain, nn.ReLU), (coarse, RoundedReLU))),
        strict=True,
    )

    def note(module: nn.Module, inputs: object, output: Tensor, target: RoundedReLU) -> None:
        values = output.flatten().sort().values
        target.top = float(values[int(0.998 * len(values))])

    for relu, target in pairs:
        relu.register_forward_hook(lambda m, i, o, target=target: note(m, i, o, target))
    with torch.no_grad():
        plain(images)
    return coarse


def disguises(net: nn.Module, images: Tensor) -> dict[str, nn.Module]:
    """Return the network as it is, and its disguises."""
    return {
        "as it is": net,
        "logits times 10⁴": Then(net, same, lambda z: 1e4 * z),
        "input rounded to 8 levels": Then(net, rounded, same),
        "ReLUs rounded to 8 levels": with_rounded_activations(net, images[:50]),
        "softmax at the end": Then(net, same, lambda z: z.softmax(1)),
        "two-way softmax for ReLU, T = 0.01": with_activations(net, TwoWaySoftmax),
    }


def attacks(queries: int) -> dict[str, saplab.Attack]:
    """Return the attacks by their names in the table."""
    relaxed = saplab.MonteCarlo(backward="relaxed")
    return {
        "PGD-20": saplab.PGD(steps=20),
        "PGD-20 relaxed": saplab.PGD(relaxed, steps=20),
        "APGD-20 DLR": saplab.APGD(saplab.MonteCarlo(loss="dlr"), steps=20),
        f"Square-{queries}": saplab.Square(queries=queries),
    }


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="preact-resnet20-dense")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--lam", type=float, default=8)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--attacks", default="", help="only those whose names hold this")
    chosen = parser.parse_args()
    net = saplab.load_model(chosen.model).eval()
    images, labels = (t[: chosen.images] for t in saplab.load_cifar10("sample"))
    some = {name: attack for name, attack in attacks(chosen.queries).items() if chosen.attacks in name}

    def left(network: nn.Module, points: Tensor) -> str:
        return f"{100 * (saplab.predict(network, points).argmax(1) == labels).float().mean():.1f}"

    print("|".join(("", "network", "clean", *some, "")))
    print("|---|" + "---:|" * (1 + len(some)))
    for name, network in disguises(net, images).items():
        network.eval()
        row = [name, left(network, images)]
        for attack in some.values():
            begin = time.perf_counter()
            row.append(left(network, attack(network, images, labels, chosen.lam / 255, seed=1)))
            row[-1] += f" ({time.perf_counter() - begin:.0f} s)"
        print("|".join(("", *row, "")), flush=True)


if __name__ == "__main__":
    main()
