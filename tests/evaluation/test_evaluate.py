"""saplab.evaluate and saplab.load: what they take, refuse and return."""

import html
import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import saplab
from saplab.attacks import Attacker, parse_attackers
from saplab.data.load import load_data
from saplab.evaluation.budget import Budget, budget_of
from saplab.evaluation.result import Result
from saplab.runs.networks import rehearsed


def small(seed=0, classes=3):
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, classes))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return net.eval()


NET = small()
IMAGES = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = NET(IMAGES).argmax(1)
QUICK = {"attacks": "fgsm", "eps": 8 / 255, "passes": 4, "samples": 2, "progress": False}


@pytest.fixture(scope="module")
def result():
    return saplab.evaluate(saplab.defend(NET, saplab.SAP(100)), IMAGES, LABELS, **QUICK)


def test_the_result_has_rows_and_a_verdict(result):
    assert {(row["curve"], row["strength"]) for row in result.rows} == {
        (curve, strength) for curve in ("undefended: FGSM", "SAP-100: MC-FGSM ×2 mask") for strength in (0.0, 8.0)
    }
    clean = next(row for row in result.rows if row["curve"] == "undefended: FGSM" and row["strength"] == 0)
    assert (clean["averaged_percent"], clean["images"]) == (100.0, 16)
    assert result.verdict.headline.strength == 8.0
    assert "Robust accuracy at λ = 8 is at most" in result.verdict.sentence


def test_it_prints_its_table_and_verdict(result):
    shown = repr(result)
    finding, table = shown.split("\n\n", 1)
    assert " ".join(finding.split()) == f"{result.verdict.sentence} {result.verdict.meaning}"
    assert table.startswith("accuracy, %")
    shown = result._repr_html_()
    assert shown.startswith(f"<p><strong>{html.escape(result.verdict.sentence)}</strong> ")
    assert "<svg" in shown
    text = shown.partition("<pre>")[2]
    assert text.startswith("accuracy, %")
    assert all(html.escape(check.statement) in text for check in result.verdict.checks if check.outcome == "passed")
    assert max(map(len, html.unescape(text).splitlines())) <= 100


def test_it_becomes_a_chart(result):
    assert result.plot().to_dict()["data"]["values"][0]["curve"]


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_it_becomes_a_data_frame_of_what_is_installed(result, monkeypatch, package):
    made = SimpleNamespace(DataFrame=lambda rows: (package, rows))
    for name in ("pandas", "polars"):
        monkeypatch.setitem(sys.modules, name, made if name == package else None)
    assert result.to_dataframe() == (package, result.rows)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match="needs pandas or polars"):
        result.to_dataframe()


def test_a_report_of_results_in_memory_needs_a_folder(result, tmp_path):
    with pytest.raises(ValueError, match="`folder` must be given"):
        result.report()
    files = result.report(tmp_path / "page").files
    assert files[0].name == "report.html"
    assert all(file.stat().st_size > 0 for file in files)


def test_memory_and_folder_hold_the_same_and_the_folder_goes_on(result, tmp_path):
    sap = saplab.defend(NET, saplab.SAP(100))
    kept = saplab.evaluate(sap, IMAGES, LABELS, out=tmp_path / "run", batch_size=8, **QUICK)
    assert kept.rows == result.rows
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "cells").iterdir()}
    again = saplab.evaluate(sap, IMAGES, LABELS, out=tmp_path / "run", batch_size=8, **QUICK)
    assert again.rows == kept.rows
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "cells").iterdir()} == files
    opened = saplab.load(tmp_path / "run")
    assert isinstance(opened, Result)
    assert (opened.rows, opened.verdict.sentence) == (kept.rows, kept.verdict.sentence)
    with pytest.raises(ValueError, match=r"holds another request .*passes 4, not 5"):
        saplab.evaluate(sap, IMAGES, LABELS, out=tmp_path / "run", batch_size=8, **{**QUICK, "passes": 5})


