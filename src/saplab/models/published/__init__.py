"""Published stochastic defences that are trained: a file a paper, each the paper's idea on this package's ResNet-20.

These networks draw from PyTorch's global generators in every forward pass, in evaluation mode too, as their authors'
code does. What differs from a paper is in the docstring of its file, and in docs/deviations.md.
"""

from collections.abc import Callable
from typing import Final

from torch import nn

from saplab.models.published.lwta import lwta_resnet20
from saplab.models.published.pni import pni_resnet20
from saplab.models.published.rna import rna_resnet20
from saplab.models.published.rpf import rpf_resnet20
from saplab.models.published.rse import rse_resnet20
from saplab.models.published.wca import wca_resnet20

ARCHITECTURES: Final[dict[str, Callable[..., nn.Module]]] = {
    "lwta-resnet20": lwta_resnet20,
    "pni-resnet20": pni_resnet20,
    "rna-resnet20": rna_resnet20,
    "rpf-resnet20": rpf_resnet20,
    "rse-resnet20": rse_resnet20,
    "wca-resnet20": wca_resnet20,
}
