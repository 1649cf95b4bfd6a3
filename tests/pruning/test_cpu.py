"""The CPU kernel draws Algorithm 1's law: joint, exact and at every scale of p, r and h."""

from math import comb

import numpy as np
import pytest
import torch
from exact_law import (
    LEVEL,
    SMALL_WORDS,
    chi_square,
    count_kept_sets,
    inclusion,
    kept_count_variance,
    kept_set_law,
    row_with_first_rate,
    rows,
    stirling_correction,
    time_of_first_draw,
)
from numba import njit
from scipy import stats

from saplab.pruning import cpu
from saplab.pruning.binomial import _stirling, binomial, uniform64
from saplab.pruning.operator import prune
from saplab.pruning.poisson import poisson
from saplab.rng.numbers import words
from saplab.rng.streams import pass_streams, stream_key

MILLION = 1_000_000


def draw(h, draws: int, n: int, pass_: int = 0, seed: int = 0) -> np.ndarray:
    """Prune the map `h` (a,) with the streams of n examples; return (n, a)."""
    row = torch.as_tensor(h, dtype=torch.float32)
    return prune(row.expand(n, -1).contiguous(), rows(n, pass_, seed), draws).numpy()


# (weights, draws, rows): p = weights / sum
LAWS = {
    "one draw": ((5, 3, 2), 1, 200_000),
    "as many draws as activations": ((4, 3, 2, 1, 1), 5, 200_000),
    "equal shares": ((1,) * 8, 8, 200_000),
    "zeros inside": ((5, 0, 3, 2, 0), 4, 200_000),
    "a rare one": ((997, 1, 1, 1), 6, 200_000),
    "nearly all the mass on one, 50 draws": ((999, 1), 50, 200_000),
    "nearly all the mass on one, 1000 draws": ((999, 1), 1000, 200_000),
    "nearly all the mass on one, a few rare": ((99_900, 50, 30, 20), 1000, 200_000),
    "some rates above the cap": ((40, 30, 20, 5, 3, 2), 40, MILLION),
    "some rates above the cap, others rare": ((600, 300, 8, 5, 2, 1), 60, MILLION),
    "all rates just above the cap": ((1, 1, 1, 1), 36, MILLION),
    "rates above the cap, one far above": ((90, 5, 5), 170, MILLION),
    "all rates at the cap": ((1, 1, 1), 24, MILLION),
    "draws far above activations": ((1, 1, 1, 1), 60, MILLION),
}


@pytest.mark.parametrize("name", LAWS)
def test_joint_law_of_the_kept_set(name: str) -> None:
    weights, draws, n = LAWS[name]
    h = np.array(weights) * np.where(np.arange(len(weights)) % 2, -1.0, 1.0)
    out = draw(h, draws, n)
    assert chi_square(count_kept_sets(out != 0), kept_set_law(weights, draws)) > LEVEL


@pytest.mark.parametrize("draws", [3, 20, 90])
def test_joint_law_across_the_ends_of_blocks(draws: int) -> None:
    places, weights = [0, 63, 127, 128, 129], (5, 1, 3, 2, 2)
    h = np.zeros(130)
    h[places] = weights
    out = draw(h, draws, 300_000)
    assert not np.delete(out, places, axis=1).any()
    assert chi_square(count_kept_sets(out[:, places] != 0), kept_set_law(weights, draws)) > LEVEL


@pytest.mark.parametrize("seed", [1, 2])
def test_joint_law_of_two_sites_and_passes_is_their_product(seed: int) -> None:
    h = torch.tensor([3.0, 2.0, 1.0]).expand(200_000, -1).contiguous()
    streams = rows(len(h), 0, seed), rows(len(h), 1, seed)
    kept = [prune(h, streams[0], 2), prune(h, streams[0], 2, site=1), prune(h, streams[1], 2)]
    law = kept_set_law((3, 2, 1), 2)
    joint = np.kron(np.kron(law, law), law)
    assert chi_square(count_kept_sets(np.hstack([k.numpy() != 0 for k in kept[::-1]])), joint) > LEVEL


