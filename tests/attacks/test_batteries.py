"""Attackers as text writes them, batteries by name, and what an attacker becomes against a network."""

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from saplab.attacks import (
    APGD,
    ARC,
    FGSM,
    PGD,
    Attack,
    Attacker,
    Iterative,
    MonteCarlo,
    RandomNoise,
    Square,
    Traits,
    attackers_of,
    parse_attackers,
    parse_strengths,
    radii_of,
)
from saplab.attacks.batteries import BATTERIES, VERSIONS
from saplab.defenses import parse_defenses
from saplab.runs import Network

GRADIENT = MonteCarlo(20)
SMOOTH = Traits(random=True, saturated=False, blind=False, mixture=False, classes=10)


def test_attacks_are_read_with_their_settings() -> None:
    text = "fgsm+pgd:steps=40,samples=10,backward=identity,relative_step=0.1,lambda=8/64+iterative:adversary=dense"
    fgsm, pgd, iterative = parse_attackers(text, GRADIENT)
    assert fgsm == Attacker(FGSM(GRADIENT))
    changed = replace(GRADIENT, samples=10, backward="identity")
    assert pgd == Attacker(PGD(changed, steps=40, relative_step=0.1), eps=(8 / 255, 64 / 255))
    assert iterative == Attacker(Iterative(gradient=GRADIENT), "dense")
    assert parse_attackers("square:100+noise", whose="dense") == (
        Attacker(Square(queries=100), "dense"),
        Attacker(RandomNoise(), "dense"),
    )


def test_a_battery_and_a_part_of_it_are_each_there_once() -> None:
    assert parse_attackers("noise+paper+paper", GRADIENT) == parse_attackers("paper", GRADIENT)


def asked(defense: str) -> tuple[Network, Network | None]:
    """Return a network with defences, and the one to transfer from."""
    network = Network("net", "0", parse_defenses(defense))
    return network, network.reference


def test_the_adaptive_battery_knows_more_than_the_papers() -> None:
    paper, adaptive = (parse_attackers(name, GRADIENT) for name in ("paper", "adaptive"))
    assert adaptive[: len(paper)] == paper
    assert {type(one.attack) for one in adaptive} == {RandomNoise, FGSM, Iterative, PGD, APGD, ARC, Square}
    smooth = [one for one in adaptive if one.fitted(SMOOTH) and hasattr(one.attack, "gradient")]
    assert {one.attack.gradient.backward for one in smooth} == {"mask", "identity"}
    budgets = [one.attack.samples for one in adaptive if isinstance(one.attack, FGSM) and one.whose == "self"]
    assert budgets == [20, 1, 10, 20]
    assert [one.eps for one in adaptive if one.eps] == [radii_of((127.5,))]


def test_the_standard_battery_holds_what_a_masked_gradient_fails() -> None:
    standard = parse_attackers("standard", GRADIENT)
    assert {one.attack.knowledge for one in standard} == {"gradient", "scores", "nothing"}
    assert [one.whose for one in standard].count("dense") == 1
    fitted = [one for one in standard if one.whose == "self" and one.fitted(SMOOTH)]
    pgd = [one.attack for one in fitted if isinstance(one.attack, PGD)]
    assert [(a.steps, a.gradient.backward, a.samples) for a in pgd] == [
        (20, "mask", 5), (20, "identity", 5), (40, "identity", 5), (40, "identity", 10),
    ]  # fmt: skip


@pytest.mark.parametrize("name", BATTERIES)
def test_a_battery_s_attackers_are_read_back_from_their_text(name: str) -> None:
    """What a study or a key stores of an attack is enough to make it again."""
    registry = Attack.registry
    for attacker in parse_attackers(name, MonteCarlo(300)):
        assert registry.parse(attacker.attack.spec) == attacker.attack
        assert registry.decode(registry.encode(attacker.attack)) == attacker.attack


