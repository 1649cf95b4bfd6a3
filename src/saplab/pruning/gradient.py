"""The mask's gradient grad * m on the CPU, in one pass over memory."""

from typing import Any

import numpy as np

from saplab.rng.simd import full_width, narrow, select, vector_kernel, widen

_F0 = np.float32(0.0)


@vector_kernel
def scale_gradient(grad: Any, x: Any, out: Any, result: Any) -> None:
    """Write grad * m, all (n,) float32 of a pruned map, m = out / x where kept and 0 elsewhere."""
    full_width()
    for i in range(x.shape[0]):
        result[i] = select(out[i] != _F0, grad[i] * (out[i] / x[i]), _F0)


@vector_kernel
def scale_bfloat16_gradient(grad: Any, x: Any, out: Any, result: Any) -> None:
    """Write what `scale_gradient` does, of bfloat16 numbers as bits (uint16)."""
    full_width()
    for i in range(x.shape[0]):
        kept = widen(out[i])
        result[i] = narrow(select(kept != _F0, widen(grad[i]) * (kept / widen(x[i])), _F0))


@vector_kernel
def scale_gradient_by_channel(grad: Any, x: Any, out: Any, result: Any, scale: Any) -> None:
    """Write grad * m * scale, all (N, H·W, C) float32 of pruned maps, scale (C,)."""
    full_width()
    for n in range(x.shape[0]):
        for i in range(x.shape[1]):
            for k in range(x.shape[2]):
                m = select(out[n, i, k] != _F0, out[n, i, k] / x[n, i, k], _F0)
                result[n, i, k] = grad[n, i, k] * m * scale[k]


@vector_kernel
def scale_bfloat16_gradient_by_channel(grad: Any, x: Any, out: Any, result: Any, scale: Any) -> None:
    """Write what `scale_gradient_by_channel` does, of bfloat16 numbers as bits (uint16)."""
    full_width()
    for n in range(x.shape[0]):
        for i in range(x.shape[1]):
            for k in range(x.shape[2]):
                kept = widen(out[n, i, k])
                m = select(kept != _F0, kept / widen(x[n, i, k]), _F0)
                result[n, i, k] = narrow(widen(grad[n, i, k]) * m * scale[k])


@vector_kernel
def pass_gradient_by_channel(grad: Any, x: Any, result: Any, scale: Any) -> None:
    """Write grad * scale where x > 0, else 0, all (N, H·W, C) float32, scale (C,)."""
    full_width()
    for n in range(x.shape[0]):
        for i in range(x.shape[1]):
            for k in range(x.shape[2]):
                result[n, i, k] = select(x[n, i, k] > _F0, grad[n, i, k] * scale[k], _F0)


@vector_kernel
def pass_bfloat16_gradient_by_channel(grad: Any, x: Any, result: Any, scale: Any) -> None:
    """Write what `pass_gradient_by_channel` does, of bfloat16 numbers as bits (uint16)."""
    full_width()
    for n in range(x.shape[0]):
        for i in range(x.shape[1]):
            for k in range(x.shape[2]):
                result[n, i, k] = narrow(select(widen(x[n, i, k]) > _F0, widen(grad[n, i, k]) * scale[k], _F0))
