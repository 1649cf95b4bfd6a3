"""Algorithm 1 on the CPU: exact, fused, one pass of arithmetic over each row while it lies in the cache.

How r categorical draws are made without making r draws. Element j has the rate r·p_j. Its rate is cut in a light
part v_j = min(r·p_j, CAP) and a remainder w_j = r·p_j - v_j; V and W are their sums over the row.

1. How many of the r draws fall into the remainder is B ~ Binomial(r, W/(V+W)); n = r - B are light.
2. Every element gets an independent count c_j ~ Poisson(v_j), by inversion of one uniform, vectorised. Their total
   N is Poisson(V), and given N they are Multinomial(N, v/V).
3. The total is corrected: n - N more draws from v/V, or N - n of the draws taken away, uniformly among all draws.
   Either leaves exactly Multinomial(n, v/V).
4. The B remainder draws are independent with law w/W. Only elements above CAP can receive them, and only for those
   without a light draw does it matter: their shares are drawn one after the other from conditional binomials.

Element j is kept when it received a draw, light or not. Numbers come from `saplab.noise` streams of the example, so
rows, batches, threads and machines do not influence one another. Each uniform has 32 bits, and 64 more where it is
below 2^-16, so that rates far below 2^-32 are drawn with their own probability.
"""

import math
from typing import Any, Final

import numpy as np
from numba import njit

from saplab.noise import row_counter
from saplab.pruning.binomial import binomial, uniform64
from saplab.vector import (
    BLOCK,
    fill_words,
    float_from_bits,
    full_width,
    narrow_row,
    scalar_kernel,
    select,
    vector_kernel,
    widen_row,
)

_THRESHOLDS: Final = np.float32(12.0)  # counts below this are decided by the vector loop
_CAP: Final = np.float32(6.0)
_SMALL_P: Final = np.float32(0.02)  # up to here log1p is a short series

_UNIFORM: Final = 0  # kinds of numbers within one stream
_CORRECTION: Final = 1
_EXTENSION: Final = 2
_SHARES: Final = 3

_UNRESOLVED: Final = np.float32(255.0)
_PROPOSALS: Final = BLOCK // 2  # of an element and a level, from one block of words
_LAST: Final = (1 << 32) - 1  # counters of rare further bits run down from here

_INFINITE = np.float32(np.inf)
_F0 = np.float32(0.0)
_F1 = np.float32(1.0)
_HALF = np.float32(0.5)
_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_EXP_LIMIT = np.float32(60.0)  # beyond, 1 - e^-x is 1
_SURE: Final = 18.0  # and from here on within float32's rounding
_TWO_M32 = np.float32(2.0**-32)
_TWO_M16 = np.float32(2.0**-16)
_TWO_M8 = np.float32(2.0**-8)  # below this rate P(c >= 2) < 2^-16, and its powers would be slow denormals
_I1, _I2, _I3, _I4, _I5, _I6, _I7, _I8, _I9, _I10, _I11 = (np.float32(1.0 / math.factorial(n)) for n in range(1, 12))
_L3, _L4, _L5 = (np.float32(1.0 / n) for n in range(3, 6))

_HIGHEST: Final = 100  # P(Poisson(CAP) > 100) < 1e-80
_RECIPROCALS = np.array([0.0, *(1.0 / k for k in range(1, _HIGHEST + 1))])


@njit(inline="always")
def _one_minus_exp(x: Any) -> Any:
    """Compute 1 - e^-x for 0 <= x <= 80 in float32 with small relative error, in a form that vectorises."""
    k = np.int32(x * _LOG2E + _HALF)
    kf = np.float32(k)
    f = (x - kf * _LN2_HIGH) - kf * _LN2_LOW
    q = f * (_F1 - f * (_I2 - f * (_I3 - f * (_I4 - f * (_I5 - f * (_I6 - f * _I7))))))
    power: Any = float_from_bits(np.int32(np.int32(127 - k) << np.int32(23)))
    return (_F1 - power) + power * q


@vector_kernel
def _mass(x: Any) -> Any:
    """Sum |x| in float64; NaN or infinity in a row makes it NaN or infinite."""
    full_width()
    total = 0.0
    for i in range(x.shape[0]):
        total += float(abs(x[i]))
    return total


@njit(inline="always")
def _threshold(u: Any, v: Any, mass: Any, tail: Any, count: Any, reciprocal: Any) -> Any:
    """Go from P(c >= k) to P(c >= k + 1) and count k + 1 if `u` lies below; `mass` is v^k e^-v."""
    mass = mass * v
    tail = tail - mass * reciprocal
    return mass, tail, count + select(u < tail, _F1, _F0)


