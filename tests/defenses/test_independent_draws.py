"""Draws that must not be the same: direct calls' and a judge's, a part's calls in one pass, two uses in one hook."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import saplab
from saplab.defenses import Draw
from saplab.defenses.drawing import Drawing
from saplab.defenses.noise import Dropout, RandomNoisyActivations
from saplab.rng.numbers import words
from saplab.rng.streams import EXAMPLES, pass_streams, stream_key


class Noisy(nn.Module):
    """Adds noise of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) + torch.randn_like(x.flatten(1))


class MeanOf(nn.Module):
    """An ensemble within a pass."""

    def __init__(self, part: nn.Module, calls: int) -> None:
        super().__init__()
        self.part, self.calls = part, calls

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.part(x) for _ in range(self.calls)]).mean(0)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))


def random_networks(seed: int) -> list[nn.Module]:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    return [saplab.defend(net, saplab.SAP(100), seed=seed), saplab.Stochastic(Noisy().eval(), seed=seed)]


@pytest.mark.parametrize("kind", [0, 1])
def test_direct_calls_are_none_of_the_passes_that_judge(kind: int, images: Tensor) -> None:
    """Otherwise an attack of another library would be judged by the passes that it has seen."""
    model = random_networks(seed=0)[kind]
    with torch.no_grad():
        called = [model(images).softmax(1) for _ in range(4)]
    for passes in range(1, 5):
        judged = saplab.predict(model, images, passes=passes, seed=0)
        assert not torch.isclose(judged, torch.stack(called[:passes]).mean(0), atol=1e-6).all()


@pytest.mark.parametrize("kind", [0, 1])
def test_a_part_that_a_pass_calls_more_than_once_is_refused(kind: int, images: Tensor) -> None:
    part, labels = random_networks(seed=0)[kind], torch.zeros(6, dtype=torch.long)
    with pytest.raises(ValueError, match=r"3 times a pass, and all would get the same draws: defend or wrap the whole"):
        saplab.predict(MeanOf(part, 3).eval(), images)
    with pytest.raises(ValueError, match="3 times a pass"):
        saplab.FGSM(saplab.MonteCarlo(2))(MeanOf(part, 3).eval(), images, labels, eps=0.1)
    once = saplab.predict(MeanOf(part, 1).eval(), images, passes=3)
    assert torch.equal(once, saplab.predict(part, images, passes=3))


def draw_at(count: int | None, examples: Tensor | None = None) -> Draw:
    drawing = Drawing(pass_streams(stream_key(0), 0, torch.arange(4) if examples is None else examples))
    return Draw(drawing.of_one_pass(), 16, "place", count, torch.device("cpu"))


def test_every_call_of_everywhere_and_per_pass_gives_new_numbers() -> None:
    for name in ("everywhere", "per_pass"):
        draw = draw_at(4)
        first, second = (getattr(draw, name).normal((3,)) for _ in range(2))
        assert not torch.isclose(first, second).any()
        assert torch.equal(getattr(draw_at(4), name).normal((3,)), first)


def test_what_a_weight_shares_is_not_what_maps_of_the_same_number_share() -> None:
    assert not torch.isclose(draw_at(None).per_pass.normal((3,)), draw_at(4).per_pass.normal((3,))).any()


def test_rare_categories_are_drawn_as_often_as_they_should() -> None:
    """24 bits would reach 167 of 1,000 categories of probability 1e-8 at most."""
    probs = torch.cat((torch.full((1000,), 1e-8), torch.tensor([1 - 1e-5]))).double().expand(64, -1)
    found = draw_at(64, torch.arange(64)).multinomial(probs, 1 << 20)
    counts = torch.bincount(found[found < 1000], minlength=1000)
    assert abs(int(counts.sum()) - 671) < 6 * math.sqrt(671)
    assert (counts > 0).sum() > 400  # 489 on average


def test_wide_ranges_are_uniform() -> None:
    """By one word of 32 bits, some numbers would come twice as often as others."""
    found = draw_at(4).randint(0, 3 << 29, (4, 50_000)).flatten()
    shares = torch.bincount(found % 3, minlength=3) / len(found)
    assert (shares - 1 / 3).abs().max() < 6 * math.sqrt(2 / 9 / len(found))


def test_half_precision_holds_no_1() -> None:
    class Drawn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            values = [torch.rand(len(x), 4096, dtype=kind) for kind in (torch.bfloat16, torch.float16)]
            values += [torch.empty(len(x), 4096, dtype=torch.bfloat16).uniform_()]
            return torch.stack([value.float().amax(1) for value in values], 1) + x.flatten(1)[:, :1]

    found = saplab.Stochastic(Drawn().eval(), seed=0)(torch.zeros(8, 1))
    assert found.amax(0).tolist() == [1 - 2**-8, 1 - 2**-11, 1 - 2**-8]


class SequenceFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x.transpose(0, 1)).mean(0)


def test_maps_whose_first_axis_is_not_the_examples_are_refused_in_direct_calls() -> None:
    model = saplab.defend(SequenceFirst().eval(), saplab.SAP(100))
    with pytest.raises(ValueError, match=r"16 maps for a batch of 3 examples: the first axis must be the examples'"):
        model(torch.rand(3, 16, 5))


def test_examples_whose_parts_have_no_numbers_left_are_refused() -> None:
    drawing = Drawing(pass_streams(stream_key(0), 0, torch.tensor([0, EXAMPLES // 2])))
    assert len(drawing.rows(2, "place")) == 2
    with pytest.raises(ValueError, match=r"2 maps for each example, whose numbers must be below 2\^32 / 2"):
        drawing.rows(4, "place")


@pytest.mark.parametrize("defense", [Dropout(0.2), RandomNoisyActivations(0.1), saplab.SAP(100)])
def test_one_number_for_each_example_is_a_map_too(defense: saplab.Defense) -> None:
    class Single(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            gate = torch.relu(x.flatten(1).sum(1))
            return torch.stack((gate, 1 - gate), 1)

    assert saplab.predict(saplab.defend(Single().eval(), defense), torch.rand(5, 1, 2, 2)).shape == (5, 2)


@dataclass(frozen=True)
class Doubled(saplab.SAP):
    """Of SAP's class, with an activation of its own and a surrogate for it."""

    def activation(self, h: Tensor, draw: Draw, where: str) -> Tensor:
        return 2 * h * draw.bernoulli(0.5, h.shape)

    def surrogate(self, hook: str, x: Tensor, draw: Draw, where: str = "") -> Tensor:
        return 3 * x


@pytest.mark.parametrize(("rule", "slopes"), [("identity", {1.0}), ("mask", {3.0})])
def test_the_rules_act_on_a_class_derived_from_one_that_knows_them(rule: str, slopes: set[float]) -> None:
    model = saplab.defend(nn.Sequential(nn.ReLU(), nn.Flatten()), Doubled(100), backward=rule)  # type: ignore[arg-type]
    x = torch.rand(2, 1, 4, 4, requires_grad=True)
    model(x).sum().backward()
    assert x.grad is not None
    assert set(x.grad.flatten().tolist()) == slopes
    assert model(torch.rand(2, 1, 4, 4).bfloat16()).dtype == torch.bfloat16


def test_a_power_of_two_takes_one_word_whose_bits_it_keeps() -> None:
    """On these numbers stand stored cards of crops and resizing."""
    one = draw_at(4).randint(0, 1 << 31, (4, 100))
    assert torch.equal(one, words(draw_at(4).rows, 100, 16, 16).view(4, 100) >> 1)
