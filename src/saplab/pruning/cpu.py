"""Algorithm 1 on the CPU: exact, in one pass of arithmetic over each row while it is in the cache.

How to get the result of r categorical draws without making r draws: element j has the rate r·p_j, which is split into
a light part v_j = min(r·p_j, CAP) and a remainder w_j = r·p_j - v_j; V and W are their sums over the row.

1. How many of the r draws fall into the remainder is B ~ Binomial(r, W/(V+W)); n = r - B are light.
2. Every element gets an independent Poisson process of draws on [0, v_j], of which only the first matters: it comes
   at the time t_j ~ Exp(1), so the element is hit where t_j < v_j. Draws after the first are Poisson(v_j - t_j), and
   their number over the whole row is one Poisson(sum of v_j - t_j over the elements hit), so that the total N of
   draws is known without a count of each element. Given N, draws are Multinomial(N, v/V).
3. The total is corrected: n - N more draws from v/V are made, or N - n draws chosen uniformly are removed. Both leave
   exactly Multinomial(n, v/V). An element whose first draw is removed stays if it has a later one: those fall on the
   elements hit in proportion to v_j - t_j, so their shares are conditional binomials.
4. The B remainder draws are independent with law w/W. Only elements above CAP can receive them, and it matters only
   for those without a light draw: their shares are drawn one after the other from conditional binomials.

Element j is kept if it received a draw, light or not. Numbers come from `saplab.rng.streams` of the example, so rows,
batches, threads and machines do not influence one another. A time is the logarithm of a uniform of 32 bits, and of 64
more where it is below 2^-16, so that rates far below 2^-32 are drawn with their own probability.
"""

import math
from typing import Any, Final

import numpy as np
from numba import njit

from saplab.pruning.binomial import binomial, uniform64
from saplab.pruning.poisson import poisson
from saplab.rng.compiled import scalar_kernel, vector_kernel
from saplab.rng.simd import (
    BLOCK,
    PIECE,
    bits_of_float,
    fill_words,
    float_from_bits,
    full_width,
    read,
    select,
    whole_blocks,
)
from saplab.rng.streams import row_counter
from saplab.rng.tiles import ask_to_read

_CAP: Final = np.float32(8.0)
_SMALL_P: Final = np.float32(0.02)  # up to here log1p is a short series

_UNIFORM, _CORRECTION, _EXTENSION, _SHARES = 0, 1, 2, 3  # kinds of numbers within one stream
_LATER, _SURVIVALS = 6, 7  # 4 and 5 belong to others

_PROPOSALS: Final = BLOCK // 2  # of an element and a level, from one block of words
_LAST: Final = (1 << 32) - 1  # counters of rare further bits run down from here
_BINOMIAL: Final = 1024  # counters set aside for one binomial or Poisson number

_F0, _HALF, _F1, _32, _INFINITE = (np.float32(x) for x in (0.0, 0.5, 1.0, 32.0, np.inf))
_LOG2E, _LN2 = np.float32(1.4426950408889634), np.float32(math.log(2.0))
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_EXP_LIMIT = np.float32(60.0)  # beyond, 1 - e^-x is 1
_SURE: Final = 18.0  # and from here on within float32's rounding
_TWO_M32 = np.float32(2.0**-32)
_FEW: Final = np.uint32(1 << 16)  # words below get more bits
_ALL: Final = np.uint32(0xFFFFFFFF)
_ROOT_HALF: Final = np.int32(np.float32(math.sqrt(0.5)).view(np.int32))
_MANTISSA: Final = np.int32(0x7FFFFF)
_I2, _I3, _I4, _I5, _I6, _I7 = (np.float32(1.0 / math.factorial(n)) for n in range(2, 8))
_L3, _L4, _L5 = (np.float32(1.0 / n) for n in range(3, 6))
# log(1 + z) = z - z²/2 + z³·(_C3 + _C4·z + ...), sqrt(1/2) <= 1 + z < sqrt(2): Cephes' logf (Moshier 1992)
_C3, _C4, _C5 = np.float32(3.3333331174e-1), np.float32(-2.4999993993e-1), np.float32(2.0000714765e-1)
_C6, _C7, _C8 = np.float32(-1.6668057665e-1), np.float32(1.4249322787e-1), np.float32(-1.2420140846e-1)
_C9, _C10, _C11 = np.float32(1.1676998740e-1), np.float32(-1.1514610310e-1), np.float32(7.0376836292e-2)


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
    """Return the sum of |x| in float64: NaN or infinity where the row holds one."""
    full_width()
    total = 0.0
    for i in range(x.shape[0]):
        total += float(abs(x[i]))
    return total


