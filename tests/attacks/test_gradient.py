"""Monte Carlo gradients and scores: against their definitions, over batches and budgets, and what is not computed."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import saplab
from saplab import FGSM, PGD, MonteCarlo, Square
from saplab.attacks import Problem, Watch
from saplab.attacks.losses import LOSSES, TARGETED
from saplab.defenses import Defense, Draw, GaussianNoise
from saplab.defenses.drawing import drawing
from saplab.defenses.stochastic import trust
from saplab.models.initialise import initialise
from saplab.rng.streams import pass_streams, stream_key

LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3])


@pytest.fixture
def problem(sap: nn.Module, images: Tensor) -> Problem:
    return Problem.of(sap, images, LABELS)


def passes(problem: Problem, samples: int, rule: Any = "mask") -> Tensor:
    """Return the logits of each pass of the attacker (S, N, C), with their way back to the images."""
    logits, key = [], stream_key(problem.seed, "attack")
    for number in range(samples):
        with drawing(pass_streams(key, number, problem.examples), rule):
            logits.append(problem.adversary(problem.images))
    return torch.stack(logits)


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", ["cross-entropy", "exact-cross-entropy", "margin", "dlr"])
@pytest.mark.parametrize("average", ["loss", "logits", "probabilities"])
@pytest.mark.parametrize("backward", ["mask", "probability", "identity"])
def test_gradient_is_that_of_its_definition(
    loss: Any, average: Any, backward: Any, targeted: bool, problem: Problem
) -> None:
    targets = (LABELS + 2) % 5 if targeted else None
    problem = replace(problem, seed=3, targets=targets)
    found = MonteCarlo(5, backward, average, loss).estimate(problem)
    x = problem.images.clone().requires_grad_()
    logits = passes(replace(problem, images=x), 5, backward)

    def value_of(z: Tensor) -> Tensor:
        return LOSSES[loss](z, LABELS) if targets is None else TARGETED[loss](z, LABELS, targets)

    value = {
        "loss": lambda: torch.stack([value_of(z) for z in logits]).mean(0),
        "logits": lambda: value_of(logits.mean(0)),
        "probabilities": lambda: value_of(logits.softmax(2).mean(0).log()),
    }[average]()
    (expected,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(found.gradient, expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found.loss, value.detach().double(), atol=1e-6, rtol=1e-4, check_dtype=False)


def test_gradient_does_not_depend_on_batches(problem: Problem) -> None:
    estimate = MonteCarlo(samples=6)
    whole = estimate.estimate(problem).gradient
    for batch_size in (1, 3, 14):
        part = estimate.estimate(replace(problem, batch_size=batch_size)).gradient
        torch.testing.assert_close(part, whole, atol=1e-6, rtol=1e-5)
    order = torch.tensor([6, 2, 0])
    some = Problem.of(problem.adversary, problem.images[order], LABELS[order], examples=order)
    torch.testing.assert_close(estimate.estimate(some).gradient, whole[order], atol=1e-6, rtol=1e-5)
    assert torch.equal(problem.part(order).examples, order)


def test_blocks_of_samples_go_on_where_the_last_one_ended(problem: Problem) -> None:
    """4 samples are the mean of the blocks 0 and 1 of 2, or of the first 3 and block 3 of 1."""
    four = MonteCarlo(4).estimate(problem).gradient
    first, second = (MonteCarlo(2).estimate(problem, block).gradient for block in (0, 1))
    torch.testing.assert_close(four, (first + second) / 2, atol=1e-6, rtol=1e-4)
    three, fourth = MonteCarlo(3).estimate(problem).gradient, MonteCarlo(1).estimate(problem, 3).gradient
    torch.testing.assert_close(four, (3 * three + fourth) / 4, atol=1e-6, rtol=1e-4)
    scored = MonteCarlo(2).score(problem, 1).probs
    torch.testing.assert_close(scored, MonteCarlo(2).estimate(problem, 1).probs)


def test_attack_and_defence_of_one_seed_draw_apart(sap: nn.Module, images: Tensor) -> None:
    before = saplab.predict(sap, images, 3, seed=0)
    FGSM(MonteCarlo(3))(sap, images, LABELS, eps=0.1, seed=0)
    assert torch.equal(saplab.predict(sap, images, 3, seed=0), before)
    assert stream_key(0, "attack") != stream_key(0, "defense")


def test_identity_backward_passes_where_the_mask_blocks() -> None:
    """With one draw of two activations, the mask's gradient misses what was pruned; identity's does not."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2))  # type: ignore[operator, union-attr]
        net[2].weight.copy_(torch.eye(2))  # type: ignore[operator, union-attr]
    problem = Problem.of(saplab.defend(net, saplab.SAP(50)), torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
    assert (MonteCarlo(1, "mask").estimate(problem).gradient == 0).sum() == 1
    assert (MonteCarlo(1, "identity").estimate(problem).gradient != 0).all()


# --- passes of each step ---------------------------------------------------------------------------------------------


def test_each_step_sees_fresh_passes_unless_one_draw_serves_a_whole_attack(problem: Problem) -> None:
    fresh, one = MonteCarlo(3), MonteCarlo(3, redraw=False)
    first, later = (one.estimate(problem, block).gradient for block in (0, 7))
    assert torch.equal(first, later)
    assert torch.equal(first, fresh.estimate(problem, 0).gradient)
    assert not torch.equal(first, fresh.estimate(problem, 7).gradient)
    assert torch.equal(one.score(problem, 7).probs, fresh.score(problem, 0).probs)


def test_an_attack_by_one_draw_fools_that_draw_and_no_other() -> None:
    """A network whose whole answer hangs on a random sign: one draw looks broken, the next one is right again."""

    class Signed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            sign = torch.randint(2, (len(x), 1)) * 2.0 - 1
            score = 0.5 + sign * x.flatten(1).mean(1, keepdim=True)
            return torch.cat((score, -score), 1)

    x, labels = torch.full((64, 1, 4, 4), 0.2), torch.zeros(64, dtype=torch.long)
    model = saplab.Stochastic(Signed(), example=x)
    attacks = {redraw: PGD(MonteCarlo(1, redraw=redraw), steps=10, random_start=False) for redraw in (True, False)}
    moved = {redraw: attack(model, x, labels, eps=0.1, seed=0) - x for redraw, attack in attacks.items()}
    assert moved[False].abs().flatten(1).mean(1) == pytest.approx(torch.full((64,), 0.1), abs=1e-6)
    assert moved[True].abs().mean() < 0.07  # whose gradients take turns


# --- nested budgets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [3, 512])
@pytest.mark.parametrize("average", ["loss", "logits", "probabilities"])
def test_nested_budgets_equal_separate_runs(average: Any, batch_size: int, problem: Problem) -> None:
    budgets, problem = (1, 3, 10, 25), replace(problem, seed=2, batch_size=batch_size)
    nested = MonteCarlo(average=average).nested(problem, budgets)
    for samples, found in zip(budgets, nested, strict=True):
        alone = MonteCarlo(samples, average=average).estimate(problem)
        assert found.samples == alone.samples == samples
        for name in ("gradient", "loss", "probs", "logits", "lead", "lead_error", "half_cosine"):
            a, b = getattr(found, name), getattr(alone, name)
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4, equal_nan=True)


