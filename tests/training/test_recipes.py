"""The recipes: what they are, and that each resumes with the same bits."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from saplab.data.dataset import Records
from saplab.data.sample import read_sample
from saplab.defenses import SAP, Defense, Draw, Dropout, RandomNoisyWeights
from saplab.learning.progress import Progress
from saplab.models.identity import weights_digest
from saplab.models.zoo import ARCHITECTURES, load_model
from saplab.training.loop import describe, train
from saplab.training.objectives import Aligned, Halves, Noisy, PreviousEpoch, Projected, Trades, Transferred
from saplab.training.recipes import RECIPES, Recipe, find_recipe
from saplab.training.schedules import WarmupLinear

TINY = Recipe("dense", "tiny", epochs=2, batch=16, schedule=WarmupLinear(0.05, 1), precision="bfloat16", images=40)
CHECK = Projected(lam=8, step=2, steps=2)
FIXED = ("preact-resnet20-fast", "preact-resnet20-dense")
VARIANTS = {
    "adversarial": replace(TINY, objective=PreviousEpoch(0.2, 2), held_out=8, check=replace(CHECK, start=False)),
    "fast": replace(TINY, objective=Projected(lam=8, step=10, steps=1), held_out=8, check=CHECK),
    "trades": replace(TINY, objective=Trades(lam=8, step=2, steps=2, beta=6)),
    "dropout": replace(TINY, defenses=(Dropout(0.1),)),
    "through SAP and weight noise": replace(
        TINY, objective=Projected(8, 4, 2), defenses=(SAP(100), RandomNoisyWeights(0.01))
    ),
    "resnet20": replace(TINY, network="resnet20"),
    "gaussian": replace(TINY, objective=Noisy(0.25)),
    "rse": replace(TINY, network="rse-resnet20"),
    "lwta": replace(TINY, network="lwta-resnet20", objective=Projected(8, 10, 1), held_out=8, check=CHECK),
    "rna": replace(TINY, network="rna-resnet20"),
    "rpf": replace(TINY, network="rpf-resnet20"),
    "pni": replace(TINY, network="pni-resnet20", objective=Halves(Projected(8, 10, 1))),
    "wca": replace(TINY, network="wca-resnet20", objective=Aligned()),
    "bat": replace(TINY, objective=Transferred("preact-resnet20-fast", Projected(8, 4, 2))),
}


def test_the_papers_recipe() -> None:
    paper = find_recipe("dense", "paper")
    assert (paper.momentum, paper.weight_decay, paper.batch, paper.epochs) == (0.9, 1e-4, 512, 150)
    rates = [paper.schedule.rate(progress, 150) for progress in (0, 99.99, 100, 129.9, 130, 149.9, 150)]
    assert rates == [0.5, 0.5, 0.05, 0.05, 0.005, 0.005, 0.005]


def test_warm_up_and_linear_fall() -> None:
    schedule = WarmupLinear(peak=0.2, warmup=5)
    rates = [schedule.rate(progress, 45) for progress in (0, 2.5, 5, 25, 45)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.1, 0])


def test_wrong_recipes() -> None:
    with pytest.raises(ValueError, match=r"`recipe` must be one of adversarial, bat, dense, .*, wca, got 'dens'"):
        find_recipe("dens", "small")
    with pytest.raises(ValueError, match="`preset` must be one of paper, small, smoke for recipe 'dense', got 'big'"):
        find_recipe("dense", "big")
    with pytest.raises(ValueError, match="`epochs` must be >= 6 for this learning rate, got 5"):
        replace(find_recipe("dense", "small"), epochs=5)
    with pytest.raises(ValueError, match="`epochs` must be >= 1"):
        replace(find_recipe("dense", "paper"), epochs=0)
    for name in ("batch", "epochs"):
        with pytest.raises(ValueError, match=f"`{name}` must be at most"):
            replace(TINY, **{name: 10**23})
    with pytest.raises(ValueError, match="`batch` must be >= 1, got 0"):
        replace(TINY, batch=0)


PINNED = {  # the start of the SHA-256 over a recipe's fields as JSON: another recipe is another name in these tables
    ("dense", "paper"): "bb2d351b9096",
    ("dropout", "paper"): "89eae10a0f13",
    ("adversarial", "paper"): "ed14d98ef9c5",
    ("fast", "paper"): "f90d27abf639",
    ("pgd", "paper"): "d6d2753a9f34",
    ("trades", "paper"): "af884d5cb5ae",
    ("gaussian", "paper"): "134a9e200187",
    ("rse", "paper"): "fa68c8a5e1fe",
    ("wca", "paper"): "a53954a98a91",
    ("lwta", "paper"): "ca1d23eb2945",
    ("rna", "paper"): "2dfb9468d08b",
    ("rpf", "paper"): "14653b66090b",
    ("pni", "paper"): "2d9b76be3c52",
    ("bat", "paper"): "ab65184f07c5",
    ("dense", "small"): "b6227291b09e",
    ("dropout", "small"): "1c760b47a344",
    ("adversarial", "small"): "c8a3d4925876",
    ("fast", "small"): "85af1c964851",
    ("pgd", "small"): "50f7bc7e8322",
    ("trades", "small"): "4408e7da6925",
    ("gaussian", "small"): "019773e21f91",
    ("rse", "small"): "37b57ac18602",
    ("wca", "small"): "3004a555db97",
    ("lwta", "small"): "24d3c3f07e83",
    ("rna", "small"): "ead91b292ecd",
    ("rpf", "small"): "bb8e72c5b6dd",
    ("pni", "small"): "0e504b42c3a0",
    ("bat", "small"): "c7a4f94846ec",
}


@pytest.mark.parametrize(("name", "preset"), PINNED)
def test_no_recipe_changes_by_accident(name: str, preset: str) -> None:
    """Weights in the package were made by them, and docs/training.md has a table of them."""
    text = json.dumps(find_recipe(name, preset).described(), sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == PINNED[name, preset]


def test_the_robust_recipes_are_those_of_their_papers() -> None:
    pgd, trades, fast = (find_recipe(name, "paper") for name in ("pgd", "trades", "fast"))
    assert (pgd.objective, pgd.schedule.rate(0, 205), pgd.weight_decay) == (Projected(8, 2, 7), 0.1, 2e-4)
    assert (trades.objective, trades.epochs) == (Trades(lam=8, step=2, steps=10, beta=6), 76)
    assert (fast.objective, fast.epochs) == (Projected(8, 10, 1), 15)


def test_rates_of_the_other_papers() -> None:
    adversarial, dropout = find_recipe("adversarial", "paper"), find_recipe("dropout", "paper")
    assert [adversarial.schedule.rate(epoch, 100) for epoch in (0, 9.9, 10, 25, 99)] == [0.5, 0.5, 0.25, 0.125, 0.5**10]
    rates = [dropout.schedule.rate(epoch, 250) for epoch in (99, 100, 149, 150, 190, 220, 249)]
    assert rates == [0.5, 0.05, 0.05, 0.005, 0.0005, 0.00005, 0.00005]
    fast = find_recipe("fast", "paper")
    assert fast.objective == Projected(lam=8, step=1.25 * 8, steps=1)
    assert max(fast.schedule.rate(epoch / 10, 15) for epoch in range(151)) == 0.2


def test_every_recipe_has_every_preset_and_its_own_name() -> None:
    names = {name for name, _ in RECIPES}
    plain = {"adversarial", "bat", "dense", "dropout", "fast", "gaussian", "pgd", "trades"}
    assert names == plain | {"lwta", "pni", "rna", "rpf", "rse", "wca"}
    assert set(RECIPES) == {(name, preset) for name in names for preset in ("paper", "small", "smoke")}
    for (name, preset), recipe in RECIPES.items():
        assert (recipe.name, recipe.preset) == (name, preset)
        assert recipe.network == ("preact-resnet20" if name in plain else f"{name}-resnet20")
        assert all(0 <= recipe.schedule.rate(k * recipe.epochs / 50, recipe.epochs) < math.inf for k in range(51))
        json.dumps(recipe.described(), allow_nan=False)


def test_later_fields_do_not_change_what_runs_are_called() -> None:
    """A run begun before they existed must be found again."""
    assert replace(find_recipe("dense", "small"), precision="bfloat16").described() == {
        "name": "dense",
        "preset": "small",
        "epochs": 45,
        "batch": 256,
        "schedule": {"kind": "WarmupLinear", "peak": 0.2, "warmup": 5},
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
        "network": "preact-resnet20",
        "pad": 4,
        "flip": True,
        "precision": "bfloat16",
        "images": None,
    }


def test_only_runs_through_pruning_changed_with_its_kernel(data: Records) -> None:
    numerics = [
        describe(replace(TINY, defenses=d), data, None, 0)["numerics"] for d in ((), (Dropout(0.5),), (SAP(50),))
    ]
    assert numerics == [1, 1, 2]


@pytest.mark.parametrize("name", VARIANTS)
def test_what_decides_the_weights_is_described(name: str, data: Records) -> None:
    assert describe(VARIANTS[name], data, None, 0) != describe(TINY, data, None, 0)


def test_a_run_is_known_by_the_network_whose_adversarial_images_it_learns_from(data: Records) -> None:
    others = [describe(replace(TINY, objective=Transferred(name, CHECK)), data, None, 0) for name in FIXED]
    assert [other["source"] for other in others] == [weights_digest(load_model(name)) for name in FIXED]


def test_defences_are_told_apart(data: Records) -> None:
    described = [json.dumps(replace(TINY, defenses=d).described()) for d in ((SAP(50),), (SAP(100),), (Dropout(0.5),))]
    assert len(set(described)) == 3


@dataclass(frozen=True)
class Scaled(Defense):
    """A defence of the user's own."""

    factor: float

    def activation(self, h: Tensor, draw: Draw, where: str) -> Tensor:
        return self.factor * h


