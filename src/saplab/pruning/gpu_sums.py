"""Sums of rows for Algorithm 1 on a GPU, and scales that follow from them: Triton kernels and their parts.

A tile holds R rows; what belongs to a row has the shape (R, 1). A row is cut into chunks, and these into groups.
"""

import triton
import triton.language as tl

from saplab.rng.triton_words import binomial, stream

GROUP = tl.constexpr(16)  # activations from one running sum to the next

CLOCKS = tl.constexpr(0)  # kinds of numbers within one stream
ADDED = tl.constexpr(1)
EXTENSION = tl.constexpr(2)
TOTALS = tl.constexpr(3)

_HEAVY = tl.constexpr(64.0)  # an element with more draws than this on average is sure to have one: e^-64 < 2^-92


@triton.jit
def tile_rows(n, ROWS: tl.constexpr):
    """Return the rows (R, 1) of this program's tile, and which of them exist."""
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    return rows, rows < n


@triton.jit
def sum_chunk(x, sums, rows, live, a, chunk, chunks, limit, LIGHT: tl.constexpr, CHUNK: tl.constexpr):
    """Store the running sums of |h| over a chunk, one a group, in float64; return the chunk's mass (R, 1).

    Where LIGHT, activations above `limit` are left out.
    """
    group = tl.arange(0, CHUNK // GROUP)
    column = chunk * CHUNK + group[None, :, None] * GROUP + tl.arange(0, GROUP)[None, None, :]
    h = tl.load(x + rows[:, :, None] * a + column, mask=live[:, :, None] & (column < a), other=0.0)
    size = tl.abs(h.to(tl.float32))
    if LIGHT:
        size = tl.where(size > limit[:, :, None], 0.0, size)
    mass = tl.sum(size.to(tl.float64), axis=2)
    place = sums + (rows * chunks + chunk) * (CHUNK // GROUP) + group[None, :]
    tl.store(place, tl.cumsum(mass, axis=1), mask=live)
    return tl.sum(mass, axis=1)[:, None]


@triton.jit
def row_mass(masses, rows, live, chunks):
    """Load the masses of whole rows (R, 1), the last of their chunks' running sums."""
    return tl.load(masses + rows * chunks + chunks - 1, mask=live, other=0.0)


@triton.jit
def heavy_limit(mass, draws):
    """Return the size (R, 1) above which an activation is heavy: drawn more than _HEAVY times on average."""
    return (mass * (_HEAVY / draws.to(tl.float64))).to(tl.float32)


@triton.jit(do_not_specialize=["draws"])
def measure(x, sums, masses, all_masses, n, a, chunks, draws,
            LIGHT: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr):  # fmt: skip
    """Sum |h| over each chunk of each row of `x` (n, a); where LIGHT, without elements heavy beside `all_masses`."""
    rows, live = tile_rows(n, ROWS)
    chunk = tl.program_id(1)
    limit = heavy_limit(row_mass(all_masses, rows, live, chunks), draws) if LIGHT else 0.0
    mass = sum_chunk(x, sums, rows, live, a, chunk, chunks, limit, LIGHT, CHUNK)
    tl.store(masses + rows * chunks + chunk, mass, mask=live)


@triton.jit
def accumulate(masses, n, chunks, CHUNKS: tl.constexpr):
    """Replace the masses of a row's chunks by their running sums, one program a row."""
    chunk = tl.arange(0, CHUNKS)
    place = masses + tl.program_id(0).to(tl.int64) * chunks + chunk
    mass = tl.load(place, mask=chunk < chunks, other=0.0)
    tl.store(place, tl.cumsum(mass, axis=0), mask=chunk < chunks)


@triton.jit(do_not_specialize=["draws", "site"])
def share(streams, light_masses, all_masses, goals, n, chunks, draws, site, ROWS: tl.constexpr):
    """Draw how many of a row's draws go to elements that are not heavy."""
    rows, live = tile_rows(n, ROWS)
    light_mass = row_mass(light_masses, rows, live, chunks)
    mass = row_mass(all_masses, rows, live, chunks)
    usable = live & (light_mass > 0.0) & (mass < float("inf"))
    chance = tl.minimum(light_mass / tl.where(usable, mass, 1.0), 1.0)
    of = stream(streams, rows, live, site, TOTALS)
    tl.store(goals + rows, binomial(mass * 0.0 + draws.to(tl.float64), chance, of, usable), mask=live)


@triton.jit
def unit_of(mass):
    """Return the power of two, within float32's range, that scales a mass to about 1."""
    exponent = ((mass.to(tl.int64, bitcast=True) >> 52) & 0x7FF).to(tl.int32) - 1023
    power = tl.minimum(tl.maximum(-exponent, -126), 126)
    return ((power + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def scale_of(mass, draws, FEW: tl.constexpr):
    """Return what `scaled` needs for rows whose sizes sum to `mass`: the series of -r log(1 - p) in the size."""
    mass = mass.to(tl.float32)
    r = mass * 0.0 + draws.to(tl.float32)
    if FEW:
        return r, mass, mass, mass
    r0 = r / mass
    r1 = r0 / mass
    r2 = r1 / mass
    return r0, r1 * 0.5, r2 * (1.0 / 3), r2 / mass * 0.25


@triton.jit
def scaled(h, size, scale, FEW: tl.constexpr):
    """Return h / (1 - (1-p)^r), with p = size / mass."""
    r0, r1, r2, r3 = scale
    if FEW:
        exponent = tl.where(size < r1, r0 * _minus_log1m(size / r1), float("inf"))
    else:  # a share too large for the series has so many draws that its scale is 1
        exponent = size * (r0 + size * (r1 + size * (r2 + size * r3)))
    missed = tl.exp2(exponent * -1.4426950408889634)
    series = 0.5 + exponent * (-1.0 / 6 + exponent * (1.0 / 24 + exponent * (-1.0 / 120 + exponent * (1.0 / 720))))
    hit = tl.where(exponent < 0.3, exponent - exponent * exponent * series, 1.0 - missed)
    inverse = tl.rsqrt(hit)
    return h + h * (missed * inverse * inverse)


@triton.jit
def _minus_log1m(p):
    """Compute -log(1 - p) in float32, with small relative error, for p below 1."""
    bits = (1.0 - p).to(tl.int32, bitcast=True)
    exponent = tl.where(p < 0.33, 0, (bits - 0x3F2AAAAB) & -0x800000)
    t = tl.where(p < 0.33, -p, (bits - exponent).to(tl.float32, bitcast=True) - 1.0)  # in (-1/3, 1/3)
    series = -0.130310059 * t + 0.140869141
    series = series * t - 0.121483512
    series = series * t + 0.139814854
    series = series * t - 0.166846126
    series = series * t + 0.200120345
    series = series * t - 0.249996200
    series = series * t + 0.333331972
    series = series * t - 0.5
    return -(exponent.to(tl.float32) * (0.693147182 * 2.0**-23) + (series * t * t + t))
