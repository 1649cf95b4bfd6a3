"""Streams of random numbers that depend on (seed, pass, site, example) and on nothing else.

The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a keyed
bijection of a 128-bit counter, which passes BigCrush and has no state to share, seed or advance. A stream's
coordinates are written straight into key and counter, so different coordinates never give the same numbers:

    key      64 bits   `stream_key(seed, purpose)`
    counter  32 bits   block: four numbers each, along the activations of one example
             32 bits   example
             32 bits   pass
             24 bits   site,  8 bits  kind

The kind says what the numbers are for. Pruning uses 0 to 3, 6 and 7, normal and uniform numbers 4, the starts of
attacks 5 and their squares 6 (under keys of their own); 16 to 255 are for a defence's own draws.

A batch carries its coordinates as one tensor of streams, shape (N, 3), int64: key, pass, example of each row.
"""

import hashlib
from numbers import Integral
from typing import Any, Final, Literal

import numpy as np
import torch
from numba import njit

from saplab.rng.compiled import scalar_kernel

Purpose = Literal["defense", "call", "attack", "noise", "training"]

SITES: Final = 1 << 24
EXAMPLES: Final = 1 << 32

_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


def stream_key(seed: int, purpose: Purpose = "defense") -> int:
    """Derive the 64-bit key of a seed for one purpose, as a signed integer that fits an int64 tensor.

    Those of one seed are unrelated streams: judgement's passes (``defense``), direct calls (``call``), attack, noise
    and training. A key is the first 8 bytes of SHA-256 over both names.
    Raises ValueError where `seed` is negative or not an integer.
    """
    if not isinstance(seed, Integral) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"`seed` must be an integer >= 0, got {seed!r}")
    digest = hashlib.sha256(f"saplab/{purpose}/{int(seed)}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def derived_key(key: int, number: int) -> int:
    """Derive the key of part `number` of what draws from `key`: one rank's or one replica's own streams."""
    digest = hashlib.sha256(f"saplab/part/{key}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def pass_streams(key: int, pass_: int, examples: torch.Tensor) -> torch.Tensor:
    """Return the streams (N, 3) int64 of one pass over `examples` (N,), whose numbers are in [0, 2^32)."""
    rows = torch.empty((len(examples), 3), dtype=torch.int64)
    rows[:, 0], rows[:, 1], rows[:, 2] = key, pass_, examples
    return rows


def numbered(streams: torch.Tensor, count: int) -> torch.Tensor:
    """Return the streams (`count`, 3) of examples 0, 1, ... in the pass of `streams` (1, 3)."""
    if torch.compiler.is_compiling() or type(streams) is not torch.Tensor or not streams.is_cpu:
        numbers = torch.arange(count, device=streams.device)
        return torch.cat((streams[:, :2].expand(count, 2), numbers.unsqueeze(1)), 1)
    rows = np.empty((count, 3), np.int64)  # NumPy takes a third of the time for so few numbers
    rows[:, :2], rows[:, 2] = streams.numpy()[:, :2], np.arange(count)
    return torch.from_numpy(rows)


@njit(inline="always")
def philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Return the four 32-bit words of Philox4x32-10 at a counter of four 32-bit words, all held as uint64."""
    for _ in range(10):
        a = _M0 * (c0 & _LOW)
        b = _M1 * (c2 & _LOW)
        c0 = (b >> _SHIFT) ^ c1 ^ k0
        c2 = (a >> _SHIFT) ^ c3 ^ k1
        c1 = b & _LOW
        c3 = a & _LOW
        k0 = (k0 + _W0) & _LOW
        k1 = (k1 + _W1) & _LOW
    return c0, c1, c2, c3


@njit(inline="always")
def row_counter(stream: Any, site: Any, kind: Any) -> Any:
    """Split one stream row into (example, pass, site and kind, key low, key high), the inputs of `philox`."""
    key = np.uint64(stream[0])
    tag = (np.uint64(site) << np.uint64(8)) | np.uint64(kind)
    return np.uint64(stream[2]) & _LOW, np.uint64(stream[1]) & _LOW, tag, key & _LOW, key >> _SHIFT


@scalar_kernel
def _fill_words(out: Any, rows: Any, site: int, kind: int) -> None:
    for n in range(out.shape[0]):
        c1, c2, c3, k0, k1 = row_counter(rows[n], site, kind)
        for block in range(out.shape[1] // 4):
            w0, w1, w2, w3 = philox(np.uint64(block), c1, c2, c3, k0, k1)
            out[n, 4 * block] = np.uint32(w0)
            out[n, 4 * block + 1] = np.uint32(w1)
            out[n, 4 * block + 2] = np.uint32(w2)
            out[n, 4 * block + 3] = np.uint32(w3)


def random_words(rows: torch.Tensor, count: int, site: int = 0, kind: int = 0) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Draw uniform 32-bit words, uint32 (N, count), for each of the streams `rows` (N, 3), in the generator's order."""
    out = np.empty((len(rows), -(-count // 4) * 4), np.uint32)
    _fill_words(out, rows.numpy(), site, kind)
    return out[:, :count]
