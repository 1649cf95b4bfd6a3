"""What editors and type checkers see of the public names."""

import subprocess
import sys

import pytest

import saplab

SCRIPT = """
import saplab

net = saplab.load_model("preact-resnet20-dense")
images, labels = saplab.load_cifar10("sample")
sap = saplab.defend(net, saplab.SAP(percent=100), seed=0)
attack = saplab.PGD(saplab.MonteCarlo(samples=10, backward="identity"), steps=20)
adversarial = attack(sap, images, labels, eps=8 / 255, seed=1)
result: saplab.Result = saplab.evaluate(sap, images, labels, attacks="standard", eps=[2 / 255, 8 / 255])
sentence: str = result.verdict.sentence
rows: list[dict[str, object]] = [dict(row) for row in saplab.load("runs/mine").rows]
{line}
"""
WRONG = {
    "saplab.SAP(precent=3)": "precent",
    "saplab.MonteCarlo(backward='idenity')": "idenity",
    "saplab.evaluate(sap, images, labels, atacks='paper')": "atacks",
    "saplab.defend(net, 'sap:100')": "Defense",
    "result.verdct": "verdct",
    "saplab.sapp": "sapp",
}


def check(folder, line):
    (folder / "script.py").write_text(SCRIPT.format(line=line))
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / ".cache"), "script.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("typed")


def test_a_users_script_is_typed_and_its_mistakes_are_errors(folder):
    right = check(folder, "")
    assert right.returncode == 0, right.stdout
    wrong = check(folder, "\n".join(WRONG))
    assert wrong.returncode == 1
    for line, word in WRONG.items():
        assert any(word in error for error in wrong.stdout.splitlines() if ": error:" in error), (line, wrong.stdout)


def test_every_public_name_is_typed_and_loads(folder):
    stub = "".join(f"reveal_type(saplab.{name})\n" for name in saplab.__all__ if name != "__version__")
    shown = check(folder, stub).stdout
    assert "Any" not in [line.rpartition("Revealed type is ")[2].strip('"') for line in shown.splitlines()]
    for name in saplab.__all__:
        assert getattr(saplab, name) is not None
    assert set(saplab.__all__) <= set(dir(saplab))
    with pytest.raises(AttributeError, match="has no attribute 'sapp'"):
        saplab.sapp  # noqa: B018
