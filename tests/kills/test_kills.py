"""The short form of the kills: a run that is killed twice at random moments ends with the same bits.

Commands begin as processes of their own here: a copy of pytest's, which has drawn charts by then, would wait for
threads that it does not have.
"""

import random

import pytest

from kills.chains import COMMANDS, bits, killed, prepare, undisturbed


@pytest.mark.parametrize(
    "name", ["evaluate", *(pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS if name != "evaluate")]
)
def test_a_killed_run_ends_with_the_same_bits(tmp_path, name):
    if name in ("play", "train-agent"):
        pytest.importorskip("ale_py")
    if name == "evaluate-ray":
        pytest.importorskip("ray")
    prepare(tmp_path)
    reference, seconds = undisturbed(COMMANDS[name], tmp_path)
    assert killed(COMMANDS[name], "killed", tmp_path, seconds, 2, random.Random(1)) > 0
    assert bits(tmp_path / "killed", COMMANDS[name]) == reference
