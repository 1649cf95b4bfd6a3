"""The generator against Random123's vectors, and streams that never meet."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from saplab.pruning.operator import prune
from saplab.rng.streams import EXAMPLES, SITES, derived_key, numbered, pass_streams, philox, random_words, stream_key

WORD = st.integers(0, 2**32 - 1)
COORDINATES = st.tuples(
    st.integers(0, 2**64 - 1), WORD, st.integers(0, EXAMPLES - 1), st.integers(0, SITES - 1), st.integers(0, 255)
)

# counter, key, output: kat_vectors of Random123, philox4x32 with 10 rounds
KNOWN = {
    "zeros": (4 * [0], 2 * [0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    "ones": (4 * [0xFFFFFFFF], 2 * [0xFFFFFFFF], [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    "pi": (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
}


@njit
def call_philox(counter, key):
    return philox(counter[0], counter[1], counter[2], counter[3], key[0], key[1])


def plain_philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 in Python integers, from the paper's description."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for turn in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        r0, r1 = (k0 + turn * 0x9E3779B9) % 2**32, (k1 + turn * 0xBB67AE85) % 2**32
        c0, c1, c2, c3 = b >> 32 ^ c1 ^ r0, b % 2**32, a >> 32 ^ c3 ^ r1, a % 2**32
    return [c0, c1, c2, c3]


def signed(key: int) -> int:
    return key - 2**64 if key >= 2**63 else key


def row(key: int, pass_: int, example: int) -> torch.Tensor:
    return pass_streams(signed(key), pass_, torch.tensor([example]))


@pytest.mark.parametrize("name", KNOWN)
def test_known_answers(name: str) -> None:
    counter, key, expected = KNOWN[name]
    assert plain_philox(counter, key) == expected
    assert list(call_philox(np.array(counter, np.uint64), np.array(key, np.uint64))) == expected


@settings(derandomize=True, deadline=None, max_examples=50)
@given(COORDINATES, st.integers(0, 8))
def test_coordinates_stand_in_counter_and_key(coordinates, block) -> None:
    key, pass_, example, site, kind = coordinates
    drawn = random_words(row(key, pass_, example), 4 * block + 4, site, kind)[0, 4 * block :]
    assert drawn.tolist() == plain_philox([block, example, pass_, site << 8 | kind], [key % 2**32, key >> 32])


@settings(derandomize=True, deadline=None, max_examples=100)
@given(COORDINATES, COORDINATES)
def test_streams_of_one_key_never_meet(one, other) -> None:
    # for one key the generator is a bijection of the counter, so this is exact and not only likely
    key, *rest = one
    a, b = (random_words(row(key, pass_, example), 4, site, kind) for pass_, example, site, kind in (rest, other[1:]))
    assert np.array_equal(a, b) == (rest == list(other[1:]))


@pytest.mark.parametrize("place", range(5), ids=["key", "pass", "example", "site", "kind"])
def test_each_coordinate_matters(place: int) -> None:
    base = [7, 3, 5, 2, 1]
    drawn = set()
    for step in (0, 1, 2, 100):
        key, pass_, example, site, kind = [value + step * (k == place) for k, value in enumerate(base)]
        drawn.add(random_words(row(key, pass_, example), 8, site, kind).tobytes())
    assert len(drawn) == 4


def test_keys_of_seeds_and_purposes_differ() -> None:
    keys = {stream_key(seed, purpose) for seed in range(1000) for purpose in ("defense", "attack", "noise")}
    assert len(keys) == 3000
    assert min(keys) >= -(2**63)
    assert max(keys) < 2**63
    assert stream_key(5) == stream_key(5, "defense")


def test_keys_stay_the_same_in_every_version() -> None:
    # what sha256sum says of "saplab/defense/0" and "saplab/attack/0": first 8 bytes, little-endian, signed
    assert [stream_key(0), stream_key(0, "attack")] == [4807440154463309752, -3666568685443662601]
    # and of "saplab/part/7/0" and "saplab/part/7/1"
    assert [derived_key(7, 0), derived_key(7, 1)] == [7730733687525276842, -4716927013279377915]


@pytest.mark.parametrize("seed", [-1, 1.0, "1", True, None])
def test_a_bad_seed_is_named(seed) -> None:
    with pytest.raises(ValueError, match="`seed` must be an integer >= 0, got"):
        stream_key(seed)


def test_rows_hold_key_pass_and_example() -> None:
    assert pass_streams(-9, 4, torch.tensor([8, 2])).tolist() == [[-9, 4, 8], [-9, 4, 2]]
    assert pass_streams(-9, 4, torch.arange(0)).shape == (0, 3)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 1001])
def test_words_are_a_prefix_of_more_words(count: int) -> None:
    drawn = random_words(row(1, 2, 3), count)
    assert drawn.shape == (1, count)
    assert drawn.dtype == np.uint32
    assert np.array_equal(drawn, random_words(row(1, 2, 3), 2000)[:, :count])


def test_no_global_generator_is_touched() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    random_words(row(1, 2, 3), 100)
    prune(torch.rand(8, 100, generator=torch.Generator().manual_seed(0)), pass_streams(0, 0, torch.arange(8)), 50)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert before[2] == random.getstate()


def neighbours(kind_of_step: str) -> np.ndarray:
    """Draw 64 streams of 2^14 words whose coordinates follow one another; as uniforms."""
    n = range(64)
    drawn = {
        "seed": lambda k: random_words(row(k, 0, 0), 1 << 14),
        "pass": lambda k: random_words(row(0, k, 0), 1 << 14),
        "example": lambda k: random_words(row(0, 0, k), 1 << 14),
        "site": lambda k: random_words(row(0, 0, 0), 1 << 14, site=k),
        "kind": lambda k: random_words(row(0, 0, 0), 1 << 14, kind=k),
    }[kind_of_step]
    return np.concatenate([drawn(k) for k in n]) * 2.0**-32


@pytest.mark.parametrize("step", ["seed", "pass", "example", "site", "kind"])
def test_neighbouring_streams_are_uniform_and_uncorrelated(step: str) -> None:
    u = neighbours(step)
    z = np.sqrt(12.0) * (u - 0.5)
    size = z.size
    assert abs(z.mean()) * np.sqrt(size) < 5
    assert abs((z**2).mean() - 1) / np.sqrt(0.8 / size) < 5  # Var z^2 = 9/5 - 1
    assert abs((z[1:] * z[:-1]).mean()) * np.sqrt(size) < 5
    assert abs((z[:, 1:] * z[:, :-1]).mean()) * np.sqrt(size) < 5
    cells = np.bincount((u * 256).astype(int).ravel(), minlength=256)
    statistic = ((cells - size / 256) ** 2 / (size / 256)).sum()
    assert abs(statistic - 255) / np.sqrt(2 * 255) < 5


def test_examples_of_a_pass_are_numbered_alike_in_a_graph_and_outside(monkeypatch):
    pass_ = pass_streams(-5, 7, torch.zeros(1))
    expected = pass_streams(-5, 7, torch.arange(9))
    assert torch.equal(numbered(pass_, 9), expected)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(numbered(pass_, 9), expected)
