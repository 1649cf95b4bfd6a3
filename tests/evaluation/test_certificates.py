"""Randomised smoothing: bounds against SciPy, radii known in closed form, abstentions, draws, and attacks."""

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, norm
from torch import nn

import saplab
from saplab.data.load import load_data
from saplab.evaluation.certificates import ABSTAINS, certificates_of
from saplab.metrics.intervals import lower_bound, wilson
from saplab.models.initialise import initialise
from saplab.report.certificates import certified_chart

STD, ALPHA = 0.25, 0.001


@dataclass(frozen=True)
class Quiet(saplab.GaussianNoise):
    """Says that its noise is larger than it is."""

    def input(self, x, draw):
        return x + 0.001 * draw.normal(x.shape)


class Half(nn.Module):
    """Two classes, divided by the plane w·x = b: the smoothed network is the same, and its radius |w·x - b| / ‖w‖."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([3.0, -4.0, 0.0, 0.0]))

    def forward(self, x):
        side = x.flatten(1) @ self.w - 0.5
        return torch.stack([-side, side], 1)


def points(count, seed=0):
    return torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(seed))


def net():
    return initialise(nn.Sequential(nn.Flatten(), nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4)), 0)


# Bounds and radii


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (1, 10), (7, 10), (10, 10), (990, 1000), (1000, 1000)])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_the_lower_bound_is_clopper_and_pearsons(hits, trials, alpha):
    expected = binomtest(hits, trials, alternative="greater").proportion_ci(1 - alpha, method="exact").low
    assert lower_bound(hits, trials, alpha) == pytest.approx(expected, abs=1e-12)


def test_the_ceiling_is_that_of_passes_that_all_agree():
    votes = np.array([[0, 1000], [1000, 0]])
    predictions, radii = certificates_of(votes, votes, STD, ALPHA)
    assert predictions.tolist() == [1, 0]
    assert radii == pytest.approx([STD * norm.ppf(ALPHA ** (1 / 1000))] * 2)


def test_radii_of_a_table_are_round():
    votes = np.zeros((1, 2), np.int64)
    found = saplab.Certificates(
        np.zeros(1, np.int64), np.zeros(1), votes, None, 0.25, 100, 1000, 0.001, 0, np.zeros(1), ""
    )
    assert found.steps == pytest.approx([0.1 * k for k in range(7)])


def test_abstentions_by_hand():
    """5,500 of 10,000 are surely above half, 5,050 are not; the class is the choosers', not that of most counted."""
    chosen = np.array([[60, 40], [60, 40], [40, 60]])
    votes = np.array([[5500, 4500], [5050, 4950], [9000, 1000]])
    predictions, radii = certificates_of(chosen, votes, STD, ALPHA)
    assert predictions.tolist() == [0, ABSTAINS, ABSTAINS]
    assert radii[0] == pytest.approx(STD * norm.ppf(lower_bound(5500, 10_000, ALPHA)))
    assert radii[1:].tolist() == [0, 0]


def test_prediction_abstains_where_two_classes_cannot_be_told_apart():
    found = replace(saplab.certify(net(), torch.rand(2, 3, 2, 2), std=STD, n=10, progress=False),
                    votes=np.array([[600, 400, 0, 0], [520, 480, 0, 0]]))  # fmt: skip
    assert binomtest(600, 1000).pvalue < ALPHA < 0.2 < binomtest(520, 1000).pvalue < 0.3
    assert found.predicted().tolist() == [0, ABSTAINS]
    assert found.predicted(0.3).tolist() == [0, 0]


def test_radii_of_a_plane_are_true_but_for_alpha():
    """400 points of known radius, at a level of 10 %: the certified radius is above the true one for 40 at most."""
    x, plane, alpha = points(400), Half(), 0.1
    distance = ((x.flatten(1) @ plane.w - 0.5) / plane.w.norm()).detach().double().numpy()
    found = saplab.certify(plane, x, std=STD, n0=20, n=200, alpha=alpha, seed=3, progress=False)
    right = found.predictions == (distance > 0)
    sure = found.predictions != ABSTAINS
    wrong = sure & (~right | (found.radii > np.abs(distance)))
    assert sure.mean() > 0.5
    assert 0 < wrong.mean() <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / 400)
    far = right & (np.abs(distance) < found.ceiling) & (np.abs(distance) > 0.1)
    assert (found.radii[far] > 0.5 * np.abs(distance[far])).mean() > 0.9  # and not far below it


# Draws


def test_certificates_do_not_depend_on_batches_or_on_who_else_is_certified():
    x, model = torch.rand(7, 3, 2, 2, generator=torch.Generator().manual_seed(1)), net()
    whole = saplab.certify(model, x, std=STD, n0=5, n=40, progress=False)
    for size in (1, 3, 16, 100):
        other = saplab.certify(model, x, std=STD, n0=5, n=40, batch_size=size, progress=False)
        assert np.array_equal(other.votes, whole.votes)
        assert np.array_equal(other.radii, whole.radii)
    order = torch.tensor([5, 2])
    some = saplab.certify(model, x[order], std=STD, n0=5, n=40, examples=order, progress=False)
    assert np.array_equal(some.votes, whole.votes[order])
    assert not np.array_equal(saplab.certify(model, x, std=STD, n0=5, n=40, seed=1, progress=False).votes, whole.votes)