def test_a_transfer_goes_on_where_the_undefended_network_is_lost() -> None:
    for kind in (PGD, APGD, Iterative):
        transfer = Attacker(kind(gradient=GRADIENT), "dense").against(*asked("sap:100"))
        assert (transfer.whose, transfer.attack.samples) == ("dense", 1)
        assert not transfer.attack.stop_when_lost  # type: ignore[attr-defined]
        assert Attacker(kind(gradient=GRADIENT)).against(*asked("sap:100")).attack.stop_when_lost  # type: ignore[attr-defined]
    assert Attacker(Square(), "dense").against(*asked("sap:100")).attack == Square(passes=1, stop_when_lost=False)


@pytest.mark.parametrize(
    ("defense", "samples", "rule"),
    [("", 1, "mask"), ("dwp:50", 1, "mask"), ("rna:0.1", 20, "mask"), ("rnw:0.1", 20, "mask"),
     ("rna:0.1+dwp:50", 20, "mask"), ("sap:100", 20, "identity"), ("rnw:0.1+dropout:0.1", 20, "identity")],
)  # fmt: skip
def test_settings_without_effect_become_plain(defense: str, samples: int, rule: str) -> None:
    found: Any = Attacker(FGSM(replace(GRADIENT, backward="identity"))).against(*asked(defense))
    assert (found.attack.gradient.samples, found.attack.gradient.backward) == (samples, rule)
    assert Attacker(Square(passes=9)).against(*asked(defense)).attack.samples == min(9, samples)


def test_noise_and_an_undefended_network_have_one_source() -> None:
    assert Attacker(RandomNoise(), "dense").against(*asked("sap:100")).whose == "self"
    assert Attacker(PGD(), "dense").against(*asked("")).whose == "self"
    assert Attacker(PGD(), "dense").against(*asked("")).attack.stop_when_lost  # type: ignore[attr-defined]