@vector_kernel
def _count_block(x: Any, bits: Any, counts: Any, c: Any) -> Any:
    """Draw Poisson counts for BLOCK elements.

    Returns the total of the counts, the sums of v and w, the number of elements left unresolved (few draws are as
    high as _THRESHOLDS, few uniforms below 2^-16) and of those above CAP without a light draw.
    """
    full_width()
    total = light = rest = unresolved = orphans = _F0
    for i in range(BLOCK):
        rate = abs(x[i]) * c
        v = min(rate, _CAP)
        u = np.float32(bits[i]) * _TWO_M32
        tail = _one_minus_exp(v)
        mass = _F1 - tail
        count = select(u < tail, _F1, _F0)
        step = max(v, _TWO_M8)
        mass, tail, count = _threshold(u, step, mass, tail, count, _I1)
        mass, tail, count = _threshold(u, step, mass, tail, count, _I2)
        mass, tail, count = _threshold(u, step, mass, tail, count, _I3)
        mass, tail, count = _threshold(u, step, mass, tail, count, _I4)
        mass, tail, count = _threshold(u, step, mass, tail, count, _I5)
        mass, tail, count = _threshold(u, step, mass, tail, count, _I6)
        mass, tail, count = _threshold(u, step, mass, tail, count, _I7)
        mass, tail, count = _threshold(u, step, mass, tail, count, _I8)
        mass, tail, count = _threshold(u, step, mass, tail, count, _I9)
        mass, tail, count = _threshold(u, step, mass, tail, count, _I10)
        mass, tail, count = _threshold(u, step, mass, tail, count, _I11)
        light += v
        rest += rate - v
        orphans += select(rate > _CAP, select(count == _F0, _F1, _F0), _F0)
        count = select(u < _TWO_M16, _UNRESOLVED, select(count == _THRESHOLDS, _UNRESOLVED, count))
        unresolved += select(count == _UNRESOLVED, _F1, _F0)
        total += count
        counts[i] = np.uint8(np.int32(count))
    return total - unresolved * _UNRESOLVED, light, rest, unresolved, orphans


@scalar_kernel
def _resolve(rate: Any, bits: Any, more: Any) -> Any:
    """Invert one uniform in float64, with 64 more bits; give the Poisson count of min(rate, CAP)."""
    v = np.float64(min(rate, _CAP))  # numba's float() leaves a float32 as it is
    u = (float(bits) + more) * 2.0**-32
    mass = math.exp(-v)
    tail = -math.expm1(-v)
    count = 0
    while u < tail and count < _HIGHEST:
        count += 1
        mass *= v * _RECIPROCALS[count]
        tail -= mass
    return count


