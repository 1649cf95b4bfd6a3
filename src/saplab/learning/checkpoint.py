"""The folder of a training run: one checkpoint file, replaced whole or not at all, and the history as lines of JSON.

``checkpoint.safetensors`` holds the tensors, and in its header the run's request, its records and a checksum of all of
these; ``history.jsonl`` repeats the records.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Generic

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from saplab.learning.progress import Record
from saplab.system.digest import tensors_digest
from saplab.system.files import remove_leftovers
from saplab.system.folder import inside, require_plain, write_inside

CHECKPOINT: Final = "checkpoint.safetensors"
HISTORY: Final = "history.jsonl"
_CHECKSUM: Final = "sha256"


class Diverged(ValueError):
    """The loss or the weights are no longer finite numbers."""


@dataclass(frozen=True)
class RunFolder(Generic[Record]):
    """The folder of one training run.

    Attributes:
        request: everything that decides the run, in JSON's own types.
        record: class of the history's records.
        writes: whether this process writes the files; of several processes that share a run, one does.
    """

    path: Path
    request: Mapping[str, Any]
    record: type[Record]
    writes: bool = True

    def open(self) -> tuple[dict[str, Tensor], list[Record]]:
        """Create the folder if needed, and return the tensors and the history of its checkpoint, if there is one.

        Raises ValueError, and overwrites nothing, if the checkpoint is damaged or missing beside a history, or belongs
        to another request; the message then says what differs. Raises `NotPlainError` for links in the folder.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        require_plain(self.path)
        if self.writes:
            remove_leftovers(self.path)
        if not inside(self.path, CHECKPOINT).exists():
            if inside(self.path, HISTORY).exists():
                raise ValueError(f"{self.path} holds a training history without a checkpoint; choose another folder")
            return {}, []
        tensors, history = self._read(self.path / CHECKPOINT)
        if self.writes:
            self._write_history(history)
        return tensors, history

    def save(self, tensors: Mapping[str, Tensor], history: Sequence[Record]) -> None:
        """Write the checkpoint, then the history; after an OSError the previous checkpoint is intact."""
        if not self.writes:
            return
        own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        records = json.dumps([asdict(record) for record in history])
        header = {"request": json.dumps(self.request, sort_keys=True), "history": records}
        content = save(own, {**header, _CHECKSUM: _checksum(own, header)})
        write_inside(self.path, CHECKPOINT, content)
        self._write_history(history)

    def _write_history(self, history: Sequence[Record]) -> None:
        lines = (json.dumps(asdict(record)) + "\n" for record in history)
        write_inside(self.path, HISTORY, "".join(lines).encode())

    def _read(self, path: Path) -> tuple[dict[str, Tensor], list[Record]]:
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            _require_intact(tensors, header)
            difference = self._difference(json.loads(header["request"]))
            stored = [] if difference else json.loads(header["history"])
            history = [msgspec.convert(record, self.record) for record in stored]
        except KeyError:
            raise ValueError(f"{path} is no checkpoint of a training run") from None
        except (SafetensorError, ValueError) as error:
            kept = "the file is left as it is; start again in another folder"
            raise ValueError(f"{path} is no readable checkpoint: {error}; {kept}") from None
        if difference:
            raise ValueError(
                f"{path} belongs to another run: {difference}; nothing was overwritten, choose another folder"
            )
        return tensors, history

    def _difference(self, stored: Mapping[str, Any]) -> str:
        asked = json.loads(json.dumps(self.request))
        differing = sorted(key for key in stored.keys() | asked.keys() if stored.get(key) != asked.get(key))
        return "".join(f"its {key} is {stored.get(key)}, asked for {asked.get(key)}" for key in differing[:1])


def _checksum(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    return tensors_digest(tensors, header["request"], header["history"])


def _require_intact(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Refuse a checkpoint that is not what was saved; the earliest versions saved no checksum."""
    if header.keys() == {"request", "history"}:
        return
    found = _checksum(tensors, header)
    if found != header[_CHECKSUM]:
        raise ValueError(f"it is damaged: SHA-256 must be {header[_CHECKSUM]}, got {found}")
