"""Algorithm 1 on a GPU, second part: the missing draws, one by one from the running sums; Triton kernels."""

import triton
import triton.language as tl

from saplab.pruning.gpu_sums import ADDED, GROUP, TOTALS, heavy_limit, row_mass, scale_of, scaled, tile_rows, unit_of
from saplab.rng.triton_words import any_of, exponential, philox, poisson, stream, uniform64

_TURNS = tl.constexpr(1 << 22)  # first counter, of a row's totals, for the turns of circles
_BELOW_ONE = tl.constexpr(1.0 - 2.0**-53)


@triton.jit(do_not_specialize=["n", "draws", "site"])
def settle(streams, masses, goals, totals, missing, n, chunks, draws, site,
           LIGHT: tl.constexpr, ROWS: tl.constexpr, CHUNKS: tl.constexpr):  # fmt: skip
    """Store how many draws of each row the clocks have not made; negative where they made too many."""
    rows, live = tile_rows(n, ROWS)
    mass = row_mass(masses, rows, live, chunks)
    usable = live & (mass > 0.0) & (mass < float("inf"))
    chunk = tl.arange(0, CHUNKS)[None, :]
    place = totals + (rows * chunks + chunk) * 2
    inside = usable & (chunk < chunks)
    count = tl.sum(tl.load(place, mask=inside, other=0.0), axis=1)[:, None]
    mean = tl.sum(tl.load(place + 1, mask=inside, other=0.0), axis=1)[:, None]
    goal = tl.load(goals + rows, mask=usable, other=0.0) if LIGHT else mass * 0.0 + draws.to(tl.float64)
    further = poisson(mean, stream(streams, rows, live, site, TOTALS), usable)
    tl.store(missing + rows, tl.where(usable, goal - count - further, 0.0), mask=live)


@triton.jit
def _uniforms_in_a_circle(first, count, of, totals, DRAWS: tl.constexpr):
    """Draw `count` (R, 1) uniform float64 numbers in cyclic order, so that neighbours read nearby memory.

    The distances of uniform points on a circle are exponential numbers, scaled to its length, from a uniform start.
    """
    lane = tl.arange(0, DRAWS)[None, :]
    word, _, _, _ = philox(first + lane, of)
    step = tl.where(lane < count, exponential(word), 0.0).to(tl.float64)
    around = tl.sum(step, axis=1)[:, None]
    turn, _ = uniform64(tl.zeros_like(count).to(tl.int32) + (_TURNS + first), totals)
    place = tl.cumsum(step, axis=1) / tl.where(around > 0.0, around, 1.0) + turn
    return place - tl.floor(place), lane < count


@triton.jit
def _rank(place, inside, length, target, STEPS: tl.constexpr):
    """Return how many of `length` running sums are at most `target`, and the last of these (0 without any)."""
    rank = (target * 0.0).to(tl.int32)
    below = target * 0.0
    for step in tl.static_range(STEPS):
        probe = rank + (1 << (STEPS - 1 - step))
        value = tl.load(place + probe - 1, mask=inside & (probe <= length), other=float("inf"))
        below = tl.where(value <= target, value, below)
        rank = tl.where(value <= target, probe, rank)
    return rank, below


@triton.jit
def _four_sizes(x, rows, inside, a, first, limit, LIGHT: tl.constexpr):
    """Load |h| of the four elements from `first` (R, D) on, in float64 (R, D, 4)."""
    column = tl.multiple_of(first[:, :, None], (4, 4, 4)) + tl.arange(0, 4)[None, None, :]
    h = tl.load(x + rows[:, :, None] * a + column, mask=inside[:, :, None] & (column < a), other=0.0)
    size = tl.abs(h.to(tl.float32))
    if LIGHT:
        size = tl.where(size > limit[:, :, None], 0.0, size)
    return size.to(tl.float64)


@triton.jit
def _count_below(sizes, before, target):
    """Return how many running sums of sizes (R, D, 4), begun at `before`, are at most `target`."""
    running = tl.cumsum(sizes, axis=2) + before[:, :, None]
    return tl.sum((running <= target[:, :, None]).to(tl.int32), axis=2)


