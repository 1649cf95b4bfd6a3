"""Time a Monte Carlo gradient against the forward and backward passes that it consists of, and nothing else.

    python benchmarks/attack_overhead.py [--images 512 64 8] [--samples 8] [--rounds 7] [--json PATH]

The bare passes run over the same stacks of images with the same draws. What `MonteCarlo.estimate` adds are the streams,
the stacking, sums of gradients and their halves, and scores. Target: at least 90 % of the bare throughput.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import Times, machine, print_machine, save, time_in_turn
from torch import Tensor, nn
from torch.nn import functional as F

import saplab
from saplab import noise
from saplab.defenses.drawing import drawing
from saplab.defenses.prediction import BATCH

Stack = tuple[Tensor, Tensor, Tensor]


def stacks(images: Tensor, labels: Tensor, samples: int) -> Iterator[Stack]:
    """Yield (images, labels, streams) of as many passes at a time as `MonteCarlo` stacks."""
    key, numbers, most = noise.stream_key(0, "attack"), torch.arange(len(images)), max(1, BATCH // len(images))
    for start in range(0, samples, most):
        passes = range(start, min(start + most, samples))
        streams = torch.cat([noise.streams(key, p, numbers) for p in passes])
        yield images.repeat(len(passes), 1, 1, 1), labels.repeat(len(passes)), streams


def bare(model: nn.Module, prepared: list[Stack]) -> None:
    """Run forward and backward over stacks that are there already, and drop the gradients."""
    for images, labels, streams in prepared:
        x = images.detach().requires_grad_()
        with drawing(streams, "mask"):
            loss = F.cross_entropy(model(x), labels, reduction="sum")
        torch.autograd.grad(loss, x)


def share(bare_times: Times, ours: Times) -> dict[str, Any]:
    """Give both summaries, and our throughput as a share of the bare one: the median over rounds, by processor time."""
    ratios = sorted(b / o for b, o in zip(bare_times.cpu, ours.cpu, strict=True))
    return {"bare": bare_times.summary(1.0), "ours": ours.summary(1.0), "share": ratios[len(ratios) // 2]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="*", default=[512, 64, 8])
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    info = machine(args.threads)
    print_machine(info)
    dense = saplab.load_model("preact-resnet20-dense")
    models = {"dense": dense, "SAP-100": saplab.defend(dense, saplab.SAP(percent=100))}
    all_images, all_labels = saplab.load_cifar10("sample")
    print(f"{args.samples} samples; processor seconds of a gradient\n")
    print(f"{'':10}{'images':>8}{'bare':>9}{'ours':>9}{'throughput':>12}")
    results = {}
    for count in args.images:
        images, labels = all_images[:count], all_labels[:count]
        prepared = list(stacks(images, labels, args.samples))
        gradient = saplab.MonteCarlo(args.samples).gradient
        for name, model in models.items():
            works = {"bare": partial(bare, model, prepared), "ours": partial(gradient, model, images, labels)}
            times = time_in_turn(works, dict.fromkeys(works, args.rounds))
            found = results[f"{name}, {count} images"] = share(times["bare"], times["ours"])
            seconds = f"{found['bare']['cpu']:>9.3f}{found['ours']['cpu']:>9.3f}"
            print(f"{name:10}{count:>8}{seconds}{found['share']:>11.1%}")
    save(args.json, {"machine": info, "samples": args.samples, "results": results})


if __name__ == "__main__":
    main()
