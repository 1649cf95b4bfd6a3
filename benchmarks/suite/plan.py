"""How much is measured: sizes and rounds, full and quick."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from suite.networks import DEFENSES

RELU, LOG_NORMAL = "ReLU of Gaussian", "log-normal σ = 2"
_ALL_LAWS: Final = tuple((law, 256, a) for law in (RELU, LOG_NORMAL) for a in (16_384, 4_096))


@dataclass(frozen=True)
class Plan:
    """Sizes and rounds of a run; the defaults are those of a full one.

    Attributes:
        device: ``cpu`` or ``cuda``.
        threads: of PyTorch and of the kernels, on the CPU.
        maps: (law, rows N, activations a) of the sampler's cases; draws r = a.
        rounds, slow_rounds: of the sampler's fast and slow contenders.
        images: in a pass.
        pass_rounds: of passes; a hand-written one gets `slow_rounds`.
        precisions: of passes; all defences in the first, dense and SAP in the others.
        gradient_images, gradient_samples, gradient_rounds: of Monte Carlo gradients.
        slow_samples: of Monte Carlo gradients of the hand-written network.
        grows: sizes of each scaling; threads are doubled up to `threads`.
        scaling_rounds: of each scaling.
        scaling_images: where samples, percent or threads grow.
        scaling_rows: where activations or percent grow.
        weighed: defences whose memory is measured.
        ceiling_bytes: size of the array whose copy gives the memory bandwidth.
    """

    device: str = "cpu"
    threads: int = 1
    maps: tuple[tuple[str, int, int], ...] = (*_ALL_LAWS, (RELU, 8, 802_816))
    rounds: int = 31
    slow_rounds: int = 3
    images: int = 512
    pass_rounds: int = 21
    precisions: tuple[str, ...] = ("float32", "bfloat16")
    gradient_images: int = 64
    gradient_samples: int = 10
    gradient_rounds: int = 5
    slow_samples: int = 1
    grows: Mapping[str, tuple[int, ...]] = field(
        default_factory=lambda: {
            "images": (32, 64, 128, 256, 512),
            "samples": (1, 2, 4, 8, 16),
            "activations": (1024, 2048, 4096, 8192, 16_384, 32_768, 65_536),
            "percent": (12, 25, 50, 100, 200, 400),
        }
    )
    scaling_rounds: int = 5
    scaling_images: int = 64
    scaling_rows: int = 256
    weighed: tuple[str, ...] = tuple(DEFENSES)
    ceiling_bytes: int = 1 << 27

    @classmethod
    def quick(cls, device: str = "cpu", threads: int = 1) -> "Plan":
        """Return the sizes of a run that takes less than a minute on two cores."""
        return cls(
            device=device,
            threads=threads,
            maps=((RELU, 64, 16_384), (RELU, 64, 4_096)),
            rounds=9,
            slow_rounds=1,
            images=64,
            pass_rounds=3,
            precisions=("float32",),
            gradient_images=16,
            gradient_samples=4,
            gradient_rounds=3,
            grows={
                "images": (16, 32, 64, 128),
                "samples": (1, 2, 4, 8),
                "activations": (2048, 4096, 8192, 16_384),
                "percent": (25, 50, 100, 200),
            },
            scaling_rounds=3,
            scaling_images=16,
            scaling_rows=64,
            weighed=("sap:100",),
            ceiling_bytes=1 << 26,
        )
