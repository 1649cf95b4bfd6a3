"""From hand-made cells to the judge, the game and the files: every field that travels is asserted."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from synthetic import DENSE, SAP

from saplab.attacks import APGD, FGSM, PGD, Iterative, MonteCarlo, RandomNoise, Square
from saplab.defenses import RandomNoisyWeights
from saplab.evaluation.findings import evidence_of, find, finished_curves
from saplab.evaluation.report import telling_strength
from saplab.evaluation.result import Result
from saplab.evaluation.rows import summarise
from saplab.evaluation.text import cell_text, table_text
from saplab.metrics import game_value
from saplab.report.tables import to_csv, to_parquet
from saplab.runs import Curve, ImageCell, ImageResult, Memory, Request

LABELS = np.array([0, 1, 2, 0], np.int64)
NOISY_WEIGHTS = replace(DENSE, defenses=(RandomNoisyWeights(0.1),))
EPS = (8 / 255, 0.0, 2 / 255)  # not in order, as a cell may hold them


def cell(defender=SAP, adversary=None, attack=None, eps=EPS, **changes):
    return ImageCell(
        defender=defender, adversary=adversary or defender, attack=attack or FGSM(MonteCarlo(4)), eps=eps, start=0,
        stop=4, passes=changes.pop("passes", 4 if defender.random else 1), data="d" * 64, **changes,
    )  # fmt: skip


def predictions(right):
    """Probabilities (L, 4, 3): 0.7 for the label where an image is right, else for the next class."""
    probs = np.full((len(right), 4, 3), 0.15, np.float32)
    for k, row in enumerate(right):
        for n, is_right in enumerate(row):
            probs[k, n, (LABELS[n] + (not is_right)) % 3] = 0.7
    return probs


def result(right, half=None, hits=None, passes=4, cosine=0.5, norm=2.0, start=np.nan, end=np.nan):
    """The result of a cell: averaged predictions, another first half, and how many passes of each image are right."""
    right = np.asarray(right, bool)
    votes = np.zeros((*right.shape, 3), np.int32)
    counted = np.where(right, passes, 0) if hits is None else np.asarray(hits)
    for k in range(len(right)):
        votes[k, np.arange(4), LABELS] = counted[k]
        votes[k, np.arange(4), (LABELS + 1) % 3] = passes - counted[k]
    probs, first = predictions(right), predictions(right if half is None else half)
    note = [np.full(4, value, np.float32) for value in (cosine, norm, start)]
    ends = np.full((len(right), 4), end, np.float32)
    pictures = np.zeros((len(right), 0, 8, 8, 3), np.uint8)
    return ImageResult(probs, votes, first, first, LABELS, np.arange(4), *note, ends, pictures, {"seconds": 1.0})


def stored(*pairs, repeats=()):
    curves = tuple(Curve(label, (one,), paper={2.0: 66.3}, repeats=repeats) for label, one, _ in pairs)
    store = Memory(Request("by hand", curves))
    for _, one, found in pairs:
        store.save(one, found)
    return store


RIGHT = [[0, 0, 1, 0], [1, 1, 1, 0], [1, 0, 1, 0]]  # at λ = 8, 0 and 2


def test_every_field_of_the_evidence_comes_from_the_cell():
    half = [[1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]]
    found = result(RIGHT, half)
    (one,) = finished_curves(store := stored(("a curve", cell(), found)), store.request.curves)
    evidence = evidence_of(one)
    assert evidence.label == "a curve"
    assert evidence.attack == FGSM(MonteCarlo(4))
    assert evidence.adversary == "own"
    assert evidence.eps == (0.0, 2 / 255, 8 / 255)
    assert evidence.right.tolist() == [[1, 1, 1, 0], [1, 0, 1, 0], [0, 0, 1, 0]]
    assert evidence.has_rules
    assert evidence.random
    first, second = evidence.halves
    assert (first.argmax(2) == LABELS).tolist() == [[True] * 4, [True, True, True, False], [True, False, False, False]]
    rest = np.clip(2 * found.probs - found.half, 0, 1)  # 2 of 4 passes each
    np.testing.assert_allclose(second, rest[[1, 2, 0]], atol=1e-6)
    assert evidence.half_cosine.tolist() == [0.5] * 4
    assert evidence.gradient_norm.tolist() == [2.0] * 4


@pytest.mark.parametrize(
    ("defender", "adversary", "attack", "kind", "backward", "samples", "steps", "loss"),
    [
        (SAP, SAP, FGSM(MonteCarlo(4, "identity")), "own", "identity", 4, 1, "cross-entropy"),
        (SAP, SAP, Iterative(2.0, MonteCarlo(2)), "own", "mask", 2, 4, "cross-entropy"),
        (SAP, SAP, PGD(MonteCarlo(3), steps=7), "own", "mask", 3, 7, "cross-entropy"),
        (SAP, SAP, APGD(MonteCarlo(3, loss="dlr"), steps=9), "own", "mask", 3, 9, "dlr"),
        (SAP, DENSE, PGD(steps=7), "transfer", "", 1, 7, "cross-entropy"),
        (DENSE, DENSE, PGD(steps=7), "own", "", 1, 7, "cross-entropy"),
        (SAP, SAP, Square(queries=30, passes=5), "none", "", 1, 30, ""),
        (SAP, SAP, RandomNoise(), "none", "", 1, 1, ""),
        (
            replace(DENSE, defenses=(RandomNoisyWeights(0.1),)),
            None,
            PGD(MonteCarlo(3), steps=7),
            "own",
            "",
            3,
            7,
            "cross-entropy",
        ),
    ],
)
def test_the_facts_of_the_evidence_are_the_attacks(defender, adversary, attack, kind, backward, samples, steps, loss):
    one = cell(defender, adversary, attack)
    store = stored(("x", one, result(RIGHT, passes=one.passes)))
    evidence = evidence_of(next(iter(finished_curves(store, store.request.curves))))
    assert evidence.adversary == kind
    assert evidence.backward == backward
    assert (evidence.steps_at(8 / 255), evidence.loss) == (steps, loss)
    if kind != "none":
        assert evidence.samples == samples


def test_a_cosine_or_norm_that_was_not_measured_is_none_and_that_of_a_zero_half_is_zero():
    some, nothing = np.array([0.5, np.nan, 0.1, 0.2], np.float32), np.full(4, np.nan, np.float32)
    found = replace(result(RIGHT), half_cosine=some, gradient_norm=nothing)
    (one,) = finished_curves(store := stored(("a", cell(), found)), store.request.curves)
    assert evidence_of(one).half_cosine.tolist() == pytest.approx([0.5, 0.0, 0.1, 0.2])
    assert evidence_of(one).gradient_norm is None


@pytest.mark.parametrize(("start", "end", "flat"), [(0, 0, 0), (1, 0, 1), (0, 1, 1), (np.nan, 1, 1), (0, np.nan, 0)])
def test_a_flat_gradient_at_start_or_end_is_a_flat_gradient(start, end, flat):
    (one,) = finished_curves(store := stored(("a", cell(), result(RIGHT, start=start, end=end))), store.request.curves)
    assert evidence_of(one).flat.tolist() == [flat] * 4


def test_what_no_gradient_was_asked_for_is_not_flat():
    (one,) = finished_curves(store := stored(("a", cell(), result(RIGHT))), store.request.curves)
    assert evidence_of(one).flat is None


def test_the_games_payoffs_are_those_of_the_images_that_both_networks_met():
    mask, identity = FGSM(MonteCarlo(4)), FGSM(MonteCarlo(4, "identity"))
    left = {("SAP-100", mask): [1, 1, 1, 0], ("SAP-100", identity): [1, 0, 0, 0],
            ("dense", mask): [1, 1, 0, 0], ("dense", identity): [1, 1, 1, 1]}  # fmt: skip
    pairs = []
    for (name, attack), right in left.items():
        defender = SAP if name == "SAP-100" else DENSE
        one = cell(defender, SAP, attack, eps=(0.0, 8 / 255))
        pairs.append((f"{name} {attack.spec}", one, result([[1, 1, 1, 1], right], passes=one.passes)))
    found = find(stored(*pairs))
    assert list(found.games) == [8.0]
    game = found.games[8.0]
    assert game.defenders == ("SAP-100", "dense")
    assert game.adversaries == ("MC-FGSM ×4 mask on SAP-100", "MC-FGSM ×4 identity on SAP-100")
    assert game.payoff.tolist() == [[0.75, 0.25], [0.5, 1.0]]
    assert game.value == pytest.approx(0.625)
    assert found.verdict.robust[-1].attack == "SAP-100 fgsm:samples=4,backward=identity"  # the dense one is another


def test_every_column_of_a_stochastic_row():
    hits = np.tile([4, 3, 4, 0], (3, 1)) * 5  # of 20 passes
    one = cell(passes=20)
    store = stored(("SAP", one, result(RIGHT, hits=hits, passes=20)), repeats=((replace(one, seed=1),),))
    store.save(replace(one, seed=1), result([[0, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]], passes=20))
    (row,) = [row for row in summarise(store).rows if row.strength == 2]
    record = row.record()
    assert list(record) == [
        "curve", "strength", "images", "averaged_percent", "averaged_low", "averaged_high", "single_pass_percent",
        "single_pass_low", "single_pass_high", "majority_percent", "after_10_tries_percent", "after_10_tries_low",
        "after_10_tries_high", "after_100_tries_percent", "after_100_tries_low", "after_100_tries_high", "seeds",
        "over_seeds_percent", "over_seeds_low", "over_seeds_high", "paper_percent", "figure", "norm", "eps", "model",
        "defense", "adversary", "attack", "settings", "samples", "attack_steps", "backward", "loss", "passes", "seed",
        "precision",
    ]  # fmt: skip
    assert (record["curve"], record["strength"], record["images"], record["figure"]) == ("SAP", 2.0, 4, "")
    assert record["averaged_percent"] == 50.0
    assert (record["averaged_low"], record["averaged_high"]) == pytest.approx((15.0039, 84.9961), abs=1e-3)  # Wilson
    assert record["single_pass_percent"] == pytest.approx(100 * (20 + 15 + 20 + 0) / 80)
    assert record["majority_percent"] == 75.0
    every = (1 + 3003 / 184756 + 1 + 0) / 4  # C(15, 10) / C(20, 10) of the second image
    assert record["after_10_tries_percent"] == pytest.approx(100 * every, abs=1e-3)
    assert record["after_10_tries_low"] < 100 * every < record["after_10_tries_high"]
    assert record["after_100_tries_percent"] is None
    assert (record["seeds"], record["paper_percent"]) == (2, 66.3)
    assert record["over_seeds_low"] < record["over_seeds_percent"] < record["over_seeds_high"]
    assert record["over_seeds_percent"] == 37.5
    assert row.seeds.combined.estimate == pytest.approx(0.375)

    (line,) = list(csv.DictReader(io.StringIO(to_csv([record]))))
    assert {name: line[name] for name in ("curve", "seeds", "majority_percent")} == {
        "curve": "SAP", "seeds": "2", "majority_percent": "75.0",
    }  # fmt: skip
    from pyarrow import parquet

    assert parquet.read_table(io.BytesIO(to_parquet([record]))).to_pylist() == [record]


def test_the_margin_is_the_larger_side_of_the_interval():
    (row,) = [row for row in summarise(stored(("SAP", cell(), result(RIGHT)))).rows if row.strength == 0]
    low, high = row.averaged.low, row.averaged.high
    assert row.averaged.estimate == 0.75
    assert cell_text(row) == f"75.0 ±{100 * max(0.75 - low, high - 0.75):.1f}"
    assert 0.75 - low > high - 0.75
    assert f"75.0 ±{100 * (0.75 - low):.1f}" in table_text([row])


def test_the_five_exposing_attacks_each_unmask_a_gradient():
    """An attack that should be weaker takes everything where the own gradient leaves everything."""
    images = 60
    labels = np.arange(images) % 3

    def run(*attacked):
        curves, results = [], []
        for adversary, attack, survives in attacked:
            one = ImageCell(defender=SAP, adversary=adversary, attack=attack, eps=(0.0, 8 / 255), start=0, stop=images,
                            passes=4, data="d" * 64)  # fmt: skip
            probs = np.full((2, images, 3), 0.1, np.float32)
            probs[0, np.arange(images), labels] = 0.8
            probs[1, np.arange(images), (labels + (not survives)) % 3] = 0.8
            votes = (probs * 5).round().astype(np.int32)
            note = np.full(images, np.nan, np.float32)
            curves.append(Curve(f"{len(curves)}", (one,)))
            pictures = np.zeros((2, 0, 8, 8, 3), np.uint8)
            notes = (note, note, note, np.stack((note, note)), pictures)
            results.append((one, ImageResult(probs, votes, probs, probs, labels, np.arange(images), *notes, {})))
        store = Memory(Request("by hand", tuple(curves)))
        for one, found in results:
            store.save(one, found)
        return find(store).verdict

    own = (SAP, PGD(MonteCarlo(4), steps=20), True)
    for exposing in (
        (DENSE, PGD(steps=20), False),
        (SAP, PGD(MonteCarlo(4, "identity"), steps=20), False),
        (SAP, Square(queries=100), False),
        (SAP, FGSM(MonteCarlo(20)), False),
        (SAP, RandomNoise(), False),
    ):
        found = run(own, exposing)
        assert found.masked, exposing[1]
        assert "masked gradient" in found.sentence
        assert found.headline.accuracy.estimate == 0.0
    assert run(own).masked is None


def test_a_study_of_several_networks_has_tables_and_no_verdict():
    other = replace(SAP, defenses=(RandomNoisyWeights(0.1),))
    store = stored(("one", cell(), result(RIGHT)), ("two", cell(other, other), result(RIGHT)))
    found = Result(store)
    assert found.findings is None
    with pytest.raises(ValueError, match="a verdict is about one network, but this is a study of 2: "):
        assert found.verdict
    assert "one" in repr(found)
    assert "two" in repr(found)


def test_seeds_of_other_images_are_not_compared():
    one = cell(passes=20)
    store = stored(("SAP", one, result(RIGHT, passes=20)), repeats=((replace(one, seed=1),),))
    late = result([[0, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]], passes=20)
    store.save(replace(one, seed=1), replace(late, examples=late.examples + 4))
    assert all(row.seeds is None for row in summarise(store).rows)


def test_monte_carlo_convergence_is_of_the_curves_that_differ_in_samples_alone():
    pairs = [(f"{n}", cell(attack=FGSM(MonteCarlo(n))), result(RIGHT, passes=4)) for n in (1, 4, 10)]
    store = stored(*pairs, ("steps", cell(attack=PGD(MonteCarlo(4))), result(RIGHT)))
    points = find(store).convergence
    assert {(one["value"], one["strength"], one["percent"]) for one in points} == {
        (n, strength, percent) for n in (1, 4, 10) for strength, percent in ((8.0, 25.0), (2.0, 50.0))
    }
    assert find(stored(*pairs[:1])).convergence == ()


def test_the_game_that_is_drawn_is_the_one_closest_to_half():
    found = find(stored(("a", cell(), result(RIGHT))))
    games = {2.0: game_value([[0.9, 0.9], [0.9, 0.9]]), 8.0: game_value([[0.55, 0.55], [0.55, 0.55]])}
    assert telling_strength(replace(found, games=games)) == 8.0
    assert telling_strength(found) is telling_strength(None) is None