def test_other_weights_are_another_request(tmp_path):
    saplab.evaluate(NET, IMAGES, LABELS, out=tmp_path / "run", **QUICK)
    with pytest.raises(ValueError, match=r"another request .*digest"):
        saplab.evaluate(small(1), IMAGES, LABELS, out=tmp_path / "run", **QUICK)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": IMAGES * 2}, r"`images` must lie in \[0, 1\]"),
        ({"labels": LABELS[:3]}, "`labels` must be 16 integers"),
        ({"labels": LABELS.float()}, "`labels` must be 16 integers, one for each image, got torch.float32"),
        ({"labels": LABELS + 5}, r"`labels` must lie in 0\.\.2"),
        ({"eps": 2.0}, r"`eps` must be within \[0, 1\]"),
        ({"norm": "l1"}, "`norm` must be one of linf"),
        ({"attacks": "cw"}, "`attack` must be one of quick, standard, paper, adaptive"),
        ({"attacks": []}, "`attacks` must hold at least one attack"),
        ({"eps": "8/255"}, "`eps` must be a number such as 8 / 255, or several, got '8/255'"),
        ({"passes": 0}, "`passes` must be >= 1"),
        ({"passes": 2**31}, "`passes` must be at most 2147483647"),
        ({"seed": -1}, "`seed` must be an integer >= 0"),
        ({"precision": "half"}, "`precision` must be one of"),
        ({"workers": 0}, "`workers` must be >= 1"),
        ({"engine": "fast"}, "`engine` must be one of"),
        ({"examples": [1, 2]}, "`examples` must be 16 integers"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_a_line(changes, message):
    settings = {"images": IMAGES, "labels": LABELS, **QUICK, **changes}
    sap = saplab.defend(NET, saplab.SAP(100))
    with pytest.raises(ValueError, match=message):
        saplab.evaluate(sap, **settings)


class Last(nn.Module):
    """A network with a function of its logits as its last step."""

    def __init__(self, last):
        super().__init__()
        self.net, self.last = NET, last

    def forward(self, images):
        return self.last(self.net(images))


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (lambda z: z[:, :1], r"logit for each of at least two classes, .*return torch\.cat"),
        (lambda z: z * torch.nan, "must return finite logits"),
        (lambda z: z.abs() / 0, "must return finite logits"),
    ],
)
def test_logits_that_tell_nothing_are_refused_before_anything_is_computed(last, message):
    with pytest.raises(ValueError, match=message):
        saplab.evaluate(Last(last), IMAGES, LABELS * 0, **QUICK)
    with pytest.raises(ValueError, match=message):
        saplab.predict(Last(last), IMAGES)


def test_wrong_kinds_are_refused():
    with pytest.raises(TypeError, match=r"`model` must be an nn.Module, got function"):
        saplab.evaluate(lambda x: x, IMAGES, LABELS)
    for name in ("passes", "samples", "batch_size"):
        with pytest.raises(TypeError, match=f"`{name}` must be an integer, got 2.0"):
            saplab.evaluate(NET, IMAGES, LABELS, **{**QUICK, name: 2.0})
    with pytest.raises(TypeError, match="`attacks` must be a battery"):
        saplab.evaluate(NET, IMAGES, LABELS, attacks=7)
    with pytest.raises(ValueError, match="holds a defended network inside it"):
        saplab.evaluate(nn.Sequential(saplab.defend(NET, saplab.SAP(100))).eval(), IMAGES, LABELS, **QUICK)


def test_arrays_and_integers_of_other_types_are_taken():
    plain = saplab.evaluate(NET, IMAGES, LABELS, **QUICK)
    arrays = saplab.evaluate(NET, IMAGES.numpy(), LABELS.numpy().astype(np.int32), **QUICK)
    assert arrays.rows == plain.rows


def test_attacks_may_be_text_objects_and_lines():
    attacks = ["noise", saplab.PGD(steps=2), Attacker(saplab.FGSM(), eps=(16 / 255,))]
    found = saplab.evaluate(NET, IMAGES, LABELS, **{**QUICK, "attacks": attacks})
    assert list(dict.fromkeys(row["curve"] for row in found.rows)) == [
        "undefended: random noise", "undefended: PGD-2", "undefended: FGSM at λ=16",
    ]  # fmt: skip


def test_the_draws_depend_on_the_numbers_of_the_images_alone():
    sap = saplab.defend(NET, saplab.SAP(50))
    whole = saplab.evaluate(sap, IMAGES, LABELS, **QUICK)
    numbers = torch.arange(16)
    (curve,) = [curve for curve in whole.request.curves if curve.first.defender.defenses]
    probs = whole.store.load(curve.first).probs
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    other = saplab.evaluate(sap, IMAGES[order], LABELS[order], examples=numbers[order], **QUICK)
    (curve,) = [curve for curve in other.request.curves if curve.first.defender.defenses]
    np.testing.assert_allclose(other.store.load(curve.first).probs, probs[:, order], atol=1e-6)