def test_budgets_must_ascend(problem: Problem) -> None:
    for budgets in ((), (0, 1), (10, 1), (1, 1)):
        with pytest.raises(ValueError, match="`budgets` must be ascending numbers >= 1"):
            MonteCarlo().nested(problem, budgets)


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [2, 512])
def test_lead_and_its_error_are_those_of_the_passes(batch_size: int, problem: Problem) -> None:
    probs = passes(problem, 12).detach().double().softmax(2)
    mean, rows = probs.mean(0), torch.arange(9)
    others = mean.clone()
    others[rows, LABELS] = -1
    rival = others.argmax(1)
    leads = probs[:, rows, rival] - probs[:, rows, LABELS]
    problem = replace(problem, batch_size=batch_size)
    found = MonteCarlo(12).estimate(problem)
    for score in (found, MonteCarlo(12).score(problem)):
        torch.testing.assert_close(score.probs, mean, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(score.lead, leads.mean(0), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(score.lead_error, leads.std(0) / 12**0.5, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(score.loss, -probs[:, rows, LABELS].log().mean(0), atol=1e-6, rtol=1e-5)
    assert ((found.lead > 0) == (mean.argmax(1) != LABELS)).all()


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
    score = MonteCarlo(64).score(Problem.of(model, torch.rand(4, 1, 1, 1), torch.zeros(4, dtype=torch.long)))
    assert (score.probs.argmax(1) == 0).all()
    assert (score.lead < 0).all()


def test_networks_without_randomness_have_no_doubt(net: nn.Module, images: Tensor) -> None:
    found, many = (MonteCarlo(samples).estimate(Problem.of(net, images, LABELS)) for samples in (1, 4))
    assert torch.equal(found.lead_error, torch.zeros_like(found.lead))
    problem, wrong = Problem.of(net, images, LABELS), net(images).argmax(1) != LABELS
    for score in (found, many):
        assert torch.equal(Watch.over(problem).lost(problem, MonteCarlo(), score, 0), wrong)
    assert found.half_cosine.isnan().all()
    assert many.half_cosine.isnan().all()


def test_one_pass_of_a_random_network_leaves_all_doubt(problem: Problem) -> None:
    found = MonteCarlo().estimate(problem)
    assert (found.lead_error == math.inf).all()
    assert found.half_cosine.isnan().all()


@pytest.mark.parametrize("samples", [2, 7])
def test_half_cosine_is_that_of_the_halves(samples: int, problem: Problem) -> None:
    half, found = samples // 2, MonteCarlo(samples).estimate(problem)
    first = half * MonteCarlo(half).estimate(problem).gradient.flatten(1).double()
    second = samples * found.gradient.flatten(1).double() - first
    torch.testing.assert_close(found.half_cosine, torch.cosine_similarity(first, second), atol=1e-5, rtol=1e-4)


def test_what_is_not_finite_is_an_error(images: Tensor) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :5] * torch.nan

    class Cliff(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - x.detach()).flatten(1)[:, :5].sqrt()

    problem = Problem.of(Broken(), images, LABELS)
    for ask in (MonteCarlo().score, MonteCarlo().estimate):
        with pytest.raises(ValueError, match="not finite"):
            ask(problem)
    with pytest.raises(ValueError, match="the gradient of the loss by the image is not finite"):
        FGSM()(Cliff(), images, LABELS, eps=0.1)


# --- bad settings ----------------------------------------------------------------------------------------------------


def test_bad_targets_are_refused(problem: Problem) -> None:
    for targets, message in ((LABELS, "9 classes, none of them its example's label"), ((LABELS + 1)[:3], "9 integers")):
        with pytest.raises(ValueError, match=f"`targets` must be {message}"):
            Problem.of(problem.adversary, problem.images, LABELS, targets=targets)
    with pytest.raises(ValueError, match=r"`targets` must lie in 0\.\.4"):
        MonteCarlo().estimate(replace(problem, targets=LABELS + 5))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"samples": 0}, "`samples` must be >= 1"),
        ({"backward": "straight"}, "`backward` must be one of mask, probability, identity"),
        ({"average": "votes"}, "`average` must be one of"),
        ({"loss": "mse"}, "`loss` must be one of"),
    ],
)
def test_bad_settings_are_refused(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MonteCarlo(**wrong)


# --- what gradients do and do not ------------------------------------------------------------------------------------


@pytest.mark.parametrize("defense", [saplab.SAP(60), saplab.RandomNoisyWeights(0.1)])
@pytest.mark.parametrize("average", ["loss", "logits"])
def test_no_gradient_of_parameters_is_computed(average: Any, defense: Any, net: nn.Module, images: Tensor) -> None:
    def refuse(gradient: Tensor) -> None:
        raise AssertionError("the gradient of a parameter was computed")

    for parameter in net.parameters():
        parameter.register_hook(refuse)
    MonteCarlo(3, average=average).estimate(Problem.of(saplab.defend(net, defense), images, LABELS))
    with pytest.raises(AssertionError, match="was computed"):
        net(images).sum().backward()


class Staircase(Defense):
    """A defence that rounds activations, h -> ⌊20 h⌋ / 20: its gradient is zero (a shattered gradient)."""

    random = False

    def activation(self, h: Tensor, draw: Draw, where: str) -> Tensor:
        return (h * 20).floor() / 20


def test_identity_backward_breaks_a_step_function_where_the_gradient_fails(net: nn.Module, images: Tensor) -> None:
    """BPDA (Athalye et al. 2018): the plain gradient is zero and never moves; identity backward succeeds."""
    rounded = saplab.defend(initialise(nn.Sequential(nn.Flatten(), nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4)), 0),
                            Staircase())  # fmt: skip
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


