"""What a step minimises, against a linear network whose attacks are known by hand; and whose draws a step makes."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from saplab.attacks import LINF
from saplab.data.cifar10 import load_cifar10
from saplab.data.dataset import Records
from saplab.data.sample import read_sample
from saplab.defenses import SAP, Defense, Dropout, RandomNoisyWeights
from saplab.models.preact_resnet import preact_resnet20
from saplab.models.published.rse import rse_resnet20
from saplab.models.published.wca import wca_resnet20
from saplab.training.objectives import (
    Aligned,
    CrossEntropy,
    Halves,
    Noisy,
    PreviousEpoch,
    Projected,
    Trades,
    Transferred,
)
from saplab.training.place import Place
from saplab.training.steps import INNER, MAIN, Networks, Step
from saplab.training.testing import count_correct, count_robust

W = torch.tensor([[0.5, -1.0], [-2.0, 0.25]])


def linear(images: Tensor, weight: Tensor = W) -> Tensor:
    """Logits (0, w·x): the loss of class 0 climbs along w, that of class 1 against it."""
    score = (images * weight).sum((1, 2, 3))
    return torch.stack((torch.zeros_like(score), score), 1)


@dataclass
class LinearStep:
    images: Tensor
    labels: Tensor
    start: Tensor
    seen: list[Tensor] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    weight: Tensor = W

    def trained(self, images: Tensor, pass_: int = MAIN) -> Tensor:
        self.seen.append(images.detach())
        self.passes.append(pass_)
        return linear(images, self.weight)

    def attacked(self, images: Tensor, pass_: int) -> Tensor:
        self.passes.append(pass_)
        return linear(images)

    def other(self, images: Tensor, pass_: int) -> Tensor:
        self.passes.append(pass_)
        return -linear(images)

    def uniform(self) -> Tensor:
        return self.start

    def normal(self) -> Tensor:
        return self.start


@pytest.fixture
def step() -> LinearStep:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 1, 2, 2, generator=generator)
    return LinearStep(images, torch.tensor([0, 1, 0, 1, 1]), torch.rand(5, 1, 2, 2, generator=generator))


def towards_loss(step: LinearStep) -> Tensor:
    return torch.where(step.labels == 0, 1.0, -1.0).view(-1, 1, 1, 1) * W.sign()


def test_cross_entropy(step: LinearStep) -> None:
    loss, logits = CrossEntropy().loss(step)
    assert torch.equal(logits, linear(step.images))
    assert loss == pytest.approx(float(-logits.log_softmax(1)[torch.arange(5), step.labels].mean()))


def test_a_share_is_changed_against_the_previous_network(step: LinearStep) -> None:
    PreviousEpoch(share=0.4, lam=25.5).loss(step)
    (trained,) = step.seen
    assert torch.equal(trained[2:], step.images[2:])
    expected = (step.images - 0.1 * towards_loss(step)).clamp(0, 1)  # the network before climbs the other way
    assert torch.allclose(trained[:2], expected[:2], atol=1e-7)


@pytest.mark.parametrize("start", [True, False])
def test_one_step_and_back_into_ball_and_cube(step: LinearStep, start: bool) -> None:
    attack = Projected(lam=25.5, step=1.25 * 25.5, steps=1, start=start)
    began = (step.images + 0.1 * (2 * step.start - 1)).clamp(0, 1) if start else step.images
    expected = LINF.project(began + 0.125 * towards_loss(step), step.images, 0.1)
    assert torch.allclose(attack.changed(step), expected, atol=1e-7)
    loss, _ = attack.loss(step)
    assert loss == pytest.approx(float(F.cross_entropy(linear(expected), step.labels)), rel=1e-5)


def test_many_steps_reach_the_corner(step: LinearStep) -> None:
    corner = LINF.project(step.images + 0.1 * towards_loss(step), step.images, 0.1)
    assert torch.allclose(Projected(lam=25.5, step=6, steps=9).changed(step), corner, atol=1e-7)
    assert not torch.allclose(Projected(lam=25.5, step=6, steps=1).changed(step), corner, atol=1e-3)


def test_trades_by_its_formula(step: LinearStep) -> None:
    """The divergence grows on the side of the start's displacement, up to the corner there."""
    loss, logits = Trades(lam=25.5, step=6, steps=9, beta=6).loss(step)
    clean, changed = step.seen
    assert torch.equal(clean, step.images)
    side = (step.start * W).sum((1, 2, 3)).sign().view(-1, 1, 1, 1)
    assert torch.allclose(changed, LINF.project(step.images + 0.1 * side * W.sign(), step.images, 0.1), atol=1e-7)
    p, q = (linear(x).softmax(1).double().numpy() for x in (clean, changed))
    entropy = -np.log(p[np.arange(5), step.labels.numpy()]).mean()
    assert float(loss) == pytest.approx(entropy + 6 * (p * np.log(p / q)).sum(1).mean(), rel=1e-5)
    assert torch.equal(logits, linear(step.images))


