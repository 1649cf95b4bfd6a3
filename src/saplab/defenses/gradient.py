"""Whether a gradient of a network's outputs reaches its input, and which module cuts it where none does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from saplab.defenses.dressing import undressed_class
from saplab.defenses.prediction import as_logits
from saplab.defenses.stage import ran


@dataclass(frozen=True)
class Reach:
    """How far the gradient of the outputs gets.

    Attributes:
        state: ``whole``; ``flat`` where it is zero at every image; ``cut`` where there is none.
        gradient: (N, ...), 0 where there is none.
        output: what the network returned.
        module: path and class of the innermost module in which it ends, where that can be told.
    """

    state: Literal["whole", "flat", "cut"]
    gradient: Tensor
    output: Any
    module: str = ""


def squares(output: Any) -> Tensor:
    """Return the sum of all squared outputs.

    Raises:
        ValueError: there are none that have a gradient.
    """
    outputs = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
    if not outputs:
        got = output.dtype if isinstance(output, Tensor) else type(output).__name__
        counts = "; where they are votes, return them by .float()" if isinstance(output, Tensor) else ""
        raise ValueError(f"the network must return a tensor of logits (N, classes), got {got}{counts}")
    return torch.stack([output.double().square().sum() for output in outputs]).sum()


def own_loss(output: Any) -> Tensor:
    """Return the cross-entropy of logits (N, classes) with the classes that they choose themselves, summed.

    Raises:
        ValueError: outputs that are no logits.
    """
    output = as_logits(output)
    return F.cross_entropy(output, output.detach().argmax(1), reduction="sum")


def refuse_inference_mode() -> None:
    """Raise ValueError inside `torch.inference_mode`, where no gradient can be taken, and none would be missed."""
    if torch.is_inference_mode_enabled():
        raise ValueError("attacks need gradients, which torch.inference_mode() forbids: call this outside of it")


def reach(model: nn.Module, images: Tensor, loss: Callable[[Any], Tensor] = squares) -> Reach:
    """Follow the gradient of a loss of a network's outputs back to the images (N, ...)."""
    x = images.detach().clone().requires_grad_()
    with torch.enable_grad(), _watched(model) as seen:
        output = ran(model, x.clone())  # into which a network may write
        total = loss(output)
    nothing = torch.zeros_like(x)
    if not total.requires_grad:
        last = next((n for n, ins, outs in seen if _asks(ins) and not _asks(outs)), None)
        return Reach("cut", nothing, output, _named(model, last))
    between = [t for _, ins, outs in seen for t in (*ins, *outs) if t.requires_grad]
    gradient, *others = torch.autograd.grad(total, [x, *between], allow_unused=True)
    if gradient is not None and bool((gradient != 0).any()):
        return Reach("whole", gradient, output)
    alive = {id(t): g is not None and bool((g != 0).any()) for t, g in zip(between, others, strict=True)}

    def ends(ins: list[Tensor], outs: list[Tensor]) -> bool:
        return any(alive.get(id(t)) for t in outs) and not any(alive.get(id(t)) for t in ins)

    last = next((n for n, ins, outs in seen if ends(ins, outs)), None)
    return Reach("cut" if gradient is None else "flat", nothing, output, _named(model, last))


def _asks(tensors: list[Tensor]) -> bool:
    return any(tensor.requires_grad for tensor in tensors)


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[tuple[str, list[Tensor], list[Tensor]]]]:
    """Note the tensors that enter and leave each module, the innermost modules first."""
    seen: list[tuple[str, list[Tensor], list[Tensor]]] = []

    def note(name: str, module: nn.Module, args: Any, output: Any) -> None:
        ins, outs = ([t for t in tree_leaves(part) if isinstance(t, Tensor)] for part in (args, output))
        seen.append((name, ins, outs))

    seen_into = (
        (name, module) for name, module in model.named_modules() if not isinstance(module, torch.jit.ScriptModule)
    )
    hooks = [module.register_forward_hook(partial(note, name)) for name, module in seen_into]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _named(model: nn.Module, path: str | None) -> str:
    if path is None:
        return ""
    kind = undressed_class(model.get_submodule(path)).__name__
    return f"{path} ({kind})" if path else kind
