"""Matrices turned over in the cache, by vector registers."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from saplab.rng.compiled import vector_kernel
from saplab.rng.simd import full_width, fused, read, write

NO_FLOOR: Final = np.float32(-np.inf)
TILE: Final = 16  # a cache line of float32
_INT32: Final = ir.IntType(32)
_NEAREST, _DATA = 3, 1  # of LLVM's prefetch: into all caches, and not instructions


@vector_kernel
def transpose(x: Any, out: Any, floor: Any) -> None:
    """Write max(x, floor) of the matrix `x` (R, C) to `out` (C, R), each of float32 or of bfloat16 bits (uint16).

    Both are contiguous; NaN stays.
    """
    full_width()
    rows, columns = x.shape[0] // TILE * TILE, x.shape[1] // TILE * TILE
    for i in range(0, rows, TILE):
        for k in range(0, columns, TILE):
            _turn_tile(x, i, k, out, floor)
    for i in range(x.shape[0]):  # what is beyond the last whole tile
        for k in range(columns if i < rows else 0, x.shape[1]):
            value = read(x[i, k])
            out[k, i] = write(floor if value < floor else value, out[k, i])


@vector_kernel
def add_turned(noise: Any, x: Any, out: Any, row: Any, column: Any, floor: Any, factor: Any, mean: Any) -> None:
    """Write max(x, floor) + (factor·noise + mean) to `out`, the matrix `noise` (R, C) turned over.

    `x` and `out` are of float32 or of bfloat16 bits (uint16), and contiguous; noise[0, 0] meets x[row, column]. NaN
    stays.
    """
    full_width()
    rows, columns = noise.shape[0] // TILE * TILE, noise.shape[1] // TILE * TILE
    for i in range(0, rows, TILE):
        for k in range(0, columns, TILE):
            _add_tile(noise, i, k, x, out, row + k, column + i, floor, factor, mean)
    for i in range(noise.shape[0]):  # what is beyond the last whole tile
        for k in range(columns if i < rows else 0, noise.shape[1]):
            value, term = read(x[row + k, column + i]), fused(noise[i, k], factor, mean)
            out[row + k, column + i] = write((floor if value < floor else value) + term, x[row + k, column + i])


@vector_kernel
def multiply_turned(noise: Any, x: Any, out: Any, row: Any, column: Any, floor: Any, factor: Any, mean: Any) -> None:
    """Write max(x, floor) · (factor·noise + mean); otherwise as `add_turned`."""
    full_width()
    rows, columns = noise.shape[0] // TILE * TILE, noise.shape[1] // TILE * TILE
    for i in range(0, rows, TILE):
        for k in range(0, columns, TILE):
            _multiply_tile(noise, i, k, x, out, row + k, column + i, floor, factor, mean)
    for i in range(noise.shape[0]):
        for k in range(columns if i < rows else 0, noise.shape[1]):
            value, term = read(x[row + k, column + i]), fused(noise[i, k], factor, mean)
            out[row + k, column + i] = write((floor if value < floor else value) * term, x[row + k, column + i])


@intrinsic
def _turn_tile(typing_context: Any, x: Any, i: Any, k: Any, out: Any, floor: Any) -> Any:
    """Write max(x, floor) of the tile that begins at x[i, k] to out[k, i]."""
    if x.layout != "C" or out.layout != "C":
        raise TypeError("only contiguous matrices can be turned over")

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        matrices = (signature.args[0], args[0]), (signature.args[3], args[3])
        source, target = (_Matrix(builder, kind.dtype, context.make_array(kind)(context, builder, value))
                          for kind, value in matrices)  # fmt: skip
        width = _width(context)
        lowest = _repeated(builder, args[4], width)
        for row, column in _squares(builder, args[1], args[2], width):
            lifted = _lifted(builder, source.load(row, column, width), lowest)
            target.store(column, row, _turned(builder, lifted))
        return context.get_dummy_value()

    return types.none(x, types.intp, types.intp, out, types.float32), codegen


def _prefetch(writing: int) -> Any:
    """Return an intrinsic that asks for the cache line of an entry of a matrix, to read it or to write it."""

    @intrinsic
    def prefetch(typing_context: Any, x: Any, row: Any, column: Any) -> Any:
        if x.layout != "C":
            raise TypeError("only lines of contiguous matrices are asked for")

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            array = context.make_array(signature.args[0])(context, builder, args[0])
            (entry,) = _Matrix(builder, signature.args[0].dtype, array).places(args[1], args[2], 1)
            place = builder.bitcast(entry, ir.IntType(8).as_pointer())
            kind = ir.FunctionType(ir.VoidType(), [place.type, _INT32, _INT32, _INT32])
            function = builder.module.declare_intrinsic("llvm.prefetch", (place.type,), kind)
            builder.call(function, [place, _INT32(writing), _INT32(_NEAREST), _INT32(_DATA)])
            return context.get_dummy_value()

        return types.none(x, types.intp, types.intp), codegen

    return prefetch


_ask_to_read: Final = _prefetch(0)
_ask_to_write: Final = _prefetch(1)


@njit(inline="always")
def ask_to_read(x: Any, first: Any, last: Any) -> None:
    """Let the cache lines of x[:, first:last] come from memory."""
    for row in range(x.shape[0]):
        for k in range(first, last, TILE):
            _ask_to_read(x, row, k)


@njit(inline="always")
def ask_to_read_and_write(x: Any, out: Any, first: Any, last: Any, column: Any, columns: Any) -> None:
    """Let the cache lines of x[first:last, column : column + columns], and of as much of `out`, come from memory."""
    for row in range(first, last):
        for k in range(column, column + columns, TILE):
            _ask_to_read(x, row, k)
            _ask_to_write(out, row, k)


def _combine_tile(operation: str) -> Any:
    """Return an intrinsic for one tile of `add_turned` or `multiply_turned`, which begins at noise[i, k]."""

    @intrinsic
    def combine(
        typing_context: Any, noise: Any, i: Any, k: Any, x: Any, out: Any, row: Any, column: Any,
        floor: Any, factor: Any, mean: Any,
    ) -> Any:  # fmt: skip
        if {noise.layout, x.layout, out.layout} != {"C"}:
            raise TypeError("only contiguous matrices can be turned over")

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            terms, source, target = (
                _Matrix(builder, kind.dtype, context.make_array(kind)(context, builder, value))
                for kind, value in ((signature.args[n], args[n]) for n in (0, 3, 4))
            )
            width, join = _width(context), getattr(builder, operation)
            lowest, times, plus = (_repeated(builder, value, width) for value in args[7:])
            squares = zip(_squares(builder, *args[1:3], width), _squares(builder, *args[6:4:-1], width), strict=True)
            for (i, k), (there, down) in squares:
                lifted = _lifted(builder, source.load(down, there, width), lowest)
                turned = (_fused(builder, z, times, plus) for z in _turned(builder, terms.load(i, k, width)))
                target.store(down, there, [join(*pair) for pair in zip(lifted, turned, strict=True)])
            return context.get_dummy_value()

        index, number = types.intp, types.float32
        return types.none(noise, index, index, x, out, index, index, number, number, number), codegen

    return combine


_add_tile: Final = _combine_tile("fadd")
_multiply_tile: Final = _combine_tile("fmul")


def _width(context: Any) -> int:
    """Return how many numbers a register holds."""
    return 16 if "+avx512f" in context.codegen().magic_tuple()[2] else 8


def _squares(builder: Any, i: Any, k: Any, width: int) -> Iterator[tuple[Any, Any]]:
    """Yield row and column of the squares that a tile at [i, k] consists of, each as wide as a register."""
    for across in range(0, TILE, width):
        for down in range(0, TILE, width):
            yield builder.add(i, i.type(down)), builder.add(k, k.type(across))


def _lifted(builder: Any, lanes: list[Any], lowest: Any) -> list[Any]:
    """Return the larger of each number and the lowest; NaN stays."""
    below = [builder.fcmp_ordered("<", lane, lowest) for lane in lanes]
    return [builder.select(is_low, lowest, lane) for is_low, lane in zip(below, lanes, strict=True)]


class _Matrix:
    """A contiguous matrix in generated code, of float32 or of bfloat16 bits, as rows of float32 vectors."""

    def __init__(self, builder: Any, dtype: Any, array: Any) -> None:
        self._builder, self._half, self._data = builder, dtype == types.uint16, array.data
        self._columns = builder.extract_value(array.shape, 1)

    def load(self, row: Any, column: Any, width: int) -> list[Any]:
        """Read `width` rows of as many numbers."""
        return [self._load(place, width) for place in self.places(row, column, width)]

    def store(self, row: Any, column: Any, lanes: list[Any]) -> None:
        """Write as many rows as there are lanes."""
        for place, lane in zip(self.places(row, column, len(lanes)), lanes, strict=True):
            self._store(place, lane)

    def places(self, row: Any, column: Any, count: int) -> list[Any]:
        """Return where an entry lies in memory, and those below it."""
        at, places = self._builder.add(self._builder.mul(row, self._columns), column), []
        for _ in range(count):
            places.append(self._builder.gep(self._data, [at]))
            at = self._builder.add(at, self._columns)
        return places

    def _load(self, place: Any, width: int) -> Any:
        build, floats, bits, halves = self._builder, *_vectors(width)
        if not self._half:
            return build.load(build.bitcast(place, floats.as_pointer()), align=4, typ=floats)
        wide = build.zext(build.load(build.bitcast(place, halves.as_pointer()), align=2, typ=halves), bits)
        return build.bitcast(build.shl(wide, _constants(16, width)), floats)

    def _store(self, place: Any, lane: Any) -> None:
        build, width = self._builder, lane.type.count
        floats, bits, halves = _vectors(width)
        if not self._half:
            build.store(lane, build.bitcast(place, floats.as_pointer()), align=4)
            return
        wide, shift = build.bitcast(lane, bits), _constants(16, width)  # to the nearest, ties to even, as `narrow` does
        odd = build.and_(build.lshr(wide, shift), _constants(1, width))
        nearest = build.lshr(build.add(wide, build.add(odd, _constants(0x7FFF, width))), shift)
        build.store(build.trunc(nearest, halves), build.bitcast(place, halves.as_pointer()), align=2)


def _turned(builder: Any, lanes: list[Any]) -> list[Any]:
    """Turn a square of vectors over: each round interleaves those of its first half with those of its second."""
    width = len(lanes)
    low, high = ([n // 2 + (n % 2) * width for n in range(first, first + width)] for first in (0, width))
    for _ in range(width.bit_length() - 1):
        pairs = zip(lanes[: width // 2], lanes[width // 2 :], strict=True)
        lanes = [builder.shuffle_vector(*pair, _indices(mask)) for pair in pairs for mask in (low, high)]
    return lanes


def _fused(builder: Any, x: Any, factor: Any, term: Any) -> Any:
    name = f"llvm.fma.v{x.type.count}f32"
    return builder.call(
        builder.module.declare_intrinsic(name, (), ir.FunctionType(x.type, [x.type] * 3)), [x, factor, term]
    )


def _repeated(builder: Any, value: Any, width: int) -> Any:
    floats = _vectors(width)[0]
    first = builder.insert_element(ir.Constant(floats, ir.Undefined), value, _INT32(0))
    return builder.shuffle_vector(first, ir.Constant(floats, ir.Undefined), _indices([0] * width))


def _vectors(width: int) -> tuple[Any, Any, Any]:
    return ir.VectorType(ir.FloatType(), width), ir.VectorType(_INT32, width), ir.VectorType(ir.IntType(16), width)


def _indices(values: list[int]) -> Any:
    return ir.Constant(ir.VectorType(_INT32, len(values)), [_INT32(value) for value in values])


def _constants(value: int, width: int) -> Any:
    return _indices([value] * width)
