"""A training step as its objective sees it: a batch, and passes of the network over it."""

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from saplab.defenses.defended import defend
from saplab.defenses.drawing import drawing
from saplab.rng.numbers import normals, uniforms
from saplab.rng.streams import pass_streams, stream_key
from saplab.system.precision import computing_in
from saplab.training.objectives import PASSES, START
from saplab.training.place import Place
from saplab.training.recipes import Recipe


class Networks:
    """The network of a run, bare and as it is trained, and that of the epoch before where the objective needs it.

    Args:
        recipe: names the defences that are on in training.
        model: the bare network; the others share its parameters.
        seed: of the defences' draws and of random starts.
        place: where it computes.
    """

    def __init__(self, recipe: Recipe, model: nn.Module, seed: int, place: Place) -> None:
        self.recipe, self.model, self.place = recipe, model, place
        self.key = stream_key(seed, "training")
        self.dressed = _dress(recipe, model)
        self.trained = place.compile(self.dressed)
        self._previous: nn.Module | None = None

    def keep_previous(self) -> None:
        """Take the network as it stands for that of the epoch before."""
        self._previous = _dress(self.recipe, copy.deepcopy(self.model).requires_grad_(False).eval())

    @property
    def previous(self) -> nn.Module:
        """Give the network that was kept last."""
        if self._previous is None:
            raise ValueError("no network of an epoch before was kept")
        return self._previous

    def draws(self, streams: Tensor) -> AbstractContextManager[None]:
        """Fix the defences' draws, if there are defences."""
        return drawing(streams) if self.recipe.defenses else nullcontext()


def _dress(recipe: Recipe, model: nn.Module) -> nn.Module:
    return defend(model, *recipe.defenses) if recipe.defenses else model


@dataclass(frozen=True)
class BatchStep:
    """A `saplab.training.objectives.Step`: one batch, whose draws are a function of seed, step and image.

    Args:
        networks: of the run.
        images, labels: (B, C, H, W) in [0, 1], and (B,).
        examples: (B,) each image's number in its data set.
        number: of the step, from 0, counted over all epochs.
    """

    networks: Networks
    images: Tensor
    labels: Tensor
    examples: Tensor
    number: int

    def trained(self, images: Tensor, pass_: int = 0) -> Tensor:
        """Run the network in training mode; float32 logits (B, classes)."""
        self.networks.dressed.train()
        return self._logits(self.networks.trained, images, pass_)

    def attacked(self, images: Tensor, pass_: int, previous: bool = False) -> Tensor:
        """Run the network, or that of the epoch before, in evaluation mode, over the batch's first images."""
        if previous:
            return self._logits(self.networks.previous, images, pass_)
        self.networks.dressed.eval()
        return self._logits(self.networks.trained, images, pass_)

    def uniform(self) -> Tensor:
        """Draw numbers in [0, 1) like the images."""
        return (
            uniforms(self._streams(START, len(self.images)), self.images[0].numel())
            .view_as(self.images)
            .to(self.images)
        )

    def normal(self) -> Tensor:
        """Draw standard normal numbers like the images."""
        return (
            normals(self._streams(START, len(self.images)), self.images[0].numel()).view_as(self.images).to(self.images)
        )

    def _logits(self, network: Any, images: Tensor, pass_: int) -> Tensor:
        networks = self.networks
        precision = computing_in(networks.recipe.precision, networks.place.device)
        with precision, networks.draws(self._streams(pass_, len(images))):
            logits: Tensor = network(images)
        return logits.float()

    def _streams(self, pass_: int, count: int) -> Tensor:
        return pass_streams(self.networks.key, self.number * PASSES + pass_, self.examples[:count])
