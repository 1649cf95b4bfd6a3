"""What a training run leaves behind: the weights, and a card that says how they were made."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from scipy.stats import binomtest
from torch import nn

from saplab.files import write_atomically
from saplab.training.checkpoint import EpochRecord
from saplab.training.recipes import Recipe

MODEL, CARD = "model.safetensors", "card.md"


@dataclass(frozen=True)
class Score:
    """Right answers among a number of images."""

    correct: int
    images: int

    @property
    def accuracy(self) -> float:
        """Give the share of right answers, in [0, 1]."""
        return self.correct / self.images

    def interval(self) -> tuple[float, float]:
        """Give the 95 % interval of Wilson (1927), in [0, 1]."""
        bounds = binomtest(self.correct, self.images).proportion_ci(0.95, method="wilson")
        return float(bounds.low), float(bounds.high)

    def __str__(self) -> str:
        low, high = self.interval()
        return (
            f"{100 * self.accuracy:.2f} % ({self.correct:,} of {self.images:,} right; "
            f"95 % Wilson interval {100 * low:.2f}–{100 * high:.2f} %)"
        )


def export(model: nn.Module, card: str, out: Path) -> None:
    """Write ``model.safetensors`` and ``card.md``; the same weights give the same bytes.

    Raises:
        OSError: a file could not be written.
    """
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(out / MODEL, save(state))
    write_atomically(out / CARD, card.encode())


def write_card(
    recipe: Recipe, seed: int, score: Score, history: Sequence[EpochRecord], command: str, machine: str
) -> str:
    """Describe a finished run in Markdown: what was measured, and what would make it again.

    Args:
        recipe, seed, history: of the run.
        score: of the finished weights on the test images, in float32.
        command: what made it.
        machine: its processor and number of threads, in words.
    """
    seconds = sum(record.seconds for record in history)
    speed = float(np.median([record.images_per_second for record in history]))
    recipe_lines = "\n".join(f"- {field.name}: {getattr(recipe, field.name)}" for field in fields(recipe))
    return f"""# {recipe.network}, trained by the recipe {recipe.name}

Accuracy on CIFAR-10's test images that every copy of the set holds bit by bit, in float32: **{score}**.
The weights are those after the last epoch; no test image decided anything.

Made by `{command}` with seed {seed}.

## Recipe

{recipe_lines}

## Machine

- {machine}
- PyTorch {torch.__version__}, NumPy {np.__version__}, Python {platform.python_version()}
- {seconds / 60:.1f} minutes for {len(history)} epochs; training at a median {speed:.0f} images a second

Another machine or number of threads rounds otherwise and ends with other weights, of like accuracy.
"""
