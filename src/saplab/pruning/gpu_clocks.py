"""Algorithm 1 on a GPU, first part: which elements are drawn by a time shortly before the last draw; a Triton kernel.

Element j has a clock, an exponential number E_j. In a Poisson process of draws from p, one a unit of time on average,
element j is drawn for the first time at E_j / p_j: the elements drawn before time t are those with E_j < t·p_j, and
the number of their further draws is Poisson(sum of (t·p_j - E_j)). The time is about r - 4.5·sqrt(r), so that fewer
than r draws are almost surely made by then; `gpu_draws` makes the missing ones.

Functions pass tuples: the `span` of a tile is its rows, which of them exist, their length a, and the first and last
columns of a program; the `law` of rows is, (R, 1) each, the power of two that multiplies their sizes, the time in units
of their mass, the size above which elements are heavy, and what `scaled` needs.
"""

import triton
import triton.language as tl

from saplab.pruning.gpu_sums import (
    CLOCKS,
    EXTENSION,
    heavy_limit,
    row_mass,
    scale_of,
    scaled,
    sum_chunk,
    tile_rows,
    unit_of,
)
from saplab.rng.triton_words import any_of, exponential, exponential64, philox, place_in_blocks, stream, uniform64

_CELL = tl.constexpr(2.0**-32)  # the part of the unit interval that has one word
_LATE = tl.constexpr(20.0)  # clocks beyond are read with more bits than their word's
_FINE = tl.constexpr(1024)  # activations in one step of what is rarely done


@triton.jit
def _load(x, span, column):
    rows, live, a = span[0], span[1], span[2]
    return tl.load(x + rows * a + column, mask=live & (column < a), other=0.0).to(tl.float32)


@triton.jit
def _store(out, span, column, value, wanted):
    rows, live, a = span[0], span[1], span[2]
    tl.store(out + rows * a + column, value.to(out.dtype.element_ty), mask=live & (column < a) & wanted)


@triton.jit
def _spread_like(lane, h):
    """Return `lane` itself, but laid out over threads as `h` is, so that clocks need not be moved between threads."""
    return lane + ((h.to(tl.uint32, bitcast=True) >> 31) >> 1).to(tl.int32)


@triton.jit
def _read(h, word, law):
    """Return clocks, how far they are ahead of the time, and their elements' sizes."""
    size = tl.abs(h) * law[0]
    clock = exponential(word)
    return clock, tl.fma(size, law[1], -clock), size


@triton.jit
def _keep(h, word, found, law, LIGHT: tl.constexpr, FEW: tl.constexpr):
    """Return the pruned activations of a part of a tile, and what was `found` with this part added."""
    rung, further, nearest, latest = found
    clock, ahead, size = _read(h, word, law)
    kept = ahead > 0.0
    if LIGHT:
        heavy = tl.abs(h) > law[2]
        ahead = tl.where(heavy, -1.0, ahead)
        kept = heavy | (ahead > 0.0)
    value = tl.where(kept, scaled(h, size, law[3], FEW), 0.0)
    rung += (ahead > 0.0).to(tl.int32)
    further += tl.maximum(ahead, 0.0)
    return value, (rung, further, tl.minimum(nearest, tl.abs(ahead)), tl.maximum(latest, clock))


