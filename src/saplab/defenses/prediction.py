"""Predictions of a network whose passes differ: the mean of softmax over passes, and the votes of single passes."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saplab.data.given import Array, given_images
from saplab.defenses.defended import check_network, is_random
from saplab.defenses.drawing import drawing
from saplab.defenses.host import undrawn
from saplab.defenses.parallel import over_threads
from saplab.defenses.stochastic import ready
from saplab.pruning.finite import check_finite
from saplab.rng.streams import EXAMPLES, pass_streams, stream_key
from saplab.system.counts import check_count
from saplab.system.progress import Choice, Tick, show_of

BATCH = 512  # images of one forward pass


@dataclass(frozen=True)
class Prediction:
    """What a number of passes say of N examples.

    Attributes:
        probs: (N, C) float32, mean of softmax over passes.
        votes: (N, C) int32, how many single passes gave each class the highest probability.
        half: (N, C) float32, mean of softmax over the first half of the passes (K // 2 of K, at least one).
        single: (N, C) float32, softmax of the first pass.
    """

    probs: Tensor
    votes: Tensor
    half: Tensor
    single: Tensor


def predict(
    model: nn.Module, images: Array, passes: int = 100, seed: int = 0, *, examples: Tensor | None = None,
    batch_size: int = BATCH, bounds: tuple[float, float] | None = (0.0, 1.0),
    progress: Choice = False,
) -> Tensor:  # fmt: skip
    """Average softmax over `passes` stochastic passes.

    The draws depend on `seed` and on the number of each example alone, not on batches or order.

    Args:
        model: images (N, C, H, W) -> logits (N, classes); defended or not. One that is random by itself runs as
            `Stochastic` does.
        images: (N, C, H, W).
        passes: number of passes; a network without randomness is run once.
        seed: of the defence's draws.
        examples: (N,) number of each image, 0..N-1 by default.
        batch_size: images of one forward pass.
        bounds: lowest and highest valid value; None for a network of other inputs.
        progress: True for a bar on a terminal or a line in a notebook, "lines" for lines on stderr, False for nothing.

    Returns:
        (N, classes) float32 probabilities.

    Raises:
        ValueError: no images or values outside the bounds, `passes` < 1, bad `examples`, a network of half precision,
            that does not return finite logits, or whose outputs depend on the rest of their batch.
    """
    check_network(model)
    check_count("batch_size", batch_size)
    show, images = show_of(progress), given_images(images)
    if bounds is not None and len(images):
        least, most = float(images.min()), float(images.max())
        if not bounds[0] <= least <= most <= bounds[1]:
            wanted = f"[{bounds[0]:g}, {bounds[1]:g}] (see `bounds`)"
            raise ValueError(f"`images` must lie in {wanted}, got values from {least:g} to {most:g}")
    with show("passes", passes * len(images)) as tick:
        return predict_with_votes(
            model, images, passes, seed, examples=examples, batch_size=batch_size, tick=tick
        ).probs


def predict_with_votes(
    model: nn.Module, images: Tensor, passes: int, seed: int, *, examples: Tensor | None = None,
    batch_size: int = BATCH, tick: Tick = lambda n: None,
) -> Prediction:  # fmt: skip
    """Do what `predict` does, and keep what fair counting needs: votes, half of the passes, a single pass.

    `tick` gets the passes of one image since its last call, those that a network without randomness is spared included.
    """
    if len(images) == 0:
        raise ValueError("`images` must hold at least one image, got none")
    check_count("passes", passes)
    images = for_network(model, images)
    model, numbers = ready(model, images[:batch_size]), numbered(examples, len(images))
    key, rounds = stream_key(seed), passes if is_random(model) else 1
    batches = zip(images.split(batch_size), numbers.split(batch_size), strict=True)

    def told(images: int) -> None:
        tick(images * passes // rounds)

    with nullcontext() if is_random(model) else undrawn(model):
        parts = [_average(model, batch, rounds, key, some, told) for batch, some in batches]
    probs, votes, half, single = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return Prediction(probs, votes * (passes // rounds), half, single)


@torch.no_grad()
def _average(
    model: nn.Module, images: Tensor, passes: int, key: int, examples: Tensor, tick: Tick
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the fields of a `Prediction`, on the CPU."""
    total, votes, half, single = (torch.empty(0),) * 4

    def run(some: Tensor, streams: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad(), drawing(streams):
            return (logits(model, some).float().softmax(1),)

    for pass_ in range(passes):
        (probs,) = over_threads(model, run, images, pass_streams(key, pass_, examples))
        vote = torch.nn.functional.one_hot(probs.argmax(1), probs.shape[1]).int()
        total, votes = (probs, vote) if pass_ == 0 else (total + probs, votes + vote)
        if pass_ == 0:
            single = probs
        if pass_ + 1 == max(1, passes // 2):
            half = total / (pass_ + 1)
        tick(len(images))
    check_finite()
    return (of_classes(total) / passes).cpu(), votes.cpu(), half.cpu(), single.cpu()


def numbered(examples: Tensor | None, count: int) -> Tensor:
    """Return the numbers of `count` examples, 0..N-1 by default."""
    if examples is None:
        return torch.arange(count)
    examples = torch.as_tensor(examples)
    whole = not (examples.is_floating_point() or examples.is_complex())
    if examples.shape != (count,) or not whole or not 0 <= int(examples.min()) <= int(examples.max()) < EXAMPLES:
        raise ValueError(f"`examples` must be {count} integers within [0, 2^32), got {examples}")
    return examples


def for_network(model: nn.Module, images: Tensor) -> Tensor:
    """Return images in the precision of the network's weights; ValueError for half precision, which loses steps."""
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), images.dtype)
    if kind not in (torch.float32, torch.float64):
        raise ValueError(f"the network must be of float32 or float64, got {kind}; call .float() first")
    return images.to(kind)


def logits(model: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    """Run `model` on a copy, into which it may write, and insist on logits (N, classes)."""
    return as_logits(model(images.clone()), len(images))


def as_logits(output: Any, count: int | None = None) -> Tensor:
    """Return a network's output where it is logits (N, classes) of `count` images; else raise ValueError."""
    if not isinstance(output, Tensor):
        wanted = f"the network must return a tensor of logits (N, classes), got {type(output).__name__}"
        raise ValueError(wanted + _where_logits_are(output))
    if output.dim() != 2 or count not in (None, len(output)):
        rows = "N" if count is None else count
        raise ValueError(f"the network must return logits ({rows}, classes), got shape {tuple(output.shape)}")
    return output


def _where_logits_are(output: Any) -> str:
    """Return how to take the logits out of a dict or a tuple, where it holds a tensor."""
    parts = output.items() if isinstance(output, Mapping) else enumerate(output) if isinstance(output, tuple) else ()
    key = next((key for key, part in parts if isinstance(part, Tensor)), None)
    return "" if key is None else f"; wrap it in a module whose forward returns its logits, such as net(x)[{key!r}]"


def of_classes(output: Tensor) -> Tensor:
    """Return logits (N, classes) that tell classes apart; ValueError for a single one, or what is not finite."""
    if output.shape[1] < 2:
        raise ValueError(
            "the network must return a logit for each of at least two classes, got one logit for each image; where its"
            " sign tells two classes apart, return torch.cat([torch.zeros_like(z), z], 1)"
        )
    if not output.isfinite().all():
        raise ValueError("the network must return finite logits, got NaN or infinity")
    return output