def test_a_network_is_named_with_where_its_defences_act():
    sap = saplab.defend(NET, saplab.SAP(100), saplab.RandomNoisyWeights(0.1), sites="1", parameters="0.*")
    network, plain, *_ = rehearsed(sap, IMAGES)
    assert type(plain) is nn.Sequential
    assert (network.spec, network.sites) == ("sap:100+rnw:0.1", ("1",))
    assert network.parameters == ("0.weight", "0.bias")
    usual, *_ = rehearsed(saplab.defend(NET, saplab.RandomNoisyWeights(0.1)), IMAGES)
    assert usual.parameters == ()
    found = saplab.evaluate(sap, IMAGES, LABELS, **QUICK)
    assert found.rows


def test_seeds_give_intervals_over_them():
    found = saplab.evaluate(saplab.defend(NET, saplab.SAP(20)), IMAGES, LABELS, **QUICK, seeds=2)
    sap = [row for row in found.rows if row["curve"].startswith("SAP")]
    assert {row["seeds"] for row in sap} == {2}
    assert all(row["over_seeds_low"] is not None for row in sap)


def test_rows_are_json(result):
    assert json.loads(json.dumps(result.rows, allow_nan=False)) == result.rows


def test_images_that_the_network_cannot_take_are_named():
    with pytest.raises(ValueError, match=r"the network cannot take torch\.float32 images of shape \(3, 9, 9\)"):
        saplab.evaluate(NET, torch.rand(4, 3, 9, 9), LABELS[:4], **QUICK)


def test_an_attack_whose_cost_is_no_cost_is_named():
    class Free(saplab.RandomNoise):
        def cost(self, eps):
            return 0

    with pytest.raises(TypeError, match=r"Free.cost must return a saplab.Cost, got 0"):
        saplab.evaluate(NET, IMAGES, LABELS, **{**QUICK, "attacks": Free()})


def test_a_report_prints_its_files_alone(result, tmp_path):
    assert len(repr(result.report(tmp_path / "page"))) < 2000


def digests(model, **settings):
    found = saplab.evaluate(model, IMAGES, LABELS, **{**QUICK, **settings})
    return {cell.digest for cell in found.request.cells}


def test_what_decides_numbers_is_in_the_keys():
    """Each of these once shared its key with the first, and got its stored numbers."""
    plain = digests(saplab.defend(NET, saplab.Dropout({"1": 0.9, "*": 0.1})))
    other = [
        digests(saplab.defend(NET, saplab.Dropout({"*": 0.1, "1": 0.9}))),  # of patterns, the first match counts
        digests(saplab.defend(NET, saplab.Dropout({"1": 0.9, "*": 0.1})), examples=torch.arange(16) + 100),
        digests(saplab.defend(nn.Sequential(NET[0], nn.Tanh(), *NET[2:]).eval(), saplab.Dropout({"1": 0.9, "*": 0.1}))),
    ]
    assert all(not plain & found for found in other[1:])
    assert len(plain & other[0]) == 1  # that of the undefended network


def test_a_plain_attribute_of_a_network_is_in_the_key():
    class Scaled(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.net, self.scale = NET, scale

        def forward(self, x):
            return self.net(x) * self.scale

    assert not digests(Scaled(1.0).eval()) & digests(Scaled(2.0).eval())
    assert digests(Scaled(1.0).eval()) == digests(Scaled(1.0).eval())


def test_radii_that_an_attacker_names_twice_are_one():
    attacker = Attacker(saplab.FGSM(), eps=(4 / 255, 4 / 255, 32 / 255))
    found = saplab.evaluate(NET, IMAGES, LABELS, **{**QUICK, "attacks": attacker})
    once = saplab.evaluate(
        NET, IMAGES, LABELS, **{**QUICK, "attacks": Attacker(saplab.FGSM(), eps=(4 / 255, 32 / 255))}
    )
    assert [row["averaged_percent"] for row in found.rows] == [row["averaged_percent"] for row in once.rows]


def test_a_damaged_cell_is_computed_again_at_once(tmp_path):
    kept = saplab.evaluate(NET, IMAGES, LABELS, out=tmp_path / "run", batch_size=8, **QUICK)
    path = kept.store.path(kept.request.cells[0])
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-200] ^= 255
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = saplab.evaluate(NET, IMAGES, LABELS, out=tmp_path / "run", batch_size=8, **QUICK)
    assert again.rows == kept.rows


