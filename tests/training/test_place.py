"""Where training computes: two processes that share each batch, as torchrun starts them; compiled; glibc's memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saplab.data.sample import read_sample
from saplab.defenses import Dropout
from saplab.training.loop import train
from saplab.training.objectives import CrossEntropy, Objective, Projected
from saplab.training.place import Place, joined
from saplab.training.recipes import Recipe
from saplab.training.schedules import Steps

SCRIPT = """
import sys
from pathlib import Path
import torch
from saplab.data.sample import read_sample
from saplab.defenses import Dropout
from saplab.learning.progress import Progress
from saplab.models.identity import weights_digest
from saplab.training.loop import train
from saplab.training.objectives import CrossEntropy, Objective, Projected
from saplab.training.place import joined
from saplab.training.recipes import Recipe
from saplab.training.schedules import WarmupLinear
from saplab.training.testing import count_correct

class Stop(Progress):
    def on_step(self, step, numbers):
        if numbers["epoch"] == 2:
            raise InterruptedError

recipe = Recipe("dense", "tiny", epochs=2, batch=8, schedule=WarmupLinear(0.05, 1), images=24,
                objective=Projected(8, 10, 1), defenses=(Dropout(0.1),), held_out=7, check=Projected(8, 8, 1))
data, out = read_sample(), Path(sys.argv[1])
with joined("cpu") as place:
    model, history = train(recipe, data, data.chosen(slice(25)), out / "unbroken", threads=1, place=place)
    try:
        train(recipe, data, data.chosen(slice(25)), out / "resumed", threads=1, place=place, progress=Stop())
    except InterruptedError:
        torch.distributed.barrier()
    resumed, _ = train(recipe, data, data.chosen(slice(25)), out / "resumed", threads=1, place=place)
    own = torch.nn.BatchNorm2d(3)
    for parameter in own.parameters():
        parameter.grad = torch.full_like(parameter, place.rank + 1.0)
    own.running_mean += place.rank
    place.average_gradients(own)
    place.average_statistics(own)
    means = [own.weight.grad[0].item(), own.bias.grad[2].item(), own.running_mean[0].item()]
    assert means == [1.5, 1.5, 0.5], means
    record = history[-1]
    accuracies = (record.train_loss, record.train_accuracy, record.held_out_accuracy, record.robust_accuracy)
    together = count_correct(model, data.chosen(slice(25)), place=place)
    alone = count_correct(model, data.chosen(slice(25)))
    (out / f"rank{place.rank}").write_text(
        f"{weights_digest(model)} {weights_digest(resumed)} {together == alone} {accuracies}"
    )
"""


def test_two_processes_agree_and_resume(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = subprocess.run(
        [*launch, str(tmp_path / "script.py"), str(tmp_path)], check=False, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    first, second = ((tmp_path / f"rank{rank}").read_text() for rank in range(2))
    assert first == second
    unbroken, resumed, together_is_alone = first.split()[:3]
    assert unbroken == resumed
    assert together_is_alone == "True"


def test_a_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as place:
        assert place == Place()
        assert place.is_first
        values = torch.ones(2)
        assert place.total(values) is values
    with pytest.raises(ValueError, match=r"`device` must be .* that is there, got 'cuda:99'"), joined("cuda:99"):
        pass


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor's own
@pytest.mark.parametrize(
    ("objective", "defenses", "tolerance"),
    [(CrossEntropy(), (Dropout(0.1),), 1e-3), (Projected(8, 10, 1), (), 3e-2)],  # rounding turns some of FGSM's signs
    ids=["dropout", "attacked"],
)
def test_compiled_networks_train_alike(
    objective: Objective, defenses: tuple[Dropout, ...], tolerance: float, tmp_path: Path
) -> None:
    schedule = Steps(((0.01, 1),))
    recipe = Recipe("dense", "tiny", 1, 16, schedule, images=32, objective=objective, defenses=defenses)
    models = [
        train(recipe, read_sample(), None, tmp_path / str(compiled), threads=1, place=Place(compiled=compiled))[0]
        for compiled in (False, True)
    ]
    eager, compiled = (model.state_dict() for model in models)
    assert all(torch.allclose(compiled[name], eager[name], atol=tolerance) for name in eager)
