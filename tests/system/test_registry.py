"""Objects as text and as plain values, and back; and what is said of text that is no object."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saplab import defenses as d
from saplab.attacks import APGD, FGSM, PGD, Attack, Iterative, MonteCarlo, RandomNoise, Square
from saplab.defenses import Defense
from saplab.system.registry import Named, Registry, register, split_sum

DEFENSES = [
    d.SAP(100),
    d.SAP(1e-7),
    d.SAP(1234567.5),
    d.SAP(1e22),
    d.SAP({"stage3.*": 50, "*": 1e-7}),
    d.SAP(np.float64(0.1)),  # type: ignore[arg-type]
    d.SAP({"a=b": 1, "c,d": 2.5}),  # names that would not survive as settings
    d.SAP({"percent": 3}),
    d.Dropout(0.25),
    d.RandomNoisyWeights(1),
    d.RandomlyScaledWeights({"5.weight": 0.5}),
    d.DeterministicWeightPruning(33.3),
    d.StochasticWeightPruning(250),
    d.RandomNoisyActivations(0.01),
    d.RandomlyScaledActivations(0),
]
ATTACKS = [
    RandomNoise(),
    FGSM(),
    FGSM(MonteCarlo(7, "identity", "logits", "margin")),
    Iterative(2.5, MonteCarlo(3), stop_when_lost=False),
    PGD(MonteCarlo(3), steps=7, restarts=2, relative_step=1e-7, momentum=0.5, random_start=False, targets=3),
    APGD(MonteCarlo(2, loss="dlr"), steps=9, rho=1234567.5e-7),
    Square(queries=11),
    Square(passes=3, p_init=0.3),
]


# --- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thing", [*DEFENSES, *ATTACKS], ids=repr)
def test_every_object_comes_back_from_its_text_and_its_values(thing: Any) -> None:
    registry = type(thing).registry
    assert split_sum(f"{thing.spec}+{thing.spec}") == [thing.spec, thing.spec]
    assert registry.parse(thing.spec) == thing
    stored = json.loads(json.dumps(registry.encode(thing)))
    assert registry.decode(stored) == thing
    assert stored.keys() >= {"class"}
    assert registry.encode(registry.decode(stored)) == registry.encode(thing)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False))
def test_every_number_comes_back(number: float) -> None:
    assert Defense.registry.parse(d.SAP(number).spec) == d.SAP(number)
    assert Defense.registry.parse(d.SAP({"*": number}).spec) == d.SAP({"*": number})


def test_texts_are_short() -> None:
    assert [thing.spec for thing in DEFENSES[:6]] == [
        "sap:100", "sap:1e-07", "sap:1234567.5", "sap:1e+22", "sap:stage3.*=50,*=1e-07", "sap:0.1",
    ]  # fmt: skip
    assert [thing.spec for thing in ATTACKS] == [
        "noise", "fgsm", "fgsm:samples=7,backward=identity,average=logits,loss=margin",
        "iterative:step=2.5,samples=3,stop_when_lost=false",
        "pgd:samples=3,steps=7,restarts=2,relative_step=1e-07,momentum=0.5,random_start=false,targets=3",
        "apgd:samples=2,loss=dlr,steps=9,rho=0.12345675", "square:11", "square:passes=3,p_init=0.3",
    ]  # fmt: skip


def test_whole_numbers_and_floats_of_one_object_are_stored_alike() -> None:
    one, other = (json.dumps(Defense.registry.encode(d.SAP(number))) for number in (100, 100.0))
    assert one == other
    assert json.loads(one) == {"class": "sap", "percent": 100.0}
    assert isinstance(Attack.registry.encode(PGD(steps=np.int64(3)))["steps"], int)  # type: ignore[arg-type]


def test_all_settings_are_stored_whatever_the_defaults() -> None:
    assert Attack.registry.encode(FGSM()) == {
        "class": "fgsm", "samples": 1, "backward": "mask", "average": "loss", "loss": "cross-entropy",
        "redraw": True, "precision": "float32",
    }  # fmt: skip


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sap", d.SAP(100)),
        ("sap:percent=40", d.SAP(40)),
        ("sap: a.* = 3 , b=4", d.SAP({"a.*": 3, "b": 4})),
        ("saplab.defenses.sap:SAP", d.SAP(100)),
        ("saplab.defenses.sap:SAP(40)", d.SAP(40)),
        ("saplab.defenses:SAP(percent={'*': 2})", d.SAP({"*": 2})),
    ],
)
def test_other_ways_to_write_a_defence(text: str, expected: Defense) -> None:
    assert Defense.registry.parse(text) == expected


def test_sums_are_split_at_their_plus_signs_alone() -> None:
    assert split_sum("") == []
    assert split_sum("sap:1e+5+ rna:1E+2 +m.n:C(x='a+b(', y=\"'+\")+dwp:5") == [
        "sap:1e+5", "rna:1E+2", "m.n:C(x='a+b(', y=\"'+\")", "dwp:5",
    ]  # fmt: skip
    assert split_sum("a++b+") == ["a", "", "b", ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be one of .*dropout, .*, swp.* or package.module:Class.*, got ''"),
        ("rnq:1", "must be one of .*dropout, .*, got 'rnq:1'"),
        ("sap:", "'sap:' needs a value after its colon"),
        ("rnw", "rnw needs a value for std"),
        ("sap:x", "percent must be a number, got 'x'"),
        ("sap:*=", "percent must be a number, got"),
        ("sap:1,2", "settings are written NAME=VALUE"),
        ("sap:a=1,a=2", "none of them twice"),
        ("sap:percent=1,b=2", "sap has no setting 'b'; it has percent"),
        ("saplab.defenses.sap:SAP(percent=1", "must be one of"),
        ("saplab.defenses.sap:SAP(percent=1)+", "must be one of"),
        ("saplab.defenses.sap:SAP(1, 2)", "each given once"),
        ("saplab.defenses.sap:SAP(1, percent=2)", "each given once"),
        ("saplab.defenses.sap:SAP(percent=print)", "must be literals"),
        ("saplab.defenses.sap:SAP(1)*SAP(2)", "must be literals"),
        ("saplab.defenses.sap:SAP(persent=1)", "has no setting 'persent'"),
        ("saplab.defenses.sap:PAS(1)", "cannot be imported"),
        ("saplab.nowhere:SAP(1)", "cannot be imported"),
        ("saplab.defenses.base:Draw", "is not a frozen dataclass derived from saplab.Defense"),
        ("saplab.defenses:Defense", "is not a frozen dataclass derived from saplab.Defense"),
        ("saplab.attacks:FGSM", "is not a frozen dataclass derived from saplab.Defense"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Defense.registry.parse(text)


# --- classes of one's own --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inner:
    size: int = 1
    mode: Literal["soft", "hard"] = "soft"


class Thing(Named):
    registry: ClassVar[Registry[Any]] = Registry("thing")


@register("some")
@dataclass(frozen=True)
class Some(Thing):
    inner: Inner = field(default_factory=lambda: Inner(size=3))
    number: float | None = 0.5
    flag: bool = True
    text: str = "x"
    pair: tuple[float, float] = (0.0, 1.0)
    hidden: int = field(default=0, init=False)


@dataclass(frozen=True)
class Needy(Thing):
    inner: Inner
    number: int


@pytest.mark.parametrize(
    ("thing", "spec"),
    [
        (Some(), "some"),
        (Some(Inner(1)), "some:size=1"),  # the field's default is 3, not the class's 1
        (Some(Inner(3, "hard"), number=None, flag=False), "some:mode=hard,number=null,flag=false"),
        (Some(text="a+b"), f"{__name__}:Some(text='a+b')"),
        (Some(text=""), f"{__name__}:Some(text='')"),
        (Some(text="true", pair=(1.0, 2.0)), f"{__name__}:Some(text='true', pair=(1.0, 2.0))"),
        (Needy(Inner(1, "hard"), 7), f"{__name__}:Needy(mode='hard', number=7)"),
    ],
)
def test_settings_of_every_kind(thing: Thing, spec: str) -> None:
    assert thing.spec == spec
    assert Thing.registry.parse(spec) == thing
    assert Thing.registry.decode(json.loads(json.dumps(Thing.registry.encode(thing)))) == thing


def test_an_object_may_take_the_place_of_a_nested_default() -> None:
    reading = Thing.registry.read("some:mode=hard")
    assert Thing.registry.make(reading.kind, reading.settings, Inner(9)) == Some(Inner(9, "hard"))
    assert Thing.registry.make(reading.kind, reading.settings, object()) == Some(Inner(3, "hard"))
    with pytest.raises(ValueError, match=f"{__name__}:Needy needs a value for number"):
        Thing.registry.parse(f"{__name__}:Needy(size=1)")


def test_names_belong_to_one_frozen_class() -> None:
    with pytest.raises(ValueError, match="'some' is registered already"):
        register("some")(Needy)
    with pytest.raises(ValueError, match="`name` must be lower-case letters"):
        register("Some Thing")(Needy)
    with pytest.raises(TypeError, match="Loose must be a frozen dataclass"):

        @register("loose")
        @dataclass
        class Loose(Thing):
            size: int = 1

    register("some")(Some)  # as when a notebook's cell is run again
    assert Thing.registry.names == ("some",)


MODULE = """
from dataclasses import dataclass
from collections.abc import Mapping
from saplab.defenses import Defense, SAP

