"""Time Algorithm 1 on a GPU: the sampler against a copy, SAP-100 against the dense pass, and a Monte Carlo attack.

    python benchmarks/gpu.py [--rounds 31] [--tune] [--stages] [--json PATH]

It also compares the law of what a GPU keeps with the CPU's. Targets on an H200, judged by a table at the end: the
sampler reads and writes at 60 % of the speed of a copy or more, on 512 maps of 16384 float32; a gradient pass of 512
CIFAR images in float32 takes under 8 ms and 1.5 times the dense one; MC-FGSM with 100 samples for 10,000 images takes
under a minute (the packaged images repeated, which cost the same as the test set).

With TRITON_INTERPRET=1 and `--device cpu --small` the script can be tried without a GPU; its times mean nothing.
"""

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from suite.machine import machine, print_machine, save
from suite.networks import DENSE, network, sample_images
from suite.sampling import streams
from suite.timing import Spread, Work, wait_for
from torch import Tensor, nn
from torch.nn import functional as F

import saplab
from saplab.defenses.drawing import drawing
from saplab.pruning import operator
from saplab.rng.streams import pass_streams, stream_key
from saplab.system.precision import computing_in

try:
    from saplab.pruning.gpu import Tiling, prune_rows, tiling
except ModuleNotFoundError as error:
    raise SystemExit(f"benchmarks/gpu.py needs Triton, which is not installed here ({error}).") from None

SHAPES = [(512, 16_384), (512, 4_096), (8, 1_000_000), (8192, 1_024)]
TINY = (4, 256)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SETS = 4  # of memory, so that none is still in the cache when its turn comes
OURS, COPY = "saplab", "copy"
SAMPLER, PASSES, ATTACK = "sampler, 512 x 16384, float32", "gradient pass of 512 images, ms", "MC-FGSM"


def seconds(work: Work, rounds: int, device: torch.device) -> list[float]:
    """Time rounds of a work, on a GPU by its own clock."""
    if device.type != "cuda":
        clock = [time.perf_counter()]
        for _ in range(rounds):
            work()
            clock.append(time.perf_counter())
        return [b - a for a, b in pairwise(clock)]
    for _ in range(3):
        work()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 for a, b in pairwise(marks)]


def summary(times: list[float], unit: float) -> dict[str, float]:
    """Summarise times in units of `unit` seconds."""
    return asdict(Spread.of([t / unit for t in times]))


