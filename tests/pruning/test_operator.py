"""The torch operator around Algorithm 1: every layout and dtype, the three gradients, and torch's own machinery."""

import math
import shutil

import numpy as np
import pytest
import torch
from exact_law import inclusion, rows
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saplab.pruning import algorithm
from saplab.pruning.finite import NotFiniteError
from saplab.pruning.operator import RULES, prune
from saplab.rng.streams import pass_streams, stream_key

DTYPES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
SHAPES = [(6,), (6, 50), (6, 4, 5), (6, 4, 5, 3), (6, 2, 3, 4, 2)]
SIZES = st.tuples(st.integers(0, 6), st.integers(1, 5), st.integers(1, 7), st.integers(1, 7))


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def shares(h: Tensor) -> np.ndarray:
    x = h.detach().double().flatten(1).abs().numpy()
    return x / x.sum(1, keepdims=True)


def expected_scale(h: Tensor, draws: int) -> Tensor:
    """Return 1 / (1 - (1 - p)^r) in float64, shaped like `h` (N, ...)."""
    return torch.from_numpy(1 / inclusion(np.maximum(shares(h), 1e-300), draws)).view(h.shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("draws", [1, 2, 10, 10**6, 10**12])
def test_every_output_is_zero_or_scaled(dtype: torch.dtype, draws: int) -> None:
    h = gaussian(64, 3, 5, 7, dtype=dtype)
    h[:, 0, 0, :2] = torch.tensor([0.0, 30.0], dtype=dtype)
    out = prune(h, rows(64), draws)
    kept = out != 0
    assert out.dtype == dtype
    assert kept.flatten(1).any(1).all()
    assert not kept[h == 0].any()
    exact = h.double() * expected_scale(h, draws)
    assert (out.double() / exact - 1)[kept].abs().max() <= 1.01 * DTYPES[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_kept_sets_of_low_precision_are_those_of_float32(dtype: torch.dtype) -> None:
    h = gaussian(64, 500).bfloat16().half()  # exact in every dtype
    kept = prune(h.to(dtype), rows(64), 300) != 0
    flips = (kept != (prune(h.float(), rows(64), 300) != 0)).sum()
    assert flips <= (3 if dtype == torch.float64 else 0)  # float64 rows are first divided by their largest


@pytest.mark.parametrize("exponent", [-38, -20, 0, 20, 37])
@pytest.mark.parametrize("draws", [1, 20, 10**6])
def test_bfloat16_rounds_what_float32_gives(exponent: int, draws: int) -> None:
    h = (gaussian(64, 100, dtype=torch.float64) * 10.0**exponent).bfloat16().requires_grad_()
    wide = h.detach().float().requires_grad_()
    out, expected = prune(h, rows(64), draws), prune(wide, rows(64), draws)
    assert torch.equal(out, expected.bfloat16())
    grad = gaussian(64, 100, seed=1, dtype=torch.bfloat16)
    (got,) = torch.autograd.grad(out, h, grad)
    scaled = (grad.float() * torch.where(out != 0, out.float() / h.float(), 0.0)).bfloat16()
    assert (got != scaled).sum() <= 1  # float32's rounding may break a tie between two bfloat16 numbers
    torch.testing.assert_close(got, scaled, rtol=2.0**-7, atol=0)


@pytest.mark.parametrize("exponent", [-320, -300, -50, 50, 300])
def test_float64_has_its_own_range(exponent: int) -> None:
    h = gaussian(16, 100, dtype=torch.float64) * 10.0**exponent
    out = prune(h, rows(16), 40)
    kept = out != 0
    tolerance = 1e-12 if exponent > -308 else 1e-2  # the last are denormals
    assert kept.any(1).all()
    assert (out[kept] / (h * expected_scale(h, 40))[kept] - 1).abs().max() < tolerance


@pytest.mark.parametrize("draws", [1, 5, 40])
def test_oracle_and_operator_agree_where_both_keep(draws: int) -> None:
    h = gaussian(200, 12, dtype=torch.float64)
    out = prune(h, rows(200), draws).numpy()
    generator = np.random.default_rng(0)
    oracle = np.stack([algorithm.prune(row, draws, generator) for row in h.numpy()])
    both = (out != 0) & (oracle != 0)
    assert both.sum() > 10
    assert out[both] == pytest.approx(oracle[both], rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_very_many_draws_are_the_identity(dtype: torch.dtype) -> None:
    h = gaussian(8, 200, dtype=dtype)
    h[h.abs() < 1e-3] = 0
    assert torch.equal(prune(h, rows(8), 10**12), h)


@pytest.mark.parametrize("rule", RULES)
def test_maps_of_zeros_give_zeros_and_finite_gradients(rule) -> None:
    h = gaussian(4, 30)
    h[1:3] = 0
    h.requires_grad_()
    out = prune(h, rows(4), 20, rule=rule)
    out.sum().backward()
    assert not out[1:3].any()
    assert out[0].any()
    assert out[3].any()
    assert h.grad is not None
    assert h.grad.isfinite().all()
    assert torch.equal(h.grad[1:3], torch.ones(2, 30) if rule == "identity" else torch.zeros(2, 30))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_activations_must_be_finite(dtype: torch.dtype, value: float) -> None:
    h = gaussian(5, 4, 100, dtype=dtype)
    h[2, 3, 70] = value
    h[4, 0, 0] = value
    numbered = pass_streams(0, 0, torch.tensor([3, 9, 17, 2, 40]))
    with pytest.raises(NotFiniteError, match=r"stage1\.relu.*2 of 5 maps.*example 17"):
        prune(h, numbered, 50, name="stage1.relu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": 0}, r"`draws` must be within 1\.\.2\^53, got 0"),
        ({"draws": -3}, r"`draws` must be within 1\.\.2\^53, got -3"),
        ({"draws": 2**53 + 1}, r"`draws` must be within 1\.\.2\^53, got 9007199254740993"),
        ({"rule": "straight"}, "`rule` must be one of mask, probability, identity, got 'straight'"),
        ({"streams": rows(3)}, r"`streams` must have shape \(2, 3\), got \(3, 3\)"),
    ],
)
def test_bad_arguments_are_named(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prune(**({"h": torch.ones(2, 4), "streams": rows(2), "draws": 3} | change))


# Draws are a function of the example alone


@settings(derandomize=True, deadline=None, max_examples=30)
@given(SIZES, st.integers(1, 300), st.integers(0, 6), st.integers(0, 2**31), st.sampled_from(list(DTYPES)))
def test_a_split_batch_and_another_order_draw_the_same(sizes, draws, cut, seed, dtype) -> None:
    h, keys = gaussian(*sizes, seed=seed, dtype=dtype), rows(sizes[0], seed=seed)
    whole = prune(h, keys, draws)
    assert torch.equal(torch.cat([prune(h[:cut], keys[:cut], draws), prune(h[cut:], keys[cut:], draws)]), whole)
    order = torch.randperm(sizes[0], generator=torch.Generator().manual_seed(seed))
    assert torch.equal(prune(h[order], keys[order], draws), whole[order])
    channels_last = h.contiguous(memory_format=torch.channels_last)
    assert torch.equal(prune(channels_last, keys, draws), whole)


def test_threads_draw_the_same() -> None:
    h = gaussian(37, 5000).relu()
    before = torch.get_num_threads()
    try:
        outs = []
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            x = h.clone().requires_grad_()
            out = prune(x, rows(37), 4000)
            outs.append((out.detach(), *torch.autograd.grad(out.square().sum(), x)))
    finally:
        torch.set_num_threads(before)
    for out, grad in outs[1:]:
        assert torch.equal(out, outs[0][0])
        assert torch.equal(grad, outs[0][1])


def test_seed_pass_site_and_example_change_the_draws() -> None:
    h = gaussian(1, 400).expand(2, -1)
    first = prune(h, rows(2), 300)
    others = prune(h, rows(2, pass_=1), 300), prune(h, rows(2, seed=1), 300), prune(h, rows(2), 300, site=1)
    assert len({t.numpy().tobytes() for t in (first[0], first[1], *(t[0] for t in others))}) == 5
    assert torch.equal(first, prune(h, rows(2), 300))


# Layouts


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes_are_maps_of_one_example_each(shape, dtype: torch.dtype) -> None:
    h = gaussian(*shape, dtype=dtype)
    out = prune(h, rows(6), 7)
    assert out.shape == h.shape
    assert torch.equal(out.reshape(6, -1), prune(h.reshape(6, -1), rows(6), 7))


def views() -> dict[str, Tensor]:
    h = gaussian(6, 8, 10, 12)
    return {
        "channels_last": h.contiguous(memory_format=torch.channels_last),
        "transposed": h.transpose(1, 3),
        "strided": h[:, ::2, 1:, ::3],
        "sliced": h[1:, 2:5],
        "expanded": h[:, :1].expand(-1, 5, -1, -1),
        "same for all": h[:1].expand(6, -1, -1, -1),
        "transposed batch": h.transpose(0, 1),
    }


@pytest.mark.parametrize("layout", views())
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layout_changes_neither_draws_nor_gradients(layout: str, rule, dtype: torch.dtype) -> None:
    h = views()[layout].to(dtype)
    plain = h.contiguous()
    grad = gaussian(*h.shape, seed=1, dtype=dtype)
    keys, before = rows(len(h)), h.clone()
    a, b = h.detach().requires_grad_(), plain.clone().requires_grad_()
    out, expected = prune(a, keys, 50, rule=rule), prune(b, keys, 50, rule=rule)
    assert torch.equal(out, expected)
    assert torch.equal(h, before)
    assert out.stride() == torch.empty_like(h).stride()
    laid_out = torch.empty_like(h).copy_(grad)
    got, wanted = torch.autograd.grad(out, a, laid_out)[0], torch.autograd.grad(expected, b, grad)[0]
    assert torch.allclose(got, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [(0, 5), (0, 3, 4, 4), (4, 0), (0,)])
@pytest.mark.parametrize("rule", RULES)
def test_empty_batches(shape, rule) -> None:
    h = torch.empty(shape, requires_grad=True)
    out = prune(h, rows(shape[0]), 3, rule=rule)
    out.sum().backward()
    assert out.shape == shape
    assert h.grad is not None
    assert h.grad.shape == shape


# Gradients


def plain_jacobian(h: np.ndarray, kept: np.ndarray, draws: int) -> np.ndarray:
    """Return dM_j / dh_i (i, j) of M_j = kept_j h_j / (1 - (1 - |h_j|/S)^r), S = sum |h|, by the quotient rule.

    With f(p) = p / (1 - (1-p)^r), M_j = sign_j S f(p_j), so dM_j/dh_i = sign_j [sign_i f(p_j) + S f'(p_j) dp_j/dh_i].
    """
    sign, size = np.sign(h), np.abs(h).sum()
    p = np.abs(h) / size
    with np.errstate(divide="ignore", invalid="ignore"):
        hit = 1 - (1 - p) ** draws
        f = p / hit
        df = (hit - p * draws * (1 - p) ** (draws - 1)) / hit**2
    jacobian = np.zeros((len(h), len(h)))
    for i in range(len(h)):
        for j in np.flatnonzero(kept):
            dp = sign[i] * ((i == j) - p[j]) / size
            jacobian[i, j] = sign[j] * (sign[i] * f[j] + size * df[j] * dp)
    return jacobian


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("draws", [1, 2, 9, 1000])
def test_probability_gradient_is_the_formula(dtype: torch.dtype, draws: int) -> None:
    h = gaussian(5, 12, dtype=dtype)
    h[:, 3] = 0
    h[4, :11] = 0  # one share of 1
    h.requires_grad_()
    out = prune(h, rows(5), draws, rule="probability")
    grad = gaussian(5, 12, seed=1, dtype=dtype)
    (got,) = torch.autograd.grad(out, h, grad)
    for n in range(5):
        jacobian = plain_jacobian(h[n].detach().double().numpy(), (out[n] != 0).numpy(), draws)
        exact = torch.from_numpy(jacobian) @ grad[n].double()
        assert torch.allclose(got[n].double(), exact, **tolerances(dtype))


def tolerances(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": 1e-9, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}


@pytest.mark.parametrize("draws", [1, 3, 12, 100])
def test_probability_gradient_is_the_numeric_one(draws: int) -> None:
    # the streams stay fixed, and steps of 1e-6 leave the kept sets as they are
    h = (gaussian(4, 8, dtype=torch.float64) + 0.1).requires_grad_()
    keys = rows(4)
    assert torch.autograd.gradcheck(lambda x: prune(x, keys, draws, rule="probability"), h)
    assert torch.autograd.gradgradcheck(lambda x: prune(x, keys, draws, rule="probability"), h)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("draws", [1, 30, 10**6])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_mask_gradient_is_the_scale_of_the_kept(dtype: torch.dtype, draws: int, memory_format) -> None:
    h = gaussian(9, 3, 8, 8, dtype=dtype).contiguous(memory_format=memory_format).requires_grad_()
    out = prune(h, rows(9), draws)
    grad = gaussian(9, 3, 8, 8, seed=1, dtype=dtype).contiguous(memory_format=memory_format)
    (got,) = torch.autograd.grad(out, h, grad)
    exact = torch.where(out != 0, grad.double() * expected_scale(h, draws), 0.0)
    assert got.dtype == dtype
    assert got.stride() == h.stride()
    # twice the rounding of the dtype: once in the output, whose ratio to the input is the scale, once in the product
    assert torch.allclose(got.double(), exact, rtol=2.02 * DTYPES[dtype], atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_identity_gradient_passes_unchanged(dtype: torch.dtype) -> None:
    h = gaussian(9, 40, dtype=dtype).requires_grad_()
    grad = gaussian(9, 40, seed=1, dtype=dtype)
    assert torch.equal(torch.autograd.grad(prune(h, rows(9), 5, rule="identity"), h, grad)[0], grad)


def test_a_gradient_of_ones_that_has_no_memory_of_its_own() -> None:
    h = gaussian(9, 3, 8, 8).requires_grad_()
    (got,) = torch.autograd.grad(prune(h, rows(9), 50).sum(), h)
    (wanted,) = torch.autograd.grad(prune(h, rows(9), 50), h, torch.ones(9, 3, 8, 8))
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_second_derivative_of_mask_keeps_the_mask_constant(dtype: torch.dtype) -> None:
    # sum M^3 has the first derivative 3 M^2 m, and that one 6 M m^2, for constant m
    h = gaussian(3, 20, dtype=dtype).requires_grad_()
    out = prune(h, rows(3), 15)
    m = torch.where(out != 0, out / h, 0.0).detach()
    (first,) = torch.autograd.grad(out.pow(3).sum(), h, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), h)
    assert torch.allclose(first, 3 * out**2 * m)
    assert torch.allclose(second, 6 * out * m**2)


def saved_by(rule: str) -> tuple[list[Tensor], Tensor, Tensor]:
    saved: list[Tensor] = []
    h = gaussian(4, 3, 8, 8).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        out = prune(h, rows(4), 100, rule=rule)
    return saved, h, out


@pytest.mark.parametrize("rule", RULES)
def test_autograd_saves_input_and_output_and_nothing_else(rule) -> None:
    saved, h, out = saved_by(rule)
    expected = [] if rule == "identity" else [h.data_ptr(), out.data_ptr()]
    assert [t.data_ptr() for t in saved] == expected


def test_no_gradient_where_none_is_wanted() -> None:
    assert not prune(gaussian(2, 5), rows(2), 3).requires_grad
    with torch.no_grad():
        assert not prune(gaussian(2, 5).requires_grad_(), rows(2), 3).requires_grad
    with torch.inference_mode():
        assert torch.equal(prune(gaussian(2, 5), rows(2), 3), prune(gaussian(2, 5), rows(2), 3))


# torch's own machinery


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck_of_prune(rule, dtype: torch.dtype) -> None:
    for h in (gaussian(4, 2, 5, 5), gaussian(4, 2, 5, 5).contiguous(memory_format=torch.channels_last)):
        x = h.to(dtype).requires_grad_()
        torch.library.opcheck(torch.ops.saplab.prune.default, (x, rows(4), 30, 2, rule, "relu"))


def test_opcheck_of_the_mask_gradient() -> None:
    h = gaussian(4, 2, 5, 5)
    grad = gaussian(4, 2, 5, 5, seed=1).requires_grad_()
    torch.library.opcheck(torch.ops.saplab.mask_gradient.default, (grad, h, prune(h, rows(4), 30)))


def step(x: Tensor, keys: Tensor, rule) -> Tensor:
    return prune(torch.relu(x) * 2.0, keys, 30, site=3, rule=rule).square().mean()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of inductor's own use
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", RULES)
def test_compile_equals_eager_and_new_streams_compile_nothing(rule, backend: str) -> None:
    if backend == "inductor" and not shutil.which("c++"):
        pytest.skip("inductor needs a C++ compiler")
    torch._dynamo.reset()
    x = gaussian(4, 2, 5, 5).requires_grad_()
    compiled = torch.compile(step, fullgraph=True, backend=backend)
    for pass_ in range(3):
        with torch._dynamo.config.patch(error_on_recompile=pass_ > 0):
            losses = compiled(x, rows(4, pass_), rule), step(x, rows(4, pass_), rule)
        assert torch.allclose(*losses, rtol=1e-6)
        grads = [torch.autograd.grad(loss, x)[0] for loss in losses]
        assert torch.allclose(*grads, rtol=1e-5, atol=1e-7)
    torch._dynamo.reset()


def test_autocast_leaves_the_dtype_of_the_activations() -> None:
    linear = torch.nn.Linear(20, 30).requires_grad_(False)
    x = gaussian(6, 20)
    with torch.autocast("cpu", torch.bfloat16):
        h = linear(x)
        out = prune(h, rows(6), 12)
    assert h.dtype == out.dtype == torch.bfloat16
    assert torch.equal(out, prune(h, rows(6), 12))


def test_deterministic_algorithms_are_allowed() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        h = gaussian(6, 20).requires_grad_()
        prune(h, rows(6), 12).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert h.grad is not None


def test_streams_may_be_a_view() -> None:
    h = gaussian(6, 20)
    keys = pass_streams(stream_key(0), 0, torch.arange(12))[::2]
    assert torch.equal(prune(h, keys, 12), prune(h, keys.contiguous(), 12))
