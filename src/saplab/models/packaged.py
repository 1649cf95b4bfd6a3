"""The networks inside the package: a network is three files of one name in ``weights``, and nothing else.

``NAME.safetensors`` holds the weights, ``NAME.md`` the card, and ``NAME.json`` what a program reads: the architecture,
the SHA-256 of the weights' file, the command that makes it again, and how many images it got right.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

CLEAN = "none"


@dataclass(frozen=True)
class Measured:
    """Right answers among a number of images, under an attack.

    Args:
        attack: its name; ``none`` for clean images.
        strength: λ in pixel steps.
        correct, images: counts.
        data: ``test``, the test images (of CIFAR-10, those that every copy of the set holds bit by bit); ``sample``,
            the 1,000 of them in the package; or ``held out``, of the training images.
    """

    attack: str
    strength: float
    correct: int
    images: int
    data: str


@dataclass(frozen=True)
class Packaged:
    """A network's file of facts.

    Args:
        architecture: by name.
        sha256: of the file of weights, in hexadecimal.
        recipe, preset: that it was trained by.
        command: that makes it again.
        measured: of the weights as they stand, without any defence.
    """

    architecture: str
    sha256: str
    recipe: str = ""
    preset: str = ""
    command: str = ""
    measured: tuple[Measured, ...] = ()

    def to_json(self) -> bytes:
        """Give the file's content."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()

    @classmethod
    def from_json(cls, text: str) -> "Packaged":
        """Read a file's content.

        Raises:
            ValueError: it is no such file.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            measured = tuple(Measured(**row) for row in values.pop("measured", ()))
            return cls(measured=measured, **values)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"not a network's file of facts: {error}") from None


def read_packaged(folder: Traversable | Path | None = None) -> dict[str, Packaged]:
    """Read the facts of all networks in a folder, the package's own by default, in the order of their names."""
    folder = folder or resources.files("saplab.models").joinpath("weights")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".json")), key=lambda file: file.name)
    return {file.name.removesuffix(".json"): Packaged.from_json(file.read_text(encoding="utf-8")) for file in files}


def packaged_bytes(name: str, facts: Mapping[str, Packaged]) -> bytes:
    """Read a packaged network's file of weights.

    Raises:
        ValueError: it is not the file that the facts were written about.
    """
    content = resources.files("saplab.models").joinpath("weights", f"{name}.safetensors").read_bytes()
    require_checksum(content, facts[name].sha256, f"the packaged weights of {name} are damaged")
    return content


def require_checksum(content: bytes, sha256: str, what: str) -> None:
    """Refuse bytes that are not the expected ones.

    Raises:
        ValueError: their SHA-256 is another; the message begins with `what`.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(f"{what}: SHA-256 must be {sha256}, got {found}")
