"""The exact law of what Algorithm 1 keeps, worked out another way than any kernel does, and tests against it."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from saplab.rng.numbers import words
from saplab.rng.streams import pass_streams, random_words, stream_key

LEVEL = 1e-4  # a chi-square test fails below this p-value
FEWEST = 5.0  # expected count below which cells are pooled
SMALL_WORDS = {151_953_674: 5, 70_230_892: 27, 160_506_216: 197}  # the first words of these examples, by `rows`


def rows(n: int, pass_: int = 0, seed: int = 0) -> torch.Tensor:
    """Return the streams of examples 0, 1, ..., n - 1."""
    return pass_streams(stream_key(seed), pass_, torch.arange(n))


def time_of_first_draw(example: int, element: int = 0) -> float:
    """Return -log(1 - u) of an element of an example, where 64 bits of kind 2 follow the 32 of kind 0 in u."""
    stream = pass_streams(stream_key(0), 0, torch.tensor([example]))
    word = int(words(stream, element + 1, kind=0)[0, element])
    more = random_words(stream, 4 * element + 2, kind=2)[0, -2:].tolist()
    return -math.log1p(-(word + (((more[0] << 20) ^ (more[1] >> 12)) + 0.5) * 2.0**-52) * 2.0**-32)


def row_with_first_rate(rate: float, draws: float) -> NDArray[np.float64]:
    """Return a row of 128 activations whose first one has draws * p = rate, and the others equal shares."""
    p = rate / draws
    return np.append(127 * p / (1 - p), np.ones(127))


def stirling_correction(k: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log k! - [log sqrt(2 pi) + (k + 1/2) log(k + 1) - (k + 1)] of small k, within 1e-14.

    Kernels use the first four terms of its series; the next one, 1 / (1188 (k + 1)^9), is 4e-13 at k = 10.
    """
    logs = np.array([math.log(math.factorial(int(number))) for number in k])
    return logs - (0.5 * math.log(2 * math.pi) + (k + 0.5) * np.log(k + 1) - (k + 1))


def kept_set_law(weights: Sequence[int], draws: int) -> NDArray[np.float64]:
    """Return P(kept set = K) for every K, as bits of the index, of r draws from p = weights / sum.

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
    """Count each kept set among rows (N, a), as bits of the index."""
    codes = kept.astype(np.int64) @ (1 << np.arange(kept.shape[1]))
    return np.bincount(codes, minlength=1 << kept.shape[1])


def chi_square(observed: NDArray[np.int64], law: NDArray[np.float64]) -> float:
    """Return the p-value of counts under a law, rare cells pooled; 0 if an impossible cell occurs."""
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
    """Return 1 - (1 - p)^r."""
    with np.errstate(divide="ignore"):
        return -np.expm1(draws * np.log1p(-p))


def kept_count_variance(p: NDArray[np.float64], draws: int) -> float:
    """Return the variance of the number of distinct indices among r draws.

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