@triton.jit
def _draw(x, sums, masses, rows, inside, a, chunks, limit, u,
          LIGHT: tl.constexpr, CHUNK: tl.constexpr, LEVELS: tl.constexpr, STEPS: tl.constexpr):  # fmt: skip
    """Draw an element for each uniform `u` (R, D), with probability |h| / mass, by inversion; LIGHT as in `measure`.

    Each level keeps its target below its own last sum, which may be rounded otherwise than in the level above.
    """
    place = masses + rows * chunks
    target = u * tl.load(place + chunks - 1, mask=inside, other=1.0)
    chunk, below = _rank(place, inside, chunks, target, LEVELS)
    groups = CHUNK // GROUP
    place = sums + (rows * chunks + chunk) * groups
    last = tl.load(place + groups - 1, mask=inside, other=1.0)
    target = tl.minimum(target - below, last * _BELOW_ONE)
    group, below = _rank(place, inside, groups, target, STEPS)
    first = chunk * CHUNK + group * GROUP
    s0 = _four_sizes(x, rows, inside, a, first, limit, LIGHT)
    s1 = _four_sizes(x, rows, inside, a, first + 4, limit, LIGHT)
    s2 = _four_sizes(x, rows, inside, a, first + 8, limit, LIGHT)
    s3 = _four_sizes(x, rows, inside, a, first + 12, limit, LIGHT)
    e1 = tl.sum(s0, axis=2)
    e2 = e1 + tl.sum(s1, axis=2)
    e3 = e2 + tl.sum(s2, axis=2)
    target = tl.minimum(target - below, (e3 + tl.sum(s3, axis=2)) * _BELOW_ONE)
    return (
        first + _count_below(s0, e1 * 0.0, target) + _count_below(s1, e1, target)
        + _count_below(s2, e2, target) + _count_below(s3, e3, target)
    )  # fmt: skip


@triton.jit
def _begin_anew(x, out, rows, live, a, limit, unit, scale, LIGHT: tl.constexpr, FEW: tl.constexpr, STEP: tl.constexpr):
    """Write rows as before any draw: zeros, and the heavy elements where LIGHT."""
    for start in range(0, a, STEP):
        column = start + tl.arange(0, STEP)[None, :]
        inside = live & (column < a)
        value = tl.zeros_like(inside).to(tl.float32)
        if LIGHT:
            h = tl.load(x + rows * a + column, mask=inside, other=0.0).to(tl.float32)
            value = tl.where(tl.abs(h) > limit, scaled(h, tl.abs(h) * unit, scale, FEW), 0.0)
        tl.store(out + rows * a + column, value.to(out.dtype.element_ty), mask=inside)
    tl.debug_barrier()  # draws come to the same places from other threads


@triton.jit(do_not_specialize=["n", "draws", "site"])
def add(x, out, streams, sums, masses, all_masses, goals, missing, n, a, chunks, draws, site,
        LIGHT: tl.constexpr, FEW: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
        LEVELS: tl.constexpr, STEPS: tl.constexpr, DRAWS: tl.constexpr):  # fmt: skip
    """Make the missing draws, DRAWS at a time, shared out among the programs of a row.

    Where the clocks made too many draws, which happens once in hundreds of thousands of rows, the row's first program
    starts it again and makes all draws. A tile has either one row or one program.
    """
    rows, live = tile_rows(n, ROWS)
    part, parts = tl.program_id(1), tl.num_programs(1)
    mass = row_mass(all_masses, rows, live, chunks)
    mass = tl.where((mass > 0.0) & (mass < float("inf")), mass, 1.0)
    unit = unit_of(mass)
    limit = heavy_limit(mass, draws)
    scale = scale_of(mass * unit, draws, FEW)
    lacking = tl.load(missing + rows, mask=live, other=0.0)
    step = parts * DRAWS
    if any_of(lacking < 0.0):
        if part == 0:
            _begin_anew(x, out, rows, lacking < 0.0, a, limit, unit, scale, LIGHT, FEW, DRAWS)
        goal = tl.load(goals + rows, mask=live, other=0.0) if LIGHT else mass * 0.0 + draws.to(tl.float64)
        lacking = tl.where(lacking < 0.0, tl.where(part == 0, goal, 0.0), lacking)
        step = DRAWS
    of = stream(streams, rows, live, site, ADDED)
    totals = stream(streams, rows, live, site, TOTALS)
    most = tl.max(tl.max(lacking, axis=1), axis=0).to(tl.int32)
    for first in range(part * DRAWS, most, step):
        u, inside = _uniforms_in_a_circle(first, lacking - first, of, totals, DRAWS)
        column = _draw(x, sums, masses, rows, inside, a, chunks, limit, u, LIGHT, CHUNK, LEVELS, STEPS)
        h = tl.load(x + rows * a + column, mask=inside, other=0.0).to(tl.float32)
        value = scaled(h, tl.abs(h) * unit, scale, FEW)
        tl.store(out + rows * a + column, value.to(out.dtype.element_ty), mask=inside)
