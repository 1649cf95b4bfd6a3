"""Passes of an adversary over a batch of images: several stacked where the batch is small, forward or both ways."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from saplab.attacks.memory import rows_at_once
from saplab.attacks.problem import Problem
from saplab.attacks.threat import check_labels
from saplab.attacks.witness import present
from saplab.defenses.defended import shares_draws
from saplab.defenses.drawing import GradientRule, drawing
from saplab.defenses.host import undrawn
from saplab.defenses.parallel import Run, over_threads
from saplab.defenses.prediction import logits
from saplab.rng.streams import pass_streams, stream_key
from saplab.system.precision import Precision, computing_in

Objective = Callable[[Tensor, Tensor], Tensor]  # logits (M, C), the rows (M,) of the batch -> what to differentiate


@dataclass(frozen=True)
class Passes:
    """The passes that an attacker runs over a batch.

    Attributes:
        batch: the examples.
        first_sample: number of the first pass.
        rule: how the gradient passes a defence.
        batch_size: images times passes in one forward pass.
        precision: of those with a gradient; ``float32`` for that of the surroundings, or ``bfloat16``.
    """

    batch: Problem
    first_sample: int
    rule: GradientRule
    batch_size: int
    precision: Precision = "float32"

    def _streams(self, samples: int) -> Iterator[tuple[int, Tensor]]:
        """Yield, for each stack of passes, their number k and the streams (k·N, 3)."""
        batch, key = self.batch, stream_key(self.batch.seed, "attack")
        most = 1 if shares_draws(batch.adversary) else max(1, self.batch_size // len(batch.images))
        for start in range(0, samples, most):
            passes = range(self.first_sample + start, self.first_sample + min(start + most, samples))
            yield len(passes), torch.cat([pass_streams(key, p, batch.examples) for p in passes])

    def _logits(self, images: Tensor) -> Tensor:
        z = logits(self.batch.adversary, images)
        check_labels(self.batch.labels, z.shape[1])
        if self.batch.targets is not None:
            check_labels(self.batch.targets, z.shape[1], "targets")
        return z

    def with_gradient(self, samples: int, objective: Objective) -> Iterator[tuple[Tensor, ...]]:
        """Yield logits (k, N, C), objective (k, N) and its gradient by the images (k, N, ...) of k passes at a time."""
        batch = self.batch

        def run(rows: Tensor, streams: Tensor) -> tuple[Tensor, ...]:
            x = batch.images[rows].requires_grad_()
            with torch.enable_grad(), drawing(streams, self.rule, inputs_only=True), _computing_in(self.precision, x):
                z = _wide(self._logits(x))
                leaf = z.detach().clone().requires_grad_()
                value = objective(leaf.clone(), rows)  # which may work in place
                gradient = self._gradient(value, leaf, z, x)
            return z.detach(), value.detach(), gradient

        first = torch.zeros(1, dtype=torch.int64, device=batch.images.device)
        streams = pass_streams(stream_key(batch.seed, "attack"), self.first_sample, batch.examples[:1])
        rows = max(len(batch.images), min(self.batch_size, samples * len(batch.images)))
        most = rows_at_once(batch.adversary, batch.images, rows, lambda: run(first, streams))
        return self._run(samples, run, self.precision, most)

    def _gradient(self, value: Tensor, leaf: Tensor, z: Tensor, x: Tensor) -> Tensor:
        """Return the gradient by the images; where none can reach them it is 0 if that is noted, else an error.

        Where the slopes (M, C) of the objective by the logits are small, they go back through the network scaled up:
        those of a confident network would be rounded to 0 where it computes in float16.
        """
        slopes = torch.autograd.grad(value.sum(), leaf, allow_unused=True)[0] if value.requires_grad else None
        if slopes is not None and z.requires_grad:
            scale = _power_of_two(slopes)
            (gradient,) = torch.autograd.grad(z, x, slopes / scale[:, None], allow_unused=True)
            if gradient is not None:
                return (gradient * scale.view(-1, *[1] * (x.dim() - 1))).to(gradient.dtype)
        if self.batch.flatness is None:
            raise ValueError(
                "no gradient reaches the image: try backward='relaxed', or an attack that sees scores alone"
            )
        return torch.zeros_like(x)

    def forward(
        self, samples: int, objective: Objective, precision: Precision = "float32"
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield logits (k, N, C) and objective (k, N) of k passes at a time: the gradient's draws, in a precision."""

        def run(rows: Tensor, streams: Tensor) -> tuple[Tensor, ...]:
            x = self.batch.images[rows]
            with torch.no_grad(), drawing(streams, self.rule), _computing_in(precision, x):
                z = _wide(self._logits(x))
                return z, objective(z.clone(), rows)

        return self._run(samples, run, precision)

    def _run(
        self, samples: int, run: Run, precision: Precision, most: int = sys.maxsize
    ) -> Iterator[tuple[Tensor, ...]]:
        """Run stacks of passes, `most` rows at once."""
        in_threads = partial(over_threads, self.batch.adversary, run)
        for count, streams in self._streams(samples):
            parts = zip(self.batch.everyone().repeat(count).split(most), streams.split(most), strict=True)
            with nullcontext() if self.batch.random else undrawn(self.batch.adversary):
                results = joined(as_memory_allows(in_threads, *part) for part in parts)
            if (witness := present()) is not None and precision == "float32":  # that of predictions
                witness.see(self.batch, streams, results[0])
            yield tuple(t.unflatten(0, (count, -1)) for t in results)