class Outer:
    @dataclass(frozen=True)
    class Shift(Defense):
        by: float | Mapping[str, float]
        def activation(self, h, draw, where):
            return h + self.by

@dataclass(frozen=True)
class Mine(SAP):
    pass
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "shifting.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("shifting")
    sys.modules.pop("shifting", None)


def again(module: ModuleType, text: str) -> ModuleType:
    """Return the module as another process would load it after its file has changed."""
    Path(str(module.__file__)).write_text(text)
    sys.modules.pop(module.__name__)
    importlib.invalidate_caches()
    sys.dont_write_bytecode = True
    return importlib.import_module(module.__name__)


def test_a_class_of_one_s_own_needs_no_name(module: Any) -> None:
    shift = module.Outer.Shift({"2": 1.5})
    assert shift.spec == "shifting:Outer.Shift(by={'2': 1.5})"
    assert Defense.registry.parse("shifting:Outer.Shift(by={'2': 1.5})") == shift
    assert shift.label == "Outer.Shift(by={'2': 1.5})"
    assert module.Mine(3).spec == "shifting:Mine(percent=3.0)"


@pytest.mark.parametrize("make", ["Outer.Shift(1.0)", "Mine(1.0)"])
def test_changed_source_is_refused(make: str, module: Any) -> None:
    stored = Defense.registry.encode(eval(f"module.{make}"))
    assert Defense.registry.decode(stored) == eval(f"module.{make}")
    assert Defense.registry.decode(stored) == Defense.registry.parse(f"shifting:{make}")
    module = again(module, MODULE.replace("h + self.by", "h - self.by"))
    with pytest.raises(ValueError, match=r"source of `defense` shifting:.* has changed"):
        Defense.registry.decode(stored)


