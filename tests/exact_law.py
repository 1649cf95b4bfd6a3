"""The exact law of what Algorithm 1 keeps, worked out another way than any kernel does, and tests against it."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from saplab.rng.streams import pass_streams, stream_key

LEVEL = 1e-4  # a chi-square test fails below this p-value
FEWEST = 5.0  # expected count below which cells are pooled


def rows(n: int, pass_: int = 0, seed: int = 0) -> torch.Tensor:
    """Give the streams of examples 0, 1, ..., n - 1."""
    return pass_streams(stream_key(seed), pass_, torch.arange(n))


def kept_set_law(weights: Sequence[int], draws: int) -> NDArray[np.float64]:
    """Give P(kept set = K) for every K, as bits of the index, of r draws from p = weights / sum.

    Inclusion-exclusion, P(kept = K) = sum over J in K of (-1)^(|K|-|J|) p(J)^r, in exact fractions.
    """
    total, a = sum(weights), len(weights)
    law = [Fraction(sum(w for j, w in enumerate(weights) if k >> j & 1), total) ** draws for k in range(1 << a)]
    for j in range(a):
        for k in range(1 << a):
            if k >> j & 1:
                law[k] -= law[k ^ 1 << j]
    assert sum(law) == 1
    return np.array([float(q) for q in law])


def count_kept_sets(kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count how often each kept set occurs among rows (N, a), as bits of the index."""
    codes = kept.astype(np.int64) @ (1 << np.arange(kept.shape[1]))
    return np.bincount(codes, minlength=1 << kept.shape[1])


def chi_square(observed: NDArray[np.int64], law: NDArray[np.float64]) -> float:
    """Give the p-value of counts under a law, rare cells pooled; 0 where an impossible cell was met."""
    if observed[law == 0].any():
        return 0.0
    expected = law * observed.sum()
    order = np.argsort(-expected, kind="stable")
    cuts = np.searchsorted(-expected[order], -FEWEST, side="right")
    if expected[order[cuts:]].sum() < FEWEST:
        cuts -= 1
    cells = np.append(np.arange(max(cuts, 0)), max(cuts, 0))
    e, o = (np.add.reduceat(v[order], cells) for v in (expected, observed))
    return float(stats.chi2.sf(((o - e) ** 2 / e).sum(), len(cells) - 1)) if len(cells) > 1 else 1.0


def inclusion(p: NDArray[np.float64], draws: int) -> NDArray[np.float64]:
    """Give 1 - (1 - p)^r."""
    with np.errstate(divide="ignore"):
        return -np.expm1(draws * np.log1p(-p))


def kept_count_variance(p: NDArray[np.float64], draws: int) -> float:
    """Give the variance of the number of distinct indices among r draws.

    The sum over j of q_j (1 - q_j), q_j = P(j missed), and over i != j of the covariances of "i missed" and
    "j missed": (1-p_i-p_j)^r - q_i q_j = q_i q_j [(1 - p_i p_j / ((1-p_i)(1-p_j)))^r - 1].
    """
    p = p[p > 0]
    missed = (1 - p) ** draws
    odds = p / (1 - p)
    covariance = 0.0
    for i in range(0, len(p), 256):
        block = -inclusion(np.minimum(odds[i : i + 256, None] * odds, 1.0), draws)
        np.fill_diagonal(block[:, i:], 0.0)
        covariance += missed[i : i + 256] @ block @ missed
    return float((missed * (1 - missed)).sum() + covariance)
