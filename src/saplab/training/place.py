"""Where a run computes: a device, and one or more processes that share each batch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from saplab.system.device import find_device
from saplab.system.machine import processor
from saplab.system.words import counted


@dataclass(frozen=True)
class Place:
    """A device, and the rank of this process among those that share each batch.

    Attributes:
        device: ``cpu`` or ``cuda``, with a number where there are several.
        rank, world: this process gets every ``world``-th image of a batch, beginning with number ``rank``.
        compiled: run the network through ``torch.compile``.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world: int = 1
    compiled: bool = False

    @property
    def is_first(self) -> bool:
        """Return whether this process is the one that writes files."""
        return self.rank == 0

    def described(self, threads: int | None) -> str:
        """Return the machine in words, with its threads on a CPU, PyTorch's own number by default."""
        processes = f" in each of {self.world} processes" if self.world > 1 else ""
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}{processes}"
        return f"{processor()}, {counted(threads or torch.get_num_threads(), 'thread')}{processes}"

    def average_gradients(self, model: nn.Module) -> None:
        """Average each parameter's gradient over the processes, in one message for all of them together."""
        if self.world == 1:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.world
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def average_statistics(self, model: nn.Module) -> None:
        """Average batch-norm's running statistics over the processes, each of which saw its own images."""
        kept = model.state_dict()  # without buffers that are constants, which rounding would change
        for name, buffer in model.named_buffers():
            if self.world > 1 and name in kept and buffer.is_floating_point():
                torch.distributed.all_reduce(buffer)
                buffer /= self.world

    def total(self, values: Tensor) -> Tensor:
        """Add numbers up over the processes, in place."""
        if self.world > 1:
            torch.distributed.all_reduce(values)
        return values


@contextmanager
def joined(device: str = "auto", compiled: bool = False) -> Iterator[Place]:
    """Yield this process's place, after joining the other processes if ``torchrun`` started several.

    The device is ``auto`` (CUDA where available), ``cpu``, ``cuda`` or ``cuda:N``; ValueError if it does not exist.
    """
    world, local_rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    chosen = _device(device, local_rank if world > 1 else 0)
    if world == 1:
        yield Place(chosen, compiled=compiled)
        return
    torch.distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Place(chosen, torch.distributed.get_rank(), world, compiled)
    finally:
        torch.distributed.destroy_process_group()


def _device(name: str, local_rank: int) -> torch.device:
    if name in ("auto", "cuda") and torch.cuda.is_available():
        name = f"cuda:{local_rank}"
    device = find_device(name)
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"`device` must be auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