def test_the_source_of_a_users_defence_decides_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(TINY, defenses=(Scaled(0.5),))
    (before,) = json.loads(json.dumps(recipe.described()))["defenses"]
    assert (before["class"], before["factor"]) == (f"{__name__}:Scaled", 0.5)
    monkeypatch.setattr("saplab.system.registry.class_digest", lambda kind: "another")
    (after,) = recipe.described()["defenses"]
    assert [name for name in before if after[name] != before[name]] == ["class source"]


def test_wrong_held_out() -> None:
    with pytest.raises(ValueError, match="`held_out` must be >= 1 for a check, got 0"):
        replace(TINY, check=CHECK)
    with pytest.raises(ValueError, match="`held_out` must be >= 0, got -1"):
        replace(TINY, held_out=-1)


class Stopped(Exception):
    pass


class StopsInEpochTwo(Progress):
    def on_step(self, step: int, numbers: Mapping[str, float]) -> None:
        if numbers["epoch"] == 2:
            raise Stopped


@pytest.fixture(scope="module")
def data() -> Records:
    return read_sample().chosen(slice(40))


@pytest.mark.parametrize("name", VARIANTS)
def test_resumed_equals_unbroken(name: str, data: Records, tmp_path: Path) -> None:
    recipe = VARIANTS[name]
    before = torch.get_rng_state()
    model, history = train(recipe, data, None, tmp_path / "unbroken", seed=3, threads=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(5, out=torch.empty(5))  # what was drawn elsewhere does not matter
    with pytest.raises(Stopped):
        train(recipe, data, None, tmp_path / "resumed", seed=3, threads=1, progress=StopsInEpochTwo())
    resumed, records = train(recipe, data, None, tmp_path / "resumed", seed=3, threads=1)
    ours, theirs = resumed.state_dict(), model.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert model.state_dict().keys() == ARCHITECTURES[recipe.network]().state_dict().keys()
    for record, other in zip(records, history, strict=True):
        timeless = {"seconds": 0.0, "images_per_second": 0.0, "busy": None}
        assert replace(record, **timeless) == replace(other, **timeless)
