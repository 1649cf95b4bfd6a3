"""What a verdict looks like in a terminal."""

import numpy as np
import pytest

from saplab.attacks import FGSM, PGD, MonteCarlo
from saplab.evaluation import text
from saplab.evaluation.evidence import Evidence
from saplab.evaluation.text import finding_text, not_run, verdict_text
from saplab.evaluation.verdict import verdict

N = 400
LABELS = np.zeros(N, int)


def evidence(attack, right, **facts):
    """Evidence of one radius, with the first `right` of N images still right."""
    probs = np.where((np.arange(N) < right)[:, None], [0.9, 0.1], [0.1, 0.9])[None]
    return Evidence.of(attack, [8 / 255], probs, LABELS, **facts)


def masked():
    own, identity = (PGD(MonteCarlo(samples=4, backward=rule)) for rule in ("mask", "identity"))
    return verdict([evidence(own, 320, has_rules=True), evidence(identity, 8, has_rules=True)], labels=LABELS)


def test_two_sentences_say_what_was_found_and_what_it_means():
    found = masked()
    assert found.masked
    assert "is a masked gradient" in found.sentence
    assert "the defence hides its gradient" in found.meaning
    assert "is not real" in found.meaning
    assert " ".join(finding_text(found).split()) == f"{found.sentence} {found.meaning}"


@pytest.mark.parametrize(
    ("attacks", "eps", "told"),
    [([(FGSM(), 300)], 8 / 255, "cannot be told"), ([(FGSM(), 300)], 0, "No attack was run")],
)
def test_the_meaning_goes_by_what_is_known(attacks, eps, told):
    probs = np.tile([0.9, 0.1], (1, N, 1))
    every = [Evidence.of(attack, [eps], probs, LABELS) for attack, _ in attacks]
    assert told in verdict(every, labels=LABELS).meaning


def test_a_property_that_does_not_hold_has_a_cross_and_its_evidence_below():
    lines = verdict_text(masked()).splitlines()
    at = lines.index("✗ Identity backward (BPDA) does not beat the defence's own gradient")
    assert "difference" in " ".join(lines[at + 1 : at + 3])
    assert any(line.startswith("✓ ") for line in lines)


def test_what_was_not_run_is_a_line_for_each_command_that_is_never_broken(monkeypatch):
    monkeypatch.setattr(text, "width", lambda: 40)
    found = masked()
    lines = verdict_text(found).splitlines()
    missing = list(not_run(found.checks, text.Advice.in_python))
    assert missing
    for keys, command, reason in missing:
        assert f"Not run: {keys}. To run: {command}" in lines if command else f"Not run: {keys}, as {reason}" in lines
    named = [key for keys, *_ in missing for key in keys.split(", ")]
    assert sorted(named) == sorted(check.key for check in found.checks if check.outcome == "not run")
    assert len({command for _, command, _ in missing}) == len(missing)