def _wide(z: Tensor) -> Tensor:
    """Return logits in float32 where they have fewer bits, or are whole numbers: losses are of all their bits."""
    return z if z.dtype in (torch.float32, torch.float64) else z.float()


def _power_of_two(slopes: Tensor) -> Tensor:
    """Return for each row (M,) of small slopes by what to divide them, a power of two, which loses no bit; else 1.

    Small is below 2^-14, from where float16 has fewer digits; then the largest becomes 2^-8 or so, which leaves room
    for what a network multiplies it by. The power is the exponent's bits of float32 or float64 alone.
    """
    largest = slopes.abs().amax(1)
    whole, exponent = (torch.int64, 0x7FF << 52) if largest.dtype == torch.float64 else (torch.int32, 0xFF << 23)
    power = largest.view(whole).bitwise_and(exponent).view(largest.dtype)
    return torch.where((power > 0) & (power < 2.0**-14), power * 2.0**8, torch.ones_like(power))


def _computing_in(precision: Precision, x: Tensor) -> AbstractContextManager[None]:
    return nullcontext() if precision == "float32" else computing_in(precision, x.device)


def as_memory_allows(run: Run, rows: Tensor, streams: Tensor) -> tuple[Tensor, ...]:
    """Run rows at once, or, where memory runs out, one half after the other: the draws are the same."""
    try:
        return run(rows, streams)
    except RuntimeError as error:
        if len(rows) < 2 or not _memory_ran_out(error):
            raise
    half = len(rows) // 2
    return joined(as_memory_allows(run, rows[s], streams[s]) for s in (slice(half), slice(half, None)))


def joined(parts: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Join the tensors of several parts along their rows."""
    columns = list(zip(*parts, strict=True))
    return tuple(tensors[0] if len(tensors) == 1 else torch.cat(tensors) for tensors in columns)


_NO_MEMORY: Final = ("DefaultCPUAllocator", "ALLOC_FAILED", "out of memory")  # of the CPU, cuBLAS and cuDNN, Triton


def _memory_ran_out(error: RuntimeError) -> bool:
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(words in said for words in _NO_MEMORY)


def cut(passes: tuple[Tensor, ...], start: int, marks: Iterable[int]) -> Iterator[tuple[Tensor, ...]]:
    """Cut k passes, the first of which is number `start`, where a piece would run over one of the `marks`."""
    inside = sorted(mark - start for mark in marks if 0 < mark - start < len(passes[0]))
    return zip(*(t.tensor_split(inside) for t in passes), strict=True)
