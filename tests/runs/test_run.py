"""Computing cells of images: what sharing them saves, that it changes no number, and where results are kept."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import saplab
from saplab.attacks import FGSM, PGD, MonteCarlo, RandomNoise, ThreatModel, eps_of
from saplab.data.dataset import Dataset
from saplab.defenses import SAP
from saplab.models.initialise import initialise
from saplab.runs import Curve, ImageCell, Memory, Network, Request, Store, groups_of, images, run, work_of
from saplab.runs.images import Images
from saplab.runs.results import ImageResult, join
from saplab.system.errors import EvaluationError

DENSE = Network("net", "a" * 64)
DEFENDED = replace(DENSE, defenses=(SAP(100),))
EPS = tuple(map(eps_of, (0, 2, 8)))


@pytest.fixture(scope="module")
def inputs() -> Images:
    layers = (nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 9, 4))
    network = initialise(nn.Sequential(*layers), 0).eval()
    pixels = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) % 4
    data = Dataset("data", pixels, labels, torch.arange(12), ("a", "b", "c", "d"))
    return Images({("net", DENSE.digest): network}, data)


def cell(attack=None, defender: Network = DEFENDED, **changes: object) -> ImageCell:
    whole = ImageCell(
        defender=defender, adversary=defender, attack=attack or FGSM(MonteCarlo(10)), eps=EPS, data="b" * 64, start=0,
        stop=12, passes=4,
    )  # fmt: skip
    return replace(whole, **changes)


def compute(cells, inputs, *tick):
    return inputs.compute(tuple(cells), *tick)


def predictions(result):
    return {name: getattr(result, name) for name in ("probs", "votes", "half", "single")}


def test_smaller_budgets_come_with_the_largest(inputs):
    cells = [cell(FGSM(MonteCarlo(n))) for n in (1, 4, 10)]
    (group,) = groups_of(cells)
    for together, alone in zip(compute(group, inputs), [compute((c,), inputs)[0] for c in cells], strict=True):
        for name, values in predictions(together).items():
            np.testing.assert_allclose(values, predictions(alone)[name], atol=1e-5, err_msg=name)
        np.testing.assert_allclose(together.gradient_norm, alone.gradient_norm, rtol=1e-4)
    assert work_of(group) == work_of((cells[2],)) + sum(c.passes * 3 * 12 for c in cells[:2])


def test_two_defenders_meet_the_same_images(inputs):
    attack = PGD(MonteCarlo(2), steps=3)
    own, across = cell(attack), cell(attack, defender=DENSE, adversary=DEFENDED, passes=1)
    (group,) = groups_of([own, across])
    results = compute(group, inputs)
    for together, single in zip(results, (own, across), strict=True):
        (alone,) = compute((single,), inputs)
        for name, values in predictions(together).items():
            assert np.array_equal(values, predictions(alone)[name]), name


@pytest.mark.parametrize("attack", [FGSM(MonteCarlo(7)), PGD(MonteCarlo(2), steps=3), RandomNoise()])
@pytest.mark.parametrize("eps", [EPS, (8 / 255, 0.002), (0.0,)])
def test_ticks_add_up_to_the_work(inputs, attack, eps):
    group = (
        cell(attack, eps=eps),
        cell(attack, eps=eps, defender=DENSE, adversary=DEFENDED, passes=1),
    )
    ticks: list[int] = []
    compute(group, inputs, ticks.append)
    crafting = attack.cost([radius for radius in eps if radius]).passes if any(eps) else 0
    assert sum(ticks) == work_of(group) == 12 * (crafting + (4 + 1) * len(eps))


def test_untouched_images_are_predicted_once_for_all_attacks(inputs):
    fresh = replace(inputs, clean={})
    first, second = (compute((cell(attack),), fresh)[0] for attack in (FGSM(MonteCarlo(2)), RandomNoise()))
    assert len(fresh.clean) == 1
    assert np.array_equal(first.probs[0], second.probs[0])
    assert not np.array_equal(first.probs[2], second.probs[2])


def test_untouched_images_are_predicted_anew_in_another_precision(inputs):
    fresh = replace(inputs, clean={})
    asked = [cell(), cell(precision="bfloat16")]
    first, second = (compute((one,), fresh)[0].probs[0] for one in asked)
    (alone,) = compute((asked[1],), replace(inputs, clean={}))
    assert np.array_equal(second, alone.probs[0])
    assert not np.array_equal(first, second)


def test_shards_join_to_the_whole(inputs):
    whole = compute((cell(),), inputs)[0]
    parts = [compute((cell(start=a, stop=b),), inputs)[0] for a, b in ((0, 5), (5, 12))]
    joined = join(parts)
    np.testing.assert_allclose(joined.probs, whole.probs, atol=1e-5)
    assert np.array_equal(joined.examples, whole.examples)


def test_the_other_half_is_the_mean_of_the_other_passes(inputs):
    """The passes of less budgets are the first of more, so that single passes are differences of sums."""
    sums = [n * compute((cell(passes=n),), inputs)[0].probs.astype(float) for n in range(1, 6)]
    for passes in (2, 3, 4, 5):
        (result,) = compute((cell(passes=passes),), inputs)
        first = passes // 2
        np.testing.assert_allclose(result.half, sums[first - 1] / first, atol=1e-6)
        rest = (sums[passes - 1] - sums[first - 1]) / (passes - first)
        np.testing.assert_allclose(result.other_half(passes), rest, atol=1e-5)
    (lone,) = compute((cell(passes=1),), inputs)
    assert np.array_equal(lone.other_half(1), lone.half)


def test_the_single_pass_is_one_of_those_counted(inputs):
    """Votes are those of the first pass alone, and each further pass adds one vote for each image."""
    (lone,) = compute((cell(passes=1),), inputs)
    assert np.array_equal(lone.single, lone.probs)
    assert np.array_equal(lone.votes, lone.single.argmax(2)[..., None] == np.arange(4))
    before = lone.votes
    for passes in (2, 3, 4, 5):
        (result,) = compute((cell(passes=passes),), inputs)
        assert np.array_equal(result.single, lone.single)
        added = result.votes - before
        assert ((added >= 0).all(), (added.sum(2) == 1).all()) == (True, True)
        before = result.votes


def test_gradient_notes_are_there_for_one_step_attacks_alone(inputs):
    (one,), (many,) = compute((cell(),), inputs), compute((cell(PGD(MonteCarlo(2), steps=2)),), inputs)
    assert np.isfinite(one.gradient_norm).all()
    assert ((one.half_cosine >= -1.0001) & (one.half_cosine <= 1.0001)).all()
    assert np.isnan(many.gradient_norm).all()
    (dense,) = compute((cell(FGSM(), DENSE),), inputs)
    assert np.isnan(dense.half_cosine).all()


def test_the_cell_that_begins_the_data_keeps_its_first_images(inputs):
    first, later = (compute((cell(start=start, stop=start + 6),), inputs)[0] for start in (0, 6))
    assert first.pictures.shape == (3, 3, 8, 8, 3)
    assert later.pictures.shape == (3, 0, 8, 8, 3)
    clean = (inputs.data.images[:3] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(first.pictures[0], clean)
    moved = np.abs(first.pictures.astype(int) - clean)
    assert [moved[k].max() for k in range(3)] == [0, 2, 8]


def test_pictures_are_drawn_within_the_bounds(inputs):
    """Images in [-1, 1] are shown as those in [0, 1] are; what is no picture is left out."""
    wide = replace(inputs, data=replace(inputs.data, images=2 * inputs.data.images - 1), clean={})
    (own,), (stretched,) = (
        compute((cell(RandomNoise(), eps=(0.0, eps), threat=threat),), some)
        for some, eps, threat in ((inputs, 0.1, ThreatModel()), (wide, 0.2, ThreatModel(bounds=(-1, 1))))
    )
    assert np.abs(own.pictures.astype(int) - stretched.pictures).max() <= 1
    assert images._pictures(torch.zeros(5, 7), cell()).shape == (0, 1, 1, 1)


def test_a_cell_for_another_kind_of_device_is_refused(inputs):
    with pytest.raises(ValueError, match="a cell for `device` cuda cannot be computed on cpu"):
        compute((cell(device="cuda"),), inputs)


# Where results are kept


def assert_same_bits(mine, other):
    for name in ImageResult.layout:
        assert getattr(mine, name).tobytes() == getattr(other, name).tobytes(), name


def test_memory_gives_the_same_results_as_a_folder(inputs, tmp_path):
    curves = (Curve("a", (cell(stop=5), cell(start=5))), Curve("b", (cell(RandomNoise()),)))
    request = Request("both", curves)
    memory, folder = Memory(request), Store.open(tmp_path, request)
    with pytest.raises(FileNotFoundError, match="not been computed yet"):
        memory.load(request.cells[0])
    for store in (memory, folder):
        assert store.survey().missing == request.cells
        ticks: list[int] = []
        assert run(store, inputs, ticks.append) == ()
        assert sum(ticks) == work_of(request.cells)
        assert (store.survey().missing, set(store.survey().stored)) == ((), set(request.by_digest))
    for one in request.cells:
        assert_same_bits(memory.load(one), folder.load(one))
    with pytest.raises(ValueError, match=r"`probs` must be \(3, 5, 4\) for this cell, got \(3, 12, 4\)"):
        memory.save(request.cells[0], memory.load(request.cells[2]))


def test_a_damaged_cell_found_by_a_report_is_computed_again(inputs, tmp_path):
    """Even one whose size and time are as they were."""
    request = Request("one", (Curve("a", (cell(stop=5), cell(start=5))),))
    store = Store.open(tmp_path, request)
    assert run(store, inputs) == ()
    first, path = store.load(request.cells[0]), store.path(request.cells[0])
    content, times = bytearray(path.read_bytes()), path.stat()
    content[-100] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert store.survey().missing == ()
    with pytest.raises(ValueError, match="do not match its checksum"):
        store.load(request.cells[0])
    ticks: list[int] = []
    assert run(Store.open(tmp_path, request), inputs, ticks.append) == ()
    assert sum(ticks) == work_of(request.cells[:1])
    assert_same_bits(store.load(request.cells[0]), first)


# Rehearsals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": (0.0, 1.5)}, r"`eps` must be within \[0, 1\], got 1.5"),
        ({"passes": 0}, "`passes` must be >= 1, got 0"),
        ({"seed": -1}, "seed"),
        ({"precision": "int8"}, "`precision` must be one of float32, bfloat16, got 'int8'"),
        ({"threat": ThreatModel(bounds=(0.0, 0.5))}, r"`images` must lie in \[0, 0.5\]"),
        ({"adversary": replace(DEFENDED, sites=("nowhere",))}, "sites"),
        ({"attack": PGD(targets=-4)}, "`targets` must be below the number of classes, 4, got -4"),
    ],
)
def test_a_rehearsal_refuses_what_cannot_be_computed(inputs, change, message):
    inputs.rehearse([cell(), cell(RandomNoise()), cell(device="cuda")])  # a device that workers elsewhere may have
    with pytest.raises(ValueError, match=message):
        inputs.rehearse([cell(), cell(**change)])


class Tires(nn.Module):
    """Stops adding its noise after some calls, which no rehearsal of a few passes can see."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.linear = initialise(nn.Linear(12, 3), 0)
        self.calls, self.last = 0, calls

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        z = self.linear(x.flatten(1))
        return z + 3 * torch.randn_like(z) if self.calls <= self.last else z


@pytest.mark.parametrize("workers", [None, 2])
def test_a_network_that_changes_after_many_calls_is_refused(workers):
    pixels = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    asked = {"attacks": "pgd:steps=150", "eps": 0.1, "passes": 5, "samples": 2, "progress": False, "workers": workers}
    with pytest.raises(EvaluationError, match="has changed while it was evaluated"):
        saplab.evaluate(Tires(150).eval(), pixels, torch.zeros(6).long(), **asked)
    saplab.evaluate(Tires(10**6).eval(), pixels, torch.zeros(6).long(), **asked)
