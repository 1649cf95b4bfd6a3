"""The networks inside the package: each is three files of one name in the folder ``weights``.

``NAME.safetensors`` holds the weights, ``NAME.md`` the card, and ``NAME.json`` the facts, a `Packaged`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import msgspec

CLEAN = "none"


@dataclass(frozen=True)
class Measured:
    """How many images a network classifies correctly under an attack.

    `data` is ``test``, the test images (of CIFAR-10, those that every copy of the set holds bit by bit); ``sample``,
    the 1,000 of them in the package; or ``held out``, some of the training images.
    """

    attack: str  # its name; ``none`` for clean images
    strength: float  # λ in pixel steps
    correct: int
    images: int
    data: str


@dataclass(frozen=True)
class Packaged:
    """The facts about a network's weights."""

    architecture: str
    sha256: str  # of the file of weights, in hexadecimal
    recipe: str = ""
    preset: str = ""
    command: str = ""  # that trains it again
    measured: tuple[Measured, ...] = ()  # of the network without any defence
    classes: tuple[str, ...] = ()  # names in the order of the outputs; empty where they are not known

    def to_json(self) -> bytes:
        """Return the content of the file of facts."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> "Packaged":
        """Read the content of a file of facts; a ValueError if it is something else."""
        try:
            return msgspec.json.decode(content, type=cls)
        except msgspec.DecodeError as error:
            raise ValueError(f"not a network's file of facts: {error}") from None


def read_packaged(folder: Traversable | Path | None = None) -> dict[str, Packaged]:
    """Read the facts of all networks in a folder, by default the package's own, in the order of their names."""
    folder = folder or resources.files("saplab.models").joinpath("weights")
    files = {file.name: file for file in folder.iterdir() if file.name.endswith(".json")}
    return {name.removesuffix(".json"): Packaged.from_json(files[name].read_bytes()) for name in sorted(files)}


def packaged_bytes(name: str, facts: Mapping[str, Packaged]) -> bytes:
    """Read a packaged network's file of weights, and compare its checksum with the facts."""
    content = resources.files("saplab.models").joinpath("weights", f"{name}.safetensors").read_bytes()
    require_checksum(content, facts[name].sha256, f"the packaged weights of {name} are damaged")
    return content


def require_checksum(content: bytes, sha256: str, what: str) -> None:
    """Refuse bytes with another SHA-256; the message begins with `what`."""
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(f"{what}: SHA-256 must be {sha256}, got {found}")
