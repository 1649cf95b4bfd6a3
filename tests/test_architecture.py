"""The house of docs/architecture.md: imports go down its floors, and what no file may do."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "saplab"
FLOORS = (
    ("system", "rng", "metrics"),
    ("pruning", "models", "data", "report"),
    ("defenses", "learning"),
    ("attacks",),
    ("training", "rl"),
    ("runs",),
    ("evaluation",),
    ("paper", "benchmark"),
    ("cli",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
AT_THE_ROOT = {"__init__", "__main__"}
LONGEST = 420  # "about 400 lines"

GLOBAL_RNG = {
    "torch": {"manual_seed", "seed", "set_rng_state", "get_rng_state"},
    "torch.random": {"manual_seed", "seed", "set_rng_state"},
    "torch.cuda": {"manual_seed", "manual_seed_all", "seed", "seed_all"},
    "random": {"seed", "random", "randint", "shuffle", "choice", "choices", "sample", "uniform", "gauss", "randrange"},
}
NEEDS_GENERATOR = {"rand", "randn", "randint", "randperm", "bernoulli", "multinomial", "normal", "poisson"}
NEEDS_GENERATOR |= {"rand_like", "randn_like", "randint_like"}
NUMPY_GENERATORS = {"RandomState", "Generator", "default_rng", "SeedSequence", "BitGenerator", "PCG64", "Philox"}
IN_PLACE_DRAWS = {"normal_", "uniform_", "bernoulli_", "exponential_", "random_", "cauchy_", "log_normal_"}

FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


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
    """Describe each import of a room that is not on a floor below; public names of saplab itself count as the top."""
    room = room_of(path)
    for line, name in imported(ast.parse(source), path):
        other = [*name.split("."), "__init__"][1]
        if other != room and FLOOR_OF.get(other, len(FLOORS)) >= FLOOR_OF[room]:
            yield f"{path.relative_to(PACKAGE)}:{line}: {room} (floor {FLOOR_OF[room] + 1}) imports {name}"


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
            or (owner.endswith("random") and name in ("default_rng", "RandomState") and not node.args and not keywords)
            or (name in IN_PLACE_DRAWS and not owner.endswith(".init") and not seeded)
        ):
            yield f"{path.name}:{node.lineno}: {owner}.{name} draws from a global or unseeded generator"


def prints(source: str, path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield f"{path.name}:{node.lineno}: print() outside the command line"


def bare_writes(source: str, path: Path) -> Iterator[str]:
    """Describe each write that follows links in a folder of results; `saplab.system.folder` has one that does not."""
    writers = {"write_atomically", "write_bytes", "write_text"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] in writers:
            yield f"{path.name}:{node.lineno}: {dotted(node.func)}() follows links"


def found(rule, files=FILES):
    return [fault for path in files for fault in rule(path.read_text(encoding="utf-8"), path)]


IN_ROOMS = [path for path in FILES if room_of(path) not in AT_THE_ROOT]


def test_every_file_is_in_a_room_of_the_house():
    assert len(FILES) > 100
    assert {room_of(path) for path in IN_ROOMS} == set(FLOOR_OF)
    assert all(path.parent != PACKAGE for path in IN_ROOMS)


def test_imports_go_down():
    assert not found(wrong_imports, IN_ROOMS)


def test_no_global_randomness():
    """But for networks that draw as any network of a user's does, and the file that seeds for such."""
    own = ("host.py", "mixture.py")
    assert not found(global_draws, [p for p in FILES if "published" not in p.parts and p.name not in own])


def test_only_the_command_line_prints():
    assert not found(prints, [path for path in FILES if room_of(path) != "cli"])


def test_files_of_results_are_written_in_one_place():
    packaging = PACKAGE / "data" / "sample" / "__init__.py"
    assert not found(bare_writes, [p for p in FILES if room_of(p) != "system" and p != packaging])


def test_files_are_of_readable_length():
    assert not [path for path in FILES if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST]


def test_docstrings_are_plain_english():
    openings = re.compile(r'"""(?:Give|Tell whether|Say)\b')
    assert not [str(path) for path in FILES if openings.search(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(
    ("rule", "room", "line", "faults"),
    [
        (wrong_imports, "models", "from saplab.data.load import load_data", 1),
        (wrong_imports, "metrics", "import saplab.runs.store", 1),
        (wrong_imports, "report", "def f():\n    from saplab.cli import console", 1),
        (wrong_imports, "rng", "from saplab import defend", 1),
        (wrong_imports, "rng", "from .. import pruning", 1),
        (wrong_imports, "pruning", "from saplab.rng.streams import pass_streams\nimport torch\nfrom . import cpu", 0),
        (global_draws, "rng", "torch.manual_seed(0)\nnp.random.seed(0)\nrandom.seed(0)\ntorch.rand_like(x)", 4),
        (global_draws, "rng", "np.random.normal(size=3)\nnp.random.default_rng()\nx.uniform_()\ntorch.randperm(4)", 4),
        (global_draws, "rng", "torch.rand(3, generator=g)\nnp.random.default_rng(0)\nrng.normal(size=3)", 0),
        (prints, "rng", "print(3)", 1),
        (bare_writes, "runs", "write_atomically(path, b'')\n(root / 'x').write_text('')\npath.write_bytes(b'')", 3),
        (bare_writes, "runs", "write_files(root, {'x': b''})", 0),
    ],
)
def test_the_rules_see_what_they_are_for(rule, room, line, faults):
    assert len(list(rule(line, PACKAGE / room / "x.py"))) == faults
