"""Let torchvision be imported beside a CPU-only PyTorch.

The wheel on PyPI is built against PyTorch with CUDA. Without CUDA its library of C++ operators cannot be loaded, and
`import torchvision` fails when it looks up the schemas of two of them. Networks for classification use none of these
operators, so tests and benchmarks may declare just the schemas.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch

_SCHEMAS: Final = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[torch.library.Library] = []  # declarations end with their library object


def declare_torchvision_operators() -> None:
    """Declare what `import torchvision` needs, unless torchvision is missing or its own library can be loaded."""
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
