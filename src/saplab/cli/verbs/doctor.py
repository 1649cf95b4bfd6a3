"""``saplab doctor``: what this machine offers, and whether everything that saplab needs works here."""

import os
import platform
from collections.abc import Callable, Mapping
from typing import Any

import typer

from saplab.cli import options
from saplab.cli.console import Console

_PYTHON_PACKAGES = ("saplab", "torch", "numba", "llvmlite", "numpy", "scipy", "safetensors", "altair", "typer", "rich")
_INSTRUCTION_SETS = ("sse4.2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "amx-bf16", "neon", "sve")
_BROKEN = 1


def doctor(as_json: options.Json = False) -> None:
    """Show what works here and what does not.

    Versions, processor, threads, memory, devices, kernels, packaged weights; exit 1 if something needed is broken.
    """

    console = Console(json=as_json)
    facts, problems = examine()
    if as_json:
        console.emit_json({**facts, "problems": problems})
    else:
        console.say("\n".join(_lines(facts)))
        console.say("\n".join(f"PROBLEM  {problem}" for problem in problems) or "\nNo problems found.")
    if problems:
        raise typer.Exit(_BROKEN)


def examine() -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """Look at the machine and try each part: facts by section, and the problems with advice."""
    facts: dict[str, Mapping[str, Any]] = {}
    problems: list[str] = []
    for section, look in _SECTIONS.items():
        try:
            facts[section] = look()
        except Exception as error:  # whatever is broken here, the other sections are still worth knowing
            facts[section] = {"error": f"{type(error).__name__}: {error}"}
            problems.append(f"{section}: {type(error).__name__}: {error}. {_ADVICE[section]}")
    return facts, problems


def _versions() -> Mapping[str, Any]:
    from saplab.system.machine import versions

    found = versions(_PYTHON_PACKAGES)
    if found["saplab"] == "missing":
        found["saplab"] = "a source tree"  # which nobody has installed
    if absent := [name for name, version in found.items() if version == "missing"]:
        raise RuntimeError(f"not installed: {', '.join(absent)}")
    return {**found, "platform": platform.platform()}


def _processor() -> Mapping[str, Any]:
    from llvmlite import binding

    from saplab.system.machine import processor
    from saplab.system.precision import resolve_precision

    features = binding.get_host_cpu_features()
    sets = [name for name in _INSTRUCTION_SETS if features.get(name)]
    native = resolve_precision("auto", "cpu") == "bfloat16"
    bfloat16 = "in hardware: small presets train in it" if native else "emulated: small presets train in float32"
    return {
        "name": processor(), "target": binding.get_host_cpu_name(), "instruction sets": sets, "bfloat16": bfloat16,
    }  # fmt: skip


def _threads() -> Mapping[str, Any]:
    import torch

    from saplab.system.machine import usable_cores

    usable, threads = usable_cores(), torch.get_num_threads()
    advice = f"{threads} threads on {usable} usable cores are slow: pass --threads {usable}" if threads > usable else ""
    return {"usable cores": usable, "cores": os.cpu_count(), "torch": threads, "advice": advice or "none"}


def _memory() -> Mapping[str, Any]:
    from saplab.system.machine import usable_memory

    usable = usable_memory()
    return {"usable GiB": usable and round(usable / 2**30, 1)}


def _devices() -> Mapping[str, Any]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {"cpu": "in use", "cuda": [torch.cuda.get_device_name(k) for k in range(count)]}


def _kernels() -> Mapping[str, Any]:
    """Return which kernel prunes on which device, after trying it."""
    import numba
    import torch

    from saplab.system.machine import versions

    cpu = f"numba {numba.__version__}, {_tried('cpu')}"
    triton = f"triton {versions(('triton',))['triton']}"
    return {"cpu": cpu, "cuda": f"{triton}, {_tried('cuda') if torch.cuda.is_available() else 'no device'}"}


def _tried(device: str) -> str:
    """Prune a small map on a device and check the law's simplest case: one activation is always kept."""
    import torch

    from saplab.pruning.operator import prune
    from saplab.rng.streams import pass_streams

    one = torch.tensor([[0.0, 3.0, 0.0, 0.0]], device=device)
    if not torch.equal(prune(one, pass_streams(0, 0, torch.tensor([0])), draws=1), one):
        raise RuntimeError(f"the kernel for {device} gives wrong numbers")
    return "Algorithm 1 works"


def _weights() -> Mapping[str, Any]:
    """Load every packaged network; loading compares its checksum."""
    from saplab.models.zoo import PACKAGED, load_model

    for name in PACKAGED:
        load_model(name)
    return dict.fromkeys(PACKAGED, "checksum ok") or {"packaged": None}


_SECTIONS: Mapping[str, Callable[[], Mapping[str, Any]]] = {
    "versions": _versions,
    "processor": _processor,
    "threads": _threads,
    "memory": _memory,
    "devices": _devices,
    "kernels": _kernels,
    "weights": _weights,
}
_ADVICE = {
    **dict.fromkeys(_SECTIONS, "Install saplab again in a fresh environment: pip install --force-reinstall saplab"),
    "kernels": "Try `pip install --upgrade numba` (for CUDA: triton), and a writable NUMBA_CACHE_DIR.",
    "weights": "The package's files are damaged: pip install --force-reinstall --no-deps saplab",
}


def _lines(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    width = max(len(name) for section in facts.values() for name in section)
    lines = []
    for section, values in facts.items():
        lines += ["", section]
        lines += [f"  {name:<{width}}  {_text(value)}" for name, value in values.items()]
    return lines[1:]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return "–" if value is None else str(value)
