"""Draw: the law of every method, and what its numbers depend on: seed, pass, place and example alone."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import scipy.stats
import torch
from torch import Tensor

from saplab.defenses import Draw
from saplab.defenses.drawing import Drawing, fresh
from saplab.rng.streams import pass_streams, stream_key

CPU = torch.device("cpu")
LEVEL = 1e-4  # of every test of a law


def draw_at(
    count: int | None = 8, pass_: int = 0, seed: int = 0, site: int = 3, examples: Tensor | None = None
) -> Draw:
    numbers = torch.arange(count or 1) if examples is None else examples
    drawing = Drawing(pass_streams(stream_key(seed), pass_, numbers))
    return Draw(drawing if count else drawing.of_one_pass(), site, "place", count, CPU)


PROBS = torch.tensor([0.0, 0.5, 0.25, 0.0, 0.25, 0.0])
METHODS: dict[str, Callable[[Draw, int], Tensor]] = {
    "normal": lambda draw, n: draw.normal((n, 3, 50)),
    "uniform": lambda draw, n: draw.uniform((n, 3, 50)),
    "bernoulli": lambda draw, n: draw.bernoulli(0.5, (n, 3, 50)),
    "randint": lambda draw, n: draw.randint(-1000, 1000, (n, 3, 50)),
    "choice": lambda draw, n: draw.choice(1000, (n, 3, 50)),
    "multinomial": lambda draw, n: draw.multinomial(PROBS.expand(n, 6), 100),
    "permutation": lambda draw, n: draw.permutation(100),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())


# --- laws ------------------------------------------------------------------------------------------------------------


def agrees(found: Tensor, law: Tensor) -> bool:
    """Return whether counts of 0, 1, ... have the law, by a chi-square test; what cannot happen must not."""
    counts = torch.bincount(found.flatten(), minlength=len(law)).double()
    possible = law > 0
    if len(counts) > len(law) or counts[~possible].any():
        return False
    return scipy.stats.chisquare(counts[possible], (law * counts.sum())[possible]).pvalue > LEVEL


def test_normal_and_uniform_numbers_have_their_laws() -> None:
    draw = draw_at(64)
    assert scipy.stats.kstest(draw.normal((64, 500)).ravel(), "norm").pvalue > LEVEL
    u = draw.uniform((64, 500))
    assert scipy.stats.kstest(u.ravel(), "uniform").pvalue > LEVEL
    assert u.min() >= 0
    assert u.max() < 1
    assert u.dtype == draw.normal((64,)).dtype == torch.float32


def test_bernoulli_has_its_probability_everywhere() -> None:
    p = torch.tensor([0.0, 0.1, 0.9, 1.0])
    hits = draw_at(4000).bernoulli(p, (4000, 4))
    assert set(hits.unique().tolist()) == {0.0, 1.0}
    error = (hits.double().mean(0) - p).abs()
    assert (error <= 4 * (p * (1 - p) / 4000).sqrt()).all()  # standard errors; exact at 0 and 1
    assert agrees(draw_at(100).bernoulli(0.3, (100, 100)).long(), torch.tensor([0.7, 0.3], dtype=torch.float64))


@pytest.mark.parametrize(("low", "high"), [(0, 6), (-3, 4), (2**40, 2**40 + 5)])
def test_randint_is_uniform_over_its_range(low: int, high: int) -> None:
    found = draw_at(100).randint(low, high, (100, 100))
    assert found.dtype == torch.int64
    assert agrees(found - low, torch.full((high - low,), 1 / (high - low), dtype=torch.float64))


def test_randint_reaches_both_ends_of_a_wide_range() -> None:
    found = draw_at(100).randint(-(2**30), 2**30, (100, 1000)).double()
    assert found.min() < -0.9999 * 2**30
    assert found.max() > 0.9999 * 2**30
    assert (draw_at(8).randint(7, 8, (8,)) == 7).all()


def test_choice_takes_numbers_rows_and_sequences() -> None:
    third = torch.full((3,), 1 / 3, dtype=torch.float64)
    assert agrees(draw_at(3000).choice(3), third)
    rows = torch.eye(3)
    chosen = draw_at(3000).choice(rows)
    assert chosen.shape == (3000, 3)
    assert agrees(chosen.argmax(1), third)
    assert draw_at(2).choice("abc", (2, 2)) == [["abc"[i] for i in row] for row in draw_at(2).choice(3, (2, 2))]
    assert draw_at(None).choice(("one",)) == "one"
    assert draw_at(None).choice(["a", "b"], (3,)) == ["ab"[i] for i in draw_at(None).choice(2, (3,))]


def test_multinomial_follows_probabilities_of_any_scale() -> None:
    law = PROBS.double()
    for scale in (1.0, 1e-3, 40.0):
        assert agrees(draw_at(100).multinomial(scale * PROBS.expand(100, 6), 100), law)
    each = torch.eye(5).repeat(20, 1)  # rows of their own
    assert torch.equal(draw_at(100).multinomial(each, 7), each.argmax(1)[:, None].expand(100, 7))


def test_permutation_is_any_order_with_equal_chance() -> None:
    orders = draw_at(6000).permutation(3)
    assert torch.equal(orders.sort(1).values, torch.arange(3).expand(6000, 3))
    assert agrees(orders[:, 0] * 2 + (orders[:, 1] > orders[:, 2]), torch.full((6,), 1 / 6, dtype=torch.float64))
    assert draw_at(None).permutation(5).sort().values.tolist() == [0, 1, 2, 3, 4]


# --- what the numbers depend on --------------------------------------------------------------------------------------


@every_method
def test_an_example_s_numbers_are_its_own(method: Callable[[Draw, int], Tensor]) -> None:
    """They are the same bits in other batches, other orders, and among stacked passes."""
    whole = method(draw_at(8), 8)
    order = torch.tensor([6, 1, 3])
    assert torch.equal(method(draw_at(3, examples=order), 3), whole[order])
    assert torch.equal(method(draw_at(1, examples=torch.tensor([7])), 1), whole[7:])
    streams = torch.cat([pass_streams(stream_key(0), p, torch.arange(8)) for p in (4, 0, 2)])
    stacked = method(Draw(Drawing(streams), 3, "place", 24, CPU), 24)
    assert torch.equal(stacked[8:16], whole)
    assert torch.equal(stacked[:8], method(draw_at(8, pass_=4), 8))
    direct = Draw(fresh(stream_key(0), 0), 3, "place", 8, CPU)
    assert torch.equal(method(direct, 8), whole)


@every_method
def test_everything_else_gives_other_numbers(method: Callable[[Draw, int], Tensor]) -> None:
    draw = draw_at(8)
    draws = [draw, draw, draw_at(8, pass_=1), draw_at(8, seed=1), draw_at(8, site=4)]
    draws.append(draw_at(8, examples=torch.arange(8, 16)))
    rows = {tuple(row.flatten().tolist()) for one in draws for row in method(one, 8)}
    assert len(rows) == 8 * len(draws)


@every_method
def test_the_parts_of_a_split_example_draw_for_themselves(method: Callable[[Draw, int], Tensor]) -> None:
    parts = Draw(draw_at(4).drawing, 3, "place", 12, CPU)
    found = method(parts, 12)
    assert len({tuple(row.flatten().tolist()) for row in found}) == 12
    one = draw_at(1, examples=torch.tensor([2]))
    assert torch.equal(method(Draw(one.drawing, 3, "place", 3, CPU), 3), found[6:9])


def of_one_pass(pass_: int = 0, count: int = 8, seed: int = 0, site: int = 3) -> Draw:
    drawing = Drawing(pass_streams(stream_key(seed), pass_, torch.arange(count))).of_one_pass()
    return Draw(drawing, site, "place", count, CPU)


def test_per_pass_is_the_same_for_every_batch_and_another_for_every_pass() -> None:
    draws = [of_one_pass(), of_one_pass(1), of_one_pass(seed=1), of_one_pass(site=4)]
    numbers = [draw.per_pass.normal((5,)) for draw in draws]
    assert len({tuple(found.tolist()) for found in numbers}) == 4
    assert torch.equal(of_one_pass(count=3).per_pass.normal((5,)), numbers[0])
    assert not torch.equal(draws[0].per_pass.normal((5,)), numbers[0])  # calls of both kinds are counted together
    direct = fresh(stream_key(0), 0).of_one_pass()
    assert torch.equal(Draw(direct, 3, "place", 8, CPU).per_pass.normal((5,)), numbers[0])


def test_what_a_pass_shares_at_a_site_is_not_what_a_weight_gets() -> None:
    """The first activation site and the first parameter of one defence have the same number."""
    weight = draw_at(None, site=0)
    assert not torch.equal(of_one_pass(site=0).per_pass.normal((50,)), weight.normal((50,)))


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda draw: draw.normal((3, 8)), r"must begin with the 8 maps at 'place', got \(3, 8\); draw.per_pass"),
        (lambda draw: draw.uniform(()), "must begin with the 8 maps"),
        (lambda draw: draw.choice(3, ()), "must begin with the 8 maps"),
        (lambda draw: draw.multinomial(torch.ones(3, 2), 1), "must begin with the 8 maps"),
        (lambda draw: draw.randint(3, 3, (8,)), "`high` must be above `low` by at most 2.31, got 3 and 3"),
        (lambda draw: draw.randint(0, 2**31 + 1, (8,)), "`high` must be above `low`"),
        (lambda draw: draw.choice([]), "`high` must be above `low`"),
        (lambda draw: draw.per_pass.normal((3,)), "the defence must say so by `shared = True`"),
        (lambda draw: [draw.uniform((8,)) for _ in range(241)], "may draw 240 times at one place"),
        (lambda draw: Draw(draw.drawing, 3, "place", 9, CPU).rows, "site 'place' has 9 maps for a batch of 8"),
    ],
)
def test_mistakes_are_named(call: Callable[[Draw], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(draw_at(8))


def test_a_batch_that_mixes_passes_shares_nothing() -> None:
    streams = torch.cat([pass_streams(stream_key(0), p, torch.arange(2)) for p in (0, 1)])
    with pytest.raises(ValueError, match="mixes passes"):
        Drawing(streams).of_one_pass()


def test_240_calls_give_240_sets_of_numbers() -> None:
    draw = draw_at(1)
    found = torch.cat([draw.uniform((1, 4)) for _ in range(240)])
    assert len({tuple(row) for row in found.tolist()}) == 240
    assert math.isclose(float(found.mean()), 0.5, abs_tol=4 / (12 * 960) ** 0.5)


def test_what_is_drawn_everywhere_is_the_same_at_all_places_of_a_pass() -> None:
    def found(site: int, pass_: int = 0, seed: int = 0) -> Tensor:
        drawing = Drawing(pass_streams(stream_key(seed), pass_, torch.arange(4))).of_one_pass()
        draw = Draw(drawing, site, "place", 4, CPU)
        draw.normal((4, 2))  # what a hook draws before decides nothing
        return draw.everywhere.normal((5,))

    assert torch.equal(found(0), found(16 * 7))
    others = [found(0, pass_=1), found(0, seed=1), found(1), draw_at(None).normal((5,))]
    assert not any(torch.equal(found(0), other) for other in others)