def test_an_activation_of_one_in_a_million() -> None:
    n, p = 2 * MILLION, 1e-6
    hits = int((draw([1 - p, p], 3, n)[:, 1] != 0).sum())
    assert abs(hits - 3 * p * n) < 5 * np.sqrt(3 * p * n)


def test_rates_far_below_what_24_bits_resolve() -> None:
    # 2^29 activations of rate 2^-26 beside 1024 of rate 1; a 24-bit uniform would give rate 2^-24
    a, draws, n, passes = 1 << 20, 1024, 16, 32
    h = torch.full((n, a), 2.0**-26)
    h[:, :draws] = 1.0
    hits = sum(int(torch.count_nonzero(prune(h, rows(n, k), draws)[:, draws:])) for k in range(passes))
    expected = n * passes * (a - draws) * 2.0**-26
    assert expected == pytest.approx(8, rel=0.01)
    assert abs(hits - expected) < 5 * np.sqrt(expected)


@pytest.mark.parametrize("rate", [1e-30, 1e-12, 1e-9, 1e-6])
def test_small_uniforms_are_resolved_far_below_32_bits(rate: float) -> None:
    # the first draw comes in time exactly where u < P(count >= 1), u = (bits + more) / 2^32
    chance = -np.expm1(-float(np.float32(rate)))
    bits, more = divmod(chance * 2.0**32, 1.0)
    for factor, hit in ((0.999, True), (1.001, False)):
        assert (cpu._resolve(np.uint32(bits), more * factor) < np.float32(rate)) == hit


@njit
def resolve_zeros(limit, size):
    hits, zero, bits = 0, np.uint64(0), np.zeros(cpu.BLOCK, np.uint32)
    times = np.empty(cpu.BLOCK, np.float32)
    for k in range(size):
        cpu._resolve_piece(bits, times, 0, np.uint64(k), zero, zero, zero, zero)
        hits += (times < limit).sum()
    return hits


@pytest.mark.parametrize("power", [-33, -40])
def test_a_uniform_whose_bits_are_all_zero_gets_more(power: int) -> None:
    # u < 2^-32 is all that is known, and P(u < 2^power | u < 2^-32) = 2^(power + 32)
    size, p = 2000 * 2 ** (-33 - power), 2.0 ** (power + 32)
    n = size * cpu.BLOCK
    hits = resolve_zeros(np.float32(2.0**power), size)
    assert abs(hits - n * p) < 5 * np.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("example", SMALL_WORDS)
@pytest.mark.parametrize("step", [-1e-4, 1e-4])
def test_a_light_draw_comes_in_time_by_the_bits_beyond_its_word(example: int, step: float) -> None:
    stream = pass_streams(stream_key(0), 0, torch.tensor([example]))
    assert words(stream, 1, kind=0).item() == SMALL_WORDS[example] < 256
    h = row_with_first_rate(time_of_first_draw(example) * (1 + step), 1000)
    assert (prune(torch.tensor(h[None], dtype=torch.float32), stream, 1000)[0, 0] != 0) == (step > 0)