def test_the_gradient_of_trades_goes_through_both_distributions(step: LinearStep) -> None:
    step.weight = W.clone().requires_grad_()
    loss, _ = Trades(lam=25.5, step=6, steps=9, beta=6).loss(step)
    (found,) = torch.autograd.grad(loss, step.weight)
    weight = W.double().requires_grad_()
    p, q = (linear(images.double(), weight).log_softmax(1) for images in step.seen)
    formula = F.nll_loss(p, step.labels) + 6 * (p.exp() * (p - q)).sum(1).mean()
    (expected,) = torch.autograd.grad(formula, weight)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf")])
def test_noise_of_no_size_is_refused_before_training(std: float) -> None:
    with pytest.raises(ValueError, match="`std` must be > 0 and finite, got"):
        Noisy(std)


def test_noisy_images_are_neither_clipped_nor_scaled(step: LinearStep) -> None:
    loss, logits = Noisy(std=0.25).loss(step)
    assert torch.equal(step.seen[0], step.images + 0.25 * step.start)
    assert loss == pytest.approx(float(F.cross_entropy(linear(step.seen[0]), step.labels)))
    assert torch.equal(logits, linear(step.seen[0]))


def test_half_the_loss_is_of_clean_images(step: LinearStep) -> None:
    attack = Projected(lam=25.5, step=6, steps=2)
    loss, logits = Halves(attack).loss(step)
    clean, changed = step.seen
    assert torch.equal(clean, step.images)
    assert torch.equal(changed, attack.changed(step))
    losses = [float(F.cross_entropy(linear(x), step.labels)) for x in (clean, changed)]
    assert loss == pytest.approx(sum(losses) / 2)
    assert torch.equal(logits, linear(clean))


def test_images_changed_against_another_network(step: LinearStep) -> None:
    loss, _ = Transferred("preact-resnet20-fast", Projected(lam=25.5, step=6, steps=9)).loss(step)
    corner = LINF.project(step.images - 0.1 * towards_loss(step), step.images, 0.1)  # that one climbs the other way
    assert torch.allclose(step.seen[0], corner, atol=1e-7)
    assert loss == pytest.approx(float(F.cross_entropy(linear(corner), step.labels)), rel=1e-5)


ONE_STEP = Projected(8, 2, 3)
OBJECTIVES = [
    CrossEntropy(), PreviousEpoch(0.5, 2), ONE_STEP, Trades(8, 2, 3, 6), Noisy(0.1), Halves(ONE_STEP),
    Transferred("", ONE_STEP),
]  # fmt: skip


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: type(objective).__name__)
def test_passes_of_a_step_have_their_own_numbers(objective, step: LinearStep) -> None:
    objective.loss(step)
    assert len(step.passes) == len(set(step.passes))
    assert MAIN in step.passes


# A step of a real network


def networks_of(model: torch.nn.Module, *defenses: Defense, seed: int = 7) -> Networks:
    return Networks(model, defenses, "float32", seed, Place())


def batch_step(*defenses: Defense, number: int = 0, chosen: slice = slice(6)) -> Step:
    images, labels = load_cifar10("sample")
    networks = networks_of(preact_resnet20(), *defenses)
    return Step(networks, images[chosen], labels[chosen], torch.arange(1000)[chosen], number)


def test_starts_are_a_function_of_seed_step_and_image() -> None:
    whole, other, later = batch_step(), batch_step(chosen=slice(4, 9)), batch_step(number=1)
    for draw in (Step.uniform, Step.normal):
        assert torch.equal(draw(whole)[4:], draw(other)[:2])
        assert not (draw(whole) == draw(later)).all(dim=(1, 2, 3)).any()
    mean = float(whole.uniform().mean())
    assert mean == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / (6 * 3072)))  # four standard errors


def test_alignment_lowers_the_loss_of_its_own_network_alone() -> None:
    images, labels = load_cifar10("sample")
    model = wca_resnet20()
    aligned = Step(networks_of(model), images[:4], labels[:4], torch.arange(4), 0)
    loss, logits = Aligned().loss(aligned)
    expected = F.cross_entropy(logits, labels[:4]) - model.alignment()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    with pytest.raises(ValueError, match="`network` must be wca-resnet20 for this objective, got a PreactResNet"):
        Aligned().loss(batch_step())