def captured(work: Work, device: torch.device) -> Work:
    """Record a work's launches as a CUDA graph, to leave out the time that Python takes between them."""
    if device.type != "cuda":
        return work
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        work()
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def maps(rows: int, a: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Draw ReLU maps of Gaussian numbers."""
    generator = torch.Generator(device).manual_seed(0)
    return [torch.randn(rows, a, generator=generator, device=device).relu().to(dtype) for _ in range(SETS)]


def on_all(prune: Callable[[Tensor], object], sets: list[Tensor]) -> None:
    """Prune each set in turn."""
    for x in sets:
        prune(x)


def kernels_for(x: Tensor, cut: Tiling | None = None, seed: int = 0) -> Callable[[Tensor], Tensor]:
    """Return a function that prunes maps like `x` by the kernels alone, with as many draws as activations."""
    keys = streams(len(x), seed).to(x.device)
    bad = torch.zeros(2, dtype=torch.int32, device=x.device)
    return lambda t: prune_rows(t, keys, t.shape[1], 0, bad, cut)


def time_sampler(rows: int, a: int, dtype: str, rounds: int, device: torch.device) -> dict[str, Any]:
    """Time pruning and copying maps: microseconds of one set, and gigabytes read and written per second."""
    sets = maps(rows, a, DTYPES[dtype], device)
    out = torch.empty_like(sets[0])
    keys = streams(rows).to(device)
    works: dict[str, Work] = {
        OURS: captured(partial(on_all, kernels_for(sets[0]), sets), device),
        COPY: captured(partial(on_all, out.copy_, sets), device),
        "saplab, launched from Python": partial(
            on_all, lambda x: operator._prune_on_gpu(x, keys, a, 0, "mask", "maps"), sets
        ),
    }
    moved = 2 * sets[0].numel() * sets[0].element_size()
    found = {}
    for name, work in works.items():
        times = [t / SETS for t in seconds(work, rounds, device)]
        found[name] = {**summary(times, 1e-6), "GB/s": moved / 1e9 / max(statistics.median(times), 1e-12)}
    found[OURS]["of copy"] = found[COPY]["median"] / max(found[OURS]["median"], 1e-12)
    return found


def tune(rows: int, a: int, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Time the kernels with other tilings, fastest first."""
    sets = maps(rows, a, torch.float32, device)
    base = vars(tiling(a, a))
    found = []
    for warps, registers, step, margin in product((4, 8, 16), (None, 64, 96), (64, 128, 256), (4.5, 5.0)):
        other = {"warps": warps, "registers": registers, "step": step, "margin": margin}
        cut = Tiling(**{**base, **other, "tile": min(base["chunk"], 512 * warps), "parts": -(-8 * int(a**0.5) // step)})
        work = captured(partial(on_all, kernels_for(sets[0], cut), sets), device)
        found.append({**other, "µs": statistics.median(seconds(work, rounds, device)) / SETS * 1e6})
    return sorted(found, key=lambda entry: entry["µs"])


def stages(rows: int, a: int, device: torch.device) -> dict[str, float]:
    """Return the microseconds of each kernel, by the profiler; nothing where no GPU runs them."""
    sets = maps(rows, a, torch.float32, device)
    prune = kernels_for(sets[0])
    on_all(prune, sets)
    kind = torch.profiler.ProfilerActivity.CUDA if device.type == "cuda" else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[kind]) as profile:
        on_all(prune, sets)
        wait_for(device.type)
    return {event.key: event.device_time_total / SETS for event in profile.key_averages() if event.device_time_total}


def gradient_pass(model: nn.Module, images: Tensor, labels: Tensor, precision: str, number: Iterator[int]) -> Tensor:
    """Return the gradient of the summed cross-entropy in the pass of the next number, without waiting for the GPU."""
    x = images.detach().requires_grad_()
    draws = pass_streams(stream_key(0), next(number), torch.arange(len(x)))
    with computing_in(precision, images.device), drawing(draws):
        loss = F.cross_entropy(model(x).float(), labels, reduction="sum")
    return torch.autograd.grad(loss, x)[0]


def time_passes(count: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Time gradient passes of the dense network and of SAP-100, in milliseconds."""
    images, labels = sample_images(count, device.type)
    networks = {"dense": network(DENSE, device.type), "SAP-100": network("sap:100", device.type)}
    found: dict[str, Any] = {}
    for precision in ("float32", "bfloat16"):
        works = {
            name: partial(gradient_pass, net, images, labels, precision, itertools.count(1))
            for name, net in networks.items()
        }
        times = {name: summary(seconds(work, rounds, device), 1e-3) for name, work in works.items()}
        found[precision] = {**times, "of dense": times["SAP-100"]["median"] / max(times["dense"]["median"], 1e-12)}
    return found


def time_attack(count: int, samples: int, device: torch.device) -> dict[str, Any]:
    """Time MC-FGSM on SAP-100 for `count` images."""
    images, labels = sample_images(count, device.type)
    sap = network("sap:100", device.type)
    attack = saplab.FGSM(saplab.MonteCarlo(samples=samples))
    attack(sap, images[:512], labels[:512], eps=8 / 255, seed=0)
    begin = time.perf_counter()
    attack(sap, images, labels, eps=8 / 255, seed=0)
    wait_for(device.type)
    return {"images": count, "samples": samples, "seconds": time.perf_counter() - begin}


def compare_laws(a: int, n: int, device: torch.device) -> dict[str, float]:
    """Compare what CPU and GPU keep of n examples of one map: deviations in standard errors, and the scale."""
    h = torch.randn(a, generator=torch.Generator().manual_seed(1)).relu()
    x = h.expand(n, -1).contiguous()
    here, there = operator.prune(x, streams(n), a), kernels_for(x.to(device), seed=1)(x.to(device)).cpu()
    kept, other = here != 0, there != 0
    share = (kept.double().mean(0) + other.double().mean(0)) / 2
    error = (2 * share * (1 - share) / n).sqrt().clamp(min=1e-9)
    z = (kept.double().mean(0) - other.double().mean(0)) / error
    counts = [t.sum(1).double() for t in (kept, other)]
    difference = float(counts[0].mean() - counts[1].mean()) / float(((counts[0].var() + counts[1].var()) / n).sqrt())
    both = kept & other
    return {
        "mean of z² over activations": float(z[h > 0].square().mean()),
        "largest z of an activation": float(z.abs().max()),
        "z of the number kept": difference,
        "ratio of the variances of the number kept": float(counts[1].var() / counts[0].var()),
        "largest relative difference of an output": float((there[both] / here[both] - 1).abs().max()),
    }


def results(args: argparse.Namespace, device: torch.device) -> Iterator[tuple[str, Any]]:
    """Measure everything; yield names and results."""
    yield "law", compare_laws(64 if args.small else 4096, 64 if args.small else 4096, device)
    rounds = 1 if args.small else args.rounds
    shapes, (rows, a) = ([TINY], TINY) if args.small else (SHAPES, (512, 16_384))
    for shape, dtype in product(shapes, DTYPES):
        yield f"sampler, {shape[0]} x {shape[1]}, {dtype}", time_sampler(*shape, dtype, rounds, device)
    if args.stages:
        yield f"kernels of {rows} x {a}, µs", stages(rows, a, device)
    if args.tune:
        yield f"tilings of {rows} x {a}", tune(rows, a, rounds, device)
    if not args.small:
        yield PASSES, time_passes(512, rounds, device)
        yield ATTACK, time_attack(10_000, 100, device)


def print_result(name: str, found: Any) -> None:
    """Print one result, its numbers to four digits."""
    print(name)
    entries: Mapping[Any, Any] = found if isinstance(found, dict) else dict(enumerate(found))
    for key, value in entries.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        print(f"  {key}: " + ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in inner))


def targets(found: Mapping[str, Any]) -> list[tuple[str, float, str, bool]]:
    """Return each target: its name, what was measured, the limit, and whether it is met."""
    share, passes = found[SAMPLER][OURS]["of copy"], found[PASSES]["float32"]
    time_of_pass, seconds_of_attack = passes["SAP-100"]["median"], found[ATTACK]["seconds"]
    return [
        ("sampler, share of a copy's bandwidth", share, ">= 0.6", share >= 0.6),
        ("SAP-100 gradient pass, ms", time_of_pass, "< 8", time_of_pass < 8),
        ("SAP-100 gradient pass, times dense", passes["of dense"], "<= 1.5", passes["of dense"] <= 1.5),
        ("MC-FGSM of 10,000 images, s", seconds_of_attack, "< 60", seconds_of_attack < 60),
    ]


def print_targets(rows: list[tuple[str, float, str, bool]]) -> None:
    """Print the table of targets."""
    print(f"\n{'target':<40}{'measured':>10}{'limit':>10}")
    for name, measured, limit, holds in rows:
        print(f"{name:<40}{measured:>10.4g}{limit:>10}  {'met' if holds else 'missed'}")


def check_device(device: torch.device, small: bool) -> None:
    """End the program with one line if it cannot run."""
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"benchmarks/gpu.py needs a CUDA device; PyTorch {torch.__version__} finds none here.")
    if device.type != "cuda" and not (small and os.environ.get("TRITON_INTERPRET") == "1"):
        raise SystemExit(f"On {device.type} this only runs as a trial: set TRITON_INTERPRET=1 and pass --small.")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="run everything once, tiny")
    parser.add_argument("--tune", action="store_true", help="time other tilings of the kernels")
    parser.add_argument("--stages", action="store_true", help="time each kernel")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    args = parser.parse_args()
    device = torch.device(args.device)
    check_device(device, args.small)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    info = machine(torch.get_num_threads(), device.type)
    print_machine(info)
    content: dict[str, Any] = {"machine": info}
    with np.errstate(all="ignore"):  # in the interpreter
        for name, found in results(args, device):
            content[name] = found
            print_result(name, found)
            save(args.json, content)  # what was measured stays, also where time runs out
    if not args.small:
        content["targets"] = targets(content)
        print_targets(content["targets"])
    save(args.json, content)


if __name__ == "__main__":
    main()
