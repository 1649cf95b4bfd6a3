"""What a training run leaves behind: the weights, their facts, and a card that says how they were made."""

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from scipy.stats import binomtest
from torch import nn

from saplab.models.packaged import CLEAN, Measured, Packaged
from saplab.system.files import write_atomically
from saplab.training.checkpoint import EpochRecord
from saplab.training.recipes import Recipe

MODEL = "model"


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


@dataclass(frozen=True)
class Result:
    """A finished run, as its card tells of it.

    Args:
        recipe, seed, history: of the run.
        command: what makes it again.
        machine: its processor and number of threads, in words.
        measured: of the finished weights in float32, clean images first.
        images: what the images are that it was measured on, in words.
    """

    recipe: Recipe
    seed: int
    history: Sequence[EpochRecord]
    command: str
    machine: str
    measured: tuple[Measured, ...]
    images: str


def export(model: nn.Module, result: Result, out: Path, name: str = MODEL) -> Packaged:
    """Write ``NAME.safetensors``, ``NAME.json`` and ``NAME.md``; the same weights give the same bytes.

    Raises:
        OSError: a file could not be written.
    """
    content = save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    recipe = result.recipe
    sha256 = hashlib.sha256(content).hexdigest()
    facts = Packaged(recipe.network, sha256, recipe.name, recipe.preset, result.command, result.measured)
    beside = out / f"{name}.json"
    beside.unlink(missing_ok=True)  # at no time do facts lie beside other weights than theirs
    write_atomically(out / f"{name}.safetensors", content)
    write_atomically(out / f"{name}.md", write_card(result, name).encode())
    write_atomically(beside, facts.to_json())
    return facts


def write_card(result: Result, name: str = MODEL) -> str:
    """Describe a finished run in Markdown: what was measured, and what would make it again."""
    recipe, history = result.recipe, result.history
    seconds = sum(record.seconds for record in history)
    speed = float(np.median([record.images_per_second for record in history]))
    title = recipe.network if name == MODEL else f"{name}: {recipe.network}"
    return f"""# {title}, trained by the recipe {recipe.name}

{_accuracies(result)}

The weights are those after the last epoch; no test image decided anything.

Made by `{result.command}` with seed {result.seed}.

## Recipe

{_recipe_lines(recipe)}

## Machine

- {result.machine}
- PyTorch {torch.__version__}, NumPy {np.__version__}, Python {platform.python_version()}
- {seconds / 60:.1f} minutes for {len(history)} epochs; training at a median {speed:.0f} images a second

Another machine or number of threads rounds otherwise and ends with other weights, of like accuracy.
"""


def _accuracies(result: Result) -> str:
    """Say what was measured, a line each."""
    without = ", without the defences that it was trained with" if result.recipe.defenses else ""
    lines = [f"Accuracy in float32{without}:", ""]
    for row in result.measured:
        attack = "clean" if row.attack == CLEAN else f"under {row.attack}, λ = {row.strength:g} pixel steps"
        images = "the 1,000 images of the packaged sample" if row.data == "sample" else result.images
        lines.append(f"- {attack}, on {images}: **{Score(row.correct, row.images)}**")
    return "\n".join(lines)


def _recipe_lines(recipe: Recipe) -> str:
    return "\n".join(f"- {field.name}: {_shown(getattr(recipe, field.name))}" for field in fields(recipe))


def _shown(value: object) -> str:
    return " + ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def clean(score: Score, data: str) -> Measured:
    """Give a clean accuracy as facts hold it."""
    return Measured(CLEAN, 0.0, score.correct, score.images, data)
