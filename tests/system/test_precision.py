"""The precision of a network's arithmetic."""

import weakref

import pytest
import torch
from torch.nn import functional as F

from saplab.system.precision import PRECISIONS, computing_in, exact_convolutions, resolve_precision


@pytest.mark.parametrize("name", PRECISIONS)
def test_products_are_computed_in_it_and_not_beyond(name: str) -> None:
    x = torch.ones(2, 2)
    with computing_in(name, "cpu"):
        inside = (x @ x).dtype
    assert inside == getattr(torch, name)
    assert (x @ x).dtype == torch.float32


def test_an_attacks_images_are_not_kept_until_the_end() -> None:
    weight = torch.ones(1, 1, 2, 2)
    with computing_in("bfloat16", "cpu"):
        images = torch.ones(1, 1, 4, 4).requires_grad_()
        torch.autograd.grad(F.conv2d(images, weight).sum(), images)
        kept = weakref.ref(images)
        del images
        assert kept() is None


@pytest.mark.parametrize("keep", [False, True])
def test_weights_are_cast_once_only_where_casts_are_kept(keep: bool) -> None:
    weight = torch.ones(2, 2, requires_grad=True)
    with computing_in("bfloat16", "cpu", keep_casts=keep):
        passes = [(torch.ones(2, 2) @ weight).grad_fn for _ in range(2)]
    first, second = (node.next_functions[1][0] for node in passes if node is not None)
    assert (first is second) == keep


@pytest.mark.parametrize(("native", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_only_where_the_device_has_it(
    monkeypatch: pytest.MonkeyPatch, native: bool, precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert resolve_precision("auto", "cpu") == resolve_precision("auto", "cuda:0") == precision
    assert resolve_precision("auto", "meta") == resolve_precision("float32", "cpu") == "float32"
    assert resolve_precision("bfloat16", "cpu") == "bfloat16"
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert resolve_precision("auto", "cpu") == "float32"


def test_a_name_that_is_none() -> None:
    with (
        pytest.raises(ValueError, match="`precision` must be one of float32, bfloat16, got 'float16'"),
        computing_in("float16", "cpu"),
    ):
        pass


def test_convolutions_on_a_gpu_are_exact_and_repeatable_and_the_users_choice_comes_back():
    def chosen():
        cudnn = torch.backends.cudnn
        return cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision

    before = chosen()
    with exact_convolutions():
        assert chosen() == (True, False, "ieee")
        with exact_convolutions():
            pass
        assert chosen() == (True, False, "ieee")
    assert chosen() == before