@njit(inline="always")
def _arrival(bits: Any) -> Any:
    """Compute -log(1 - u), u = `bits` / 2^32, with small relative error, in a form that vectorises."""
    u = np.float32(bits) * _TWO_M32
    rest: Any = bits_of_float(np.float32(np.uint32(_ALL ^ bits)))  # 2^32 (1 - u) = 2^e m, sqrt(1/2) <= m < sqrt(2)
    rest = np.int32(rest - _ROOT_HALF)
    m: Any = float_from_bits(np.int32((rest & _MANTISSA) + _ROOT_HALF))
    halvings = _32 - np.float32(np.int32(rest >> np.int32(23)))
    z = select(halvings == _F0, -u, m - _F1)
    series = _C3 + z * (_C4 + z * (_C5 + z * (_C6 + z * (_C7 + z * (_C8 + z * (_C9 + z * (_C10 + z * _C11)))))))
    return halvings * _LN2 - (z + z * z * (z * series - _HALF))


@vector_kernel
def _arrivals(bits: Any, times: Any) -> Any:
    """Turn words into the times of first draws; return the lowest word."""
    full_width()
    lowest = _ALL
    for i in range(times.shape[0]):
        lowest = min(lowest, bits[i])
        times[i] = _arrival(bits[i])
    return lowest


@scalar_kernel
def _resolve(bits: Any, more: Any) -> Any:
    return np.float32(-math.log1p((float(bits) + more) * -(2.0**-32)))


