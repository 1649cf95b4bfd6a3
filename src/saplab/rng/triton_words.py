"""Numbers of `saplab.rng.streams` inside Triton kernels: words, uniforms, exponentials, Poisson and binomial.

A tile holds R rows; what belongs to a row has the shape (R, 1), numbers along it (R, n). The words of a row are those
of `saplab.rng.simd.fill_words`: 128 numbers come from 32 counters, the first 32 of them from the counters' first words.
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice

_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
_LANES = tl.constexpr(32)
_BLOCK = tl.constexpr(128)
_BINOMIAL = tl.constexpr(1 << 20)  # first counter for a binomial number; a Poisson number's is 0
_SEARCHED = tl.constexpr(64.0)  # numbers of a smaller mean are drawn by sequential search: e^-64 is far from 0


@triton.jit
def any_of(found):
    """Return whether anything in a tile (R, n) is true."""
    return tl.max(tl.max(found.to(tl.int32), axis=1), axis=0) > 0


@triton.jit
def stream(streams, rows, live, site, kind):
    """Load the streams of rows (R, 1) as the last five inputs of Philox: example, pass, tag and the key's halves."""
    place = streams + rows * 3
    key = tl.load(place, mask=live, other=0)
    pass_ = tl.load(place + 1, mask=live, other=0).to(tl.uint32)
    example = tl.load(place + 2, mask=live, other=0).to(tl.uint32)
    tag = (example * 0 + kind) | (site << 8)
    return example, pass_, tag, key.to(tl.uint32), (key >> 32).to(tl.uint32)


@triton.jit
def philox(counter, of):
    """Draw four words for each counter (R, n) of the streams `of`."""
    c1, c2, c3, k0, k1 = of
    c0 = counter.to(tl.uint32)
    for _ in tl.static_range(10):
        a = c0.to(tl.uint64) * 0xD2511F53  # one wide product, where tl.philox makes two narrow ones
        b = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (b >> 32).to(tl.uint32) ^ c1 ^ k0
        c2 = (a >> 32).to(tl.uint32) ^ c3 ^ k1
        c1 = b.to(tl.uint32)
        c3 = a.to(tl.uint32)
        k0 = tl.add(k0, 0x9E3779B9, sanitize_overflow=False)
        k1 = tl.add(k1, 0xBB67AE85, sanitize_overflow=False)
    return c0, c1, c2, c3


@triton.jit
def place_in_blocks(lane, word: tl.constexpr):
    """Return the places in a row of the numbers from one `word` of the counters `lane`."""
    return lane // _LANES * _BLOCK + word * _LANES + lane % _LANES


@triton.jit
def uniform64(counter, of):
    """Draw two float64 uniforms in (0, 1) for each counter."""
    w0, w1, w2, w3 = philox(counter, of)
    a = (((w0.to(tl.int64) << 20) ^ (w1.to(tl.int64) >> 12)).to(tl.float64) + 0.5) * 2.0**-52
    b = (((w2.to(tl.int64) << 20) ^ (w3.to(tl.int64) >> 12)).to(tl.float64) + 0.5) * 2.0**-52
    return a, b


@triton.jit
def _log(x):
    """Compute log x in float32 within 2^-22: one instruction and a product, but the usual log in the interpreter."""
    return tl.log(x) if _INTERPRETED else libdevice.fast_logf(x)


@triton.jit
def exponential(word):
    """Turn words into exponential numbers, -log(1 - u) in float32 with u in the middle of the word's cell.

    The relative error is small also where u is. Products meet sums only inside `fma`, so that every compilation of the
    function gives the same number.
    """
    u = tl.fma(word.to(tl.float32), 2.0**-32, 2.0**-33)
    rest = tl.fma((word ^ 0xFFFFFFFF).to(tl.float32), 2.0**-32, 2.0**-33)
    series = tl.fma(u, 1.0 / 7, 1.0 / 6)
    series = tl.fma(series, u, 1.0 / 5)
    series = tl.fma(series, u, 1.0 / 4)
    series = tl.fma(series, u, 1.0 / 3)
    series = tl.fma(series, u, 0.5)
    series = tl.fma(series, u, 1.0)
    return tl.where(word < 0x20000000, series * u, -_log(rest))


@triton.jit
def exponential64(word, more):
    """Return what `exponential` does, in float64 and with u at the part `more`, in (0, 1), of the word's cell."""
    u = (word.to(tl.float64) + more) * 2.0**-32
    rest = ((word ^ 0xFFFFFFFF).to(tl.float64) + (1.0 - more)) * 2.0**-32
    return -tl.where(word < 0x20000000, log1p64(-u), tl.log(rest))


@triton.jit
def log1p64(x):
    """Compute log(1 + x) in float64, with small relative error (Kahan)."""
    y = 1.0 + x
    change = tl.where(y == 1.0, 1.0, y - 1.0)
    return tl.where(y == 1.0, x, tl.log(tl.where(y > 0.0, y, 1.0)) * (x / change))


