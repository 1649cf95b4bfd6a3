"""Attacks by name: what the command line writes, what a cell stores, and what a battery plans."""

from dataclasses import replace

import pytest

from saplab.attacks import APGD, FGSM, PGD, Iterative, MonteCarlo, RandomNoise, Square
from saplab.attacks.batteries import Adversary, attack_of, battery, parse_adversaries, settings_of
from saplab.evaluation.plan import evaluation, is_across
from saplab.runs.cell import Cell, Network

GRADIENT = MonteCarlo(20)
SAP = Network("net", "a" * 64, "sap:100")
WHOLE = Cell(SAP, SAP, {"name": "noise"}, (0.0, 4.0), "b" * 64, 0, 30, 10, 0)


@pytest.mark.parametrize(
    "attack",
    [
        RandomNoise(),
        FGSM(MonteCarlo(7, "identity", "logits", "margin")),
        Iterative(2.5, MonteCarlo(3), stop_when_lost=False),
        PGD(MonteCarlo(3), steps=7, restarts=2, relative_step=0.1, momentum=0.5, random_start=False, targets=3),
        APGD(MonteCarlo(2, loss="dlr"), steps=9),
        Square(queries=11, passes=3),
    ],
)
def test_an_attack_comes_back_from_its_settings(attack):
    assert attack_of(settings_of(attack)) == attack


def test_attacks_are_read_with_their_settings():
    text = "fgsm+pgd:steps=40,samples=10,backward=identity,relative_step=0.1,lambda=8/64+iterative:adversary=dense"
    fgsm, pgd, iterative = parse_adversaries(text, GRADIENT)
    assert fgsm == Adversary(FGSM(GRADIENT))
    assert pgd == Adversary(PGD(MonteCarlo(10, "identity"), steps=40, relative_step=0.1), strengths=(8.0, 64.0))
    assert iterative == Adversary(Iterative(gradient=GRADIENT), "dense")


def test_a_battery_and_a_part_of_it_are_each_there_once():
    assert parse_adversaries("noise+paper+paper", GRADIENT) == parse_adversaries("paper", GRADIENT)


def test_the_adaptive_battery_knows_more_than_the_papers():
    paper, adaptive = battery("paper", GRADIENT), battery("adaptive", GRADIENT)
    assert adaptive[: len(paper)] == paper
    kinds = {type(adversary.attack) for adversary in adaptive}
    assert kinds == {RandomNoise, FGSM, Iterative, PGD, APGD, Square}
    rules = {a.attack.gradient.backward for a in adaptive if hasattr(a.attack, "gradient")}
    assert rules == {"mask", "identity"}


def test_a_transfer_goes_on_where_the_undefended_network_is_lost():
    transfer = Adversary(PGD(GRADIENT), "dense").against("sap:100")
    assert not transfer.attack.stop_when_lost
    assert transfer.attack.gradient.samples == 1
    assert Adversary(PGD(GRADIENT)).against("sap:100").attack.stop_when_lost


@pytest.mark.parametrize(
    ("defense", "samples", "rule"),
    [("", 1, "mask"), ("dwp:50", 1, "mask"), ("rna:0.1", 20, "mask"), ("sap:100", 20, "identity")],
)
def test_settings_without_effect_become_plain(defense, samples, rule):
    found = Adversary(FGSM(replace(GRADIENT, backward="identity"))).against(defense).attack.gradient
    assert (found.samples, found.backward) == (samples, rule)


def test_every_image_that_is_made_is_shown_to_both_networks():
    curves = evaluation(WHOLE, battery("paper", GRADIENT), 10)
    by_images = {}
    for curve in curves:
        by_images.setdefault(curve.cells[0].images, set()).add(curve.cells[0].defender.defense)
    alone = [names for names in by_images.values() if names != {"", "sap:100"}]
    assert alone == [{""}] * len(alone)  # the undefended network's own attacks that stop where it is lost
    assert len({curve.label for curve in curves}) == len(curves)


def test_curves_are_cut_without_a_gap():
    for curve in evaluation(WHOLE, battery("adaptive", GRADIENT), 12, seeds=3):
        assert [(cell.start, cell.stop) for cell in curve.cells] == [(0, 12), (12, 24), (24, 30)]
        for seed, cells in enumerate(curve.repeats, start=1):
            assert {cell.seed for cell in cells} == {seed}
        random = curve.cells[0].defender.defense or curve.cells[0].adversary.defense
        assert len(curve.repeats) == (2 if random else 0)


def test_one_attack_needs_no_curve_across():
    curves = evaluation(WHOLE, (Adversary(FGSM(GRADIENT)),), 10)
    assert [curve.label for curve in curves] == ["dense: FGSM", "SAP-100: MC-FGSM ×20 mask"]
    assert not any(is_across(curve.cells[0]) for curve in curves)


def test_an_undefended_network_meets_each_attack_once():
    dense = replace(WHOLE, defender=Network("net", "a" * 64))
    curves = evaluation(dense, battery("adaptive", GRADIENT), 10)
    assert len({curve.cells[0].images for curve in curves}) == len(curves)
    assert all(curve.cells[0].adversary == dense.defender for curve in curves)


def test_cells_that_differ_in_samples_are_crafted_together():
    few, many = (replace(WHOLE, attack=settings_of(FGSM(MonteCarlo(n)))) for n in (1, 10))
    assert few.crafting == many.crafting
    assert few.images != many.images
    logits = [replace(WHOLE, attack=settings_of(FGSM(MonteCarlo(n, average="logits")))) for n in (1, 10)]
    assert logits[0].crafting != logits[1].crafting
    assert replace(few, defender=Network("net", "a" * 64), passes=1).images == few.images
    assert replace(few, seed=1).images != few.images


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be one of paper, adaptive, noise"),
        ("fgsm+nope", "got 'nope'"),
        ("noise:samples=3", "RandomNoise has no setting 'samples'; it has none"),
        ("pgd:adversary=other", "`adversary` must be self or dense, got 'other'"),
        ("pgd:random_start=maybe", "random_start must be true or false, got 'maybe'"),
        ("fgsm:samples=1.5", "samples must be a whole number, got '1.5'"),
        ("fgsm:backward=sideways", "`backward` must be one of mask"),
        ("pgd:lambda=300", r"within \[0, 255\]"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_adversaries(text, GRADIENT)
