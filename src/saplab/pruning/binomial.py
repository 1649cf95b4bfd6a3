"""Exact binomial numbers of any size from the counters of a stream: how draws fall on the parts of a row."""

import math
from typing import Any

import numpy as np
from numba import njit

from saplab.rng.compiled import scalar_kernel
from saplab.rng.streams import philox


@njit(inline="always")
def uniform64(counter: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Draw two float64 uniforms in (0, 1)."""
    w0, w1, w2, w3 = philox(np.uint64(counter), c1, c2, c3, k0, k1)
    a = (float((w0 << np.uint64(20)) ^ (w1 >> np.uint64(12))) + 0.5) * 2.0**-52
    b = (float((w2 << np.uint64(20)) ^ (w3 >> np.uint64(12))) + 0.5) * 2.0**-52
    return a, b


@njit(inline="always")
def _stirling(k: Any) -> Any:
    """Return log k! - [log sqrt(2 pi) + (k + 1/2) log(k + 1) - (k + 1)]."""
    if k < 10:
        return math.lgamma(k + 1.0) - (0.9189385332046727 + (k + 0.5) * math.log(k + 1.0) - (k + 1.0))
    s = 1.0 / ((k + 1.0) * (k + 1.0))
    return (1.0 / 12 - (1.0 / 360 - (1.0 / 1260 - s / 1680) * s) * s) / (k + 1.0)


@scalar_kernel
def _binomial_inversion(n: Any, p: Any, u: Any) -> Any:
    """Return Binomial(n, p) at the uniform `u` by sequential search, for n·p < 10."""
    pmf = math.exp(n * math.log1p(-p))
    odds = p / (1.0 - p)
    k = 0.0
    while u > pmf and k < n and pmf > 0.0:
        u -= pmf
        k += 1.0
        pmf *= (n - k + 1.0) / k * odds
    return k


@scalar_kernel
def _binomial_small_p(n: Any, p: Any, first: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Draw Binomial(n, p) for p <= 1/2 by Hörmann's transformed rejection (BTRS, 1993), or inversion where n·p < 10."""
    if n * p < 10.0:
        return _binomial_inversion(n, p, uniform64(first, c1, c2, c3, k0, k1)[0])
    spq = math.sqrt(n * p * (1.0 - p))
    b = 1.15 + 2.53 * spq
    a = -0.0873 + 0.0248 * b + 0.01 * p
    centre = n * p + 0.5
    v_r = 0.92 - 4.2 / b
    alpha = (2.83 + 5.1 / b) * spq
    m = math.floor((n + 1.0) * p)
    odds = p / (1.0 - p)
    while True:
        u, v = uniform64(first, c1, c2, c3, k0, k1)
        first += 1
        u -= 0.5
        us = 0.5 - abs(u)
        k = math.floor((2.0 * a / us + b) * u + centre)
        if us >= 0.07 and v <= v_r:
            return k
        if k < 0.0 or k > n:
            continue
        v = math.log(v * alpha / (a / (us * us) + b))
        bound = (
            (m + 0.5) * math.log((m + 1.0) / (odds * (n - m + 1.0)))
            + (n + 1.0) * math.log1p((k - m) / (n - k + 1.0))
            + (k + 0.5) * math.log(odds * (n - k + 1.0) / (k + 1.0))
            + _stirling(m) + _stirling(n - m) - _stirling(k) - _stirling(n - k)
        )  # fmt: skip
        if v <= bound:
            return k


@scalar_kernel
def binomial(n: Any, p: Any, first: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Draw Binomial(n, p) exactly for any n (a whole float64), from the counters `first`, `first` + 1, ..."""
    if p <= 0.0 or n <= 0.0:
        return 0.0
    if p >= 1.0:
        return n
    if p > 0.5:
        return n - _binomial_small_p(n, 1.0 - p, first, c1, c2, c3, k0, k1)
    return _binomial_small_p(n, p, first, c1, c2, c3, k0, k1)
