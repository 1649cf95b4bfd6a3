"""What a verdict looks like in a terminal."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import saplab
from saplab.attacks import FGSM, PGD, MonteCarlo
from saplab.evaluation import text
from saplab.evaluation.advice import ANSWERED
from saplab.evaluation.checks import QUESTIONS
from saplab.evaluation.evidence import Evidence
from saplab.evaluation.text import by_advice, finding_text, verdict_text
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
    assert "is due to a masked gradient" in found.sentence
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
    at = lines.index("✗ The defence's own gradient is as strong as identity backward (BPDA)")
    assert "difference" in " ".join(lines[at + 1 : at + 3])
    assert any(line.startswith("✓ ") for line in lines)


def test_what_was_not_run_is_named_by_its_property_above_a_command_that_is_never_broken(monkeypatch):
    monkeypatch.setattr(text, "width", lambda: 40)
    found = masked()
    told = verdict_text(found)
    missing = [check for check in found.checks if check.outcome == "not run"]
    assert missing
    groups = by_advice(missing, text.Advice.in_python)
    assert all(f"\n  {told_of}" in told for told_of, _ in groups)
    assert sorted(check.key for _, group in groups for check in group) == sorted(check.key for check in missing)
    words = " ".join(told.split())
    assert all(f"– {check.statement}" in words for check in missing)
    assert 'add attacks="adaptive"' in told
    assert told.splitlines()[-1] == 'At once: attacks="adaptive" answers most of these.'


def test_the_adaptive_battery_is_named_only_where_it_answers_several():
    found = masked()
    wanted = {"relaxed", "steps"}
    few = tuple(check for check in found.checks if check.outcome != "not run" or check.key in wanted)
    assert {check.key for check in few if check.outcome == "not run"} == wanted
    assert "At once" not in verdict_text(replace(found, checks=few))


def test_the_adaptive_battery_answers_what_it_is_said_to_answer():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=8), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))
    images = torch.rand(4, 3, 32, 32)
    sap = saplab.defend(net, saplab.SAP(percent=100), seed=0)
    found = saplab.evaluate(sap, images, net(images).argmax(1), attacks="adaptive", eps=[8 / 255], samples=2, passes=4)
    assert {check.key for check in found.verdict.checks if check.outcome != "not run"} >= ANSWERED


def test_every_check_is_a_property_without_a_negation_or_an_internal_key():
    statements = [question.statement for question in QUESTIONS]
    assert not [words for words in statements if re.search(r"\b(no|not|never beats|No)\b", words)]
    assert not [one.key for one in QUESTIONS if f"Not run: {one.key}" in verdict_text(masked())]
    lines = verdict_text(masked()).splitlines()
    assert "– Accuracy never rises with λ under an iterative attack" in lines


def test_the_page_about_the_verdict_names_every_check_by_its_property():
    page = (Path(__file__).parents[2] / "docs" / "verdict.md").read_text(encoding="utf-8")
    assert all(f"| {one.statement.format(symbol='λ')} | {one.key} | " in page for one in QUESTIONS)
