"""The recipes: that each trains, resumes with the same bits, and minimises what it says."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saplab.data.cifar10 import Records
from saplab.data.sample import read_sample
from saplab.defenses import SAP, Dropout, RandomNoisyWeights
from saplab.training.loop import train
from saplab.training.objectives import PreviousEpoch, Projected, Trades
from saplab.training.progress import Silent
from saplab.training.recipes import Recipe
from saplab.training.schedules import WarmupLinear

TINY = Recipe("dense", "tiny", epochs=2, batch=16, schedule=WarmupLinear(0.05, 1), precision="bfloat16", images=40)
CHECK = Projected(lam=8, step=2, steps=2)
VARIANTS = {
    "adversarial": replace(TINY, objective=PreviousEpoch(0.2, 2), held_out=8, check=replace(CHECK, start=False)),
    "fast": replace(TINY, objective=Projected(lam=8, step=10, steps=1), held_out=8, check=CHECK),
    "trades": replace(TINY, objective=Trades(lam=8, step=2, steps=2, beta=6)),
    "dropout": replace(TINY, defenses=(Dropout(0.1),)),
    "through SAP and weight noise": replace(
        TINY, objective=Projected(8, 4, 2), defenses=(SAP(100), RandomNoisyWeights(0.01))
    ),
    "resnet20": replace(TINY, network="resnet20"),
}


class Stopped(Exception):
    pass


class StopsInEpochTwo(Silent):
    def on_step(self, epoch: int, step: int, loss: float, accuracy: float) -> None:
        if epoch == 2:
            raise Stopped


@pytest.fixture(scope="module")
def data() -> Records:
    return read_sample().chosen(slice(40))


@pytest.mark.parametrize("name", VARIANTS)
def test_resumed_equals_unbroken(name: str, data: Records, tmp_path: Path) -> None:
    recipe = VARIANTS[name]
    model, history = train(recipe, data, None, tmp_path / "unbroken", seed=3, threads=1)
    with pytest.raises(Stopped):
        train(recipe, data, None, tmp_path / "resumed", seed=3, threads=1, progress=StopsInEpochTwo())
    resumed, records = train(recipe, data, None, tmp_path / "resumed", seed=3, threads=1)
    ours, theirs = resumed.state_dict(), model.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    for record, other in zip(records, history, strict=True):
        timeless = {"seconds": 0.0, "images_per_second": 0.0, "busy": None}
        assert replace(record, **timeless) == replace(other, **timeless)
