"""Let torchvision be imported where its wheel does not fit PyTorch's.

The wheel on PyPI is built against PyTorch with CUDA. Beside a CPU-only PyTorch its library of C++ operators cannot be
loaded, and `import torchvision` fails as it looks up the schemas of two of them. Networks for classification use none
of these operators, so that tests and benchmarks may declare the schemas alone.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch

_SCHEMAS: Final = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[torch.library.Library] = []  # a library's declarations end with it


def declare_torchvision_operators() -> None:
    """Declare what `import torchvision` needs, unless torchvision is absent or its own library can be loaded."""
    spec = find_spec("torchvision")
    if _declared or spec is None or spec.origin is None or _loads(Path(spec.origin).parent):
        return
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS.values():
        library.define(schema)
    _declared.append(library)


def _loads(folder: Path) -> bool:
    try:
        for file in (*folder.glob("_C*.so"), *folder.glob("_C*.pyd")):
            torch.ops.load_library(str(file))
            return True
    except OSError:
        return False
    return False
