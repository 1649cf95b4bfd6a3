"""Networks by name."""

from collections.abc import Callable

from torch import nn

from saplab.models.preact_resnet import preact_resnet20
from saplab.models.resnet import resnet20

ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {"preact-resnet20": preact_resnet20, "resnet20": resnet20}