def test_a_networks_own_draws_are_fresh_each_step_and_pass_and_repeat() -> None:
    images, labels = load_cifar10("sample")

    def step(number: int = 0, seed: int = 7) -> Step:
        return Step(networks_of(rse_resnet20(), seed=seed), images[:2], labels[:2], torch.arange(2), number)

    before = torch.get_rng_state()
    with torch.no_grad():
        logits = step().trained(images[:2])
        assert torch.equal(step().trained(images[:2]), logits)
        others = [step().trained(images[:2], INNER), step(1).trained(images[:2]), step(seed=8).trained(images[:2])]
    assert all(not torch.equal(other, logits) for other in others)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("defense", [SAP(100), Dropout(0.2), RandomNoisyWeights(0.1)], ids=lambda d: type(d).__name__)
def test_draws_are_fresh_each_step_and_pass_and_repeat(defense) -> None:
    first, later = batch_step(defense), batch_step(defense, number=1)
    with torch.no_grad():
        logits = first.trained(first.images)
        assert torch.equal(batch_step(defense).trained(first.images), logits)
        assert not torch.equal(later.trained(first.images), logits)
        assert not torch.equal(batch_step(defense).trained(first.images, INNER), logits)


def test_an_attack_leaves_statistics_and_gradients_alone() -> None:
    step = batch_step()
    before = {name: tensor.clone() for name, tensor in step.networks.model.state_dict().items()}
    Projected(8, 2, 2).changed(step)
    assert all(torch.equal(tensor, before[name]) for name, tensor in step.networks.model.state_dict().items())
    assert all(parameter.grad is None for parameter in step.networks.model.parameters())
    step.trained(step.images)
    assert not torch.equal(step.networks.model.bn.running_mean, before["bn.running_mean"])


def test_the_previous_network_is_that_of_its_epoch() -> None:
    step = batch_step()
    with pytest.raises(ValueError, match="no network of an epoch before was kept"):
        step.other(step.images, INNER)
    step.networks.keep_previous()
    logits = step.other(step.images, INNER)
    assert torch.equal(logits, step.attacked(step.images, INNER))
    with torch.no_grad():
        step.networks.model.linear.bias += 1
    assert torch.equal(step.other(step.images, INNER), logits)
    assert torch.allclose(step.attacked(step.images, INNER), logits + 1)


# Accuracies between epochs


class AlwaysThree(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return F.one_hot(torch.full((len(images),), 3), 10) * self.scale + 0 * images.sum((1, 2, 3))[:, None]


@pytest.fixture(scope="module")
def data() -> Records:
    return read_sample()


def test_count_correct_by_hand(data: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    assert count_correct(AlwaysThree(), data) == 100
    monkeypatch.setattr("saplab.training.testing.BATCH", 2)
    assert count_correct(AlwaysThree(), data.chosen(slice(7))) == int((data.labels[:7] == 3).sum())


def test_count_robust_by_hand(data: Records) -> None:
    networks = networks_of(AlwaysThree(), seed=0)
    assert count_robust(networks, data.chosen(slice(90)), Projected(8, 2, 1)) == int((data.labels[:90] == 3).sum())


def test_batches_of_held_out_images_have_draws_of_their_own(data: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    class Drawing(AlwaysThree):
        def forward(self, images: Tensor) -> Tensor:
            drawn.append(float(torch.rand(())))
            return super().forward(images)

    drawn: list[float] = []
    monkeypatch.setattr("saplab.training.testing.BATCH", 2)
    count_robust(networks_of(Drawing(), seed=0), data.chosen(slice(6)), Projected(8, 2, 1))
    assert len(drawn) == len(set(drawn)) == 6  # a pass of the attack and one that judges, of three batches


def test_more_passes_than_a_step_has_numbers_for_are_refused(data: Records) -> None:
    networks = networks_of(AlwaysThree(), seed=0)
    with pytest.raises(ValueError, match="a step may run 62 passes of an adversary, and this one is number 64"):
        count_robust(networks, data.chosen(slice(2)), Projected(8, 2, 63))


def test_an_attack_lowers_the_accuracy_of_a_trained_network(data: Records) -> None:
    from saplab.models.zoo import load_model

    networks, few = networks_of(load_model("preact-resnet20-dense"), seed=0), data.chosen(slice(40))
    clean = count_correct(networks.model, few)
    assert count_robust(networks, few, Projected(0, 0, 1)) == clean
    assert count_robust(networks, few, Projected(8, 2, 3)) < clean / 4