def test_classes_of_any_kind_are_kept_as_names(tmp_path):
    saplab.evaluate(NET, IMAGES, LABELS, out=tmp_path / "run", classes=[0, 1, 2], **QUICK)
    assert saplab.load(tmp_path / "run").request.classes == ("0", "1", "2")


@pytest.mark.parametrize("eps", [np.float32(8 / 255), torch.tensor(8 / 255), [8 / 255], (8 / 255,)])
def test_radii_of_any_kind_are_taken(eps):
    found = saplab.evaluate(NET, IMAGES, LABELS, **{**QUICK, "eps": eps})
    assert [row["strength"] for row in found.rows] == pytest.approx([0.0, 8.0], abs=1e-5)


def test_an_attack_that_writes_into_its_images_changes_no_others_and_leaves_the_ball():
    class Writes(saplab.RandomNoise):
        def ascending(self, problem, radii):
            for eps in radii:
                yield problem.images.add_(eps).clamp_(0, 1)

    images = IMAGES.clone()
    with pytest.raises(ValueError, match=r"Writes left the ball of radius 0\.5"):
        list(Writes().curve(NET, images, LABELS, (0.5, 0.25)))
    assert torch.equal(images, IMAGES)


def test_the_standard_battery_adds_relaxed_attacks_where_a_gradient_saturates_and_names_its_version():
    quick = {"passes": 2, "samples": 2, "progress": False, "eps": 0.1}
    plain = saplab.evaluate(NET, IMAGES[:4], LABELS[:4], attacks="standard", **quick)
    sharp = nn.Sequential(NET, nn.Softmax(1), nn.Threshold(0.5, 0.0)).eval()
    stepwise = saplab.evaluate(sharp, IMAGES[:4], LABELS[:4], attacks="standard", **quick)
    relaxed = [
        [c for c in found.request.curves if "relaxed" in c.first.attack.spec] for found in (plain, stepwise)
    ]  # fmt: skip
    assert [len(curves) for curves in relaxed] == [0, 3]
    assert all(found.request.notes[0].endswith("standard, version saplab-1.") for found in (plain, stepwise))
    assert "saplab-1" in repr(plain)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_standard_battery_judges_networks_of_few_classes(classes):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(IMAGES[0].numel(), classes)).eval()
    labels = net(IMAGES).argmax(1)
    found = saplab.evaluate(net, IMAGES, labels, eps=0.2, progress=False)
    assert found.verdict.headline.accuracy.estimate == 0


def test_where_no_gradient_sees_anything_the_black_box_searches_on():
    class Lookup(nn.Module):
        """A network behind a table, which ends every gradient."""

        def forward(self, x):
            return NET(torch.arange(256.0)[(x.detach() * 255).round().long()] / 255)

    attacks = [c.first.attack for c in saplab.evaluate(Lookup().eval(), IMAGES, LABELS, eps=0.1, passes=1,
                                                       samples=1, progress=False).request.curves]  # fmt: skip
    assert [a.queries for a in attacks if isinstance(a, saplab.Square)] == [100, 1000]


