"""What defences find in well-known networks, and what SAP-100 costs there over the dense network in the same run.

python benchmarks/architectures.py [--batch 8] [--rounds 5] [--size 224] [--write]

Needs the extra `vision`. With --write the table goes into docs/architectures.md.
"""

import argparse
import statistics
import time
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision_operators import declare_torchvision_operators

import saplab
from saplab.system.machine import processor, versions

NETWORKS = (
    "torchvision:resnet18", "torchvision:resnet50", "torchvision:vgg11", "torchvision:densenet121",
    "torchvision:mobilenet_v3_small", "torchvision:efficientnet_b0", "torchvision:vit_b_16", "torchvision:swin_t",
    "torchvision:convnext_tiny", "timm:resnet18", "timm:vit_tiny_patch16_224", "timm:convnext_atto",
    "timm:efficientnet_b0", "timm:mobilenetv3_small_050",
)  # fmt: skip
PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
BEGIN, END = "<!-- table: benchmarks/architectures.py --write -->", "<!-- end of the table -->"
HEADER = (
    "| network | activation functions | sites | activations an image | SAP-100 / dense, forward |\n"
    "|---|---|---:|---:|---:|"
)


def main() -> None:
    """Measure each network, print the table, and put it into the page if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    declare_torchvision_operators()

    lines = [HEADER]
    print(HEADER)
    for name in NETWORKS:
        lines.append(row(name, options.batch, options.size, options.rounds))
        print(lines[-1], flush=True)
    lines += ["", conditions(options.batch, options.size, options.rounds)]
    print(lines[-1])
    if options.write:
        text = PAGE.read_text(encoding="utf-8")
        before, after = text.partition(BEGIN)[0], text.partition(END)[2]
        PAGE.write_text("\n\n".join((before + BEGIN, "\n".join(lines), END + after)), encoding="utf-8")


def row(name: str, batch: int, size: int, rounds: int) -> str:
    """Give the line of one network."""
    net = saplab.load_model(name)
    images = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    found = saplab.sites(net, images[:1])
    functions = ", ".join(f"{function} {n}" for function, n in Counter(site.function for site in found).most_common())
    ratio, spread = cost(net, saplab.defend(net, saplab.SAP(100)), images, rounds)
    activations = sum(site.activations for site in found)
    return f"| {name} | {functions} | {len(found)} | {activations:,} | {ratio:.2f} ± {spread:.2f} |"


@torch.no_grad()
def cost(dense: nn.Module, defended: nn.Module, images: Tensor, rounds: int) -> tuple[float, float]:
    """Give the median ratio of rounds that time both networks in turn, and half its range."""
    ratios = []
    for _ in range(rounds + 1):
        mine, theirs = (seconds(network, images) for network in (defended, dense))
        ratios.append(mine / theirs)
    counted = ratios[1:]
    return statistics.median(counted), (max(counted) - min(counted)) / 2


def seconds(network: nn.Module, images: Tensor) -> float:
    """Time one pass."""
    begin = time.perf_counter()
    network(images)
    return time.perf_counter() - begin


def conditions(batch: int, size: int, rounds: int) -> str:
    """Say what the numbers depend on."""
    used = versions()
    return (
        f"Batch {batch}, {size}×{size} pixels, float32, random weights, PyTorch threads: {torch.get_num_threads()}, on"
        f" an {processor()}, PyTorch {used['torch']}. Each number is the median, ± half the range, of {rounds} ratios"
        " of one defended to one dense pass taken right after it. The machine had other work to do, so that times are"
        " comparable within a pair alone."
    )


if __name__ == "__main__":
    main()
