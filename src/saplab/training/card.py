"""What a training run leaves behind: the weights, their facts, and a card that says how they were made."""

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import save
from scipy.stats import binomtest
from torch import nn

from saplab.models import published
from saplab.models.packaged import CLEAN, Measured, Packaged
from saplab.system.folder import inside, write_files
from saplab.training.recipes import Recipe
from saplab.training.records import EpochRecord

MODEL: Final = "model"


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, as its card describes it; the machine and the images it was measured on are in words.

    The measured accuracies are those of the finished weights in float32, that on clean images first.
    """

    recipe: Recipe
    seed: int
    history: Sequence[EpochRecord]
    command: str
    machine: str
    measured: tuple[Measured, ...]
    images: str
    classes: tuple[str, ...] = ()


def wilson(row: Measured) -> tuple[float, float]:
    """Return the 95 % interval of Wilson (1927) for a measured accuracy, in [0, 1]."""
    bounds = binomtest(row.correct, row.images).proportion_ci(0.95, method="wilson")
    return float(bounds.low), float(bounds.high)


def accuracy_text(row: Measured) -> str:
    """Return a measured accuracy in words, with its interval."""
    low, high = wilson(row)
    return (
        f"{100 * row.correct / row.images:.2f} % ({row.correct:,} of {row.images:,} right; "
        f"95 % Wilson interval {100 * low:.2f}–{100 * high:.2f} %)"
    )


def export(model: nn.Module, run: FinishedRun, out: Path, name: str = MODEL) -> Packaged:
    """Write ``NAME.safetensors``, ``NAME.json`` and ``NAME.md``; the same weights give the same bytes."""
    content = save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    recipe, sha256 = run.recipe, hashlib.sha256(content).hexdigest()
    facts = Packaged(recipe.network, sha256, recipe.name, recipe.preset, run.command, run.measured, run.classes)
    inside(out, f"{name}.json").unlink(missing_ok=True)  # facts never lie beside weights other than theirs
    card = write_card(run, name).encode()
    write_files(out, {f"{name}.safetensors": content, f"{name}.md": card, f"{name}.json": facts.to_json()})
    return facts


def write_card(run: FinishedRun, name: str = MODEL) -> str:
    """Describe a finished run in Markdown: what was measured, and what would make it again."""
    recipe, history = run.recipe, run.history
    seconds = sum(record.seconds for record in history)
    speed = float(np.median([record.images_per_second for record in history]))
    recipe_lines = "\n".join(f"- {field.name}: {_shown(getattr(recipe, field.name))}" for field in fields(recipe))
    title = recipe.network if name == MODEL else f"{name}: {recipe.network}"
    return f"""# {title}, trained by the recipe {recipe.name}

{_accuracies(run)}

The weights are those after the last epoch; no test image decided anything.

Made by `{run.command}` with seed {run.seed}.

## Recipe

{recipe_lines}

## Machine

- {run.machine}
- PyTorch {torch.__version__}, NumPy {np.__version__}, Python {platform.python_version()}
- {seconds / 60:.1f} minutes for {len(history)} epochs; training at a median {speed:.0f} images a second

Another machine or number of threads rounds otherwise and ends with other weights, of like accuracy.
"""


def _accuracies(run: FinishedRun) -> str:
    without = ", without the defences that it was trained with" if run.recipe.defenses else ""
    drawn = ", of one pass, which draws for itself" if run.recipe.network in published.ARCHITECTURES else ""
    lines = [f"Accuracy in float32{without}{drawn}:", ""]
    for row in run.measured:
        attack = "clean" if row.attack == CLEAN else f"under {row.attack}, λ = {row.strength:g} pixel steps"
        images = "the 1,000 images of the packaged sample" if row.data == "sample" else run.images
        lines.append(f"- {attack}, on {images}: **{accuracy_text(row)}**")
    return "\n".join(lines)


def _shown(value: object) -> str:
    return " + ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)