@scalar_kernel
def _resolve_piece(bits: Any, times: Any, lo: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> None:
    """Compute the times of words below _FEW again, with more bits."""
    for i in range(times.shape[0]):
        if bits[i] < _FEW:
            more, _ = uniform64(lo + i, c1, c2, c3, k0, k1)
            times[i] = _resolve(bits[i], more)


@njit(inline="always")
def _scaled(x: Any, rate: Any, share: Any) -> Any:
    """Return x / (1 - (1-p)^r), with r·log1p(-p) by its series, right for p <= _SMALL_P."""
    p = rate * share
    exponent = rate * (_F1 + p * (_HALF + p * (_L3 + p * (_L4 + p * _L5))))
    return x / _one_minus_exp(min(exponent, _EXP_LIMIT))


@vector_kernel
def _prune_piece(x: Any, times: Any, out: Any, c: Any, share: Any) -> Any:
    """Write the elements whose first light draw comes in time, scaled, and 0 for the others.

    Returns:
        The number of elements hit, the sums of v and of w, the sum of v - t over the elements hit, and the number of
        elements above CAP that were not hit.
    """
    full_width()
    kept = light = rest = later = orphans = _F0
    for i in range(x.shape[0]):
        rate = abs(x[i]) * c
        v = min(rate, _CAP)
        hit = times[i] < v
        out[i] = select(hit, _scaled(x[i], rate, share), _F0)
        kept += select(hit, _F1, _F0)
        light += v
        rest += rate - v
        later += select(hit, v - times[i], _F0)
        orphans += select(hit, _F0, select(rate > _CAP, _F1, _F0))
    return kept, light, rest, later, orphans


@vector_kernel
def _propose(bits: Any, elements: Any, levels: Any, a: Any, unfair: Any, cell: Any) -> None:
    """Turn words into uniform elements of a row of `a` (Lemire 2019; 2^32 mod a of the words are unfair) and levels.

    Levels are uniform below 2^32·`cell`; where the element's word was unfair, infinite, which no rate exceeds.
    """
    full_width()
    for i in range(_PROPOSALS):
        product = np.uint64(bits[i]) * a
        elements[i] = np.uint32(product >> np.uint64(32))
        level = np.float32(bits[_PROPOSALS + i]) * cell
        levels[i] = select(np.uint32(product) < unfair, _INFINITE, level)


@vector_kernel
def _look_up(x: Any, elements: Any, c: Any, rates: Any) -> None:
    """Write the rates of the proposed elements."""
    full_width()
    for i in range(_PROPOSALS):
        rates[i] = abs(x[elements[i]]) * c


@scalar_kernel
def _list_below(levels: Any, rates: Any, found: Any) -> Any:
    """List the proposals with a level below their element's rate, without a branch; return how many they are."""
    count = 0
    for i in range(_PROPOSALS):
        found[count] = i
        count += levels[i] < rates[i]
    return count


@njit(inline="always")
def _surely_below(level: Any, rate: Any, more: Any) -> Any:
    """Return whether a level in a cell of width CAP / 2^32, at the part `more` of it, is below a rate inside it."""
    return level + more * (_CAP * 2.0**-32) < rate


@scalar_kernel
def _add_draws(x: Any, out: Any, c: Any, share: Any, missing: Any, proposals: Any,
               c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> None:  # fmt: skip
    """Make `missing` light draws, element j with probability v_j / V, by rejection under v_j <= CAP."""
    bits, elements, levels, rates, found = proposals
    a = np.uint64(x.shape[0])
    unfair = np.uint32(np.uint64(1 << 32) % a)
    cell = _CAP * _TWO_M32
    batch = 0
    while missing > 0:
        fill_words(bits, batch, 1, c1, c2, c3, k0, k1)
        _propose(bits, elements, levels, a, unfair, cell)
        _look_up(x, elements, c, rates)
        for k in range(_list_below(levels, rates, found)):
            if missing == 0:
                break
            i = found[k]
            j = elements[i]
            if levels[i] + cell > rates[i]:
                more, _ = uniform64(_LAST - batch * _PROPOSALS - i, c1, c2, c3, k0, k1)
                if not _surely_below(levels[i], rates[i], more):
                    continue
            out[j] = _scaled(x[j], rates[i], share)
            missing -= 1
        batch += 1


@scalar_kernel
def _firsts(kept: Any, later: Any, excess: Any, bits: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Return how many of `excess` draws, chosen uniformly from `kept` first and `later` others, are first draws."""
    firsts = 0
    for k in range(excess):
        i = k % _PROPOSALS
        if i == 0:
            fill_words(bits, _BINOMIAL + k // _PROPOSALS, 1, c1, c2, c3, k0, k1)
        u = (float(bits[i]) + float(bits[_PROPOSALS + i]) * 2.0**-32) * 2.0**-32
        firsts += u * (kept + later - k) < kept - firsts
    return firsts


@scalar_kernel
def _remove_firsts(x: Any, times: Any, out: Any, c: Any, firsts: Any, later: Any, weight: Any, orphaned: Any,
                   proposals: Any, c1: Any, c2: Any, c3: Any, c4: Any, k0: Any, k1: Any) -> None:  # fmt: skip
    """Remove `firsts` first draws, uniformly; an element on which none of the `later` draws falls is lost.

    Later draws fall in proportion to v - t, whose sum is `weight`: each element draws its own number of them in turn.
    """
    bits, elements, levels, _, _ = proposals
    a = np.uint64(x.shape[0])
    unfair = np.uint32(np.uint64(1 << 32) % a)
    batch = 0
    first = 0
    while firsts > 0:
        fill_words(bits, batch, 1, c1, c2, c3, k0, k1)
        _propose(bits, elements, levels, a, unfair, _TWO_M32)
        batch += 1
        for i in range(_PROPOSALS):
            j = elements[i]
            v = min(abs(x[j]) * c, _CAP)
            if levels[i] > _F1 or not _F0 <= times[j] < v or firsts == 0:
                continue
            own = float(v - times[j])
            hits = binomial(later, own / weight if own < weight else 1.0, first, c1, c2, c4, k0, k1)
            later -= hits
            weight -= own
            first += _BINOMIAL
            firsts -= 1
            times[j] = -_F1 if hits > 0.0 else _INFINITE  # neither is taken again
            if hits == 0.0:
                out[j] = _F0
                orphaned[j // PIECE] |= v == _CAP


@scalar_kernel
def _share_remainder(x: Any, out: Any, c: Any, share: Any, orphaned: Any, draws: Any, weight: Any,
                     c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> None:  # fmt: skip
    """Draw which elements above CAP without a light draw are among the remainder's `draws`, step 4."""
    first = 0
    for piece in range(orphaned.shape[0]):
        if not orphaned[piece]:
            continue
        for j in range(piece * PIECE, min((piece + 1) * PIECE, x.shape[0])):
            rate = abs(x[j]) * c
            if out[j] != _F0 or rate <= _CAP:
                continue
            own = float(rate - _CAP)
            first += _BINOMIAL
            hits = binomial(draws, min(own / weight, 1.0), first, c1, c2, c3, k0, k1)
            draws -= hits
            weight -= own
            if hits > 0.0:
                out[j] = _scaled(x[j], rate, share)


@scalar_kernel
def _write_large(x: Any, out: Any, mass: Any, draws: Any) -> None:
    """Write the kept elements whose p is too large for the series."""
    limit = np.float32(0.9 * _SMALL_P * mass)
    for i in range(x.shape[0]):
        if abs(x[i]) > limit and out[i] != _F0:
            p = float(abs(x[i])) / mass
            out[i] = x[i] if p >= 1.0 else np.float32(x[i] / -math.expm1(draws * math.log1p(-p)))


@scalar_kernel
def _light_draws(x: Any, out: Any, c: Any, share: Any, stream: Any, site: Any, scratch: Any, coming: Any) -> Any:
    """Make the first light draws of a row, step 2; return the sums of `_prune_piece`, and the largest w of a piece.

    Meanwhile the rows `coming` (0 or 1, a), as they are stored, come from memory.
    """
    times, orphaned, bits = scratch
    c1, c2, c3, k0, k1 = row_counter(stream, site, _UNIFORM)
    _, _, extension, _, _ = row_counter(stream, site, _EXTENSION)
    kept = light = rest = later = heaviest = 0.0
    for piece in range(orphaned.shape[0]):
        lo = piece * PIECE
        hi = min(lo + PIECE, x.shape[0])
        middle = min(lo + PIECE // 2, hi)  # lines are asked for in two parts: all at once gain less
        ask_to_read(coming, lo, middle)
        fill_words(bits[: whole_blocks(hi - lo)], lo // BLOCK, 1, c1, c2, c3, k0, k1)
        if _arrivals(bits, times[lo:hi]) < _FEW:
            _resolve_piece(bits, times[lo:hi], lo, c1, c2, extension, k0, k1)
        ask_to_read(coming, middle, hi)
        n, v, w, after, orphans = _prune_piece(x[lo:hi], times[lo:hi], out[lo:hi], c, share)
        kept += n
        light += v
        rest += w
        later += after
        heaviest = max(heaviest, float(w))
        orphaned[piece] = orphans > _F0
    return kept, light, rest, later, heaviest


@scalar_kernel
def _prune_row(x: Any, out: Any, mass: Any, draws: Any, stream: Any, site: Any, scratch: Any, proposals: Any,
               coming: Any) -> None:  # fmt: skip
    """Run steps 1 to 4 on one row whose absolute values sum to `mass`, and write it."""
    times, orphaned, _ = scratch
    c, share = np.float32(draws / mass), np.float32(1.0 / draws)
    kept, light, rest, weight, heaviest = _light_draws(x, out, c, share, stream, site, scratch, coming)
    c1, c2, shares, k0, k1 = row_counter(stream, site, _SHARES)
    _, _, corrections, _, _ = row_counter(stream, site, _CORRECTION)
    _, _, afters, _, _ = row_counter(stream, site, _LATER)
    _, _, survivals, _, _ = row_counter(stream, site, _SURVIVALS)
    remainder = binomial(draws, rest / (light + rest), 0, c1, c2, shares, k0, k1)
    later = poisson(weight, 0, c1, c2, afters, k0, k1)
    excess = np.int64(kept + later - (draws - remainder))
    if excess < 0:
        _add_draws(x, out, c, share, -excess, proposals, c1, c2, corrections, k0, k1)
    else:
        firsts = _firsts(kept, later, excess, proposals[0], c1, c2, afters, k0, k1)
        left = later - (excess - firsts)
        _remove_firsts(x, times, out, c, firsts, left, weight, orphaned, proposals,
                       c1, c2, corrections, survivals, k0, k1)  # fmt: skip
    if remainder > 0.0:
        _share_remainder(x, out, c, share, orphaned, remainder, rest, c1, c2, shares, k0, k1)
    # else no p is above _SMALL_P, or all of those have rates whose e^-rate is below float32's rounding of 1
    if heaviest >= _SMALL_P * draws - _CAP and _SMALL_P * draws < _SURE:
        _write_large(x, out, mass, draws)


@scalar_kernel
def scratch_for(a: Any) -> Any:
    """Return memory for pruning rows of `a` activations: for times, and for proposals."""
    bits = np.empty(PIECE, np.uint32)
    drawing = (np.empty(a, np.float32), np.empty((a + PIECE - 1) // PIECE, np.bool_), bits)
    elements, found = np.empty(_PROPOSALS, np.uint32), np.empty(_PROPOSALS, np.uint32)
    levels, rates = np.empty(_PROPOSALS, np.float32), np.empty(_PROPOSALS, np.float32)
    return drawing, (bits[:BLOCK], elements, levels, rates, found)


@scalar_kernel
def prune_any_row(x: Any, out: Any, draws: Any, stream: Any, site: Any, scratch: Any, proposals: Any,
                  coming: Any) -> Any:  # fmt: skip
    """Prune one row of any scale; return whether it is finite. A row of zeros stays; one with NaN is not written.

    Meanwhile the rows `coming` (0 or 1, a), as they are stored, come from memory.
    """
    full_width()
    mass = _mass(x)
    if not np.isfinite(mass):
        return False
    if mass == 0.0:
        out[:] = _F0
    elif 1e-20 < mass < 1e30 and 1e-20 < draws / mass < 1e30:
        _prune_row(x, out, mass, draws, stream, site, scratch, proposals, coming)
    else:  # an exact power of two brings the row into the middle of float32's range
        factor = 2.0 ** -math.floor(math.log2(mass))
        row = (x * factor).astype(np.float32)
        _prune_row(row, out, mass * factor, draws, stream, site, scratch, proposals, coming)
        out[:] = (out / factor).astype(np.float32)
    return True


@vector_kernel
def lift(x: Any, row: Any, floor: Any) -> None:
    """Write max(x, floor) of a row of float32, or of bfloat16 bits (uint16), as float32; NaN stays."""
    full_width()
    for i in range(x.shape[0]):
        value = read(x[i])
        row[i] = floor if value < floor else value


@scalar_kernel
def prune_rows(x: Any, out: Any, streams: Any, site: int, draws: float, bad: Any, floor: Any) -> None:
    """Write max(x, floor) of the rows `x` (N, a) float32, pruned with `draws` draws, to `out`.

    A floor of 0 is ReLU, -inf nothing. Rows that are not finite are marked in `bad`.
    """
    full_width()
    scratch, proposals = scratch_for(x.shape[1])
    lifted = np.empty(x.shape[1] if floor == _F0 else 0, np.float32)
    for n in range(x.shape[0]):
        row = x[n]
        if floor == _F0:
            lift(row, lifted, floor)
            row = lifted
        bad[n] = not prune_any_row(row, out[n], draws, streams[n], site, scratch, proposals, x[n + 1 : n + 2])
