"""Exact Poisson numbers of any mean from the counters of a stream: how many draws follow the first ones of a row."""

import math
from typing import Any

from saplab.pruning.binomial import uniform64
from saplab.rng.compiled import scalar_kernel


@scalar_kernel
def _poisson_inversion(mean: Any, u: Any) -> Any:
    """Return Poisson(mean) at the uniform `u` by sequential search, for a mean below 10."""
    pmf = math.exp(-mean)
    k = 0.0
    while u > pmf and pmf > 0.0:
        u -= pmf
        k += 1.0
        pmf *= mean / k
    return k


@scalar_kernel
def poisson(mean: Any, first: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Draw Poisson(mean) exactly, as a whole float64, from the counters `first`, `first` + 1, ...

    Hörmann's transformed rejection (PTRS, "The transformed rejection method for generating Poisson random variables",
    1993), or inversion where the mean is below 10.
    """
    if mean < 10.0:
        return _poisson_inversion(mean, uniform64(first, c1, c2, c3, k0, k1)[0])
    b = 0.931 + 2.53 * math.sqrt(mean)
    a = -0.059 + 0.02483 * b
    alpha = 1.1239 + 1.1328 / (b - 3.4)
    v_r = 0.9277 - 3.6224 / (b - 2.0)
    while True:
        u, v = uniform64(first, c1, c2, c3, k0, k1)
        first += 1
        u -= 0.5
        us = 0.5 - abs(u)
        k = math.floor((2.0 * a / us + b) * u + mean + 0.43)
        if us >= 0.07 and v <= v_r:
            return k
        if k < 0.0 or (us < 0.013 and v > us):
            continue
        if math.log(v * alpha / (a / (us * us) + b)) <= k * math.log(mean) - mean - math.lgamma(k + 1.0):
            return k
