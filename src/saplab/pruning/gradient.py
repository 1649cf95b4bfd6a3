"""The mask's gradient grad * m on the CPU, in one pass over memory, of float32 or of bfloat16 as bits (uint16)."""

from typing import Any

import numpy as np

from saplab.rng.compiled import vector_kernel
from saplab.rng.simd import full_width, read, select, write

_F0 = np.float32(0.0)


@vector_kernel
def scale_gradient(grad: Any, x: Any, out: Any, result: Any) -> None:
    """Write grad * m, all (n,) of a pruned map, m = out / x where kept and 0 elsewhere."""
    full_width()
    for i in range(x.shape[0]):
        kept = read(out[i])
        result[i] = write(select(kept != _F0, read(grad[i]) * (kept / read(x[i])), _F0), result[i])


@vector_kernel
def scale_gradient_by_channel(grad: Any, x: Any, out: Any, result: Any, scale: Any) -> None:
    """Write grad * m * scale, all (N, H·W, C) of pruned maps, scale (C,) float32."""
    full_width()
    for n in range(x.shape[0]):
        for i in range(x.shape[1]):
            for k in range(x.shape[2]):
                kept = read(out[n, i, k])
                m = select(kept != _F0, kept / read(x[n, i, k]), _F0)
                result[n, i, k] = write(read(grad[n, i, k]) * m * scale[k], result[n, i, k])


@vector_kernel
def pass_gradient_by_channel(grad: Any, x: Any, result: Any, scale: Any) -> None:
    """Write grad * scale where x > 0, else 0, all (N, H·W, C), scale (C,) float32."""
    full_width()
    for n in range(x.shape[0]):
        for i in range(x.shape[1]):
            for k in range(x.shape[2]):
                passed = select(read(x[n, i, k]) > _F0, read(grad[n, i, k]) * scale[k], _F0)
                result[n, i, k] = write(passed, result[n, i, k])
