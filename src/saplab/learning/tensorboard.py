"""Numbers of a training run for TensorBoard, which is optional."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Scalars:
    """TensorBoard's files of one run.

    Args:
        folder: for the files.

    Raises:
        ValueError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("`tensorboard` needs the package of that name: pip install tensorboard") from None
        self._open: Any = SummaryWriter
        self._folder = folder
        self._writer: Any = None

    def begin(self, step: int) -> None:
        """Begin at a step: those from it on that an interrupted run wrote before are replaced."""
        self._writer = self._open(str(self._folder), purge_step=step)

    def write(self, step: int, numbers: Mapping[str, float | None]) -> None:
        """Write the numbers of a step by name, but for those that are None."""
        for name, value in numbers.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)
        self._writer.flush()
