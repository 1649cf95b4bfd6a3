"""The sites that defences find in well-known networks, and what SAP-100 costs there, relative to the dense network.

    python benchmarks/architectures.py [--batch 8] [--rounds 5] [--size 224] [--write]

Needs the extra `vision`. With --write the table goes into docs/architectures.md.
"""

import argparse
from collections import Counter
from functools import partial
from pathlib import Path

import torch
from suite.tables import markdown_table, put_between, spread_text
from suite.timing import Spread, time_in_turn
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
COLUMNS = ("network", "activation functions", "sites", "activations per image", "SAP-100 / dense, forward")


def main() -> None:
    """Measure each network, print the table, and put it into the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    declare_torchvision_operators()

    rows = []
    for name in NETWORKS:
        rows.append(row(name, options.batch, options.size, options.rounds))
        print(*rows[-1], sep=" | ", flush=True)
    table = markdown_table(COLUMNS, rows, words=2)
    content = f"{table}\n\n{conditions(options.batch, options.size, options.rounds)}\n"
    print(f"\n{content}")
    if options.write:
        PAGE.write_text(put_between(PAGE.read_text(encoding="utf-8"), BEGIN, END, content), encoding="utf-8")


def row(name: str, batch: int, size: int, rounds: int) -> tuple[str, ...]:
    """Measure one network."""
    net = saplab.load_model(name)
    images = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    found = saplab.sites(net, images[:1])
    functions = ", ".join(f"{function} {n}" for function, n in Counter(site.function for site in found).most_common())
    activations = sum(site.activations for site in found)
    ratio = cost(net, saplab.defend(net, saplab.SAP(100)), images, rounds)
    return name, functions, f"{len(found)}", f"{activations:,}", spread_text(ratio)


@torch.no_grad()
def cost(dense: nn.Module, defended: nn.Module, images: Tensor, rounds: int) -> Spread:
    """Time both networks in turn, and return the ratio of their times."""
    times = time_in_turn({"dense": partial(dense, images), "defended": partial(defended, images)}, rounds)
    return times["defended"].ratio(times["dense"])


def conditions(batch: int, size: int, rounds: int) -> str:
    """Describe what the numbers depend on."""
    used = versions()
    return (
        f"Batch {batch}, {size}×{size} pixels, float32, random weights, PyTorch threads: {torch.get_num_threads()}, on"
        f" {processor()}, PyTorch {used['torch']}. Each ratio is the median, with quartiles in brackets, of {rounds}"
        " rounds of a dense and a defended pass. The machine had other work to do, so that times are comparable within"
        " a round only."
    )


if __name__ == "__main__":
    main()