def test_logits_of_any_size_are_judged_alike_and_what_they_hide_is_called_masked():
    """Multiplied logits change no prediction, but leave cross-entropy no gradient: PGD seems to leave nearly all."""

    class Scaled(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor, self.net = factor, small(3, 10)

        def forward(self, x):
            return self.factor * self.net(x)

    images = torch.rand(80, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    labels = Scaled(1.0).eval()(images).argmax(1)
    plain, scaled = (
        saplab.evaluate(Scaled(factor).eval(), images, labels, "standard", 4 / 255, progress=False)
        for factor in (10.0, 1e7)
    )
    left = {row["curve"]: row["averaged_percent"] for row in scaled.rows if row["strength"] == 4}
    assert left["undefended: PGD-20"] > left["undefended: PGD-20 relaxed"] + 20
    assert scaled.verdict.masked
    assert not plain.verdict.masked
    bounds = [found.verdict.headline.accuracy.estimate for found in (plain, scaled)]
    assert 0.1 < bounds[0] < 0.9
    assert bounds[1] <= bounds[0] + 0.01


def test_a_network_of_float64_is_attacked_and_judged_in_float64():
    class Noting(nn.Sequential):
        def forward(self, x):
            seen.add(x.dtype)
            return super().forward(x)

    seen: set[torch.dtype] = set()
    whole = {"attacks": "pgd:steps=3+square:queries=20", "eps": 4 / 255, "passes": 2, "samples": 2, "progress": False}
    for defenses in ((), (saplab.SAP(100), saplab.GaussianNoise(0.01))):
        nets = [saplab.defend(net, *defenses) if defenses else net for net in (NET, Noting(*small()).double().eval())]
        found = [saplab.evaluate(net, IMAGES, LABELS, **whole) for net in nets]
        one, other = ([row["averaged_percent"] for row in result.rows] for result in found)
        assert one == pytest.approx(other, abs=7)  # one image of 16 may change sides
    assert seen == {torch.float64}


def test_a_network_of_float64_has_no_other_precision():
    with pytest.raises(ValueError, match=r"a network of float64 keeps its precision, got `precision` bfloat16"):
        saplab.evaluate(small().double(), IMAGES, LABELS, **QUICK, precision="bfloat16")
    with pytest.raises(ValueError, match=r"keeps its precision, got `attack_precision` bfloat16"):
        saplab.evaluate(small().double(), IMAGES, LABELS, **QUICK, attack_precision="bfloat16")
    rows = saplab.evaluate(small().double(), IMAGES, LABELS, **QUICK, attack_precision="auto").rows
    assert {row["curve"] for row in rows} == {"undefended: FGSM"}


@pytest.mark.parametrize("native", [True, False])
def test_auto_takes_bfloat16_for_attacks_alone_where_the_hardware_has_it(native, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    result = saplab.evaluate(NET, IMAGES, LABELS, **QUICK, attack_precision="auto")
    assert {row["precision"] for row in result.rows} == {"float32"}
    assert {row["curve"] for row in result.rows} == {f"undefended: FGSM{' bfloat16' if native else ''}"}
    assert 'attack_precision="auto"' in result.request.command


def test_the_precision_of_attacks_reaches_every_attack_that_asks_the_network():
    gradient = saplab.MonteCarlo(8, precision="bfloat16")
    texts = ("standard", "adaptive", "paper", "pgd+apgd+square+fgsm")
    attacks = [one.attack for text in texts for one in parse_attackers(text, gradient)]
    asking = [one for one in attacks if one.knowledge != "nothing" and not isinstance(one, saplab.ARC)]
    assert all("precision=bfloat16" in one.spec and "bfloat16" in one.describe(False) for one in asking)
    assert sum(isinstance(one, saplab.Square) for one in asking) == 5
    assert parse_attackers("square:precision=float32", gradient)[0].attack == saplab.Square()
    square = saplab.Square(precision="bfloat16").plain(random=False, rules=False, own=True)
    assert square == saplab.Square(passes=1)  # of a network that is not random


def test_a_precision_of_attacks_that_is_none_is_refused():
    wanted = r"`attack_precision` must be one of auto, float32, bfloat16, got 'half'"
    with pytest.raises(ValueError, match=wanted):
        saplab.evaluate(NET, IMAGES, LABELS, **QUICK, attack_precision="half")
    with pytest.raises(ValueError, match=r"must be of float32 or float64, got torch.float16; call \.float\(\) first"):
        saplab.evaluate(small().half(), IMAGES, LABELS, **QUICK)


def test_curves_that_differ_in_radii_alone_are_one_adversary_of_the_game():
    sap = saplab.defend(NET, saplab.SAP(100))
    asked = {**QUICK, "attacks": "pgd:steps=2+pgd:steps=2,lambda=64+fgsm", "eps": [8 / 255, 64 / 255]}
    found = saplab.evaluate(sap, IMAGES, LABELS, **asked)
    assert "Robust accuracy" in found.verdict.sentence
    assert found.minimax
    for game in found.minimax.values():
        assert len(set(game.adversaries)) == len(game.adversaries)


def test_one_pass_of_a_random_network_has_no_half_that_could_judge():
    noisy = saplab.defend(NET, saplab.GaussianNoise(0.3))
    told = {**QUICK, "attacks": "noise+fgsm", "passes": 1, "baseline": False}
    found = saplab.evaluate(noisy, IMAGES, LABELS, **told)
    curves = [row["averaged_percent"] for row in found.rows if row["strength"] == 8]
    assert found.verdict.headline.accuracy.estimate == pytest.approx(min(curves) / 100)


def test_several_seeds_are_told_in_table_and_verdict():
    noisy = saplab.defend(NET, saplab.GaussianNoise(0.3))
    found = saplab.evaluate(noisy, IMAGES, LABELS, **QUICK, seeds=3, baseline=False)
    assert "All this is of seed 0 alone, one of 3; the table has the mean over them." in found.verdict.meaning
    (row,) = [row for row in found.rows if row["strength"] == 8]
    assert row["over_seeds_low"] <= row["over_seeds_percent"] <= row["over_seeds_high"]
    assert f"3 seeds {row['over_seeds_percent']:.1f} [" in repr(found)
    assert "seeds: the mean over the defence's seeds" in repr(found)
    assert "one of" not in saplab.evaluate(noisy, IMAGES, LABELS, **QUICK, baseline=False).verdict.meaning


def test_any_images_of_the_packaged_sample_have_its_numbers():
    images, labels = saplab.load_cifar10("sample")
    some = [5, 7, 2]
    asked = {"attacks": "noise", "eps": 8 / 255, "progress": False}
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).eval()
    found = saplab.evaluate(net, images[some], labels[some], **asked)
    numbers = load_data("sample").indices[some]
    told = saplab.evaluate(net, images[some], labels[some], examples=numbers, **asked)
    assert [cell.digest for cell in found.request.cells] == [cell.digest for cell in told.request.cells]
    assert ", examples=examples)" in told.request.command


def test_clean_predictions_of_each_seed_are_its_own():
    noisy = saplab.defend(NET, saplab.GaussianNoise(0.3))
    result = saplab.evaluate(noisy, IMAGES, LABELS, **QUICK, seeds=2, baseline=False)
    (curve,) = result.request.curves
    cells = list(curve.cells_at(0.0))
    assert [one.seed for one in cells] == [0, 1]
    found = [result.store.load(one).probs[one.eps.index(0.0)] for one in cells]
    for seed, probs in enumerate(found):
        np.testing.assert_allclose(probs, saplab.predict(noisy, IMAGES, 4, seed=seed).numpy(), atol=1e-6)
    assert not np.array_equal(*found)


@pytest.mark.parametrize(
    ("seconds", "told"), [(1, "1 second "), (99, "99 seconds"), (600, "10 minutes"), (7200, "2.0 hours")]
)
def test_the_time_of_a_budget_is_told_in_words(seconds, told):
    assert Budget(1, 1, seconds).time.startswith(f"at most about {told.strip()} in one process")


def test_a_backward_pass_counts_as_two(monkeypatch):
    monkeypatch.setattr("saplab.evaluation.budget._seconds_of_a_pass", lambda *_: 1.0)
    result = saplab.evaluate(NET, IMAGES, LABELS, **{**QUICK, "passes": 1})
    found = budget_of(result.request.cells, None)
    assert (found.forward, found.backward) == (16 * 3, 16)  # the attack's pass, and one at each of two radii
    assert found.seconds == 16 * 3 + 2 * 16


def test_each_network_is_timed_with_and_without_defences_in_the_precision_of_its_passes(monkeypatch):
    speeds = {(False, "float32"): 1.0, (False, "bfloat16"): 7.0, (True, "float32"): 10.0, (True, "bfloat16"): 100.0}
    monkeypatch.setattr("saplab.evaluation.budget._seconds_of_a_pass",
                        lambda network, precision, _: speeds[bool(network.defenses), precision])  # fmt: skip
    net = saplab.defend(NET, saplab.Dropout(0.5))
    asked = {"passes": 3, "samples": 4, "attack_precision": "bfloat16", "baseline": True}
    cells = saplab.evaluate(net, IMAGES, LABELS, **{**QUICK, **asked}).request.cells
    of = [budget_of([c for c in cells if bool(c.defender.defenses) == defended], None) for defended in (False, True)]
    assert of[0].seconds == 16 * (7 * (1 + 2 * 1) + 1 * 2 * 1)  # one sample, and a prediction at each of two radii
    assert of[1].seconds == 16 * (100 * (4 + 2 * 4) + 10 * 2 * 3)
    assert budget_of(cells, None).seconds == of[0].seconds + of[1].seconds
