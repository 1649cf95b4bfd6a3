"""The page of a run that was started from Python says by which call."""

import html
from pathlib import Path

import torch
from torch import nn

import saplab
from saplab.attacks import LINF, ThreatModel
from saplab.evaluation.again import call_of


def test_a_call_names_attacks_radii_and_settings_as_python_writes_them():
    told = call_of("quick", [2 / 255, 8 / 255], LINF, {"passes": 20, "precision": "bfloat16"})
    assert told == (
        'saplab.evaluate(model, images, labels, attacks="quick", eps=[2 / 255, 8 / 255], passes=20,'
        ' precision="bfloat16")'
    )


def test_attacks_that_are_objects_can_be_read_back():
    given = [saplab.PGD(saplab.MonteCarlo(5, backward="identity"), steps=7), "fgsm"]
    told = call_of(given, [0.5], ThreatModel("l2"), {})
    text = told.partition("attacks=")[2].partition(", eps=")[0]
    assert eval(text, {"saplab": saplab}) == given
    assert told.endswith('eps=[0.5], norm="l2", bounds=(0.0, 1.0))')


def test_radii_that_are_no_steps_are_told_exactly():
    told = call_of("quick", [8 / 255, 0.0123456789, 0.1], LINF, {}, ["examples"])
    assert "eps=[8 / 255, 0.0123456789, 25.5 / 255], examples=examples)" in told


def margin_of_two(logits, labels):
    return logits[:, 0] - logits[:, 1]


def test_only_unusual_settings_of_an_object_are_told_and_a_function_by_its_name():
    gradient = saplab.MonteCarlo(5, loss=margin_of_two)
    told = call_of([saplab.FGSM(gradient), saplab.FGSM()], [8 / 255], LINF, {})
    assert "attacks=[saplab.FGSM(gradient=saplab.MonteCarlo(samples=5, loss=margin_of_two)), saplab.FGSM()]," in told


def test_the_page_of_a_result_in_memory_shows_its_call(tmp_path: Path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).eval()
    images, labels = torch.rand(6, 3, 2, 2), torch.arange(6) % 4
    result = saplab.evaluate(model, images, labels, attacks="fgsm", eps=[4 / 255], seed=3, seeds=1, batch_size=3)
    call = (
        'saplab.evaluate(model, images, labels, attacks="fgsm", eps=[4 / 255], passes=20, samples=20, seed=3,'
        " batch_size=3)"
    )
    assert result.request.command == call
    page = html.unescape(result.report(tmp_path).files[0].read_text(encoding="utf-8"))
    assert f"<pre>{call}</pre>" in page
    assert "The run was started from Python" in page