@scalar_kernel
def _resolve_block(x: Any, bits: Any, counts: Any, c: Any, lo: Any,
                   c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:  # fmt: skip
    """Draw the counts that the vector loop left open; give their sum, the highest, and whether one is an orphan."""
    total = 0
    highest = 0
    orphans = False
    for i in range(BLOCK):
        if counts[i] == np.uint8(_UNRESOLVED):
            rate = abs(x[i]) * c
            more, _ = uniform64(lo + i, c1, c2, c3, k0, k1)
            count = _resolve(rate, bits[i], more)
            counts[i] = np.uint8(count)
            total += count
            highest = max(highest, count)
            orphans |= count == 0 and rate > _CAP
    return total, highest, orphans


@vector_kernel
def _propose(bits: Any, elements: Any, levels: Any, a: Any, unfair: Any, cell: Any) -> None:
    """Turn words into uniform elements of a row of `a` (Lemire 2019; 2^32 mod a of the words are unfair) and levels.

    Levels are uniform below 2^32·`cell`, and infinite, so that nothing lies above, where the element's word was unfair.
    """
    full_width()
    for i in range(_PROPOSALS):
        product = np.uint64(bits[i]) * a
        elements[i] = np.uint32(product >> np.uint64(32))
        level = np.float32(bits[_PROPOSALS + i]) * cell
        levels[i] = select(np.uint32(product) < unfair, _INFINITE, level)


@njit(inline="always")
def _surely_below(level: Any, rate: Any, more: Any) -> Any:
    """Decide with `more` bits whether a level that begins a cell of width CAP / 2^32 lies below a rate inside it."""
    return level + more * (_CAP * 2.0**-32) < rate


@scalar_kernel
def _add_draws(x: Any, counts: Any, c: Any, missing: Any, proposals: Any,
               c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> None:  # fmt: skip
    """Make `missing` light draws, element j with probability v_j / V, by rejection under v_j <= CAP."""
    bits, elements, levels = proposals
    a = np.uint64(x.shape[0])
    unfair = np.uint32(np.uint64(1 << 32) % a)
    cell = _CAP * _TWO_M32
    batch = 0
    while missing > 0:
        fill_words(bits, batch, c1, c2, c3, k0, k1)
        _propose(bits, elements, levels, a, unfair, cell)
        for i in range(_PROPOSALS):
            j = elements[i]
            rate = abs(x[j]) * c
            if levels[i] < rate and missing > 0:
                if levels[i] + cell > rate:
                    more, _ = uniform64(_LAST - batch * _PROPOSALS - i, c1, c2, c3, k0, k1)
                    if not _surely_below(levels[i], rate, more):
                        continue
                counts[j] += np.uint8(1)
                missing -= 1
        batch += 1


@scalar_kernel
def _remove_draws(x: Any, counts: Any, c: Any, excess: Any, bound: Any, orphaned: Any, proposals: Any,
                  c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> None:  # fmt: skip
    """Take `excess` draws away, each uniform among those that are left, by rejection under c_j <= bound."""
    bits, elements, levels = proposals
    a = np.uint64(x.shape[0])
    unfair = np.uint32(np.uint64(1 << 32) % a)
    batch = 0
    while excess > 0:
        fill_words(bits, batch, c1, c2, c3, k0, k1)
        _propose(bits, elements, levels, a, unfair, np.float32(bound) * _TWO_M32)
        batch += 1
        for i in range(_PROPOSALS):
            j = elements[i]
            if levels[i] < np.float32(counts[j]) and excess > 0:
                counts[j] -= np.uint8(1)
                excess -= 1
                orphaned[j // BLOCK] |= counts[j] == 0 and abs(x[j]) * c > _CAP


@scalar_kernel
def _share_remainder(x: Any, counts: Any, c: Any, orphaned: Any, draws: Any, weight: Any,
                     c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> None:  # fmt: skip
    """Give the elements above CAP that have no light draw their shares of the remainder's `draws`, step 4."""
    first = 0
    for block in range(orphaned.shape[0]):
        if not orphaned[block]:
            continue
        for j in range(block * BLOCK, min((block + 1) * BLOCK, x.shape[0])):
            rate = abs(x[j]) * c
            if counts[j] > 0 or rate <= _CAP:
                continue
            own = float(rate - _CAP)
            first += 1024
            hits = binomial(draws, min(own / weight, 1.0), first, c1, c2, c3, k0, k1)
            draws -= hits
            weight -= own
            counts[j] = np.uint8(hits > 0.0)


@vector_kernel
def _write_row(x: Any, counts: Any, out: Any, c: Any, share: Any) -> None:
    """Write x / (1 - (1-p)^r) where kept, else 0; r·log1p(-p) by its series, right for p <= _SMALL_P."""
    full_width()
    for i in range(x.shape[0]):
        rate = abs(x[i]) * c
        p = rate * share
        exponent = rate * (_F1 + p * (_HALF + p * (_L3 + p * (_L4 + p * _L5))))
        kept = x[i] / _one_minus_exp(min(exponent, _EXP_LIMIT))
        out[i] = select(counts[i] > 0, kept, _F0)


@scalar_kernel
def _write_large(x: Any, counts: Any, out: Any, mass: Any, draws: Any) -> None:
    """Write the kept elements whose p is above the reach of the series."""
    limit = np.float32(0.9 * _SMALL_P * mass)
    for i in range(x.shape[0]):
        if abs(x[i]) > limit and counts[i] > 0:
            p = float(abs(x[i])) / mass
            out[i] = x[i] if p >= 1.0 else np.float32(x[i] / -math.expm1(draws * math.log1p(-p)))


@scalar_kernel
def _count_row(x: Any, c: Any, stream: Any, site: Any, scratch: Any) -> Any:
    """Draw the light part of a row, step 2; give the number of draws, V, W, and bounds of a count and of an excess."""
    full_width()
    counts, orphaned, bits, tail = scratch
    c1, c2, c3, k0, k1 = row_counter(stream, site, _UNIFORM)
    _, _, extension, _, _ = row_counter(stream, site, _EXTENSION)
    total = np.int64(0)
    bound = np.int64(_THRESHOLDS)
    v_sum = 0.0
    w_sum = 0.0
    heaviest = _F0
    for block in range(orphaned.shape[0]):
        lo = block * BLOCK
        piece = x[lo : lo + BLOCK]
        if lo + BLOCK > x.shape[0]:
            tail[:] = _F0
            tail[: x.shape[0] - lo] = piece
            piece = tail
        own = counts[lo : lo + BLOCK]
        fill_words(bits, block, c1, c2, c3, k0, k1)
        n, v, w, unresolved, orphans = _count_block(piece, bits, own, c)
        total += np.int64(n)
        v_sum += v
        w_sum += w
        heaviest = max(heaviest, w)
        orphaned[block] = orphans > _F0
        if unresolved > _F0:
            more, highest, more_orphans = _resolve_block(piece, bits, own, c, lo, c1, c2, extension, k0, k1)
            total += more
            bound = max(bound, highest)
            orphaned[block] |= more_orphans
    return total, v_sum, w_sum, bound, heaviest


@scalar_kernel
def _prune_row(x: Any, out: Any, mass: Any, draws: Any, stream: Any, site: Any, scratch: Any, proposals: Any) -> None:
    """Run steps 1 to 4 on one row whose absolute values sum to `mass`, and write it."""
    full_width()
    counts, orphaned, _, _ = scratch
    c = np.float32(draws / mass)
    total, v_sum, w_sum, bound, heaviest = _count_row(x, c, stream, site, scratch)
    c1, c2, shares, k0, k1 = row_counter(stream, site, _SHARES)
    _, _, corrections, _, _ = row_counter(stream, site, _CORRECTION)
    remainder = binomial(draws, w_sum / (v_sum + w_sum), 0, c1, c2, shares, k0, k1)
    missing = np.int64(draws - remainder) - total
    if missing > 0:
        _add_draws(x, counts, c, missing, proposals, c1, c2, corrections, k0, k1)
    else:
        _remove_draws(x, counts, c, -missing, float(bound), orphaned, proposals, c1, c2, corrections, k0, k1)
    if remainder > 0.0:
        _share_remainder(x, counts, c, orphaned, remainder, w_sum, c1, c2, shares, k0, k1)
    _write_row(x, counts, out, c, np.float32(1.0 / draws))
    # else no p is above _SMALL_P, or all of those have rates whose e^-rate is below float32's rounding of 1
    if heaviest >= _SMALL_P * draws - _CAP and _SMALL_P * draws < _SURE:
        _write_large(x, counts, out, mass, draws)


@scalar_kernel
def _scratch(a: Any) -> Any:
    """Make the memory that pruning a row of `a` activations needs: for its counts, and for proposals."""
    blocks = (a + BLOCK - 1) // BLOCK
    bits = np.empty(BLOCK, np.uint32)
    counting = (np.empty(blocks * BLOCK, np.uint8), np.empty(blocks, np.bool_), bits, np.empty(BLOCK, np.float32))
    return counting, (bits, np.empty(_PROPOSALS, np.uint32), np.empty(_PROPOSALS, np.float32))


@scalar_kernel
def _prune_any_row(x: Any, out: Any, draws: Any, stream: Any, site: Any, scratch: Any, proposals: Any) -> Any:
    """Prune one row of any scale; tell whether it is finite. A row of zeros gives zeros, one with NaN nothing."""
    full_width()
    mass = _mass(x)
    if not np.isfinite(mass):
        return False
    if mass == 0.0:
        out[:] = _F0
    elif 1e-20 < mass < 1e30 and 1e-20 < draws / mass < 1e30:
        _prune_row(x, out, mass, draws, stream, site, scratch, proposals)
    else:  # an exact power of two brings the row into the middle of float32's range
        factor = 2.0 ** -math.floor(math.log2(mass))
        row = (x * factor).astype(np.float32)
        _prune_row(row, out, mass * factor, draws, stream, site, scratch, proposals)
        out[:] = (out / factor).astype(np.float32)
    return True


@scalar_kernel
def prune_rows(x: Any, out: Any, streams: Any, site: int, draws: float, bad: Any) -> None:
    """Apply Algorithm 1 to the rows of `x` (N, a) float32 with `draws` draws each; write `out` (N, a).

    Rows of zeros give zeros. Rows with NaN or infinity are marked in `bad` (N,).
    """
    full_width()
    scratch, proposals = _scratch(x.shape[1])
    for n in range(x.shape[0]):
        bad[n] = not _prune_any_row(x[n], out[n], draws, streams[n], site, scratch, proposals)


@scalar_kernel
def prune_bfloat16_rows(x: Any, out: Any, streams: Any, site: int, draws: float, bad: Any) -> None:
    """Do as `prune_rows` with the bits of bfloat16 numbers, as uint16; a row is float32 while it lies in the cache."""
    full_width()
    scratch, proposals = _scratch(x.shape[1])
    wide, pruned = np.empty(x.shape[1], np.float32), np.zeros(x.shape[1], np.float32)
    for n in range(x.shape[0]):
        widen_row(x[n], wide)
        bad[n] = not _prune_any_row(wide, pruned, draws, streams[n], site, scratch, proposals)
        narrow_row(pruned, out[n])
