"""Estimates: nested budgets, leads and their errors against definitions, targeted losses, and what is not computed."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import saplab
from saplab import PGD, MonteCarlo
from saplab.attacks import lost
from saplab.attacks.losses import TARGETED, targeted_cross_entropy, targeted_dlr, targeted_margin
from saplab.defenses.drawing import drawing
from saplab.models.initialise import initialise
from saplab.rng.streams import pass_streams, stream_key


@pytest.fixture
def net() -> nn.Module:
    layers = (nn.Flatten(), nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5))
    return initialise(nn.Sequential(*layers), 0)


@pytest.fixture
def sap(net: nn.Module) -> nn.Module:
    return saplab.defend(net, saplab.SAP(60))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(7, 3, 2, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 1, 2, 3, 4, 0, 1])


def single_passes(sap: nn.Module, images: Tensor, samples: int, seed: int = 0) -> Tensor:
    """Give the softmax of each pass (S, N, C)."""
    probs = []
    for number in range(samples):
        rows = pass_streams(stream_key(seed, "attack"), number, torch.arange(len(images)))
        with drawing(rows), torch.no_grad():
            probs.append(sap(images).double().softmax(1))
    return torch.stack(probs)


# --- nested budgets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [3, 512])
@pytest.mark.parametrize("average", ["loss", "logits", "probabilities"])
def test_nested_budgets_equal_separate_runs(
    average: Any, batch_size: int, sap: nn.Module, images: Tensor, labels: Tensor
) -> None:
    budgets = (1, 3, 10, 25)
    attack = MonteCarlo(average=average)
    nested = attack.nested(sap, images, labels, budgets, 2, batch_size=batch_size)
    for samples, found in zip(budgets, nested, strict=True):
        alone = MonteCarlo(samples, average=average).estimate(sap, images, labels, 2, batch_size=batch_size)
        assert found.samples == alone.samples == samples
        for name in ("gradient", "loss", "probs", "logits", "lead", "lead_error", "half_cosine"):
            a, b = getattr(found, name), getattr(alone, name)
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4, equal_nan=True)


def test_nested_budgets_take_one_run_of_the_largest(sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    seen = []
    sap.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    list(MonteCarlo().nested(sap, images, labels, (1, 10, 40)))
    assert sum(seen) == 40 * len(images)


def test_budgets_must_ascend(sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    for budgets in ((), (0, 1), (10, 1), (1, 1)):
        with pytest.raises(ValueError, match="`budgets` must be ascending numbers >= 1"):
            MonteCarlo().nested(sap, images, labels, budgets)


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [2, 512])
def test_lead_and_its_error_are_those_of_the_passes(
    batch_size: int, sap: nn.Module, images: Tensor, labels: Tensor
) -> None:
    probs = single_passes(sap, images, 12)
    mean, rows = probs.mean(0), torch.arange(7)
    others = mean.clone()
    others[rows, labels] = -1
    rival = others.argmax(1)
    leads = probs[:, rows, rival] - probs[:, rows, labels]
    found = MonteCarlo(12).estimate(sap, images, labels, batch_size=batch_size)
    for score in (found, MonteCarlo(12).score(sap, images, labels, batch_size=batch_size)):
        torch.testing.assert_close(score.probs, mean, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(score.lead, leads.mean(0), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(score.lead_error, leads.std(0) / 12**0.5, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(score.loss, -probs[:, rows, labels].log().mean(0), atol=1e-6, rtol=1e-5)
    assert ((found.lead > 0) == (mean.argmax(1) != labels)).all()


def test_the_lead_is_that_of_the_averaged_prediction() -> None:
    """Where passes disagree about the rival, the mean of their own leads would call a right prediction lost."""

    class Undecided(nn.Module):
        """Passes that give 0.4 to class 0, and 0.6 to class 1 or to class 2, as the activation site is drawn."""

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(torch.ones(len(x), 2, device=x.device))
            one = (h[:, :1] > 0).double()
            rest = torch.cat((0.6 * one, 0.6 * (1 - one)), 1)
            return torch.cat((0.4 + 0.0 * x.flatten(1)[:, :1], rest + 1e-12), 1).log()

    model = saplab.defend(Undecided(), saplab.SAP(50))
    score = MonteCarlo(64).score(model, torch.rand(4, 1, 1, 1), torch.zeros(4, dtype=torch.long))
    assert (score.probs.argmax(1) == 0).all()
    assert (score.lead < 0).all()
    assert not lost(score).any()


def test_networks_without_randomness_have_no_doubt(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    found = MonteCarlo().estimate(net, images, labels)
    assert torch.equal(found.lead_error, torch.zeros_like(found.lead))
    assert torch.equal(lost(found), net(images).argmax(1) != labels)
    assert found.half_cosine.isnan().all()
    many = MonteCarlo(4).estimate(net, images, labels)
    assert torch.equal(lost(many), lost(found))
    assert many.half_cosine.isnan().all()


def test_one_pass_of_a_random_network_leaves_all_doubt(sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    found = MonteCarlo().estimate(sap, images, labels)
    assert (found.lead_error == math.inf).all()
    assert found.half_cosine.isnan().all()


@pytest.mark.parametrize("samples", [2, 7])
def test_half_cosine_is_that_of_the_halves(samples: int, sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    first = MonteCarlo(samples // 2).gradient(sap, images, labels)
    second = MonteCarlo(samples - samples // 2).gradient(sap, images, labels, first_sample=samples // 2)
    expected = torch.cosine_similarity(first.flatten(1).double(), second.flatten(1).double())
    found = MonteCarlo(samples).estimate(sap, images, labels).half_cosine
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_doubt_is_students(sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Three standard errors of many samples; 235 of two, whose own spread is hardly known (tables of Student's t)."""
    for samples, quantile in ((2, 235.8), (10, 4.094), (10**6, 3.0)):
        score = MonteCarlo(1).score(sap, images, labels)
        edge = {**vars(score), "samples": samples, "lead_error": torch.full((7,), 0.01)}
        for factor, expected in ((0.999, False), (1.001, True)):
            lead = torch.full((7,), 0.01 * quantile * factor)
            assert lost(type(score)(**{**edge, "lead": lead})).all() == expected


