"""Time one gradient pass of SAP-100 against the dense pass: forward, cross-entropy, gradient to the image.

    python benchmarks/gradient_pass.py [--images 512] [--rounds 7] [--precision float32 bfloat16] [--json PATH]

Each network runs in a process of its own for its peak memory (Linux), and all in one process, in turn, for the time.
Targets, on 512 CIFAR images through preact-resnet20: at most 2 times the dense pass, and 1.6 times its peak memory.
"""

import argparse
import contextlib
import copy
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import machine, print_machine, save, time_in_turn
from sampler import prune_by_multinomial
from torch import Tensor, nn
from torch.nn import functional as F

import saplab

DENSE, OURS, MULTINOMIAL = "dense", "SAP-100", "SAP-100 by torch.multinomial"
NETWORKS = (DENSE, OURS, MULTINOMIAL)
PRECISIONS = ("float32", "float32 channels_last", "bfloat16", "bfloat16 channels_last")


class MultinomialSAP(nn.Module):
    """ReLU, and SAP-100 as one writes it with `torch.multinomial`: the gradient is grad times mask."""

    def forward(self, x: Tensor) -> Tensor:
        """Prune each example's map."""
        h = x.relu()
        rows = h.detach().flatten(1).float()
        kept = prune_by_multinomial(rows, rows.shape[1])
        scale = torch.where(kept != 0, kept / rows, 0.0).view(h.shape).to(h.dtype)
        return h * scale


def network(name: str, precision: str) -> nn.Module:
    """Build one of NETWORKS, its weights laid out as the precision wants them."""
    dense: nn.Module = saplab.load_model("preact-resnet20-dense")
    dense = dense.to(memory_format=_format(precision))  # type: ignore[call-overload]
    if name == OURS:
        defended: nn.Module = saplab.defend(dense, saplab.SAP(percent=100), seed=0)
        return defended
    model = copy.deepcopy(dense)
    if name == MULTINOMIAL:
        for module in list(model.modules()):
            for key, child in module.named_children():
                if isinstance(child, nn.ReLU):
                    setattr(module, key, MultinomialSAP())
    return model


def gradient_pass(model: nn.Module, images: Tensor, labels: Tensor, precision: str) -> Tensor:
    """Give the gradient of the summed cross-entropy by the images."""
    x = images.detach().requires_grad_()
    low = torch.autocast("cpu", torch.bfloat16) if precision.startswith("bfloat16") else contextlib.nullcontext()
    with low:
        logits = model(x)
    return torch.autograd.grad(F.cross_entropy(logits.float(), labels, reduction="sum"), x)[0]


def _data(count: int, precision: str) -> tuple[Tensor, Tensor]:
    images, labels = saplab.load_cifar10("sample")
    images = images[:count]
    return images.contiguous(memory_format=_format(precision)), labels[:count]


def _format(precision: str) -> torch.memory_format:
    return torch.channels_last if precision.endswith("channels_last") else torch.contiguous_format


def _peak() -> int:
    """Give the highest resident memory of this process so far, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def memory_of_one_pass(name: str, count: int, precision: str) -> int:
    """Measure how far the resident memory of this very process rises in one pass; in bytes."""
    images, labels = _data(count, precision)
    model = network(name, precision)
    gradient_pass(model, images[:8], labels[:8], precision)
    Path("/proc/self/clear_refs").write_text("5")  # sets the highest back to the present
    before = _peak()
    gradient_pass(model, images, labels, precision)
    return _peak() - before


def _memory(name: str, precision: str, args: argparse.Namespace) -> int | None:
    if sys.platform != "linux":
        return None
    command = [sys.executable, __file__, "--one", name, "--images", str(args.images), "--precision", precision]
    done = subprocess.run([*command, "--threads", str(args.threads)], capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout))


def measure(precision: str, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Time and weigh all networks in one precision."""
    names = [name for name in NETWORKS if name != MULTINOMIAL or args.multinomial_rounds]
    images, labels = _data(args.images, precision)
    models = {name: network(name, precision) for name in names}
    works = {name: partial(gradient_pass, model, images, labels, precision) for name, model in models.items()}
    rounds = {name: args.multinomial_rounds if name == MULTINOMIAL else args.rounds for name in names}
    times = time_in_turn(works, rounds)
    return {name: {**times[name].summary(1.0), "memory": _memory(name, precision, args)} for name in names}


def print_table(precision: str, results: dict[str, dict[str, Any]], images: int) -> None:
    """Print one precision."""
    print(f"{precision}, {images} images")
    print(f"{'':30}{'wall s':>8}{'quartiles':>16}{'of dense':>10}{'cores s':>9}{'memory MB':>11}{'of dense':>10}")
    dense = results[DENSE]
    for name, found in results.items():
        quartiles = f"{found['low']:.2f} - {found['high']:.2f}"
        line = f"{name:30}{found['median']:>8.2f}{quartiles:>16}{found['median'] / dense['median']:>9.2f}x"
        line += f"{found['cpu']:>9.2f}"
        if found["memory"]:
            line += f"{found['memory'] / 1e6:>11.0f}{found['memory'] / dense['memory']:>9.2f}x"
        print(line)
    print()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--multinomial-rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", nargs="*", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", choices=NETWORKS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one:
        print(json.dumps(memory_of_one_pass(args.one, args.images, args.precision[0])))
        return
    info = machine(args.threads)
    print_machine(info)
    results = {}
    for precision in args.precision:
        results[precision] = measure(precision, args)
        print_table(precision, results[precision], args.images)
    save(args.json, {"machine": info, "images": args.images, "seconds_and_bytes": results})


if __name__ == "__main__":
    main()
