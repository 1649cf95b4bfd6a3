"""The house of docs/architecture.md: imports go down its floors, and what each floor must not do."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "saplab"
FLOORS = {
    "files": 0,
    "allocator": 0,
    "wording": 0,
    "precision": 1,
    "scalars": 1,
    "plots": 1,
    "devices": 1,
    "noise": 1,
    "vector": 1,
    "triton_noise": 1,
    "variates_gpu": 1,
    "variates": 1,
    "noising": 1,
    "pruning": 1,
    "models": 1,
    "data": 1,
    "defenses": 2,
    "attacks": 3,
    "training": 3,
    "rl": 3,
    "measures": 4,
    "studies": 5,
    "runs": 6,
    "arcade": 6,
    "report": 7,
    "bench": 7,
    "cli": 8,
    "__main__": 9,
    "__init__": 9,
}
# floor 1's kernels, each may use those before it
LOWEST = ("devices", "noise", "vector", "triton_noise", "pruning", "variates_gpu", "variates", "noising")
SAME_FLOOR = {(above, below) for k, above in enumerate(LOWEST) for below in LOWEST[:k]} | {
    ("training", "attacks"),
    ("arcade", "runs"),
    ("bench", "report"),
}
LONGEST = 420  # "about 400 lines"

GLOBAL_RNG = {
    "torch": {"manual_seed", "seed", "set_rng_state", "get_rng_state"},
    "torch.random": {"manual_seed", "seed", "set_rng_state"},
    "torch.cuda": {"manual_seed", "manual_seed_all", "seed", "seed_all"},
    "random": {"seed", "random", "randint", "shuffle", "choice", "choices", "sample", "uniform", "gauss", "randrange"},
}
NEEDS_GENERATOR = {"rand", "randn", "randint", "randperm", "bernoulli", "multinomial", "normal", "poisson"}
NUMPY_GENERATORS = {"Generator", "default_rng", "SeedSequence", "BitGenerator", "PCG64", "Philox"}
IN_PLACE_DRAWS = {"normal_", "uniform_", "bernoulli_", "exponential_", "random_", "cauchy_", "log_normal_"}

FILES = sorted(PACKAGE.rglob("*.py"))


def house_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imported(tree: ast.AST, path: Path) -> Iterator[tuple[int, str]]:
    """Give (line, module) of each import of a part of saplab, wherever in the file it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            inside = path.relative_to(PACKAGE.parent).parts[: -node.level]
            names = [".".join((*inside, node.module or "", alias.name)) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "saplab")


def wrong_imports(source: str, path: Path) -> Iterator[str]:
    house = house_of(path)
    for line, name in imported(ast.parse(source), path):
        other = [*name.split("."), "__init__"][1]
        other = other if other in FLOORS else "__init__"  # a public name: `from saplab import defend`
        if FLOORS[other] >= FLOORS[house] and other != house and (house, other) not in SAME_FLOOR:
            yield f"{path.name}:{line}: {house} (floor {FLOORS[house]}) imports {name} (floor {FLOORS[other]})"


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def global_draws(source: str, path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, name = dotted(node.func.value), node.func.attr
        keywords = {keyword.arg for keyword in node.keywords}
        seeded = "generator" in keywords
        if (
            name in GLOBAL_RNG.get(owner, ())
            or (owner == "torch" and name in NEEDS_GENERATOR and not seeded)
            or (owner in ("np.random", "numpy.random") and name not in NUMPY_GENERATORS)
            or (owner.endswith("random") and name == "default_rng" and not node.args and not keywords)
            or (name in IN_PLACE_DRAWS and not owner.endswith(".init") and not seeded)
        ):
            yield f"{path.name}:{node.lineno}: {owner}.{name} draws from a global or unseeded generator"


def prints(source: str, path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield f"{path.name}:{node.lineno}: print() outside the command line"


def test_the_files_are_found():
    assert len(FILES) > 20


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_file_is_in_the_house(path):
    assert house_of(path) in FLOORS


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    assert not list(wrong_imports(path.read_text(encoding="utf-8"), path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_global_randomness(path):
    assert not list(global_draws(path.read_text(encoding="utf-8"), path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_command_line_prints(path):
    assert house_of(path) == "cli" or not list(prints(path.read_text(encoding="utf-8"), path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_of_readable_length(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize(
    ("house", "line"),
    [
        ("models", "from saplab.data.load import load_data"),
        ("measures", "import saplab.runs.store"),
        ("report", "def f():\n    from saplab.cli import console"),
        ("noise", "from saplab import pruning"),
        ("noise", "from saplab import defend"),
        ("files", "from . import noise"),
    ],
)
def test_an_import_upwards_is_seen(house, line):
    path = PACKAGE / f"{house}.py" if house in ("noise", "files") else PACKAGE / house / "x.py"
    assert len(list(wrong_imports(line, path))) == 1


@pytest.mark.parametrize(
    "line",
    ["from saplab.noise import streams", "from saplab.files import x", "import torch", "from . import threads"],
)
def test_an_import_downwards_is_not(line):
    assert not list(wrong_imports(line, PACKAGE / "pruning" / "x.py"))


@pytest.mark.parametrize(
    "line",
    ["torch.manual_seed(0)", "np.random.seed(0)", "random.seed(0)", "torch.rand(3)", "np.random.normal(size=3)",
     "np.random.default_rng()", "x.uniform_()", "torch.randperm(4)"],
)  # fmt: skip
def test_global_randomness_is_seen(line):
    assert len(list(global_draws(line, PACKAGE / "x.py"))) == 1


@pytest.mark.parametrize(
    "line", ["torch.rand(3, generator=g)", "np.random.default_rng(0)", "x.uniform_(generator=g)", "rng.normal(size=3)"]
)
def test_seeded_randomness_is_not(line):
    assert not list(global_draws(line, PACKAGE / "x.py"))
