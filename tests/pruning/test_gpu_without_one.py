"""What can be said of the GPU's kernels without a GPU: their law in Triton's interpreter, and that they compile."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is for Linux")

from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

HOPPER = GPUTarget("cuda", 90, 32)  # H100, H200
FLOAT64 = ("sums", "masses", "light_masses", "all_masses", "goals", "totals", "missing")
NUMBERS = {"draws": "i64", "size": "i64", "margin": "fp32"}
ROW = {"LIGHT": False, "FEW": False, "ROWS": 1, "CHUNK": 16_384}
RING = {**ROW, "FUSED": True, "TILE": 4096}
ADD = {**ROW, "LEVELS": 1, "STEPS": 11, "DRAWS": 128}


def test_law_in_the_interpreter() -> None:
    tests = Path(__file__).with_name("test_gpu.py")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(tests)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tests.parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 20  # type: ignore[index]


@cache
def compiled(name: str) -> Mapping[str, Any]:
    """Compile a kernel for a GPU that need not be here."""
    file, constants, element = {**CASES, **SLOW}[name]
    kernel = getattr(import_module(f"saplab.{file}"), name.split(",")[0])

    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name in ("x", "out", "grad", "h", "result"):
            return f"*{element}"
        special = {"streams": "*i64", "bad": "*i32", **dict.fromkeys(FLOAT64, "*fp64"), **NUMBERS}
        return special.get(name, "i32")

    names = kernel.arg_names
    aligned = {(k,): [["tt.divisibility", 16]] for k, name in enumerate(names) if kind(name)[0] == "*" or name == "a"}
    source = ASTSource(kernel, {name: kind(name) for name in names}, constants, aligned)
    return compile_kernel(source, HOPPER, {"num_warps": 4}).asm


CASES = {
    "ring": ("pruning.gpu_clocks", RING, "fp32"),
    "settle": ("pruning.gpu_draws", {"LIGHT": False, "ROWS": 32, "CHUNKS": 1}, "fp32"),
    "add": ("pruning.gpu_draws", ADD, "fp32"),
}
SLOW = {
    "ring, few draws": ("pruning.gpu_clocks", {**RING, "FEW": True, "ROWS": 4, "CHUNK": 512, "TILE": 512}, "bf16"),
    "ring, one of many chunks": ("pruning.gpu_clocks", {**RING, "FUSED": False, "LIGHT": True, "CHUNK": 8192}, "fp16"),
    "settle, many chunks": ("pruning.gpu_draws", {"LIGHT": True, "ROWS": 1, "CHUNKS": 2048}, "fp32"),
    "add, many chunks": ("pruning.gpu_draws", {**ADD, "LIGHT": True, "FEW": True, "CHUNK": 8192, "LEVELS": 11}, "bf16"),
    "measure": ("pruning.gpu_sums", {"LIGHT": True, "ROWS": 1, "CHUNK": 8192}, "fp16"),
    "accumulate": ("pruning.gpu_sums", {"CHUNKS": 2048}, "fp32"),
    "share": ("pruning.gpu_sums", {"ROWS": 32}, "fp32"),
    "fill, normal numbers": ("rng.numbers_gpu", {"LAW": 1, "TILE": 1024}, "fp32"),
    "fill, words": ("rng.numbers_gpu", {"LAW": 2, "TILE": 1024}, "i64"),
    "scale_gradient": ("pruning.gpu_gradient", {"WIDE": True, "BLOCK": 1024}, "fp64"),
}


compiles = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")


@compiles
@pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_kernels_compile_for_a_gpu_that_is_not_here(name: str) -> None:
    assert "cubin" in compiled(name)


@compiles
def test_clocks_need_not_change_place_and_loads_are_wide() -> None:
    # in the loop over tiles nothing goes through shared memory, and a thread loads 16 bytes at once
    loop = compiled("ring")["ttgir"].split("scf.for")[1].split("scf.yield")[0]
    assert "convert_layout" not in loop
    wide = [line for line in compiled("ring")["ptx"].splitlines() if "ld.global" in line and ".v4.b32" in line]
    assert len(wide) >= 4