def test_attackers_may_be_named_in_every_way() -> None:
    pgd = Attacker(PGD(steps=3), eps=(0.1,))
    assert attackers_of(PGD(steps=3), GRADIENT) == (Attacker(PGD(steps=3)),)
    assert attackers_of(pgd, GRADIENT) == (pgd,)
    assert attackers_of("paper", GRADIENT) == parse_attackers("paper", GRADIENT)
    assert attackers_of([pgd, "noise", RandomNoise(), PGD(steps=3)], GRADIENT) == (
        pgd, Attacker(RandomNoise()), Attacker(PGD(steps=3)),
    )  # fmt: skip
    with pytest.raises(ValueError, match="at least one attack"):
        attackers_of([], GRADIENT)
    with pytest.raises(TypeError, match="`attacks` must be"):
        attackers_of(8, GRADIENT)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be one of quick, standard, paper, adaptive, apgd"),
        ("fgsm+nope", "got 'nope'"),
        ("noise:samples=3", "noise has no setting 'samples'; it has none"),
        ("pgd:adversary=other", "`adversary` must be self or dense, got 'other'"),
        ("pgd:random_start=maybe", "random_start must be true or false, got 'maybe'"),
        ("pgd:steps=2,steps=3", "none of them twice"),
        ("fgsm:samples=1.5", "samples must be a whole number, got '1.5'"),
        ("fgsm:backward=sideways", "backward must be one of mask"),
        ("pgd:lambda=300", r"within \[0, 255\]"),
        ("pgd:lambda=3/x", "`lambda` must be numbers"),
        ("paper:steps=3", "must be one of .*got 'paper:steps=3'"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_attackers(text, GRADIENT)


def test_strengths_are_read_once_each() -> None:
    assert parse_strengths("0, 1,2.5") == (0.0, 1.0, 2.5)
    with pytest.raises(ValueError, match="twice"):
        parse_strengths("1,1.0")


MINE = '''
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from saplab.attacks import Attack, Cost, GradientAttack, MonteCarlo
from saplab.system.registry import register


@register("corner-of-mine")
@dataclass(frozen=True)
class Corner(GradientAttack):
    """The gradient of the first half of all steps, then of the second."""

    title = "corner"
    rounds: int = 2
    gradient: MonteCarlo = field(default_factory=MonteCarlo)

    def ascending(self, problem, radii):
        for eps in radii:
            points = problem.images
            for turn in range(self.rounds):
                slope = self.gradient.estimate(problem.at(points), turn).gradient
                points = problem.project(points + eps / self.rounds * slope.sign(), eps)
            yield points

    def cost(self, eps):
        return self.gradient.cost * (self.rounds * len(eps))

    def steps_at(self, eps):
        return self.rounds


@dataclass(frozen=True)
class Nowhere(Attack):
    """It stays where it is."""

    knowledge = "nothing"
    shift: tuple[float, float] = (0.0, 0.0)
    text: str = ""

    def ascending(self, problem, radii):
        return (problem.images for _ in radii)

    def cost(self, eps):
        return Cost(0, 0)
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a module with two attacks that somebody wrote in one file of the working folder."""
    (tmp_path / "corner_attacks.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import corner_attacks  # type: ignore[import-not-found]

    yield corner_attacks
    Attack.registry._classes.pop("corner-of-mine")
    sys.modules.pop("corner_attacks")


def test_an_attack_of_one_s_own_is_one_file(mine: Any, sap: Any, images: Any, labels: Any) -> None:
    (named,) = parse_attackers("corner-of-mine:rounds=3,backward=identity", GRADIENT)
    assert named.attack == mine.Corner(3, replace(GRADIENT, backward="identity"))
    assert named.attack.describe(True) == "corner ×20 identity rounds=3"
    assert named.attack.iterative
    assert named.against(*asked("")).attack == mine.Corner(3)
    assert parse_attackers("corner_attacks:Corner(rounds=3)") == (Attacker(mine.Corner(3)),)
    (nowhere,) = parse_attackers("corner_attacks:Nowhere(shift=(1, 2), text='a+b', adversary='dense')")
    assert nowhere == Attacker(mine.Nowhere((1.0, 2.0), "a+b"), "dense")
    assert nowhere.attack.describe(False) == "Nowhere shift=(1.0, 2.0) text=a+b"
    for attack in (named.attack, nowhere.attack):
        assert parse_attackers(attack.spec)[0].attack == attack
        radii = (0.1, 0.0, 0.05)
        points = list(attack.curve(sap, images, labels, radii, seed=1))
        assert all((x - images).abs().max() <= eps + 1e-6 for x, eps in zip(points, radii, strict=True))
        assert (attack(sap, images, labels, eps=0.1, seed=1) == points[0]).all()


def test_the_page_is_right(sap: Any, images: Any, labels: Any) -> None:
    page = (Path(__file__).parents[2] / "docs" / "attacks.md").read_text(encoding="utf-8")
    names = {"__name__": "page", "sap": sap, "images": images, "labels": labels}
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        exec(block, names)
    (attacker,) = parse_attackers("two-step:samples=10")
    assert attacker.attack.cost([0.1, 0.2]) == MonteCarlo(10).cost * 4
    assert (attacker.attack(sap, images, labels, eps=0.1) != images).any()
    assert attacker.attack.describe(rules=True) == "TwoSteps ×10 mask"
    Attack.registry._classes.pop("two-step")


def test_points_outside_the_ball_are_an_error(mine: Any, sap: Any, images: Any, labels: Any) -> None:
    @dataclass(frozen=True)
    class Cheat(mine.Nowhere):  # type: ignore[misc, name-defined]
        def ascending(self, problem: Any, radii: Any) -> Any:
            return (problem.images + 2 * eps for eps in radii)

    with pytest.raises(ValueError, match=r"Cheat left the ball of radius 0\.1"):
        Cheat()(sap, 0.5 * images, labels, eps=0.1)


def test_attacks_by_relaxed_gradients_are_for_networks_that_saturate() -> None:
    for name in ("quick", "standard", "adaptive"):
        for one in parse_attackers(name, GRADIENT):
            relaxed = getattr(one.attack, "gradient", GRADIENT).backward == "relaxed"
            assert one.only is not None
            assert (one.only.saturated is True) == relaxed


def fitted(text: str, samples: int = 1, **traits: Any) -> list[str]:
    """Return the attackers of a network as text; one that is smooth and always the same, of ten classes."""
    found = replace(SMOOTH, **{"random": False, **traits})
    attackers = (one.fitted(found) for one in parse_attackers(text, MonteCarlo(samples)))
    return [one.attack.spec for one in attackers if one]


def test_a_battery_goes_by_what_a_network_is() -> None:
    plain, random = fitted("standard", 4), fitted("standard", 4, random=True)
    towards = "apgd:backward=identity,loss=dlr,targets=9"
    sampled = "pgd:samples=2,backward=identity,loss=margin,steps=40,relative_step=0.15,momentum=0.9"
    assert (set(plain) - set(random), set(random) - set(plain)) == ({towards}, {sampled})
    saturated = {
        "pgd:backward=relaxed",
        "apgd:backward=relaxed,loss=dlr,steps=20",
        towards.replace("identity", "relaxed"),
    }
    assert set(fitted("standard", 4, saturated=True)) - set(plain) == saturated
    assert towards not in fitted("standard", 4, saturated=True)
    both = fitted("standard", 4, saturated=True, random=True)
    assert {one for one in (sampled, sampled.replace("identity", "relaxed")) if one in both} == {
        sampled.replace("identity", "relaxed")
    }
    assert set(fitted("standard", 4, blind=True)) - set(plain) == {"square:passes=1"}
    assert set(fitted("standard", 4, mixture=True)) - set(plain) == {"arc"}


@pytest.mark.parametrize(
    ("classes", "untargeted", "targeted"),
    [(2, "loss=margin,steps=20", "loss=margin,targets=1"),
     (3, "loss=dlr,steps=20", "loss=margin,targets=2"),
     (4, "loss=dlr,steps=20", "loss=dlr,targets=3"),
     (10, "loss=dlr,steps=20", "loss=dlr,targets=9")],
)  # fmt: skip
def test_a_battery_asks_no_more_of_few_classes_than_there_is(classes: int, untargeted: str, targeted: str) -> None:
    found = [spec for spec in fitted("standard", classes=classes) if spec.startswith("apgd")]
    assert found == [f"apgd:backward=identity,{text}" for text in (untargeted, targeted)]


def test_what_somebody_names_is_run_whatever_the_network_is() -> None:
    assert fitted("pgd:backward=relaxed+apgd:loss=dlr,targets=9", classes=3) == [
        "pgd:backward=relaxed", "apgd:loss=dlr,targets=9",
    ]  # fmt: skip
    for text in ("standard+pgd:backward=relaxed", "pgd:backward=relaxed+standard"):
        assert fitted(text).count("pgd:backward=relaxed") == 1
        assert len(parse_attackers(text)) == len(parse_attackers("standard"))


def test_a_battery_by_which_numbers_are_published_is_what_its_version_says() -> None:
    """A change of the battery needs a new version here and in `VERSIONS`."""
    told = [
        " ".join([one.whose, one.attack.spec, *(f"{k}={v}" for k, v in vars(one.only).items() if v is not None)])
        for one in parse_attackers("standard", GRADIENT)
    ]
    assert VERSIONS["standard"] == "saplab-1"
    averaging = "loss=margin,steps=40,relative_step=0.15,momentum=0.9"
    assert told == [
        "self noise", "dense pgd:samples=20", "self pgd:samples=5", "self pgd:samples=5,backward=identity",
        "self pgd:samples=5,backward=identity,steps=40", "self apgd:samples=5,backward=identity,loss=dlr,steps=20",
        f"self pgd:samples=10,backward=identity,{averaging} random=True saturated=False",
        "self apgd:samples=5,backward=identity,loss=dlr,targets=9 random=False saturated=False",
        "self pgd:samples=5,backward=relaxed saturated=True",
        "self apgd:samples=5,backward=relaxed,loss=dlr,steps=20 saturated=True",
        f"self pgd:samples=10,backward=relaxed,{averaging} random=True saturated=True",
        "self apgd:samples=5,backward=relaxed,loss=dlr,targets=9 random=False saturated=True", "self arc mixture=True",
        "self square:queries=100,passes=5", "self square:passes=5 blind=True",
    ]  # fmt: skip
