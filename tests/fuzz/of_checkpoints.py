"""Checkpoints of trainings: damaged ones are never gone on with."""

import random
from dataclasses import dataclass
from pathlib import Path

import torch

from fuzz.cases import Case, call, generator
from saplab.learning.checkpoint import CHECKPOINT, HISTORY, RunFolder


@dataclass(frozen=True)
class _Record:
    step: int
    loss: float | None


@generator
def damaged_checkpoints(draw: random.Random, folder: Path) -> Case:
    """Changed, missing or additional bytes: refused, and the folder is as it was."""
    run = RunFolder(folder / "run", {"seed": draw.randrange(9)}, _Record)
    run.open()
    tensors = {
        f"t{k}": torch.rand(draw.randrange(1, 50)).to(draw.choice((torch.float32, torch.float16))) for k in range(3)
    }
    run.save(tensors, [_Record(k, draw.choice((None, 0.5))) for k in range(draw.randrange(1, 4))])
    file = run.path / CHECKPOINT
    content = bytearray(file.read_bytes())
    kind = draw.randrange(3)
    for at in draw.sample(range(len(content)), draw.choice((1, 1, 4))) if kind == 0 else ():
        content[at] ^= 1 << draw.randrange(8)
    file.write_bytes(content[: draw.randrange(len(content))] if kind == 1 else content + b"x" * (kind == 2))
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}

    def go_on() -> None:
        try:
            run.open()
        finally:
            assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before
            assert HISTORY in before

    return call(f"kind {kind}", go_on, {2})
