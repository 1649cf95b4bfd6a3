"""Numba loops as vector code: intrinsics, and random words a block at a time."""

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

from saplab.rng.compiled import vector_kernel
from saplab.rng.streams import philox

BLOCK: Final = 128  # words that one run of LANES counters gives
LANES: Final = BLOCK // 4
PIECE: Final = 8 * BLOCK  # elements of one vector loop: long enough to pay for its sums, short enough for the cache


@intrinsic
def float_from_bits(typing_context: Any, bits: Any) -> Any:
    """Read an int32's bits as a float32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic
def select(typing_context: Any, condition: Any, yes: Any, no: Any) -> Any:
    """Choose without a branch; Python's conditional expression becomes one, and keeps a loop from vectorising."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(*args)

    return types.float32(types.boolean, types.float32, types.float32), codegen


@njit(inline="always")
def whole_blocks(size: Any) -> Any:
    """Return the length of the blocks of words that `size` elements need."""
    return (size + BLOCK - 1) // BLOCK * BLOCK


@intrinsic
def fused(typing_context: Any, x: Any, factor: Any, term: Any) -> Any:
    """Compute factor·x + term, rounded once."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return types.float32(types.float32, types.float32, types.float32), codegen


@intrinsic
def full_width(typing_context: Any) -> Any:
    """Let LLVM use 512-bit vectors in this function where the CPU has them; by default it stops at 256."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.none(), codegen


@intrinsic
def bits_of_float(typing_context: Any, value: Any) -> Any:
    """Read a float32's bits as an int32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), codegen


@vector_kernel
def fill_words(bits: Any, block: Any, step: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> None:
    """Write the words of blocks `block`, `block` + `step`, ..., as many as `bits` has room for.

    A block holds those of LANES counters, first words first, so that the loop vectorises. Several at once take less
    time: the keys of the ten rounds are then computed once.
    """
    full_width()
    for lo in range(0, bits.shape[0], BLOCK):
        first, part = (block + lo // BLOCK * step) * LANES, bits[lo : lo + BLOCK]
        for i in range(LANES):
            w0, w1, w2, w3 = philox(np.uint64(first + i), c1, c2, c3, k0, k1)
            part[i] = np.uint32(w0)
            part[LANES + i] = np.uint32(w1)
            part[2 * LANES + i] = np.uint32(w2)
            part[3 * LANES + i] = np.uint32(w3)


@njit(inline="always")
def widen(bits: Any) -> Any:
    """Read the bits of a bfloat16 as float32."""
    return float_from_bits(np.int32(np.uint32(bits) << np.uint32(16)))


@njit(inline="always")
def narrow(x: Any) -> Any:
    """Return the bits of the bfloat16 nearest to a float32, ties to even; not for NaN."""
    bits = np.uint32(bits_of_float(x))
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


def read(x: Any) -> Any:
    """Return a number, or the bits (uint16) of a bfloat16 one, as float32."""


def write(value: Any, like: Any) -> Any:
    """Return a float32 in the type of the number `like`: itself, or the bits of the nearest bfloat16."""


@overload(read, inline="always", strict=False)  # as lambdas have no annotations
def _read(x: Any) -> Any:
    return (lambda x: widen(x)) if x == types.uint16 else (lambda x: x)


@overload(write, inline="always", strict=False)
def _write(value: Any, like: Any) -> Any:
    return (lambda value, like: narrow(value)) if like == types.uint16 else (lambda value, like: value)


@vector_kernel
def convert_row(x: Any, out: Any) -> None:
    """Copy a row of float32, or of bfloat16 bits (uint16), to one of the other type."""
    full_width()
    for i in range(x.shape[0]):
        out[i] = write(read(x[i]), out[i])
