"""What drawing the uniforms of a gradient's samples together, not independently, would do to its variance.

python benchmarks/variance.py [--images 32] [--samples 8] [--repeats 10] [--seed 0]

An element is hit when its uniform lies below 1 - exp(-r p): the kernels' first step, without the correction of the
total. `antithetic` gives every second sample 1 - u; `systematic` gives sample s of K the number u + t s / K, without
its whole part, for an odd t of each element's own, so that an element's K numbers lie one in each of K equal parts.
Either leaves each sample's own law as it is. Prints, over images, the median variance of the mean gradient against
independent draws, and how alike two estimates are. Needs nothing but the package.
"""

import argparse
import itertools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.overrides import TorchFunctionMode

import saplab

Draw = Callable[[int, int, int, tuple[int, ...]], Tensor]  # (estimate, sample, site, shape) -> uniforms


def main() -> None:
    """Estimate each gradient several times in each way and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    network = saplab.load_model("preact-resnet20-dense").requires_grad_(False)
    images, labels = (t[: options.images] for t in saplab.load_cifar10("sample"))
    print("| rule | draws | variance | cosine of two estimates | ms a sample |\n|---|---|---:|---:|---:|")
    for rule in ("mask", "identity"):
        independent = None
        for name, draw in _ways(options.samples, options.seed).items():
            start = time.thread_time()
            estimates = [_gradient(network, images, labels, rule, draw, i, options.samples)
                         for i in range(options.repeats)]  # fmt: skip
            cost = (time.thread_time() - start) / (options.repeats * options.samples * len(images))
            stack = torch.stack(estimates).flatten(2)
            variance = stack.var(0).sum(1)
            independent = variance if independent is None else independent
            row = f"{(variance / independent).median():.3f} | {_cosine(stack):.3f} | {1000 * cost:.1f}"
            print(f"| {rule} | {name} | {row} |", flush=True)


def _ways(samples: int, seed: int) -> Mapping[str, Draw]:
    def generator(*where: int) -> Generator:
        number = seed
        for part in where:
            number = number * 1_000_003 + part + 1
        return torch.Generator().manual_seed(number % (1 << 63))

    def independent(estimate: int, sample: int, site: int, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=generator(1, estimate, site, sample))

    def antithetic(estimate: int, sample: int, site: int, shape: tuple[int, ...]) -> Tensor:
        u = torch.rand(shape, generator=generator(2, estimate, site, sample // 2))
        return 1 - u if sample % 2 else u

    def systematic(estimate: int, sample: int, site: int, shape: tuple[int, ...]) -> Tensor:
        random = generator(3, estimate, site)
        strides = torch.tensor([k for k in range(1, samples + 1) if math.gcd(k, samples) == 1])
        u = torch.rand(shape, generator=random)
        stride = strides[torch.randint(len(strides), shape, generator=random)]
        return (u + sample * stride % samples / samples) % 1.0

    return {"independent": independent, "antithetic": antithetic, "systematic": systematic}


def _gradient(
    network: nn.Module, images: Tensor, labels: Tensor, rule: str, draw: Draw, estimate: int, samples: int
) -> Tensor:
    total = torch.zeros_like(images)
    for sample in range(samples):
        x = images.clone().requires_grad_()
        with _Pruning(rule, draw, estimate, sample):
            loss = F.cross_entropy(network(x), labels, reduction="sum")
        total += torch.autograd.grad(loss, x)[0]
    return total / samples


def _cosine(estimates: Tensor) -> float:
    """Give the median over images of the mean cosine of two estimates (E, N, pixels)."""
    pairs = itertools.combinations(estimates, 2)
    return torch.stack([F.cosine_similarity(a, b) for a, b in pairs]).mean(0).median().item()


class _Pruning(TorchFunctionMode):
    """Inside, each ReLU's output is pruned by the uniforms of one sample of one estimate."""

    def __init__(self, rule: str, draw: Draw, estimate: int, sample: int) -> None:
        super().__init__()
        self._rule, self._draw, self._estimate, self._sample, self._site = rule, draw, estimate, sample, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in (F.relu, torch.relu):
            return result
        u = self._draw(self._estimate, self._sample, self._site, tuple(result.shape))
        self._site += 1
        return _pruned(result, u, self._rule)


def _pruned(h: Tensor, u: Tensor, rule: str) -> Tensor:
    """Give h / (1 - (1 - p)^r) where u < 1 - exp(-r p), else 0, r = a; its gradient is by the mask, or h's own."""
    draws = h[0].numel()
    with torch.no_grad():
        mass = h.abs().sum((1, 2, 3), keepdim=True)
        p = h.abs() / torch.where(mass > 0, mass, 1.0)
        kept = u < -torch.expm1(-draws * p)
        mask = torch.where(kept, 1 / -torch.expm1(draws * torch.log1p(-p)), 0.0)
    return h * mask if rule == "mask" else h + (h * mask - h).detach()


if __name__ == "__main__":
    main()