def test_changed_source_of_a_base_is_refused(module: Any, tmp_path: Path) -> None:
    (tmp_path / "deriving.py").write_text("import shifting\nclass Further(shifting.Mine):\n    pass\n")
    deriving = importlib.import_module("deriving")
    stored = Defense.registry.encode(deriving.Further(1.0))
    assert Defense.registry.decode(stored) == deriving.Further(1.0)
    again(module, MODULE + "# changed")
    again(deriving, Path(str(deriving.__file__)).read_text())
    with pytest.raises(ValueError, match="source of `defense` deriving:Further has changed"):
        Defense.registry.decode(stored)


def test_a_class_written_at_a_prompt_is_known_by_what_it_does() -> None:
    program = (
        "from dataclasses import dataclass\nfrom saplab.system.source import source_digest\n"
        "class A:\n    def f(self, x): return [x {} 1 for _ in 'ab']\n"
        "print(source_digest(A))"
    )
    digests = [
        subprocess.run([sys.executable, "-c", program.format(sign)], capture_output=True, text=True, check=True).stdout
        for sign in "++-"
    ]
    assert digests[0] == digests[1] != digests[2]
    assert len(digests[0].strip()) == 16


def test_what_is_stored_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="noise has no setting 'a'; it has none"):
        Attack.registry.parse("noise:a=1")
    for stored in ({}, {"class": "nope"}, {"class": "fgsm"}):
        with pytest.raises(ValueError, match=r"must be one of .*dropout"):
            Defense.registry.decode(stored)
    values: Mapping[str, Any] = {"class": "sap", "percent": 3, "colour": 1}
    with pytest.raises(ValueError, match="no setting 'colour'"):
        Defense.registry.decode(values)