def defended(net: nn.Module, most: int) -> Any:
    return trust(saplab.defend(Greedy(net, most), saplab.SAP(60)))


@pytest.mark.parametrize("average", ["loss", "probabilities"])
def test_where_memory_runs_out_halves_give_the_same(average: Any, net: nn.Module, images: Tensor) -> None:
    scarce, ample = defended(net, 5), defended(net, 100)
    found, expected = (
        MonteCarlo(4, average=average).estimate(Problem.of(model, images, LABELS, seed=2)) for model in (scarce, ample)
    )
    assert scarce.batches[:4] == [36, 18, 9, 4]
    torch.testing.assert_close(found.gradient, expected.gradient, atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(found.probs, expected.probs)


def test_memory_for_less_than_one_image_is_an_error(net: nn.Module, images: Tensor) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        MonteCarlo(4).estimate(Problem.of(defended(net, 0), images, LABELS))


class ByPrecision(nn.Module):
    """Right in float32, wrong in bfloat16; counts the rows of each."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = {True: 0, False: 0}

    def forward(self, x: Tensor) -> Tensor:
        low = torch.is_autocast_enabled("cpu")
        self.rows[low] += len(x)
        z = x.flatten(1)[:, :2] * 1e-3
        return z + torch.tensor([-1.0, 1.0] if low else [1.0, -1.0])


def test_gradients_in_bfloat16_are_near_and_name_themselves(net: nn.Module, images: Tensor) -> None:
    problem = Problem.of(net, images, torch.zeros(len(images), dtype=torch.int64))
    fine, rough = (MonteCarlo(precision=p).estimate(problem).gradient.flatten(1) for p in ("float32", "bfloat16"))
    assert not torch.equal(fine, rough)
    assert torch.cosine_similarity(fine, rough).min() > 0.9
    assert PGD(MonteCarlo(precision="bfloat16")).describe(False) == "PGD-20 bfloat16"
    assert PGD(MonteCarlo(precision="bfloat16")).spec == "pgd:precision=bfloat16"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_only_the_gradient_s_precision_gets_wrong_is_not_lost(precision: Any) -> None:
    torch.manual_seed(0)
    net, images = ByPrecision().eval(), torch.rand(3, 1, 4, 4)
    trust(net)
    labels = torch.zeros(3, dtype=torch.int64)
    net.rows = {True: 0, False: 0}
    points = PGD(MonteCarlo(precision=precision), steps=4)(net, images, labels, eps=0.1, seed=1)
    assert net.rows[True] == (12 if precision == "bfloat16" else 0)
    started = PGD(MonteCarlo(precision=precision), steps=4)(net, images, 1 - labels, eps=0.1, seed=1)
    assert torch.equal(started, images)  # what is wrong in float32 is lost before a step
    assert not torch.equal(points, images)


@pytest.mark.parametrize("random", [True, False])
def test_queries_of_random_networks_alone_are_in_bfloat16_and_float32_judges(random: bool) -> None:
    net, images = ByPrecision().eval(), torch.rand(3, 1, 4, 4)
    asked: Any = saplab.defend(net, GaussianNoise(0.01)) if random else net
    trust(asked)
    asked.rows.update({True: 0, False: 0})
    labels = torch.zeros(3, dtype=torch.int64)
    points = Square(queries=6, passes=2, precision="bfloat16")(asked, images, labels, eps=0.1, seed=1)
    assert asked.rows[True] == (3 * 6 * 2 if random else 0)  # queries call them lost in bfloat16, and float32 does not
    assert asked.rows[False] > 0
    assert not torch.equal(points, images)


# --- confident networks ----------------------------------------------------------------------------------------------


class Half(nn.Module):
    """Flatten, and a linear layer in float16, one of whose logits leads by `lead`; the output has a `dtype`."""

    def __init__(self, lead: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 27, generator=torch.Generator().manual_seed(0)) / 8)
        self.lead, self.dtype = lead, dtype

    def forward(self, x: Tensor) -> Tensor:
        z = (x.flatten(1).half() @ self.weight.half().T).to(self.dtype)
        return z + self.lead * torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=self.dtype)


def slopes_of(z: Tensor) -> Tensor:
    """Return the slopes of -log p_0 by logits (N, C), in float64 and without subtracting from 1."""
    p = z.double().softmax(1)
    return torch.cat([-p[:, 1:].sum(1, keepdim=True), p[:, 1:]], 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("average", ["loss", "logits", "probabilities"])
@pytest.mark.parametrize("backward", ["mask", "relaxed"])
@pytest.mark.parametrize("lead", [28.0, 48.0])
def test_a_confident_network_that_computes_in_float16_keeps_its_gradient(
    lead: float, dtype: torch.dtype, average: Any, backward: Any
) -> None:
    """Its slopes by the logits are below 1e-12, which float16 rounds to 0."""
    images = torch.rand(3, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    net = Half(lead, dtype).eval()
    problem = Problem.of(net, images, torch.zeros(3, dtype=torch.int64))
    exact: Any = MonteCarlo(backward=backward, average=average, loss="exact-cross-entropy")
    found = exact.estimate(problem).gradient.double()
    expected = (slopes_of(net(images).detach()) @ net.weight.detach().double()).view_as(images)
    size = expected.abs().max()
    assert 0 < size < 1e-10
    torch.testing.assert_close(found / size, expected / size, rtol=0, atol=5e-3)


@pytest.mark.parametrize("lead", [9.0, 17.0, 30.0, 40.0, 60.0])
def test_the_label_has_its_part_in_the_gradient_of_a_confident_network(lead: float) -> None:
    """In float32, p - 1 rounds to 0 from a lead of 17 on, in float64 from 37."""
    z = torch.tensor([[lead, 0.0, 1.0, 2.0], [lead, lead - 1.0, -3.0, 0.0], [0.0, lead, 1.0, 1.0]])
    where = saplab.ThreatModel(bounds=(-99.0, 99.0))
    labels = torch.tensor([0, 0, 0])
    problem = Problem.of(nn.Flatten().eval(), z.view(3, 4, 1, 1), labels, threat=where)
    found = MonteCarlo(loss="exact-cross-entropy").estimate(problem).gradient.flatten(1)
    torch.testing.assert_close(found.double(), slopes_of(z), rtol=1e-4, atol=1e-30)


@pytest.mark.parametrize("own", [-torch.inf, 3.0])
def test_logits_of_minus_infinity_have_no_slope(own: float) -> None:
    z = torch.tensor([[30.0, own, -torch.inf, 2.0]], requires_grad=True)
    (slopes,) = torch.autograd.grad(LOSSES["exact-cross-entropy"](z, torch.tensor([0])).sum(), z)
    torch.testing.assert_close(slopes.double(), slopes_of(z.detach()), rtol=1e-4, atol=0)


def test_small_slopes_change_no_bit_of_a_gradient_and_large_ones_are_left() -> None:
    """An ordinary network's gradient is PyTorch's own; small ones are scaled by powers of two, there and back."""
    net = initialise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)), 0).eval()
    images = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    x = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(nn.functional.cross_entropy(net(x), LABELS, reduction="sum"), x)
    assert MonteCarlo().estimate(Problem.of(net, images, LABELS)).gradient.equal(expected)
    small = MonteCarlo(loss=lambda z, y: 2.0**-40 * nn.functional.cross_entropy(z, y, reduction="none"))
    assert small.estimate(Problem.of(net, images, LABELS)).gradient.equal(2.0**-40 * expected)


def test_relaxed_backward_still_sees_where_a_network_is_surer_than_float32_can_say() -> None:
    where = saplab.ThreatModel(bounds=(0.0, 300.0))
    for lead in (80.0, 200.0):
        z = torch.tensor([[lead, 0.0, 1.0]]).view(1, 3, 1, 1)
        problem = Problem.of(nn.Flatten().eval(), z, torch.tensor([0]), threat=where)
        exact = MonteCarlo(backward="relaxed", loss="exact-cross-entropy")
        assert (exact.estimate(problem).gradient.abs() > 1e-3).all(), lead


class Inferring(nn.Module):
    """A network that refuses to be differentiated."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(27, 5)

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))  # type: ignore[no-any-return]


