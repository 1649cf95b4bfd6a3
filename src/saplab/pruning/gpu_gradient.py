"""The mask's gradient grad * m on a GPU, in one pass over memory; a Triton kernel."""

import triton
import triton.language as tl


@triton.jit
def scale_gradient(grad, h, out, result, size, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Write grad * m, all (size,) of a pruned map, m = out / h where kept and 0 elsewhere; in float64 where WIDE."""
    kind = tl.float64 if WIDE else tl.float32
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    kept = tl.load(out + place, mask=inside, other=0.0).to(kind)
    m = kept / tl.load(h + place, mask=inside, other=1.0).to(kind)
    value = tl.where(kept != 0.0, tl.load(grad + place, mask=inside, other=0.0).to(kind) * m, 0.0)
    tl.store(result + place, value.to(result.dtype.element_ty), mask=inside)