def test_choosing_and_counting_passes_are_different_ones():
    x, model = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(1)), net()
    late = saplab.certify(model, x, std=1.0, n0=30, n=30, progress=False).votes
    first = saplab.certify(model, x, std=1.0, n0=1, n=59, progress=False).votes
    alone = saplab.certify(model, x, std=1.0, n0=1, n=29, progress=False).votes
    assert np.array_equal(first - late, alone)  # passes 1..59 less 30..59 are 1..29


def test_a_network_with_noise_of_its_own_is_certified_with_that():
    x, model = torch.rand(5, 3, 2, 2), net()
    noisy = saplab.defend(model, saplab.GaussianNoise(STD), seed=7)
    mine, given = (
        saplab.certify(noisy, x, n=30, progress=False),
        saplab.certify(model, x, std=STD, n=30, progress=False),
    )
    assert np.array_equal(mine.votes, given.votes)
    with pytest.raises(ValueError, match=r"`std` must be that of the network's own noise, 0.25, got 0.5"):
        saplab.certify(noisy, x, std=0.5, progress=False)


# Against attacks


def attacked(model, x, y, radius):
    """Euclidean ascent on the loss averaged over noise, by gradients of fresh passes."""
    now = x.clone()
    for block in range(20):
        problem = saplab.Problem.of(model, now.clamp(0, 1), y, seed=5)
        step = saplab.MonteCarlo(8).estimate(problem, block).gradient.flatten(1)
        change = (now - x).flatten(1) + radius / 4 * step / step.norm(dim=1, keepdim=True).clamp(min=1e-12)
        change *= (radius / change.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
        now = (x + change.view_as(x)).clamp(0, 1)
    return now


def test_certified_accuracy_is_never_above_what_an_attack_leaves():
    """... and no image falls within its radius; the points are those of a plane, whose radius is sharp."""
    x, plane = points(60, 1) * 0.4 + 0.3, Half()
    y = plane(x).argmax(1)
    found = saplab.certify(plane, x, y, std=STD, n=2000, alpha=1e-4, progress=False)
    noisy = saplab.defend(plane, saplab.GaussianNoise(STD))
    left = []
    for radius in (0.02, 0.05, 0.1, 0.2):
        adversarial = attacked(noisy, x, y, radius)
        votes = saplab.certify(plane, adversarial, std=STD, n=2000, seed=9, progress=False).votes
        right = votes.argmax(1) == y.numpy()
        assert right[found.radii >= radius].all()
        assert found.accuracy(radius).estimate <= right.mean()
        left.append(right.mean())
    assert left[-1] < 0.75  # the attack does attack
    assert found.accuracy(0.05).estimate > 0.5


# What is shown


def test_certified_accuracy_by_hand():
    found = replace(saplab.certify(net(), torch.rand(4, 3, 2, 2), std=STD, n=100, progress=False),
                    predictions=np.array([0, 1, ABSTAINS, 2]), radii=np.array([0.1, 0.2, 0.0, 0.3]),
                    labels=np.array([0, 1, 2, 0]))  # fmt: skip
    assert [found.accuracy(r).estimate for r in (0, 0.1, 0.15, 0.25)] == [0.5, 0.5, 0.25, 0.0]
    assert found.abstained.estimate == 0.25
    rows = found.rows
    assert (rows[0]["radius"], rows[0]["percent"]) == (0.0, 50.0)
    assert rows[-1]["radius"] == pytest.approx(STD * norm.ppf(ALPHA ** (1 / 100)), abs=1e-6)
    assert "abstains on 25.0 %" in repr(found)
    assert found.records()[1] == {"example": 1, "label": 1, "predicted": 1, "radius": 0.2}
    with pytest.raises(ValueError, match="`labels` must be given"):
        replace(found, labels=None).accuracy()


def test_the_chart_holds_both_curves():
    row = {"radius": 0.1, "percent": 40.0, "low": 30.0, "high": 50.0}
    chart = certified_chart([row], [{**row, "percent": 60.0}]).to_dict()
    assert [value["kind"] for value in chart["data"]["values"]] == ["certified: at least", "under attack: at most"]
    assert len(chart["layer"]) == 5
    assert len(certified_chart([row]).to_dict()["layer"]) == 2
    with pytest.raises(ValueError, match="at least one radius"):
        certified_chart([])


def test_an_evaluation_of_the_same_noise_stands_beside_the_certificates():
    plane, x = Half().eval(), points(40)
    y = saplab.certify(plane, x, std=STD, n=500, progress=False).votes.argmax(1)
    found = saplab.certify(plane, x, torch.as_tensor(y), std=STD, n=500, progress=False)
    noisy = saplab.defend(plane, saplab.GaussianNoise(STD))
    told = {"eps": [0.3, 0.1], "passes": 50, "progress": False}
    attacks = [saplab.RandomNoise(), saplab.PGD(saplab.MonteCarlo(5), steps=10)]
    result = saplab.evaluate(noisy, x, y, attacks, norm="l2", **told)
    left = found.left(result)
    assert [one["radius"] for one in left] == [0.0, 0.1, 0.3]
    noisy_rows = [row for row in result.rows if not row["curve"].startswith("undefended")]
    least = [min(row["majority_percent"] for row in noisy_rows if row["eps"] <= radius) for radius in (0, 0.1, 0.3)]
    assert [one["percent"] for one in left] == pytest.approx(least, abs=0.01)
    assert left[-1]["percent"] < left[0]["percent"]  # the attack does attack
    chosen = len([row for row in noisy_rows if row["eps"] <= 0.3])  # the least of them all has an interval so wide
    low, high = wilson(left[-1]["percent"] / 100, 40, norm.ppf(1 - 0.025 / chosen))
    assert (left[-1]["low"], left[-1]["high"]) == pytest.approx((100 * low, 100 * high), abs=0.01)
    drawn = found.plot(result).to_dict()["data"]["values"]
    assert [one for one in drawn if one["kind"] != "certified: at least"] == [
        {**one, "kind": "under attack: at most"} for one in left
    ]
    with pytest.raises(ValueError, match="of the images that were certified"):
        found.left(saplab.evaluate(noisy, x[5:], y[5:], attacks[0], norm="l2", examples=torch.arange(5, 40), **told))
    tilted = Half().eval()
    with torch.no_grad():
        tilted.w += 0.1
    with pytest.raises(ValueError, match="of the network that was certified, got another one's"):
        found.left(
            saplab.evaluate(saplab.defend(tilted, saplab.GaussianNoise(STD)), x, y, attacks[0], norm="l2", **told)
        )
    weaker = saplab.defend(plane, saplab.GaussianNoise(0.1))
    for defended, name in ((noisy, "linf"), (weaker, "l2")):
        other = saplab.evaluate(defended, x, y, attacks[0], norm=name, **told)
        with pytest.raises(ValueError, match="in L2 of a network under Gaussian noise of"):
            found.left(other)


def test_images_of_the_sample_are_numbered_as_in_an_evaluation():
    sample = load_data("sample")
    x, plane = sample.images[40:44], nn.Sequential(nn.Flatten(), nn.Linear(3072, 3)).eval()
    found = saplab.certify(plane, x, std=STD, n0=1, n=1, progress=False)
    assert found.examples.tolist() == sample.indices[40:44].tolist()
    assert saplab.certify(plane, x * 0.5, std=STD, n0=1, n=1, progress=False).examples.tolist() == [0, 1, 2, 3]


def test_arrays_and_networks_of_float64_are_certified_as_they_are_predicted():
    plane, x = Half().eval(), points(8)
    first = saplab.certify(plane, x, torch.ones(8).long(), std=STD, n=50, progress=False)
    for model, images, labels in (
        (plane, x.numpy(), np.ones(8, np.int32)), (copy.deepcopy(plane).double(), x, [1] * 8)
    ):  # fmt: skip
        again = saplab.certify(model, images, labels, std=STD, n=50, progress=False)
        assert np.array_equal(again.votes, first.votes)
        assert np.array_equal(again.labels, first.labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"std": None}, "`std` must be given"),
        ({"std": 0.0}, "`std` must be > 0"),
        ({"std": 1e308}, "finite logits, got NaN or infinity"),
        ({"n": 0}, "`n` must be >= 1, got 0"),
        ({"n": 10**20}, "`n` must be at most"),
        ({"n0": 0}, "`n0` must be >= 1, got 0"),
        ({"alpha": 1.0}, r"`alpha` must be in \(0, 1\)"),
        ({"labels": torch.tensor([0, 9])}, r"`labels` must be in 0\.\.3"),
        ({"images": torch.zeros(0, 3, 2, 2)}, "at least one image"),
        ({"images": torch.full((2, 3, 2, 2), 255.0)}, r"`images` must lie in \[0, 1\], got values from 255 to 255"),
        ({"model": saplab.defend(net(), saplab.SAP(100))}, "defended by GaussianNoise alone"),
        ({"model": saplab.defend(net(), Quiet(STD))}, "defended by GaussianNoise alone"),
    ],
)
def test_what_cannot_be_certified_is_refused(change, message):
    given = {"model": net(), "images": torch.rand(2, 3, 2, 2), "std": STD, "n": 5, "progress": False} | change
    with pytest.raises(ValueError, match=message):
        saplab.certify(given.pop("model"), given.pop("images"), given.pop("labels", None), **given)
