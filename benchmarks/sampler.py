"""Time one pruning of 256 maps by Algorithm 1 against other ways to draw it, and against a plain copy.

    python benchmarks/sampler.py [--rounds 31] [--slow-rounds 3] [--threads 2] [--case NAME ...] [--json PATH]

Targets: at least 40 times faster than `torch.multinomial`, at most 3 times the time of independent Bernoulli.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from independent import prune_independently
from measure import Work, machine, print_machine, save, time_in_turn
from torch import Tensor

from saplab.noise import stream_key, streams
from saplab.pruning.operator import prune

ROWS = 256
CASES: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "ReLU-Gaussian, a = r = 16384": (16384, lambda z: z.relu()),
    "ReLU-Gaussian, a = r = 4096": (4096, lambda z: z.relu()),
    "log-normal σ = 2, a = r = 16384": (16384, lambda z: (2 * z).exp()),
    "log-normal σ = 2, a = r = 4096": (4096, lambda z: (2 * z).exp()),
}
OURS, BERNOULLI, MULTINOMIAL, SEARCH, COPY = (
    "saplab",
    "independent Bernoulli",
    "torch.multinomial",
    "cumsum + searchsorted",
    "copy",
)


def _scaled(h: Tensor, p: Tensor, indices: Tensor, draws: int) -> Tensor:
    """Keep the drawn `indices` (N, r) of `h` (N, a), scaled by their inclusion probability."""
    kept = torch.zeros_like(h, dtype=torch.bool).scatter_(1, indices, True)
    return torch.where(kept, h / -torch.expm1(draws * torch.log1p(-p)), 0.0)


def prune_by_multinomial(h: Tensor, draws: int) -> Tensor:
    """Draw r indices a row with `torch.multinomial`, as one would who knows PyTorch."""
    size = h.abs()
    p = size / size.sum(1, keepdim=True)
    return _scaled(h, p, torch.multinomial(p, draws, replacement=True), draws)


def prune_by_search(h: Tensor, draws: int) -> Tensor:
    """Draw r indices a row by inversion of the running sums."""
    size = h.abs()
    sums = size.cumsum(1)
    levels = torch.rand(len(h), draws) * sums[:, -1:]
    indices = torch.searchsorted(sums, levels).clamp_(max=h.shape[1] - 1)
    return _scaled(h, size / sums[:, -1:], indices, draws)


def _works(h: Tensor) -> dict[str, Work]:
    draws = h.shape[1]
    keys = streams(stream_key(0), 0, torch.arange(len(h)))
    out = torch.empty_like(h)
    return {
        OURS: partial(prune, h, keys, draws),
        BERNOULLI: partial(prune_independently, h, keys, draws),
        MULTINOMIAL: partial(prune_by_multinomial, h, draws),
        SEARCH: partial(prune_by_search, h, draws),
        COPY: partial(out.copy_, h),
    }


def measure(case: str, rounds: int, slow_rounds: int) -> dict[str, dict[str, float]]:
    """Time every way on one case; nanoseconds per activation."""
    a, shape = CASES[case]
    h = shape(torch.randn(ROWS, a, generator=torch.Generator().manual_seed(0)))
    works = _works(h)
    turns = {name: slow_rounds if name in (MULTINOMIAL, SEARCH) else rounds for name in works}
    return {name: times.summary(1e-9 * h.numel()) for name, times in time_in_turn(works, turns).items()}


def print_table(case: str, results: dict[str, dict[str, float]]) -> None:
    """Print one case: ns per activation by the clock, its quartiles, processor time, and both in units of ours."""
    print(f"{case}, {ROWS} rows; ns per activation")
    print(f"{'':24}{'wall':>9}{'quartiles':>18}{'fastest':>9}{'of saplab':>11}{'cores':>9}{'of saplab':>11}")
    ours = results[OURS]
    for name, found in results.items():
        quartiles = f"{found['low']:.2f} - {found['high']:.2f}"
        wall, cpu = (f"{found[key] / ours[key]:.2f}x" for key in ("median", "cpu"))
        print(
            f"{name:24}{found['median']:>9.2f}{quartiles:>18}{found['best']:>9.2f}{wall:>11}{found['cpu']:>9.2f}{cpu:>11}"
        )
    faster, slower = results[MULTINOMIAL]["median"] / ours["median"], ours["median"] / results[BERNOULLI]["median"]
    print(f"{faster:.0f} times faster than multinomial (target 40), {slower:.2f} times Bernoulli (target 3)\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--slow-rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--case", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    info = machine(args.threads)
    print_machine(info)
    results: dict[str, Any] = {}
    for case in args.case:
        results[case] = measure(case, args.rounds, args.slow_rounds)
        print_table(case, results[case])
    save(args.json, {"machine": info, "rows": ROWS, "ns_per_activation": results})


if __name__ == "__main__":
    main()
