"""Examples shared out over threads: the same draws, the same bits twice, and nothing left changed, whatever happens."""

import _thread
import signal
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import saplab
from saplab.attacks.estimate import Estimate
from saplab.attacks.problem import Problem
from saplab.defenses import parallel
from saplab.defenses.stochastic import trust
from saplab.models.zoo import load_model
from saplab.pruning.finite import NotFiniteError

IMAGES, LABELS = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6)


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3, "a pass must leave the caller's threads as they are"
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return load_model("preact-resnet20-dense")


@pytest.fixture(scope="module")
def sap(network: nn.Module) -> nn.Module:
    return saplab.defend(network, saplab.SAP(percent=100), saplab.Dropout(0.1))


class Watched(nn.Module):
    """A network of no known package that notes, outside of itself, which threads run it."""

    def __init__(self, stateful: bool = False, error: BaseException | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 64, 10)
        self.stateful, self.error = stateful, error
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        notes().append((threading.current_thread().name, len(images), torch.get_num_threads()))
        if self.stateful:
            self.features = images
        if self.error is not None and len(images) > 1:
            raise self.error
        return self.linear(F.relu(images.flatten(1)))


def notes() -> list[tuple[str, int, int]]:
    """Return the notes of all passes, which lie where no network's own values are looked for."""
    held: list[tuple[str, int, int]] = vars(sys).setdefault("_saplab_notes", [])
    return held


@pytest.fixture(autouse=True)
def _nobody_seen() -> None:
    notes().clear()


def shared() -> list[tuple[int, int]]:
    """Return (rows, threads that PyTorch had) of the passes that workers ran."""
    return [(rows, count) for name, rows, count in notes() if name.startswith("saplab")]


def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "may_run_in_threads", lambda *_: False)


def estimate(model: nn.Module, samples: int = 4, **settings) -> Estimate:
    return saplab.MonteCarlo(samples, **settings).estimate(Problem.of(model, IMAGES, LABELS, seed=3))


@pytest.mark.parametrize("average", ["loss", "probabilities"])
def test_threads_draw_what_one_draws(sap, average, monkeypatch):
    many = estimate(sap, average=average)
    alone(monkeypatch)
    one = estimate(sap, average=average)
    torch.testing.assert_close(many.gradient, one.gradient, rtol=1e-3, atol=1e-5 * float(one.gradient.abs().max()))
    torch.testing.assert_close(many.probs, one.probs)
    torch.testing.assert_close(many.lead_error, one.lead_error)


@pytest.mark.parametrize("defense", [saplab.SAP(100), saplab.RandomNoisyWeights(0.01)])
def test_the_same_threads_give_the_same_bits(network, defense):
    model = saplab.defend(network, defense)
    first, second = estimate(model), estimate(model)
    assert torch.equal(first.gradient, second.gradient)
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(saplab.predict(model, IMAGES, 3), saplab.predict(model, IMAGES, 3))


def test_predictions_are_shared_out_and_stay(sap, monkeypatch):
    many = saplab.predict(sap, IMAGES, 4, seed=5)
    alone(monkeypatch)
    torch.testing.assert_close(many, saplab.predict(sap, IMAGES, 4, seed=5))


@pytest.mark.parametrize(
    "attack", [saplab.PGD(saplab.MonteCarlo(2), steps=2), saplab.APGD(saplab.MonteCarlo(2), steps=2)]
)
def test_attacks_give_the_same_bits_twice(sap, attack):
    assert torch.equal(attack(sap, IMAGES, LABELS, 0.03, seed=1), attack(sap, IMAGES, LABELS, 0.03, seed=1))


def test_each_thread_takes_its_share_with_one_of_pytorchs_threads():
    estimate(saplab.defend(Watched(), saplab.SAP(100)), samples=2)
    assert shared() == [(4, 1)] * 3  # 12 rows over 3 workers
    seen: list[int] = []
    newcomer = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    newcomer.start()
    newcomer.join()
    assert seen == [3], "threads to come begin with what the program asked for"


def test_large_shares_are_cut_further(monkeypatch):
    monkeypatch.setattr(parallel, "PIECE", 3)
    saplab.predict(Watched(), torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert sorted(shared()) == [(2, 1)] * 7 + [(3, 1)] * 2


def test_workers_have_the_callers_autocast():
    model = Watched()
    inner = model.linear

    def forward(x: Tensor) -> Tensor:
        z = F.linear(x, inner.weight, inner.bias)
        notes().append((str(z.dtype), 0, 0))
        return z

    inner.forward = forward
    with torch.autocast("cpu", torch.bfloat16):
        saplab.predict(model, IMAGES)
    assert {name for name, rows, _ in notes() if rows == 0} == {"torch.bfloat16"}
    assert shared()


class Numbers(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("why", ["stateful", "hook", "mode", "saved tensors", "profiler", "one thread"])
def test_what_is_not_safe_stays_on_the_calling_thread(why):
    model = Watched(stateful=why == "stateful")
    if why == "hook":
        model.linear.register_forward_hook(lambda *_: None)
    if why == "one thread":
        torch.set_num_threads(1)
    around = {
        "mode": Numbers,
        "profiler": torch.profiler.profile,
        "saved tensors": lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t),
    }
    with around.get(why, torch.enable_grad)():
        estimate(model)
    assert notes()
    assert not shared()
    torch.set_num_threads(3)


def test_an_error_in_a_thread_is_told_as_of_the_whole(sap):
    bad = IMAGES.clone()
    bad[4] = torch.nan
    with pytest.raises(NotFiniteError, match=r"NaN or infinity in 2 of 12 maps, first in example 4$"):
        saplab.MonteCarlo(2).estimate(Problem(sap, bad, LABELS, torch.arange(6)))
    with pytest.raises(ZeroDivisionError, match="by the network"):
        estimate(trust(Watched(error=ZeroDivisionError("by the network"))))
    assert shared()
    estimate(sap)


@pytest.fixture
def listening() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
def test_ctrl_c_interrupts_and_the_next_pass_is_whole(sap):
    expected = estimate(sap).gradient
    for delay in (0.05, 0.12):
        timer = threading.Timer(delay, _thread.interrupt_main)
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            timer.start()
            while True:
                estimate(sap)
        timer.join()
        assert torch.equal(estimate(sap).gradient, expected)
