"""Algorithm 1 on a GPU: memory and launches of the Triton kernels of gpu_sums, gpu_clocks and gpu_draws.

This file and the kernels' are imported once a CUDA tensor is pruned, as Triton is not installed everywhere.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from saplab.pruning.gpu_clocks import ring
from saplab.pruning.gpu_draws import add, settle
from saplab.pruning.gpu_gradient import scale_gradient
from saplab.pruning.gpu_sums import GROUP, accumulate, measure, share
from saplab.rng.gpu import on_device_of

FEW: Final = 1200  # draws; with as many, the series for the scale covers every share that matters
MANY: Final = 32  # draws per activation; with more, heavy elements are treated apart
_CHUNK: Final = 1 << 14  # activations that one program takes
_SHARED_CHUNK: Final = 1 << 13  # the same where several share a row
_AT_ONCE: Final = 512  # activations of a warp in one step
_BLOCK: Final = 1024  # of the gradient
_FULL: Final = 8  # warps of a program; with _REGISTERS a thread, four programs fit a multiprocessor
_REGISTERS: Final = 64


@dataclass(frozen=True)
class Tiling:
    """How a batch of rows is cut for the kernels; rows, chunk, tile, step and lines are powers of two."""

    rows: int  # of a tile
    chunk: int  # activations of a chunk of a row, >= 16; >= 128 where a row has several
    tile: int  # activations in one step through a chunk, >= 128
    warps: int  # of a program
    step: int  # missing draws made at once
    parts: int = 1  # programs that share the missing draws of a row; 1 where tiles have several rows
    lines: int = 32  # rows of a tile where only their totals matter
    margin: float = 4.5  # how many standard deviations the clocks stay below the number of draws
    registers: int | None = None  # the most of a thread of `ring`; None leaves them to the compiler


def tiling(a: int, draws: int) -> Tiling:
    """Choose how to cut rows of `a` activations with `draws` draws each; their number must not change the draws."""
    whole = max(_power_of_two(a), GROUP.value)
    chunk = whole if whole <= _CHUNK else _SHARED_CHUNK
    width = max(chunk, 128)
    rows = max(2048 // width, 1)
    warps = 4 if rows * width <= 4096 else _FULL
    tile = min(width, warps * _AT_ONCE // rows)
    if rows > 1:
        return Tiling(rows, chunk, tile, warps, step=32)
    missing = int(min(draws, 8 * draws**0.5))
    parts = min(max(-(-missing // 128), 1), 64)
    registers = _REGISTERS if warps == _FULL else None
    return Tiling(rows, chunk, tile, warps, 128, parts, lines=32 if chunk == whole else 1, registers=registers)


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def prune_rows(x: Tensor, streams: Tensor, draws: int, site: int, bad: Tensor, cut: Tiling | None = None) -> Tensor:
    """Apply Algorithm 1 to the rows of `x` (N, a), contiguous float32, bfloat16 or float16, with `draws` draws each.

    Args:
        x, streams, draws, site: as in `saplab.pruning.operator.prune`, all on one device.
        bad: int32, where the number of rows with NaN or infinity, which become NaN, and the first are noted.
        cut: how to cut the batch; by `tiling` if None.
    """
    with on_device_of(x):
        return _Pruning(x, streams, draws, site, bad, cut or tiling(x.shape[1], draws)).run()


def scale_gradients(grad: Tensor, h: Tensor, out: Tensor) -> Tensor:
    """Return grad * m of tensors with one dense memory format."""
    result = torch.empty_like(grad)
    size = h.numel()
    with on_device_of(h):
        scale_gradient[(-(-size // _BLOCK),)](grad, h, out, result, size, WIDE=h.dtype == torch.float64, BLOCK=_BLOCK)
    return result


class _Pruning:
    """The launches of one pruning, and the memory that they share."""

    def __init__(self, x: Tensor, streams: Tensor, draws: int, site: int, bad: Tensor, cut: Tiling) -> None:
        self.x, self.streams, self.bad, self.cut = x, streams, bad, cut
        self.draws, self.site = draws, site
        self.n, self.a = x.shape
        self.chunks = -(-self.a // cut.chunk)
        self.groups = int(cut.chunk // GROUP.value)  # running sums of a chunk
        self.tiles, self.lines = -(-self.n // cut.rows), -(-self.n // cut.lines)
        self.light = draws > MANY * self.a
        self.out = torch.empty_like(x)
        cells = self.n * self.chunks
        sizes = (cells * self.groups, cells, cells, 2 * cells, self.n, self.n)
        even = [size + size % 2 for size in sizes]  # each part begins at 16 bytes, so that kernels are compiled once
        memory = torch.empty(sum(even), dtype=torch.float64, device=x.device)
        self.sums, self.all_masses, light_masses, self.totals, self.goals, self.missing = memory.split(even)
        self.masses = light_masses if self.light else self.all_masses

    def run(self) -> Tensor:
        """Launch the kernels and return the pruned rows."""
        fused = self.chunks == 1 and not self.light
        if not fused:
            self._measure(self.all_masses, light=False)
        if self.light:
            self._measure(self.masses, light=True)
            self._share()
        self._ring(fused)
        self._settle()
        self._add()
        return self.out

    def _measure(self, masses: Tensor, light: bool) -> None:
        cut = self.cut
        measure[self.tiles, self.chunks](
            self.x, self.sums, masses, self.all_masses, self.n, self.a, self.chunks, self.draws,
            LIGHT=light, ROWS=cut.rows, CHUNK=cut.chunk, num_warps=cut.warps,
        )  # fmt: skip
        if self.chunks > 1:
            accumulate[(self.n,)](masses, self.n, self.chunks, CHUNKS=_power_of_two(self.chunks))

    def _share(self) -> None:
        share[(self.lines,)](
            self.streams, self.masses, self.all_masses, self.goals, self.n, self.chunks, self.draws, self.site,
            ROWS=self.cut.lines, num_warps=1,
        )  # fmt: skip

    def _ring(self, fused: bool) -> None:
        cut = self.cut
        ring[self.tiles, self.chunks](
            self.x, self.out, self.streams, self.sums, self.all_masses, self.masses, self.goals, self.totals, self.bad,
            self.n, self.a, self.chunks, self.draws, self.site, cut.margin,
            FUSED=fused, LIGHT=self.light, FEW=self.draws < FEW, ROWS=cut.rows, CHUNK=cut.chunk, TILE=cut.tile,
            num_warps=cut.warps, maxnreg=cut.registers,
        )  # fmt: skip

    def _settle(self) -> None:
        settle[(self.lines,)](
            self.streams, self.masses, self.goals, self.totals, self.missing, self.n, self.chunks, self.draws,
            self.site, LIGHT=self.light, ROWS=self.cut.lines, CHUNKS=_power_of_two(self.chunks),
            num_warps=1 if self.chunks == 1 else 4,
        )  # fmt: skip

    def _add(self) -> None:
        cut = self.cut
        add[self.tiles, cut.parts](
            self.x, self.out, self.streams, self.sums, self.masses, self.all_masses, self.goals, self.missing,
            self.n, self.a, self.chunks, self.draws, self.site,
            LIGHT=self.light, FEW=self.draws < FEW, ROWS=cut.rows, CHUNK=cut.chunk,
            LEVELS=self.chunks.bit_length(), STEPS=self.groups.bit_length(), DRAWS=cut.step,
        )  # fmt: skip