def test_all_small_words_of_a_row_get_more_bits() -> None:
    a, example = MILLION, 3
    stream = pass_streams(stream_key(0), 0, torch.tensor([example]))
    times, out = np.empty(a, np.float32), np.empty(a, np.float32)
    light_draws(np.ones(a, np.float32), np.float32(1), stream[0].numpy(), times, out)
    small = np.flatnonzero(words(stream, a, kind=0)[0].numpy() < cpu._FEW)
    assert len(np.unique(small // cpu.PIECE)) > 5
    assert times[small].tolist() == [np.float32(time_of_first_draw(example, int(j))) for j in small]


@pytest.mark.parametrize("share", [1e-6, 0.3, 0.999])
def test_added_draws_tell_rates_apart_inside_one_cell_of_a_level(share: float) -> None:
    # a level's 32 bits begin a cell of CAP / 2^32; a rate inside the cell is met with its own share of it
    cell = float(cpu._CAP) * 2.0**-32
    for begin in (0.0, 5 * cell):
        rate = begin + share * cell
        assert cpu._surely_below(np.float32(begin), rate, share - 1e-7)
        assert not cpu._surely_below(np.float32(begin), rate, share + 1e-7)


@njit
def add_a_draw(rates, example):
    out, zero, one = np.zeros_like(rates), np.uint64(0), np.float32(1)
    proposals = cpu.scratch_for(len(rates))[1]
    cpu._add_draws(rates, out, one, np.float32(1e-9), 1, proposals, np.uint64(example), zero, zero, zero, zero)
    return out


@njit
def further_bits(counter, example):
    zero = np.uint64(0)
    return uniform64(counter, np.uint64(example), zero, zero, zero, zero)[0]


@pytest.mark.parametrize(("example", "level"), [(26587493, 221), (37227904, 8), (111610260, 219)])
@pytest.mark.parametrize("step", [-0.01, 0.01])
def test_an_added_draw_falls_by_the_bits_beyond_its_levels_word(example: int, level: int, step: float) -> None:
    """The first proposal is the first element, at this level; every other one of the second element is accepted."""
    cell = float(cpu._CAP) * 2.0**-32
    rate = np.float32((level + further_bits(cpu._LAST, example) + step) * cell)
    out = add_a_draw(np.array([rate, cpu._CAP]), example)
    assert (out != 0).tolist() == [step > 0, step < 0]


@pytest.mark.parametrize("a", [1, 3, 128, 1000])
def test_proposals_are_uniform(a: int) -> None:
    # words whose product with a leaves less than 2^32 mod a would favour some elements
    rest = 2**32 % a
    bits = np.random.default_rng(0).integers(0, 2**32, cpu.BLOCK, np.uint32)
    bits[:3] = 0, 2**32 - 1, -(-(2**32) // a) % 2**32
    half = cpu.BLOCK // 2
    elements, levels = np.empty(half, np.uint32), np.empty(half, np.float32)
    cpu._propose(bits, elements, levels, np.uint64(a), np.uint32(rest), np.float32(2.0**-32))
    products = [int(word) * a for word in bits[:half]]
    fair = np.array([product % 2**32 >= rest for product in products])
    assert elements.tolist() == [product >> 32 for product in products]
    assert np.array_equal(levels, np.where(fair, bits[half:].astype(np.float32) * np.float32(2.0**-32), np.inf))
    assert fair.all() == (rest == 0)


def test_variance_of_the_number_kept() -> None:
    # independent Bernoulli with the same marginals keeps as many on average, but varies more
    a = draws = 16384
    n, passes, seed = 500, 12, 0
    h = torch.randn(a, generator=torch.Generator().manual_seed(seed)).relu()
    batch = h.expand(n, -1).contiguous()
    counts = np.concatenate([(prune(batch, rows(n, k, seed), draws) != 0).sum(1).numpy() for k in range(passes)])
    p = h.double().numpy() / h.double().sum().item()
    q = inclusion(p, draws)
    exact, independent = kept_count_variance(p, draws), (q * (1 - q)).sum()
    error = exact * np.sqrt(2 / (len(counts) - 1))
    assert abs(counts.mean() - q.sum()) < 5 * np.sqrt(exact / len(counts))
    assert abs(counts.var(ddof=1) - exact) < 4 * error
    generator = np.random.default_rng(seed)
    others = np.concatenate([(generator.random((500, a), np.float32) < q).sum(1) for _ in range(passes // 3)])
    assert others.var(ddof=1) > exact + 2 * error
    assert independent > exact + 8 * error


def test_the_exact_variance_by_hand() -> None:
    # two draws from (1/2, 1/4, 1/4) keep one index with probability 3/8, else two
    assert kept_count_variance(np.array([0.5, 0.25, 0.0, 0.25]), 2) == pytest.approx(3 / 8 * 5 / 8)
    p = np.random.default_rng(0).dirichlet(np.ones(6))
    law = kept_set_law([int(w) for w in p * 1e6], 9)
    size = np.array([k.bit_count() for k in range(64)])
    assert kept_count_variance(p, 9) == pytest.approx(law @ size**2 - (law @ size) ** 2, rel=1e-4)


@pytest.mark.parametrize("draws", [1, 32, 1000])
def test_unbiased(draws: int) -> None:
    h = np.random.default_rng(1).lognormal(sigma=2, size=64) * np.where(np.arange(64) % 2, -1, 1)
    n = 100_000
    q = inclusion(np.abs(h) / np.abs(h).sum(), draws)
    error = np.abs(h) * np.sqrt((1 / q - 1) / n)
    assert (np.abs(draw(h, draws, n).mean(0, dtype=np.float64) - h) < 5 * error + 2e-6 * np.abs(h)).all()


@pytest.mark.parametrize("draws", [1, 2, 10, 300, MILLION, 10**12])
@pytest.mark.parametrize("sigma", [0.0, 1.0, 4.0, 20.0])
def test_every_output_is_zero_or_scaled(draws: int, sigma: float) -> None:
    h = np.exp(sigma * np.random.default_rng(2).normal(size=300)).astype(np.float32)
    out = draw(h, draws, 2000)
    mass = h.astype(np.float64).sum()
    expected = np.broadcast_to(h / np.maximum(inclusion(h / mass, draws), 1e-300), out.shape)
    kept = out != 0
    assert kept.any(1).all()
    assert (kept.sum(1) <= draws).all()
    assert np.abs(out[kept] / expected[kept] - 1).max() < 2e-6


@pytest.mark.parametrize("p", [0.015, 0.019, 0.02, 0.021, 0.03, 0.3, 0.9, 0.999999, 1 - 2**-24])
@pytest.mark.parametrize("draws", [1, 3, 200, 890, 910, 5000])
def test_scale_of_a_large_share(p: float, draws: int) -> None:
    h = np.append(np.full(100, (1 - p) / 100), p).astype(np.float32)
    kept = draw(h, draws, 500)[:, -1]
    kept = kept[kept != 0]
    expected = h[-1] / inclusion(h[-1:] / h.astype(np.float64).sum(), draws)[0]
    assert len(kept)
    assert np.abs(kept / expected - 1).max() < 2e-6


@pytest.mark.parametrize("value", [1.0, -3.0, 1e-45, 3e38])
@pytest.mark.parametrize("draws", [1, 7, 10**12])
def test_a_lone_activation_is_always_kept_as_it_is(value: float, draws: int) -> None:
    h = np.zeros(200, np.float32)
    h[150] = value
    assert np.array_equal(draw(h, draws, 50), np.tile(h, (50, 1)))
    assert np.array_equal(draw(h[150:151], draws, 50), np.tile(h[150:151], (50, 1)))


@pytest.mark.parametrize("power", [-100, -60, -1, 1, 60, 100])
def test_a_power_of_two_scales_exactly(power: int) -> None:
    h = np.random.default_rng(3).lognormal(sigma=2, size=1000).astype(np.float32)
    factor = np.float32(2.0**power)
    assert np.array_equal(draw(h * factor, 700, 500), draw(h, 700, 500) * factor)


def test_another_factor_flips_few_draws() -> None:
    # rounding moves each rate by some 2^-24, which changes a draw in a million
    h = np.random.default_rng(3).lognormal(size=1000).astype(np.float32)
    one, other = draw(h, 700, 1000), draw(h * np.float32(0.3), 700, 1000)
    both = (one != 0) & (other != 0)
    assert ((one != 0) != (other != 0)).sum() < 1e-5 * one.size
    assert np.abs(other[both] / (0.3 * one[both].astype(np.float64)) - 1).max() < 2e-6


def test_denormal_rows_are_pruned_like_their_normal_multiples() -> None:
    small = np.random.default_rng(4).integers(0, 2000, 300).astype(np.float32) * np.float32(2.0**-149)
    large = np.ldexp(small, 140)
    expected = np.ldexp(draw(large, 100, 200).astype(np.float64), -140).astype(np.float32)
    assert np.array_equal(draw(small, 100, 200), expected)


@pytest.mark.parametrize("scale", [1e-38, 1e38])
def test_joint_law_at_extreme_scales(scale: float) -> None:
    out = draw(np.array([1.6, 0.8, 0.8]) * scale, 3, 100_000)
    assert np.isfinite(out).all()
    assert chi_square(count_kept_sets(out != 0), kept_set_law((2, 1, 1), 3)) > LEVEL


def test_a_tiny_activation_beside_a_huge_one() -> None:
    h = np.array([1e38, 1e-38, 1.0, 0.0], np.float32)
    assert np.array_equal(draw(h, 50, 1000), np.tile(np.array([1e38, 0, 0, 0], np.float32), (1000, 1)))


@pytest.mark.parametrize("draws", [10**7, 10**9, 10**12, 10**15])
def test_small_shares_of_very_many_draws(draws: int) -> None:
    # rates of 1e-3, 3 and 9 beside one of nearly all the draws
    h = np.array([1.0, 1e-3 / draws, 3 / draws, 9 / draws])
    kept = draw(h, draws, 200_000) != 0
    assert kept[:, 0].all()
    law = np.ones(1)
    for rate in (9.0, 3.0, 1e-3):  # at so many draws the counts are Poisson and independent
        law = np.kron(law, [np.exp(-rate), -np.expm1(-rate)])
    assert chi_square(count_kept_sets(kept[:, 1:]), law) > LEVEL


def test_ten_million_activations() -> None:
    a = 10 * MILLION
    h = torch.randn((1, a), generator=torch.Generator().manual_seed(0)).relu()
    out = prune(h, rows(1), a)
    p = h[0].double().numpy() / h.double().sum().item()
    q = inclusion(p, a)
    kept = out[0].numpy() != 0
    assert abs(kept.sum() - q.sum()) < 5 * np.sqrt((q * (1 - q)).sum())
    assert np.abs(out[0].numpy()[kept] / (h[0].numpy()[kept] / q[kept]) - 1).max() < 2e-6


@njit
def draw_binomials(n, p, size):
    out = np.empty(size)
    zero = np.uint64(0)
    for k in range(size):
        out[k] = binomial(n, p, 0, np.uint64(k), zero, zero, np.uint64(7), zero)
    return out


@njit
def one_minus_exp(x):
    out = np.empty_like(x)
    for k in range(len(x)):
        out[k] = cpu._one_minus_exp(x[k])
    return out


@njit
def light_draws(x, c, stream, times, out):
    bits, orphaned = np.empty(cpu.PIECE, np.uint32), np.empty(-(-len(x) // cpu.PIECE), np.bool_)
    return cpu._light_draws(x, out, c, np.float32(1e-9), stream, 0, (times, orphaned, bits), x.reshape(1, -1)), orphaned


@njit
def share_remainders(rates, light, draws, size):
    kept = np.empty((size, len(rates)), np.bool_)
    orphaned, zero = np.ones(1, np.bool_), np.uint64(0)
    weight = np.maximum(rates - cpu._CAP, np.float32(0)).sum()
    one, share = np.float32(1), np.float32(1e-9)
    for k in range(size):
        out = light.copy()
        example = np.uint64(k)
        cpu._share_remainder(rates, out, one, share, orphaned, draws, float(weight), example, zero, zero, zero, zero)
        kept[k] = out != light
    return kept


@njit
def remove_firsts(times, rates, firsts, later, size):
    kept = np.empty((size, len(rates)), np.bool_)
    zero = np.uint64(0)
    proposals = cpu.scratch_for(len(rates))[1]
    for k in range(size):
        out, own = np.where(times < rates, rates, np.float32(0)), times.copy()
        weight = np.where(times < rates, rates - times, np.float32(0)).sum()
        example, orphaned = np.uint64(k), np.zeros(1, np.bool_)
        cpu._remove_firsts(
            rates,
            own,
            out,
            np.float32(1),
            firsts,
            later,
            float(weight),
            orphaned,
            proposals,
            example,
            zero,
            np.uint64(1),
            np.uint64(2),
            zero,
            zero,
        )
        kept[k] = out != 0
    return kept


@pytest.mark.parametrize(("firsts", "later"), [(1, 0.0), (2, 0.0), (2, 3.0), (3, 2.0)])
def test_first_draws_are_taken_away_uniformly_and_later_ones_save_theirs(firsts: int, later: float) -> None:
    # three elements hit, 3, 2 and 1 before their ends, and one that is not
    rates, times = np.array([4, 3, 2, 5], np.float32), np.array([1, 1, 1, 6], np.float32)
    saved = kept_set_law((3, 2, 1), int(later)) if later else np.eye(8)[0]
    law = np.zeros(16)
    for removed in (k for k in range(8) if k.bit_count() == firsts):
        for hit in range(8):
            law[~removed & 7 | hit] += saved[hit] / comb(3, firsts)
    kept = remove_firsts(times, rates, firsts, later, 100_000)
    assert chi_square(count_kept_sets(kept), law) > LEVEL


@njit
def count_firsts(kept, later, excess, size):
    zero, bits = np.uint64(0), np.empty(cpu.BLOCK, np.uint32)
    return np.array([cpu._firsts(kept, later, excess, bits, np.uint64(k), zero, zero, zero, zero) for k in range(size)])


@pytest.mark.parametrize(
    ("kept", "later", "excess"), [(5.0, 0.0, 3), (5.0, 3.0, 4), (100.0, 57.0, 20), (300.0, 157.0, 150)]
)
def test_first_draws_among_those_taken_away_are_hypergeometric(kept: float, later: float, excess: int) -> None:
    found = count_firsts(kept, later, excess, 50_000)
    law = stats.hypergeom(int(kept + later), int(kept), excess).pmf(np.arange(excess + 1))
    assert chi_square(np.bincount(found, minlength=excess + 1), law) > LEVEL


@pytest.mark.parametrize("draws", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("light", [0, 1])
def test_shares_of_the_remainder_have_the_law_of_its_draws(draws: float, light: int) -> None:
    # all the activations above the cap lack a light draw but, where `light` is 1, the third, whose share is not needed
    weights = (5, 3, 2, 1)
    rates = np.array([5, 3, -4, 2, -8, 1], np.float32) + cpu._CAP
    out = np.array([0, 0, 3, light, 0, 0], np.float32)
    kept = share_remainders(rates, out, draws, 200_000)
    law = kept_set_law(weights, int(draws)).reshape(2, 2, 2, 2)  # axes: the last activation first
    if light:
        law = law.sum(1, keepdims=True) * [[[[1.0]], [[0.0]]]]
    assert not kept[:, [2, 4]].any()
    assert chi_square(count_kept_sets(kept[:, [0, 1, 3, 5]]), law.ravel()) > LEVEL


@pytest.mark.parametrize("n", [1.0, 2.0, 15.0, 100.0, 1e4, 1e6, 1e9])
@pytest.mark.parametrize("p", [1e-9, 1e-4, 0.05, 0.3, 0.5, 0.7, 0.999, 1 - 1e-9])
def test_binomial_law(n: float, p: float) -> None:
    drawn = draw_binomials(n, p, 20_000)
    assert np.array_equal(drawn, np.floor(drawn))
    assert drawn.min() >= 0
    assert drawn.max() <= n
    law = stats.binom(n, p)
    edges = np.unique(law.ppf(np.linspace(0, 1, 30)[1:-1]))
    cdf = np.concatenate([[0.0], law.cdf(edges), [1.0]])
    assert chi_square(np.bincount(np.searchsorted(edges, drawn), minlength=len(cdf) - 1), np.diff(cdf)) > LEVEL


@pytest.mark.parametrize("mean", [10.0, 11.0, 15.0, 30.0, 60.0, 100.0])
@pytest.mark.parametrize("p", [0.01, 0.2, 0.5])
def test_binomial_law_where_rejection_is_coarsest(mean: float, p: float) -> None:
    # 400,000 draws: the cells of the mode, some 4 to 13 % each, are known to 0.5 % of themselves
    n = float(np.ceil(mean / p))
    counts = np.bincount(draw_binomials(n, p, 400_000).astype(int), minlength=int(n) + 1)
    assert chi_square(counts, stats.binom(n, p).pmf(np.arange(n + 1))) > LEVEL


@pytest.mark.parametrize("n", [1e14, 1e15, 2.0**53])
def test_binomial_law_of_as_many_draws_as_can_be_counted(n: float) -> None:
    drawn, law = draw_binomials(n, 1000 / n, 100_000), stats.poisson(1000)  # whose distance is below 1e-11
    edges = np.unique(law.ppf(np.linspace(0, 1, 200)[1:-1]))
    cdf = np.concatenate([[0.0], law.cdf(edges), [1.0]])
    assert chi_square(np.bincount(np.searchsorted(edges, drawn), minlength=len(cdf) - 1), np.diff(cdf)) > LEVEL


@njit
def stirling(k):
    return np.array([_stirling(number) for number in k])


def test_the_correction_of_stirlings_formula() -> None:
    k = np.arange(40.0)
    assert np.abs(stirling(k) - stirling_correction(k)).max() < 5e-13
    assert stirling(np.array([1e9]))[0] == pytest.approx(1 / 12 / 1e9)


@pytest.mark.parametrize(("n", "p", "value"), [(0.0, 0.3, 0), (5.0, 0.0, 0), (5.0, 1.0, 5), (1e12, 1.0, 1e12)])
def test_binomial_at_the_edges(n: float, p: float, value: float) -> None:
    assert (draw_binomials(n, p, 10) == value).all()


def test_one_minus_exp_has_small_relative_error() -> None:
    x = np.concatenate([np.geomspace(1e-30, 80, 400_001), np.linspace(1e-3, 80, 400_001)]).astype(np.float32)
    exact = -np.expm1(-x.astype(np.float64))
    assert np.abs(one_minus_exp(x) / exact - 1).max() < 2.0**-22
    assert one_minus_exp(np.zeros(1, np.float32))[0] == 0


@pytest.mark.parametrize("rate", [1e-4, 0.02, 0.5, 1.0, 3.0, 5.9, 8.0, 11.0])
def test_first_draws_come_at_exponential_times(rate: float) -> None:
    a = MILLION + 50
    times, out = np.empty(a, np.float32), np.empty(a, np.float32)
    found = light_draws(np.ones(a, np.float32), np.float32(rate), np.arange(3), times, out)
    (kept, v, w, later, _), orphaned = found
    rate = float(np.float32(rate))
    light = min(rate, float(cpu._CAP))
    edges = -np.log1p(-np.linspace(0, 1, 65)[1:-1])
    assert chi_square(np.bincount(np.searchsorted(edges, times), minlength=64), np.full(64, 1 / 64)) > LEVEL
    hit = times < light
    assert kept == hit.sum()
    assert np.array_equal(out != 0, hit)
    assert later == pytest.approx((light - times[hit].astype(np.float64)).sum(), rel=1e-5)
    assert v == pytest.approx(a * light, rel=1e-5)
    assert w == pytest.approx(a * (rate - light), rel=1e-5, abs=1e-9)
    pieces = np.append(hit, np.ones(-a % cpu.PIECE, bool)).reshape(-1, cpu.PIECE)
    assert np.array_equal(orphaned, ~pieces.all(1) if rate > cpu._CAP else np.zeros(len(pieces), bool))


@njit
def arrivals(bits):
    times = np.empty(len(bits), np.float32)
    cpu._arrivals(bits, times)
    return times


def test_times_have_small_relative_error() -> None:
    bits = np.unique(np.concatenate([np.geomspace(1, 2**32 - 1e6, 400_001), np.linspace(1, 2**32 - 1e6, 400_001)]))
    u = bits.astype(np.uint32).astype(np.float64) * 2.0**-32
    assert np.abs(arrivals(bits.astype(np.uint32)) / -np.log1p(-u) - 1).max() < 2.0**-22
    assert arrivals(np.array([2**32 - 1], np.uint32))[0] > cpu._CAP


@njit
def draw_poissons(mean, size):
    zero = np.uint64(0)
    return np.array([poisson(mean, 0, np.uint64(k), zero, zero, np.uint64(7), zero) for k in range(size)])


@pytest.mark.parametrize("mean", [1e-6, 0.3, 3.0, 9.99, 10.0, 30.0, 1e3, 1e6, 1e9])
def test_poisson_law(mean: float) -> None:
    drawn = draw_poissons(mean, 50_000)
    assert np.array_equal(drawn, np.floor(drawn))
    law = stats.poisson(mean)
    edges = np.unique(law.ppf(np.linspace(0, 1, 30)[1:-1]))
    cdf = np.concatenate([[0.0], law.cdf(edges), [1.0]])
    assert chi_square(np.bincount(np.searchsorted(edges, drawn), minlength=len(cdf) - 1), np.diff(cdf)) > LEVEL
    assert (draw_poissons(0.0, 10) == 0).all()
