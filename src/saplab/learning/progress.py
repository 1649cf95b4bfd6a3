"""What a training run reports while it runs, and TensorBoard as one of its readers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")  # a frozen dataclass whose first field counts epochs or steps


class Progress(Generic[Record]):
    """Gets the reports of a training run, and ignores them; derive a class from it for the ones to act on."""

    def on_start(self, history: Sequence[Record], done: int, total: int) -> None:
        """Begin: a checkpoint holds these records, and `done` of `total` steps."""

    def on_step(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take note of a step, counted from 1 over the whole run, and of what is known at it, by name."""

    def on_record(self, record: Record) -> None:
        """Take note of a record; its checkpoint is on the disk."""


class TensorBoard(Progress[Record]):
    """Writes every record into a folder for TensorBoard, and passes all reports on to another reader.

    Records that a resumed run repeats replace those written before. Raises ValueError if TensorBoard is not installed.
    """

    def __init__(self, folder: Path, other: Progress[Record]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("`tensorboard` needs the package of that name: pip install tensorboard") from None
        self._open: Any = SummaryWriter
        self._writer: Any = None
        self._folder, self._other = folder, other

    def on_start(self, history: Sequence[Record], done: int, total: int) -> None:
        """Open the files, and drop what they hold from beyond the checkpoint."""
        position = next(iter(vars(history[-1]).values())) + 1 if history else 0
        self._writer = self._open(str(self._folder), purge_step=position)
        self._other.on_start(history, done, total)

    def on_step(self, step: int, numbers: Mapping[str, float]) -> None:
        """Pass the report on."""
        self._other.on_step(step, numbers)

    def on_record(self, record: Record) -> None:
        """Write the record's numbers at its position, of several numbers the mean."""
        (_, position), *numbers = vars(record).items()
        for name, value in numbers:
            if value is not None and value != ():
                self._writer.add_scalar(name, _mean(value), position)
        self._writer.flush()
        self._other.on_record(record)


def _mean(value: Any) -> float:
    return sum(value) / len(value) if isinstance(value, tuple) else value
