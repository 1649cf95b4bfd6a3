"""Backward passes that go another way than forward: BPDA (Athalye, Carlini & Wagner 2018, section 4.1)."""

from collections.abc import Callable
from typing import Any, Literal, cast

from torch import Tensor, nn

from saplab.system.source import callable_digest

Backward = Literal["identity"] | Callable[..., Tensor]


def bpda(part: Callable[..., Any], backward: Backward = "identity") -> nn.Module:
    """Return a module that runs `part` forward and goes another way backward, for parts without a useful gradient.

    This is the backward pass differentiable approximation of Athalye, Carlini & Wagner (2018). `part` runs as it is,
    on a copy of its input, outside the gradient's graph: it may draw at random, leave PyTorch or change its input in
    place. So its parameters get no gradient; those of a module `backward` do.

    Args:
        part: x (N, ...) -> a tensor; a module or any callable. Further arguments are passed on.
        backward: ``identity`` gives the gradient by the output to the input as it is, which needs an output of the
            input's shape. A function or module, called with the same arguments, gives its own vector-Jacobian product
            at the same input; it may change the shape as `part` does, and in no other way.

    Raises:
        TypeError: `part` is not callable, or `backward` is neither ``identity`` nor callable; in a pass, a result that
            is no tensor of floating-point numbers.
        ValueError: in a pass, shapes that do not fit.

    Examples:
        >>> rounded = saplab.bpda(lambda x: (15 * x).round() / 15)
        >>> net = nn.Sequential(rounded, net)
    """
    return Surrogate(part, backward)


class Surrogate(nn.Module):
    """A part with another backward pass; see `bpda`."""

    def __init__(self, part: Callable[..., Any], backward: Backward = "identity") -> None:
        super().__init__()
        if not callable(part):
            raise TypeError(f"`part` must be a module or a function, got {type(part).__name__}")
        if backward != "identity" and not callable(backward):
            raise TypeError(f"`backward` must be 'identity' or a function, got {backward!r}")
        self.part = part
        self.stand_in = backward

    def extra_repr(self) -> str:
        """Return what the parts are that are no modules, with a hash of their code, which tells networks apart."""
        return ", ".join(f"{name}={_described(getattr(self, name))}" for name in ("part", "stand_in"))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the part's output, with the gradient of what stands in for it."""
        out = self.part(x.detach().clone(), *args, **kwargs)
        if not isinstance(out, Tensor) or not out.is_floating_point():
            got = out.dtype if isinstance(out, Tensor) else type(out).__name__
            raise TypeError(f"`part` must return a tensor of floating-point numbers, got {got}")
        if self.stand_in != "identity":
            return through(out, cast(Any, self.stand_in)(x, *args, **kwargs), "`backward`")
        if out.shape != x.shape:
            shapes = f"{tuple(out.shape)} for an input of shape {tuple(x.shape)}"
            raise ValueError(f"`backward` must be a function where `part` changes the shape, as it does here: {shapes}")
        return through(out, x)


def through(out: Tensor, stand_in: Tensor, name: str = "the input") -> Tensor:
    """Return the values of `out` with the gradient of `stand_in`, which errors call by `name`.

    The difference is 0, with the gradient of `stand_in`, and works wherever arithmetic does: compiled, in `torch.func`,
    forward mode and second derivatives.
    """
    if not isinstance(stand_in, Tensor) or stand_in.shape != out.shape:
        got = tuple(stand_in.shape) if isinstance(stand_in, Tensor) else type(stand_in).__name__
        raise ValueError(f"{name} must have the shape {tuple(out.shape)} of what it stands in for, got {got}")
    zero = (stand_in - stand_in.detach()).nan_to_num()  # infinity minus itself is not a number
    return out.detach() + zero.to(out.dtype)


def _described(found: Any) -> str:
    if isinstance(found, str | nn.Module):
        return str(found) if isinstance(found, str) else type(found).__name__
    return f"{getattr(found, '__name__', type(found).__name__)}@{callable_digest(found)}"