def test_nan_logits_are_an_error(images: Tensor, labels: Tensor) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :5] * torch.nan

    for ask in (MonteCarlo().score, MonteCarlo().estimate):
        with pytest.raises(ValueError, match="not finite"):
            ask(Broken(), images, labels)


# --- targets ---------------------------------------------------------------------------------------------------------


def test_targeted_losses_by_hand() -> None:
    z, y, t = torch.tensor([[3.0, 1.0, 0.0, -1.0]]), torch.tensor([0]), torch.tensor([2])
    torch.testing.assert_close(targeted_margin(z, y, t), torch.tensor([-3.0]))
    torch.testing.assert_close(targeted_dlr(z, y, t), torch.tensor([-3 / (3 - (0 - 1) / 2)]))
    torch.testing.assert_close(targeted_cross_entropy(z, y, t), z.log_softmax(1)[:, 2])
    with pytest.raises(ValueError, match="at least 4 classes"):
        targeted_dlr(z[:, :3], y, t)


@pytest.mark.parametrize("loss", list(TARGETED))
@pytest.mark.parametrize("average", ["loss", "logits", "probabilities"])
def test_targeted_gradient_is_that_of_its_definition(
    loss: Any, average: Any, sap: nn.Module, images: Tensor, labels: Tensor
) -> None:
    targets = (labels + 2) % 5
    found = MonteCarlo(5, "mask", average, loss).estimate(sap, images, labels, seed=3, targets=targets)
    x, passes = images.clone().requires_grad_(), []
    for number in range(5):
        with drawing(pass_streams(stream_key(3, "attack"), number, torch.arange(7))):
            passes.append(sap(x))
    z = torch.stack(passes)
    value = {
        "loss": lambda: torch.stack([TARGETED[loss](each, labels, targets) for each in z]).mean(0),
        "logits": lambda: TARGETED[loss](z.mean(0), labels, targets),
        "probabilities": lambda: TARGETED[loss](z.softmax(2).mean(0).log(), labels, targets),
    }[average]()
    (expected,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(found.gradient, expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found.loss, value.detach().double(), atol=1e-6, rtol=1e-4, check_dtype=False)


def test_bad_targets_are_refused(sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    for targets in (labels, (labels + 1)[:3]):
        with pytest.raises(ValueError, match="`targets` must be 7 classes, none of them its example's label"):
            MonteCarlo().estimate(sap, images, labels, targets=targets)
    with pytest.raises(ValueError, match=r"`targets` must lie in 0\.\.4"):
        MonteCarlo().estimate(sap, images, labels, targets=labels + 5)


# --- what gradients do and do not ------------------------------------------------------------------------------------


@pytest.mark.parametrize("defense", [saplab.SAP(60), saplab.RandomNoisyWeights(0.1)])
@pytest.mark.parametrize("average", ["loss", "logits"])
def test_no_gradient_of_parameters_is_computed(
    average: Any, defense: Any, net: nn.Module, images: Tensor, labels: Tensor
) -> None:
    def refuse(gradient: Tensor) -> None:
        raise AssertionError("the gradient of a parameter was computed")

    for parameter in net.parameters():
        parameter.register_hook(refuse)
    MonteCarlo(3, average=average).estimate(saplab.defend(net, defense), images, labels)
    with pytest.raises(AssertionError, match="was computed"):
        net(images).sum().backward()


class Steps(nn.Module):
    """A network whose activations are a staircase: its gradient is zero almost everywhere (a shattered gradient)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 32)
        self.last = nn.Linear(32, 4)
        initialise(self, 0)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x.flatten(1)))
        return self.last(h)


class Staircase:
    """A defence that rounds activations, h -> ⌊20 h⌋ / 20, and honours the rule ``identity``."""

    def draws(self, activations: int, name: str) -> int:
        return 0

    def serves(self, name: str) -> bool:
        return True

    def apply(self, h: Tensor, drawing: Any, site: int, name: str) -> Tensor:
        rounded = (h * 20).floor() / 20
        return h + (rounded - h).detach() if drawing.rule == "identity" else rounded


def test_identity_backward_breaks_a_step_function_where_the_gradient_fails(images: Tensor) -> None:
    """BPDA (Athalye et al. 2018): the plain gradient is zero and never moves; identity backward succeeds."""
    rounded = saplab.defend(Steps(), Staircase())
    labels = rounded(images).argmax(1)
    plain = PGD(MonteCarlo(backward="mask"), steps=10, random_start=False)(rounded, images, labels, eps=0.5)
    assert torch.equal(plain, images)
    bpda = PGD(MonteCarlo(backward="identity"), steps=10, random_start=False)(rounded, images, labels, eps=0.5)
    assert (rounded(bpda).argmax(1) != labels).all()


# --- memory ----------------------------------------------------------------------------------------------------------


class Greedy(nn.Module):
    """A network for which more than `most` images at once are too many."""

    def __init__(self, net: nn.Module, most: int) -> None:
        super().__init__()
        self.net, self.most, self.batches = net, most, []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return self.net(x)


@pytest.mark.parametrize("average", ["loss", "probabilities"])
def test_where_memory_runs_out_halves_give_the_same(
    average: Any, net: nn.Module, images: Tensor, labels: Tensor
) -> None:
    gradient = MonteCarlo(4, average=average)
    scarce = saplab.defend(Greedy(net, 5), saplab.SAP(60))
    found = gradient.estimate(scarce, images, labels, seed=2)
    expected = gradient.estimate(saplab.defend(Greedy(net, 100), saplab.SAP(60)), images, labels, seed=2)
    assert scarce.batches[:4] == [28, 14, 7, 3]
    torch.testing.assert_close(found.gradient, expected.gradient, atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(found.probs, expected.probs)


def test_memory_for_less_than_one_image_is_an_error(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        MonteCarlo(4).gradient(saplab.defend(Greedy(net, 0), saplab.SAP(60)), images, labels)
