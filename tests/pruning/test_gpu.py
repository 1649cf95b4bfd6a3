"""The GPU's kernels draw Algorithm 1's law: on a GPU, and in Triton's interpreter (see test_gpu_without_one.py)."""

import os
from functools import cache

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

pytest.importorskip("triton", reason="Triton is for Linux")

import triton
import triton.language as tl
from scipy import stats

from saplab.pruning import backward, gpu, gpu_clocks, operator
from saplab.pruning.finite import NotFiniteError, check_finite
from saplab.pruning.gpu import Tiling
from saplab.rng import numbers, numbers_gpu
from saplab.rng.streams import pass_streams, random_words, stream_key
from saplab.rng.triton_words import _stirling, binomial, exponential, philox, place_in_blocks, poisson, stream

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_GPU = torch.cuda.is_available() and not INTERPRETED
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
MANY = 50 if ON_GPU else 1  # times the rows that the interpreter has time for

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (ON_GPU or INTERPRETED), reason="needs a CUDA device; test_gpu_without_one.py does without"),
]


@pytest.fixture(autouse=True)
def _quiet_floats():
    with np.errstate(all="ignore"):  # the interpreter computes what a GPU's selections throw away
        yield


def cut(n: int, a: int, draws: int, **other) -> Tiling:
    """Choose a tiling, in the interpreter of few programs, as each takes long to begin."""
    chosen = vars(gpu.tiling(a, draws))
    if INTERPRETED:
        lines = min(1 << (n - 1).bit_length(), 1 << 13)
        step = min(1 << draws.bit_length(), 1 << 16, (1 << 16) // lines)
        chosen |= {"rows": lines, "lines": lines, "tile": max(chosen["chunk"], 128), "step": step, "parts": 1}
    return Tiling(**(chosen | other))


def prune_rows(x: torch.Tensor, keys: torch.Tensor, draws: int, site: int = 0, **other) -> torch.Tensor:
    bad = torch.tensor([0, 2**31 - 1], dtype=torch.int32, device=DEVICE)
    out = gpu.prune_rows(x.to(DEVICE), keys.to(DEVICE), draws, site, bad, cut(*x.shape, draws, **other))
    assert not bad[0]
    return out.cpu()


def draw(h, draws: int, n: int, pass_: int = 0, **other) -> np.ndarray:
    """Prune the map `h` (a,) with the streams of n examples; return (n, a)."""
    x = torch.as_tensor(h, dtype=torch.float32).expand(n, -1).contiguous()
    return prune_rows(x, rows(n, pass_), draws, **other).numpy()


exact_law = cache(kept_set_law)


# weights, by the number of draws; p = weights / sum
LAWS = {
    1: [(5, 3, 2), (999, 1)],
    5: [(4, 3, 2, 1, 1), (1,) * 8, (5, 0, 3, 2, 0), (997, 1, 1, 1)],
    40: [(40, 30, 20, 5, 3, 2), (600, 300, 8, 5, 2, 1), (1, 1, 1, 1)],
}
HEAVY = {1000: [(99_900, 50, 30, 20), (999, 1), (1, 1, 1, 1)], 5000: [(10**6, 300, 200, 100)]}


def check_laws(laws, draws: int, n: int, **other) -> None:
    """Prune maps of several laws in one batch, which shares nothing but its number of draws."""
    a = max(map(len, laws))
    h = torch.tensor([[*w, *(a - len(w)) * [0]] for w in laws], dtype=torch.float32)
    h[:, 1::2] *= -1
    out = prune_rows(h.repeat_interleave(n, 0), rows(n * len(laws)), draws, **other).numpy()
    for weights, kept in zip(laws, np.split(out != 0, len(laws)), strict=True):
        assert not kept[:, len(weights) :].any()
        assert chi_square(count_kept_sets(kept[:, : len(weights)]), exact_law(weights, draws)) > LEVEL, weights


# margins: by itself; so close that many rows have more draws than they should, and begin anew
@pytest.mark.parametrize("margin", [4.5, 0.0])
@pytest.mark.parametrize("draws", LAWS)
def test_joint_law_of_the_kept_set(draws: int, margin: float) -> None:
    check_laws(LAWS[draws], draws, 1000 * MANY, margin=margin)


@pytest.mark.parametrize("draws", HEAVY)
@pytest.mark.parametrize("margin", [4.5, 0.0])
def test_joint_law_where_heavy_elements_are_set_apart(draws: int, margin: float) -> None:
    assert draws > gpu.MANY * 4
    check_laws(HEAVY[draws], draws, 1000 * MANY, margin=margin)


# one chunk in tiles, and several chunks, whose rows are shared by programs
@pytest.mark.parametrize(("chunk", "draws", "margin"), [(512, 20, 1.0), (128, 20, 1.0), (128, 13_000, 4.5)])
def test_joint_law_across_tiles_and_chunks(chunk: int, draws: int, margin: float) -> None:
    places, weights = [0, 63, 127, 128, 399], (5, 1, 3, 2, 2) if draws < 1000 else (2**13 - 7, 2, 1, 3, 1)
    h = np.zeros(400)
    h[places] = weights
    shape = {"rows": 1, "step": 32, "warps": 4} if ON_GPU else {}
    out = draw(h, draws, 400 * MANY, margin=margin, chunk=chunk, tile=128, **shape)
    assert not np.delete(out, places, axis=1).any()
    assert chi_square(count_kept_sets(out[:, places] != 0), exact_law(weights, draws)) > LEVEL


def test_programs_that_share_a_row_make_the_draws_of_one() -> None:
    h = np.random.default_rng(0).lognormal(size=400)
    shape = {"rows": 1, "chunk": 256, "tile": 256, "warps": 4, "step": 16}
    one, three = (draw(h, 60, 2, parts=parts, **shape) for parts in (1, 3))
    assert np.array_equal(one, three)


@pytest.mark.skipif(not ON_GPU, reason="takes the interpreter too long")
@pytest.mark.parametrize("a", [4096, 16_384, 100_000])
def test_variance_of_the_number_kept(a: int) -> None:
    h = torch.randn(a, generator=torch.Generator().manual_seed(0)).relu()
    counts = np.concatenate([(draw(h, a, 500, k) != 0).sum(1) for k in range(12)])
    p = h.double().numpy() / h.double().sum().item()
    exact = kept_count_variance(p, a)
    assert abs(counts.mean() - inclusion(p, a).sum()) < 5 * np.sqrt(exact / len(counts))
    assert abs(counts.var(ddof=1) - exact) < 4 * exact * np.sqrt(2 / (len(counts) - 1))


def test_the_number_kept_of_a_whole_map() -> None:
    a, n = 512, 400 * MANY
    h = np.random.default_rng(1).normal(size=a).clip(0)
    counts = (draw(h, a, n) != 0).sum(1)
    exact = kept_count_variance(h / h.sum(), a)
    assert abs(counts.mean() - inclusion(h / h.sum(), a).sum()) < 5 * np.sqrt(exact / n)
    assert abs(counts.var(ddof=1) - exact) < 5 * exact * np.sqrt(2 / (n - 1))


def test_every_chunk_of_a_long_row_keeps_its_share() -> None:
    a, chunk = (10**7, 10**5) if ON_GPU else (4 * 10**4, 10**4)
    h = np.random.default_rng(1).normal(size=a).clip(0)
    expected = inclusion(h / h.sum(), a)
    # the standard error of independent choices; these are negatively correlated, so that theirs is smaller
    error = np.sqrt((expected * (1 - expected)).reshape(-1, chunk).sum(1))
    kept = draw(h, a, 2) != 0
    assert not kept[:, h == 0].any()
    z = (kept.reshape(2, -1, chunk).sum(2) - expected.reshape(-1, chunk).sum(1)) / error
    assert np.abs(z).max() < 5


@pytest.mark.parametrize("draws", [1, 300, 10**6, 10**12])
@pytest.mark.parametrize("sigma", [1.0, 20.0])
def test_every_output_is_zero_or_scaled(draws: int, sigma: float) -> None:
    h = np.exp(sigma * np.random.default_rng(2).normal(size=300)).astype(np.float32)
    h[::2] *= -1
    out = draw(h, draws, 40)
    expected = np.broadcast_to(
        h / np.maximum(inclusion(np.abs(h) / np.abs(h).sum(dtype=np.float64), draws), 1e-300), out.shape
    )
    kept = out != 0
    assert kept.any(1).all()
    assert (kept.sum(1) <= draws).all()
    assert np.abs(out[kept] / expected[kept] - 1).max() < 2e-6


@pytest.mark.parametrize("draws", [1, 3, 1100, 1300])
def test_scale_of_a_large_share(draws: int) -> None:
    shares = [0.005, 0.015, 0.02, 0.05, 0.3, 0.9, 0.999999, 1 - 2**-24]
    h = np.array([np.append(np.full(100, (1 - p) / 100), p) for p in shares], np.float32)
    x = torch.from_numpy(h).repeat_interleave(60, 0)
    out = prune_rows(x, rows(len(x)), draws).numpy()[:, -1].reshape(len(shares), 60)
    for share, row, kept in zip(shares, h, out, strict=True):
        exact = row[-1] / inclusion(row[-1:] / row.sum(dtype=np.float64), draws)[0]
        assert np.abs(kept[kept != 0] / exact - 1).max(initial=0) < 2e-6, share
        assert (kept != 0).any() or draws * share < 1


@pytest.mark.parametrize("value", [-3.0, 1e-45, 3e38])
@pytest.mark.parametrize("draws", [1, 10**12])
def test_a_lone_activation_is_always_kept_as_it_is(value: float, draws: int) -> None:
    h = np.zeros(200, np.float32)
    h[150] = value
    for row in (h, h[150:151]):
        assert np.array_equal(draw(row, draws, 20), np.tile(row, (20, 1)))


@pytest.mark.parametrize("power", [-100, 60])
def test_a_power_of_two_scales_exactly(power: int) -> None:
    h = np.random.default_rng(3).lognormal(sigma=2, size=300).astype(np.float32)
    factor = np.float32(2.0**power)
    assert np.array_equal(draw(h * factor, 200, 50), draw(h, 200, 50) * factor)


def test_denormal_rows_are_pruned_like_their_normal_multiples() -> None:
    small = np.random.default_rng(4).integers(0, 2000, 300).astype(np.float32) * np.float32(2.0**-149)
    expected = np.ldexp(draw(np.ldexp(small, 140), 100, 50).astype(np.float64), -140).astype(np.float32)
    assert np.array_equal(draw(small, 100, 50), expected)


def test_a_tiny_activation_beside_a_huge_one() -> None:
    h = np.array([1e38, 1e-38, 1.0, 0.0], np.float32)
    assert np.array_equal(draw(h, 50, 100), np.tile(np.array([1e38, 0, 0, 0], np.float32), (100, 1)))


def test_draws_do_not_depend_on_the_batch_but_on_stream_and_site() -> None:
    x = torch.randn(40, 70, generator=torch.Generator().manual_seed(0))
    keys = pass_streams(stream_key(5), 3, torch.arange(40) * 7)
    out = prune_rows(x, keys, 60, 2)
    few = torch.tensor([30, 4, 11])
    assert torch.equal(prune_rows(x[few], keys[few], 60, 2), out[few])
    others = [prune_rows(x, keys, 60, 3), prune_rows(x, pass_streams(stream_key(5), 4, keys[:, 2]), 60, 2)]
    others.append(prune_rows(x, pass_streams(stream_key(6), 3, keys[:, 2]), 60, 2))
    assert all(((other != 0) != (out != 0)).any(1).float().mean() > 0.9 for other in others)


@pytest.mark.parametrize("a", [1, 3, 64, 1000, 2048, 16_384, 16_385, 10**7])
@pytest.mark.parametrize("draws", [1, 100, 10**6, 10**12])
def test_tilings_fit_the_kernels(a: int, draws: int) -> None:
    cut = gpu.tiling(a, draws)
    sizes = (cut.rows, cut.chunk, cut.tile, cut.step, cut.lines)
    assert all(size & (size - 1) == 0 for size in sizes)
    assert cut.chunk >= 16
    assert cut.tile >= 128
    assert cut.chunk >= min(a, 128)
    assert cut.parts == 1 or cut.rows == 1
    assert cut.rows * max(cut.chunk, 128) <= 1 << 14
    assert cut.rows * cut.tile <= cut.warps * 512 or cut.tile == 128


# Through the operator's own function


def through_operator(h: torch.Tensor, keys: torch.Tensor, draws: int, name: str = "h") -> torch.Tensor:
    kept = operator._prune_on_gpu(h.to(DEVICE), keys, draws, 0, "mask", name)
    return kept.cpu()


TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2.0**-10}
TOLERANCES[torch.bfloat16] = 2.0**-8 if ON_GPU else 2.0**-7  # the interpreter cuts bits off instead of rounding


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dtypes_and_layouts(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    h = torch.randn(6, 3, 5, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    h = h.contiguous(memory_format=memory_format)
    out = through_operator(h, rows(6), 80)
    assert out.dtype == dtype
    assert out.stride() == h.stride()
    x = h.double().flatten(1).abs().numpy()
    exact = h.double() / torch.from_numpy(inclusion(x / x.sum(1, keepdims=True), 80)).view(h.shape)
    kept = out != 0
    assert 0.2 < kept.double().mean() < 0.8
    assert (out.double() / exact - 1)[kept].abs().max() < TOLERANCES[dtype]
    same = through_operator(h.contiguous(), rows(6), 80)
    assert torch.equal(same.contiguous(), out.contiguous())


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_mask_gradient(dtype: torch.dtype) -> None:
    h, grad = torch.randn(2, 6, 4, 5, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    out = h * torch.tensor([0.0, 1.5, 3.0])[torch.arange(h.numel()) % 3].view(h.shape).to(dtype)
    got = backward._mask_gradient_on_gpu(*(t.to(DEVICE) for t in (grad, h, out))).cpu()
    exact = torch.where(out != 0, grad.double() * out.double() / h.double(), 0.0)
    assert got.dtype == dtype
    assert torch.allclose(got.double(), exact, rtol=2 * TOLERANCES[dtype], atol=0)


def test_maps_of_zeros_give_zeros() -> None:
    h = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    h[1:3] = 0
    assert through_operator(h, rows(4), 20).any(1).tolist() == [True, False, False, True]


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_maps_that_are_not_finite_are_told_of_by_name(value: float) -> None:
    h = torch.randn(5, 400, generator=torch.Generator().manual_seed(0))
    good = through_operator(h, rows(5), 50)
    h[2, 170] = value
    h[4, 0] = value
    numbered = pass_streams(stream_key(0), 0, torch.tensor([0, 1, 17, 3, 40]))
    out = through_operator(h, numbered, 50, "stage1.relu")
    assert out[[2, 4]].isnan().all()
    assert torch.equal(out[[0, 1, 3]], good[[0, 1, 3]])
    with pytest.raises(NotFiniteError, match=r"stage1\.relu.*2 of 5 maps.*example 17"):
        check_finite()
    check_finite()


# Numbers


@triton.jit
def draw_words(out, streams, site, N: tl.constexpr, TILE: tl.constexpr):
    rows = tl.arange(0, N)[:, None]
    lane = tl.arange(0, TILE // 4)[None, :]
    found = philox(lane, stream(streams, rows, rows >= 0, site, 7))
    for part in tl.static_range(4):
        tl.store(out + rows * TILE + place_in_blocks(lane, part), found[part].to(tl.int32, bitcast=True))


def test_words_are_those_of_the_cpu() -> None:
    keys = pass_streams(-(2**62) - 77, 2**31, torch.tensor([0, 5, 2**32 - 1, 12]))
    out = torch.zeros(4, 256, dtype=torch.int32, device=DEVICE)
    draw_words[(1,)](out, keys.to(DEVICE), 2**23, N=4, TILE=256)
    plain = random_words(keys, 256, 2**23, 7).reshape(4, 2, 32, 4).transpose(0, 1, 3, 2).reshape(4, 256)
    assert np.array_equal(out.cpu().numpy().view(np.uint32), plain)


@pytest.mark.parametrize("size", [1, 130, 1500])
@pytest.mark.parametrize("kind", [numbers.KIND, 255])
def test_numbers_are_those_of_the_cpu(size: int, kind: int) -> None:
    keys = rows(5, 3, 2)
    there = {law: numbers_gpu.variates(keys.to(DEVICE), size, 5, law, kind).cpu() for law in numbers.CODES}
    assert torch.equal(there["uniform"], numbers.uniforms(keys, size, 5, kind))
    assert torch.equal(there["word"], numbers.words(keys, size, 5, kind))
    assert (there["normal"] - numbers.normals(keys, size, 5, kind)).abs().max() < 3e-6


@triton.jit
def draw_poisson(out, streams, means, N: tl.constexpr):
    rows = tl.program_id(0) * N + tl.arange(0, N)[:, None]
    of = stream(streams, rows, rows >= 0, 0, 3)
    tl.store(out + rows, poisson(tl.load(means + rows), of, rows >= 0))


@triton.jit
def draw_binomial(out, streams, sizes, chances, N: tl.constexpr):
    rows = tl.program_id(0) * N + tl.arange(0, N)[:, None]
    of = stream(streams, rows, rows >= 0, 0, 3)
    tl.store(out + rows, binomial(tl.load(sizes + rows), tl.load(chances + rows), of, rows >= 0))


def check_numbers(drawn: np.ndarray, law) -> None:
    edges = np.unique(law.ppf(np.linspace(0, 1, 30)[1:-1]))
    cdf = np.concatenate([[0.0], law.cdf(edges), [1.0]])
    assert np.array_equal(drawn, np.floor(drawn))
    assert chi_square(np.bincount(np.searchsorted(edges, drawn), minlength=len(cdf) - 1), np.diff(cdf)) > LEVEL


def test_poisson_law() -> None:
    means, n = [1e-9, 0.3, 20.0, 63.9, 64.0, 1e3, 1e6, 1e9], 4096
    out = torch.zeros(len(means) * n, dtype=torch.float64, device=DEVICE)
    given = torch.tensor(means, dtype=torch.float64, device=DEVICE).repeat_interleave(n)
    draw_poisson[(len(given) // 512,)](out, rows(len(given)).to(DEVICE), given, N=512)
    for mean, drawn in zip(means, out.cpu().numpy().reshape(-1, n), strict=True):
        check_numbers(drawn, stats.poisson(mean))


def test_binomial_law() -> None:
    cases = [(1, 0.3), (100, 1e-4), (100, 0.5), (1e4, 0.05), (1e6, 0.999), (1e9, 0.7), (1e12, 1e-9), (50, 1.0)]
    n = 4096
    out = torch.zeros(len(cases) * n, dtype=torch.float64, device=DEVICE)
    sizes, chances = torch.tensor(cases, dtype=torch.float64, device=DEVICE).repeat_interleave(n, 0).T.contiguous()
    draw_binomial[(len(out) // 512,)](out, rows(len(out)).to(DEVICE), sizes, chances, N=512)
    for (size, p), drawn in zip(cases, out.cpu().numpy().reshape(-1, n), strict=True):
        check_numbers(drawn, stats.binom(size, p))


@triton.jit
def draw_exponential(out, words, N: tl.constexpr):
    place = tl.arange(0, N)
    tl.store(out + place, exponential(tl.load(words + place).to(tl.uint32)))


def test_clocks_have_small_relative_error() -> None:
    bits = np.unique(np.concatenate([np.geomspace(1, 2**32 - 1, 2000), 2**32 - np.geomspace(1, 2**31, 2000)]))
    bits = np.resize(bits.astype(np.int64), 4096)
    out = torch.zeros(4096, device=DEVICE)
    draw_exponential[(1,)](out, torch.from_numpy(bits).to(DEVICE), N=4096)
    exact = np.where(bits < 2**31, -np.log1p(-(bits + 0.5) / 2**32), -np.log((2**32 - bits - 0.5) / 2**32))
    assert np.abs(out.cpu().numpy() / exact - 1).max() < 2.0**-20


@triton.jit
def read_again(out, sizes, words, more, N: tl.constexpr):
    place = tl.arange(0, N)[None, :]
    word, size, extra = (tl.load(words + place).to(tl.uint32), tl.load(sizes + place), tl.load(more + place))
    one = tl.full((1, 1), 1.0, tl.float32)
    was_open, kept, _, _, _ = gpu_clocks._read_again(size, word, extra, (one, one, one, one), False)
    tl.store(out + place, was_open.to(tl.int32) + 2 * kept.to(tl.int32))


def test_clocks_in_one_cell_are_told_apart_by_more_bits() -> None:
    # at the low end a rate is a share of a cell; the last word's cell, E > 22.18, has e^-23 at 1 - 0.559 of its width
    share, e23 = [1e-6, 0.3, 0.999], 1 - np.exp(-23) * 2.0**32
    sizes = torch.tensor([2.0**-32 * s for s in share for _ in range(2)] + [23.0, 23.0], device=DEVICE)
    more = [s * (1 + step) for s in share for step in (-1e-6, 1e-6)] + [e23 - 1e-5, e23 + 1e-5]
    bits = torch.tensor([0] * 6 + [2**32 - 1] * 2, device=DEVICE)
    out = torch.zeros(8, dtype=torch.int32, device=DEVICE)
    read_again[(1,)](out, sizes, bits, torch.tensor(more, dtype=torch.float64, device=DEVICE), N=8)
    assert out.tolist() == [3, 1] * 4  # open, and kept below


@pytest.mark.parametrize("example", SMALL_WORDS)
@pytest.mark.parametrize("step", [-1e-4, 1e-4])
def test_a_clock_rings_in_time_by_the_bits_beyond_its_word(example: int, step: float) -> None:
    draws, margin = 1000, 4.5
    h = row_with_first_rate(time_of_first_draw(example) * (1 + step), draws - margin * draws**0.5)
    stream = pass_streams(stream_key(0), 0, torch.tensor([example]))
    kept = prune_rows(torch.tensor(h[None], dtype=torch.float32), stream, draws, margin=margin)[0, 0] != 0
    assert kept == (step > 0)


@triton.jit
def correct_stirling(out, k, N: tl.constexpr):
    place = tl.arange(0, N)
    tl.store(out + place, _stirling(tl.load(k + place)))


def test_the_correction_of_stirlings_formula() -> None:
    k = np.arange(10.0, 42.0)
    out = torch.zeros(32, dtype=torch.float64, device=DEVICE)
    correct_stirling[(1,)](out, torch.from_numpy(k).to(DEVICE), N=32)
    assert np.abs(out.cpu().numpy() - stirling_correction(k)).max() < 5e-13


@pytest.mark.skipif(ON_GPU, reason="a compiled kernel does not see another constant")
@pytest.mark.parametrize("draws", [100, 50_000])
def test_more_bits_change_nothing_that_a_word_decides(draws: int, monkeypatch: pytest.MonkeyPatch) -> None:
    h = np.random.default_rng(5).lognormal(sigma=2, size=300).astype(np.float32)
    out = draw(h, draws, 20, chunk=256, tile=128)
    monkeypatch.setattr(gpu_clocks, "_LATE", tl.constexpr(-1.0))
    assert np.array_equal(draw(h, draws, 20, chunk=256, tile=128), out)