@triton.jit
def _ring_span(x, out, span, clocks, law, LIGHT: tl.constexpr, FEW: tl.constexpr,
               ROWS: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """Write the elements of a span that the clocks keep; return four numbers for each lane.

    They are the number of elements whose clocks have rung, the sum by which these are ahead of time, the least distance
    of a clock from its time, and the latest clock.
    """
    begin, end = span[3], span[4]
    lane = tl.arange(0, TILE // 4)[None, :]
    zeros = tl.zeros([ROWS, TILE // 4], tl.float32)
    found = (zeros.to(tl.int32), zeros, zeros + 1.0, zeros)
    for start in range(begin, end, TILE):
        column = start + place_in_blocks(lane, 0)
        h = _load(x, span, column)
        w0, w1, w2, w3 = philox(start // 4 + _spread_like(lane, h), clocks)
        value, found = _keep(h, w0, found, law, LIGHT, FEW)
        _store(out, span, column, value, True)
        for part in tl.static_range(1, 4):
            if part * 32 < CHUNK:
                column = start + place_in_blocks(lane, part)
                h = _load(x, span, column)
                word = w1 if part == 1 else w2 if part == 2 else w3
                value, found = _keep(h, word, found, law, LIGHT, FEW)
                _store(out, span, column, value, True)
    return found


@triton.jit
def _read_again(h, word, more, law, LIGHT: tl.constexpr):
    """Read clocks again, with more bits where the 32 of a word leave open whether it has rung.

    Returns which were open, whether they have rung, their elements' sizes, and the changes of the number and of the sum
    that `_ring_span` returns.
    """
    clock, before, size = _read(h, word, law)
    ahead = size.to(tl.float64) * law[1].to(tl.float64) - exponential64(word, more)
    was_open = (tl.abs(before) < _CELL) | (clock > _LATE)
    if LIGHT:
        was_open = was_open & (tl.abs(h) <= law[2])
    rung = tl.where(was_open, (ahead > 0.0).to(tl.int32) - (before > 0.0).to(tl.int32), 0)
    further = tl.where(was_open, tl.maximum(ahead, 0.0) - tl.maximum(before, 0.0).to(tl.float64), 0.0)
    return was_open, ahead > 0.0, size, rung, further


@triton.jit
def _ring_again(x, out, span, clocks, finer, law, LIGHT: tl.constexpr, FEW: tl.constexpr,
                ROWS: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """Correct what `_ring_span` wrote by `_read_again`; return the changes of the number and of the sum (R, 1)."""
    begin, end = span[3], span[4]
    lane = tl.arange(0, TILE // 4)[None, :]
    all_rung = tl.zeros([ROWS, TILE // 4], tl.int32)
    all_further = tl.zeros([ROWS, TILE // 4], tl.float64)
    for start in range(begin, end, TILE):
        w0, w1, w2, w3 = philox(start // 4 + lane, clocks)
        for part in tl.static_range(4):
            if part * 32 < CHUNK:
                column = start + place_in_blocks(lane, part)
                word = w0 if part == 0 else w1 if part == 1 else w2 if part == 2 else w3
                h = _load(x, span, column)
                more, _ = uniform64(column, finer)
                was_open, kept, size, rung, further = _read_again(h, word, more, law, LIGHT)
                _store(out, span, column, tl.where(kept, scaled(h, size, law[3], FEW), 0.0), was_open)
                all_rung += rung
                all_further += further
    return tl.sum(all_rung, axis=1)[:, None], tl.sum(all_further, axis=1)[:, None]


@triton.jit
def _write_nan(out, span, lost, TILE: tl.constexpr):
    """Write NaN to lost rows, after everything that this program's threads wrote there before."""
    begin, end = span[3], span[4]
    tl.debug_barrier()
    for start in range(begin, end, TILE):
        column = start + tl.arange(0, TILE)[None, :]
        _store(out, span, column, column * 0.0 + float("nan"), lost)


@triton.jit
def _report(bad, rows, lost):
    """Add the number of lost rows to `bad[0]`, and keep the first of them in `bad[1]`."""
    tl.atomic_add(bad, tl.sum(tl.sum(lost.to(tl.int32), axis=1), axis=0))
    tl.atomic_min(bad + 1, tl.min(tl.min(tl.where(lost, rows, 0x7FFFFFFF), axis=1), axis=0).to(tl.int32))


@triton.jit
def _law(mass, light_mass, usable, goal, draws, margin, FEW: tl.constexpr):
    """Return the law of rows whose clocks are to make nearly `goal` draws among elements of `light_mass`."""
    unit = unit_of(mass)
    early = tl.maximum(goal - margin * tl.sqrt(goal), 0.0)
    speed = tl.where(usable, early / (tl.where(usable, light_mass, 1.0) * unit).to(tl.float32), 0.0)
    return unit, speed, heavy_limit(mass, draws), scale_of(mass * unit, draws, FEW)


@triton.jit(do_not_specialize=["n", "draws", "site", "margin"])
def ring(x, out, streams, sums, masses, light_masses, goals, totals, bad, n, a, chunks, draws, site, margin,
         FUSED: tl.constexpr, LIGHT: tl.constexpr, FEW: tl.constexpr,
         ROWS: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    """Write the elements of `x` (n, a) that the clocks keep; store their number and the mean of their further draws.

    Where FUSED, a row is one chunk and is summed here; otherwise `measure` and `accumulate` came before. Where LIGHT,
    heavy elements are kept without a clock, and `goals` are the draws of the others. Rows with NaN or infinity become
    NaN; their number and the first of them are noted in `bad`.
    """
    rows, live = tile_rows(n, ROWS)
    chunk = tl.program_id(1)
    if FUSED:
        mass = sum_chunk(x, sums, rows, live, a, chunk, chunks, 0.0, False, CHUNK)
        tl.store(masses + rows, mass, mask=live)
    else:
        mass = row_mass(masses, rows, live, chunks)
    light_mass = row_mass(light_masses, rows, live, chunks) if LIGHT else mass
    finite = mass < float("inf")
    lost = live & (finite == 0)
    usable = finite & (light_mass > 0.0)
    mass = tl.where(finite & (mass > 0.0), mass, 1.0)
    goal = tl.load(goals + rows, mask=live, other=0.0) if LIGHT else mass * 0.0 + draws.to(tl.float64)
    law = _law(mass, light_mass, usable, goal.to(tl.float32), draws, margin, FEW)
    span = (rows, live, a, chunk * CHUNK, tl.minimum((chunk + 1) * CHUNK, a))
    clocks = stream(streams, rows, live, site, CLOCKS)
    rung, further, nearest, latest = _ring_span(x, out, span, clocks, law, LIGHT, FEW, ROWS, CHUNK, TILE)
    count = tl.sum(rung, axis=1)[:, None]
    mean = tl.sum(further.to(tl.float64), axis=1)[:, None]
    STEP: tl.constexpr = _FINE if TILE > _FINE else TILE
    if any_of((nearest < _CELL) | (latest > _LATE)):
        finer = stream(streams, rows, live, site, EXTENSION)
        tl.debug_barrier()  # what is corrected may have been written by other threads
        more_rung, more_further = _ring_again(x, out, span, clocks, finer, law, LIGHT, FEW, ROWS, CHUNK, STEP)
        count += more_rung
        mean += more_further
    if any_of(lost):
        _write_nan(out, span, lost, STEP)
        if chunk == 0:
            _report(bad, rows, lost)
    place = totals + (rows * chunks + chunk) * 2
    tl.store(place, count.to(tl.float64), mask=live)
    tl.store(place + 1, tl.maximum(mean, 0.0), mask=live)
