"""What users install: one version everywhere, a wheel with what runs and nothing else, and a demo without any extra."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import saplab

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MEGABYTES = 20
EXTRAS = ("PIL", "ale_py", "art", "foolbox", "gymnasium", "pyautoattack", "ray", "timm", "torchattacks", "torchmetrics",
          "torchvision", "transformers")  # fmt: skip
TOOLS = ("hypothesis", "mkdocs", "nbclient", "pandas", "playwright", "polars", "pytest")
WITHOUT = f"""
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {(*EXTRAS, *TOOLS)!r} else super().find_spec(name, path, target)

sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


def test_there_is_one_version() -> None:
    version = PROJECT["version"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    released = re.findall(r"^## (\d\S+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert saplab.__version__ == version == released[0][0]
    assert f"\nversion: {version}\n" in citation
    assert f"\ndate-released: {released[0][1]}\n" in citation
    assert all(author["name"] in citation for author in PROJECT["authors"])


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as found:
        names = set(found.namelist())
    about = f"saplab-{PROJECT['version']}.dist-info/"
    source = ROOT / "src"
    package = {
        str(path.relative_to(source))
        for path in (source / "saplab").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    agents = {path for path in package if path.startswith("saplab/rl/agents/") and not path.endswith(".py")}
    assert len(agents) == 18  # of six games: a checkout's alone
    package -= agents
    own = {name for name in names if not name.startswith(about)}
    assert own == package
    assert {name.removeprefix(about) for name in names - own} == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"
    }  # fmt: skip
    kinds = {Path(name).suffix for name in own}
    assert kinds == {".py", ".typed", ".safetensors", ".json", ".md", ".html"}
    assert wheel.stat().st_size < MEGABYTES * 1e6


def test_its_metadata_say_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as found:
        text = found.read(f"saplab-{PROJECT['version']}.dist-info/METADATA").decode()
    about = Parser().parsestr(text)
    assert about["Requires-Python"] == PROJECT["requires-python"]
    assert about["License-Expression"] == "Apache-2.0"
    needed = {re.match(r"[\w-]+", line)[0] for line in about.get_all("Requires-Dist") if "extra ==" not in line}  # type: ignore[index]
    assert needed == {re.match(r"[\w-]+", line)[0] for line in PROJECT["dependencies"]}  # type: ignore[index]
    assert "](docs/" not in about.get_payload()  # links that lead nowhere on a package index


def test_the_demo_runs_from_the_wheel_without_extras(wheel: Path, tmp_path: Path) -> None:
    """In an empty folder, by the files of the wheel alone, where nothing but the dependencies can be imported."""
    site, empty = tmp_path / "site", tmp_path / "empty"
    with zipfile.ZipFile(wheel) as found:
        found.extractall(site)
    (site / "sitecustomize.py").write_text(WITHOUT, encoding="utf-8")
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-P", "-c", "import saplab; print(saplab.__file__); from saplab.cli import main; main()"]
    how = {"cwd": empty, "env": environment, "capture_output": True, "text": True, "check": False}
    version = subprocess.run([*run, "--version"], **how)
    assert version.stdout.split() == [str(site / "saplab/__init__.py"), "saplab", PROJECT["version"]], version.stderr
    done = subprocess.run([sys.executable, "-P", "-m", "saplab", "demo", "--images", "8"], **how)
    assert done.returncode == 0, done.stderr
    assert "SAP-100: MC-FGSM ×10 identity" in done.stdout
    assert [path.name for path in empty.iterdir()] == ["saplab-demo"]
    assert (empty / "saplab-demo" / "report.html").stat().st_size > 100_000
