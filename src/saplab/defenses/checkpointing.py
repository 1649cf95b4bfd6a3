"""Activation checkpointing of defended networks: the second run of a checkpointed part sees the draws of the first."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch

from saplab.defenses.drawing import Drawing, Tape, checkpoints, taping
from saplab.defenses.sites import Pass, SiteMode, module_path


def same_draws() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Give the two contexts that PyTorch's activation checkpointing runs a function in, first and again.

    Without them, a checkpoint in or around a defended network is an error: the second run, in the backward pass, would
    make other draws, or none.

    Example:
        >>> checkpoint(block, x, use_reentrant=False, context_fn=saplab.same_draws)
    """
    draws: list[Drawing] = []
    state: list[tuple[Pass, list[tuple[str, torch.nn.Module]]]] = []
    run = _running()

    @contextmanager
    def first() -> Iterator[None]:
        with taping(Tape(draws, repeats=False)):
            if run is None:
                yield
                return
            state.append((run.again(), list(module_path.stack)))
            before, run.checkpoints = run.checkpoints, checkpoints()
            try:
                yield
            finally:
                run.checkpoints = before

    @contextmanager
    def second() -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(taping(Tape(draws, repeats=True)))
            for at_start, path in state:
                stack.enter_context(_path(path))
                stack.enter_context(SiteMode(at_start.again()))
            yield

    return first(), second()


def _running() -> Pass | None:
    """Give the innermost pass of a defended network that runs in this thread."""
    modes = torch.overrides._get_current_function_mode_stack()
    return next((mode.run for mode in reversed(modes) if isinstance(mode, SiteMode)), None)


@contextmanager
def _path(modules: list[tuple[str, torch.nn.Module]]) -> Iterator[None]:
    """Name sites as if the forward pass were in these modules."""
    before, module_path.stack = module_path.stack, list(modules)
    try:
        yield
    finally:
        module_path.stack = before
