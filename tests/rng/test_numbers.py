"""Normal and uniform numbers and words of streams: their law, their kinds, and that they are those of the generator."""

import numpy as np
import pytest
import torch
from exact_law import LEVEL, chi_square, rows
from scipy import stats

from saplab.rng.numbers import KIND, normals, uniforms, words
from saplab.rng.simd import BLOCK, PIECE
from saplab.rng.streams import pass_streams, random_words

SIZE = 1 << 12
LAWS = {normals: stats.norm(), uniforms: stats.uniform(), words: stats.uniform(scale=2.0**32)}
KINDS = [KIND, 16, 17, 255]


def place_in_block(word: int) -> int:
    """Return the place of the generator's k-th word: a block holds the first words of 32 counters, then the second."""
    block, inside = divmod(word, 128)
    return 128 * block + 32 * (inside % 4) + inside // 4


def test_the_default_kind_gives_the_bits_of_every_version() -> None:
    keys = pass_streams(3, 1, torch.arange(2))
    assert words(keys, 3, 5).tolist() == [[2405919843, 1493567067, 4102116275], [1199522846, 1572316352, 1280835826]]
    expected = [[0.5695, -1.0169, 0.2702], [-0.2267, 0.6457, -1.4570]]
    torch.testing.assert_close(normals(keys, 3, 5), torch.tensor(expected), rtol=0, atol=1e-4)
    assert torch.equal(normals(keys, 3, 5), normals(keys, 3, 5, KIND))


def test_normals_are_box_and_mullers_of_the_words() -> None:
    keys = pass_streams(3, 1, torch.arange(4))
    bits = words(keys, 1536, 5).view(4, 12, 2, 64).numpy().astype(np.uint32)  # radii and angles of each block
    u = (bits[:, :, 0].astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    radius, angle = np.sqrt(-2 * np.log(u.astype(float))), 2 * np.pi * bits[:, :, 1] / 2.0**32
    expected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 2).reshape(4, 1536)
    np.testing.assert_allclose(normals(keys, 1536, 5), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_those_of_the_generator(kind: int) -> None:
    keys = rows(3, 2, 1)
    count = 2 * PIECE + BLOCK
    plain = random_words(keys, count, 9, kind).astype(np.int64)
    places = [place_in_block(k) for k in range(count)]
    assert torch.equal(words(keys, count, 9, kind)[:, places], torch.from_numpy(plain))


@pytest.mark.parametrize("kind", KINDS)
def test_uniforms_are_the_first_bits_of_words(kind: int) -> None:
    assert torch.equal(uniforms(rows(3), 300, 9, kind), (words(rows(3), 300, 9, kind) >> 8).float() * 2.0**-24)


@pytest.mark.parametrize("draw", LAWS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_the_law(draw, kind: int) -> None:
    drawn = draw(rows(64), SIZE, 9, kind).double().numpy().ravel()
    cells = (LAWS[draw].cdf(drawn) * 256).astype(int)
    assert chi_square(np.bincount(cells, minlength=256), np.full(256, 1 / 256)) > LEVEL


@pytest.mark.parametrize("draw", LAWS)
def test_kinds_are_independent(draw) -> None:
    # the standard error of a correlation of n pairs is 1 / sqrt(n)
    drawn = np.stack([draw(rows(64), SIZE, 9, kind).double().numpy().ravel() for kind in KINDS])
    others = np.corrcoef(drawn)[~np.eye(len(KINDS), dtype=bool)]
    assert np.abs(others).max() * np.sqrt(drawn.shape[1]) < 5


@pytest.mark.parametrize("draw", LAWS)
def test_numbers_are_a_prefix_of_more_numbers(draw) -> None:
    keys = rows(3)
    assert torch.equal(draw(keys, 70), draw(keys, 1000)[:, :70])
    assert torch.equal(draw(keys[1:], 70), draw(keys, 70)[1:])
    assert draw(keys, 0).shape == (3, 0)


@pytest.mark.parametrize("draw", LAWS)
def test_the_operator_is_one_of_pytorch(draw) -> None:
    law = {normals: "normal", uniforms: "uniform", words: "word"}[draw]
    torch.library.opcheck(torch.ops.saplab.variates.default, (rows(3), 20, 0, law, KIND))