@triton.jit
def _stirling(k):
    """Return log k! - [log sqrt(2 pi) + (k + 1/2) log(k + 1) - (k + 1)], for k >= 10."""
    x = 1.0 / (k + 1.0)
    s = x * x
    return (1.0 / 12 - (1.0 / 360 - (1.0 / 1260 - s / 1680) * s) * s) * x


@triton.jit
def _search(pmf, rate, odds, n, u, wanted):
    """Return the number at `u` by sequential search: P(0) = `pmf`, P(k) = P(k - 1)·[rate + (n + 1 - k)·odds] / k."""
    k = u * 0.0
    going = wanted & (u > pmf)
    while any_of(going):
        u = tl.where(going, u - pmf, u)
        k = tl.where(going, k + 1.0, k)
        pmf = tl.where(going, pmf * (rate + (n + 1.0 - k) * odds) / tl.maximum(k, 1.0), pmf)
        going = going & (u > pmf) & (pmf > 0.0)
    return k


@triton.jit
def poisson(mean, of, wanted):
    """Draw Poisson(mean) (R, 1) exactly, in float64, where `wanted`, else 0.

    By sequential search, or by transformed rejection (PTRS of Hörmann 1993, "The transformed rejection method for
    generating Poisson random variables").
    """
    small = mean < _SEARCHED
    u, _ = uniform64(tl.zeros_like(mean).to(tl.int32), of)
    k = _search(tl.exp(-tl.where(small, mean, 0.0)), mean, 0.0, 0.0, u, wanted & small)
    mu = tl.where(small, _SEARCHED, mean)
    b = 0.931 + 2.53 * tl.sqrt(mu)
    a = -0.059 + 0.02483 * b
    going = wanted & (small == 0)
    trial = 0
    while any_of(going):
        trial += 1
        u, v = uniform64(tl.zeros_like(mean).to(tl.int32) + trial, of)
        u -= 0.5
        us = 0.5 - tl.abs(u)
        found = tl.floor((2.0 * a / us + b) * u + mu + 0.43)
        good = (us >= 0.07) & (v <= 0.9277 - 3.6224 / (b - 2.0))
        if any_of(going & (good == 0)):
            level = tl.log(v * (1.1239 + 1.1328 / (b - 3.4)) / (a / (us * us) + b))
            fair = (found >= 0.0) & ((us >= 0.013) | (v <= us))
            good = good | (fair & (level <= _log_poisson(tl.maximum(found, 0.0), mu)))
        k = tl.where(going & good, found, k)
        going = going & (good == 0)
    return k


@triton.jit
def _log_poisson(k, mu):
    """Return log P(k) = k log mu - mu - log k!, for large k and mu, in a form that does not cancel."""
    over = k + 1.0 - mu
    return over - k * log1p64(over / mu) - 0.5 * tl.log(k + 1.0) - 0.9189385332046727 - _stirling(k)


@triton.jit
def binomial(n, p, of, wanted):
    """Draw Binomial(n, p) (R, 1) exactly, in float64, where `wanted`, else 0.

    By sequential search or transformed rejection (BTRS: Hörmann 1993, "The generation of binomial random variates").
    """
    q = tl.minimum(p, 1.0 - p)
    small = n * q < _SEARCHED
    u, _ = uniform64(tl.zeros_like(p).to(tl.int32) + _BINOMIAL, of)
    k = _search(tl.exp(n * log1p64(-tl.where(small, q, 0.0))), 0.0, q / (1.0 - q), n, u, wanted & small)
    q = tl.where(small, 0.5, q)
    m = tl.where(small, 2 * _SEARCHED, n)
    spread = tl.sqrt(m * q * (1.0 - q))
    b = 1.15 + 2.53 * spread
    a = -0.0873 + 0.0248 * b + 0.01 * q
    going = wanted & (small == 0)
    trial = 0
    while any_of(going):
        trial += 1
        u, v = uniform64(tl.zeros_like(p).to(tl.int32) + (_BINOMIAL + trial), of)
        u -= 0.5
        us = 0.5 - tl.abs(u)
        found = tl.floor((2.0 * a / us + b) * u + m * q + 0.5)
        good = (us >= 0.07) & (v <= 0.92 - 4.2 / b)
        if any_of(going & (good == 0)):
            level = tl.log(v * (2.83 + 5.1 / b) * spread / (a / (us * us) + b))
            fair = (found >= 0.0) & (found <= m)
            good = good | (fair & (level <= _log_binomial(tl.minimum(tl.maximum(found, 0.0), m), m, q)))
        k = tl.where(going & good, found, k)
        going = going & (good == 0)
    return tl.where(wanted & (p > 0.5), n - k, k)


@triton.jit
def _log_binomial(k, n, p):
    """Return log P(k) / P(mode) of Binomial(n, p)."""
    odds = p / (1.0 - p)
    mode = tl.floor((n + 1.0) * p)
    return (
        (mode + 0.5) * tl.log((mode + 1.0) / (odds * (n - mode + 1.0)))
        + (n + 1.0) * log1p64((k - mode) / (n - k + 1.0))
        + (k + 0.5) * tl.log(odds * (n - k + 1.0) / (k + 1.0))
        + _stirling(mode) + _stirling(n - mode) - _stirling(k) - _stirling(n - k)
    )  # fmt: skip