def test_a_network_in_inference_mode_has_no_gradient() -> None:
    problem = Problem.of(Inferring().eval(), torch.rand(2, 3, 3, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="no gradient reaches the image"):
        MonteCarlo().estimate(problem)


class OneHot(nn.Module):
    """A network that answers in whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = initialise(nn.Linear(27, 5), 0)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(self.linear(x.flatten(1)).argmax(1), 5)


def test_whole_numbers_are_logits_too() -> None:
    images = torch.rand(2, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    problem = Problem.of(OneHot().eval(), images, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="no gradient reaches the image"):
        MonteCarlo().estimate(problem)
    assert MonteCarlo(backward="relaxed").estimate(problem).gradient.any()


def _in_place(z: Tensor, labels: Tensor) -> Tensor:
    z -= z.amax(1, keepdim=True).detach()
    return nn.functional.cross_entropy(z, labels, reduction="none")


def test_a_users_loss_may_work_in_place(problem: Problem) -> None:
    found, usual = (MonteCarlo(3, loss=loss).estimate(problem) for loss in (_in_place, "cross-entropy"))
    torch.testing.assert_close(found.gradient, usual.gradient)
    assert found.logits.equal(usual.logits)
    assert MonteCarlo(3, loss=_in_place).score(problem).logits.equal(usual.logits)
