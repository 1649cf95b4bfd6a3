"""Cards as files, and what agrees with what."""

import json
from collections.abc import Callable

import msgspec
import pytest
from cards import MACHINE, counted, make_card, share

from saplab.benchmark.card import Card, Machine, schema
from saplab.benchmark.check import compare
from saplab.benchmark.markdown import card_text
from saplab.benchmark.methods import Claim
from saplab.benchmark.protocol import PROTOCOL

replace = msgspec.structs.replace
ELSEWHERE = replace(MACHINE, processor="Intel Xeon")


def test_nothing_is_certified_beyond_the_largest_radius_that_passes_can_tell() -> None:
    proven = make_card(certified=40.0).certified
    assert proven is not None
    assert [proven.at(radius).percent for radius in (0.0, 0.1, 0.25, 0.26)] == [40.0, 40.0, 40.0, 0.0]


def test_a_card_comes_back_from_its_file(card: Card) -> None:
    for one in (card, make_card(claim=Claim("So.", "there", robust=50.0), certified=40.0)):
        assert Card.from_json(one.to_json()) == one


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(lambda text: text[:-20], "not a card of the benchmark"),
     (lambda text: text.replace('"tier"', '"tear"'), "not a card of the benchmark"),
     (lambda text: text.replace('"seed": 0', '"seed": "0"'), "not a card of the benchmark"),
     (lambda text: text.replace('"format": 1', '"format": 99'), "a card of format 99, this version of saplab reads 1"),
     (lambda text: text.replace('"percent": 80.0', '"percent": 250.0', 1), "not a card of the benchmark: Expected"),
     (lambda text: "[" * 100_000, "not a card of the benchmark")],
)  # fmt: skip
def test_anything_else_is_refused(spoil: Callable[[str], str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Card.from_json(spoil(make_card().to_json().decode()).encode())


def test_a_card_fits_its_schema(card: Card) -> None:
    """Every field of the file is one of the schema's, of each kind of object."""
    definitions = json.loads(schema())["$defs"]

    def walk(value: object, kind: dict[str, object]) -> None:
        kind = definitions[str(kind["$ref"]).rpartition("/")[2]] if "$ref" in kind else kind
        if "anyOf" in kind:
            some = [one for one in kind["anyOf"] if (one.get("type") == "null") == (value is None)]  # type: ignore[attr-defined]
            walk(value, some[0])
        elif isinstance(value, dict) and "properties" in kind:
            assert set(value) == set(kind["properties"])  # type: ignore[call-overload]
            for name, inner in value.items():
                walk(inner, kind["properties"][name])  # type: ignore[index]
        elif isinstance(value, list):
            for inner in value:
                walk(inner, kind["items"])  # type: ignore[arg-type]
        else:
            wanted = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None),
                      "object": dict}  # fmt: skip
            assert isinstance(value, wanted.get(str(kind.get("type")), object))  # type: ignore[arg-type]

    walk(json.loads(card.to_json()), json.loads(schema()))


# --- comparisons -----------------------------------------------------------------------------------------------------


def test_equal_cards_agree() -> None:
    found = compare(make_card(), make_card())
    assert found.agrees
    assert found.same_kind
    assert found.compared == 146
    assert "agree exactly" in found.text


@pytest.mark.parametrize(
    ("change", "where"),
    [(lambda card: replace(card, clean=counted(80.5)), "clean, averaged, percent: 80 stored, 80.5 found"),
     (lambda card: make_card(l2=40.5), "threats, l2, left, ε = 0.5 in L2, worst, percent: 40 stored, 40.5 found"),
     (lambda card: make_card(linf=(60.0, 50.0, 30.5)), "linf, left, λ = 8, worst, percent: 30 stored, 30.5 found"),
     (lambda card: make_card(certified=40.5), "certified, accuracy, 0, accuracy, percent: 40 stored, 40.5 found"),
     (lambda card: make_card(masked=None, certified=40.0), "threats, linf, masked: False stored, nothing found")],
)  # fmt: skip
def test_machines_of_one_kind_must_agree_exactly(change: Callable[[Card], Card], where: str) -> None:
    stored = make_card(certified=40.0)
    changed = change(stored)
    found = compare(stored, changed if changed.certified else replace(changed, certified=stored.certified))
    assert not found.agrees
    assert any(where in difference for difference in found.differences)
    assert "differ" in found.text


def test_other_machines_may_differ_by_the_tolerances() -> None:
    clean, attacked = PROTOCOL.clean_tolerance, PROTOCOL.tolerance
    stored = make_card()
    near = make_card(clean=80.0 + clean, linf=(60.0, 50.0, 30.0 + attacked), masked=None, machine=ELSEWHERE)
    (first, *others) = near.threats
    near = replace(near, threats=(replace(first, sentence="Otherwise.", notes=("A step rises by 3 %.",)), *others))
    found = compare(stored, near)
    assert found.agrees
    assert not found.same_kind
    assert found.largest == attacked
    words, of_l2 = found.words
    assert of_l2.startswith("the verdict in l2, stored as no, “")
    assert words.startswith("the verdict in linf, stored as no, “")
    assert words.endswith("found here: cannot tell, “Otherwise.”")
    assert compare(stored, make_card(machine=ELSEWHERE)).words == ()
    for far in (make_card(clean=80.1 + clean), make_card(linf=(60.0, 50.0, 30.1 + attacked)), make_card(masked=True)):
        assert not compare(stored, replace(far, machine=ELSEWHERE)).agrees


def forged() -> dict[str, Card]:
    card = make_card(claim=Claim("45.9 %.", "README", robust=45.9))
    first, second = card.threats
    wide = tuple(replace(left, worst=replace(left.worst, low=99.0, high=100.0)) for left in first.left)
    return {
        "claim, robust": replace(card, claim=Claim("45.9 %.", "README", robust=47.0)),
        "departures, count": replace(card, departures=()),
        "what": replace(card, what="everything"),
        "found_elsewhere": replace(card, found_elsewhere="Nobody broke it."),
        "network, parameter_count": replace(card, network=replace(card.network, parameter_count=1)),
        "threats, linf, left, λ = 8, worst, low": replace(card, threats=(replace(first, left=wide), second)),
    }


@pytest.mark.parametrize("where", list(forged()))
def test_what_a_computation_does_not_change_must_be_the_same_on_any_machine(where: str) -> None:
    sent, made = forged()[where], make_card(claim=Claim("45.9 %.", "README", robust=45.9))
    for machine in (MACHINE, ELSEWHERE):
        found = compare(replace(sent, machine=machine), made)
        assert any(difference.startswith(f"{where}: ") for difference in found.differences)


def test_on_a_machine_of_the_same_kind_words_must_be_the_same_too() -> None:
    card = make_card()
    first, second = card.threats
    for changed in (replace(first, sentence="Robust: 99 %."), replace(first, notes=("Sent in.",))):
        other = replace(card, threats=(changed, second))
        assert not compare(other, card).agrees
        assert compare(replace(other, machine=ELSEWHERE), card).agrees


@pytest.mark.parametrize("name", ["processor", "device", "threads", "versions", "instructions"])
def test_what_decides_bits_decides_the_kind_of_a_machine(name: str) -> None:
    other = {
        "instructions": "AVX2",
        "processor": "x",
        "device": "cuda",
        "threads": 2,
        "versions": {**MACHINE.versions, "torch": "2.14"},
    }
    assert not compare(make_card(), make_card(machine=replace(MACHINE, **{name: other[name]}))).same_kind
    assert compare(make_card(), make_card(machine=replace(MACHINE, platform="x"))).same_kind


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tier", "full"),
        ("battery", "standard saplab-0"),
        ("protocol", "0"),
        ("seed", 1),
        ("passes", 10),
        ("samples", 1),
    ],
)
def test_cards_of_other_runs_cannot_be_compared(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"another {name}"):
        compare(make_card(), make_card(**{name: value}))  # type: ignore[arg-type]


def test_cards_of_other_networks_or_images_cannot_be_compared() -> None:
    card = make_card()
    for name, other in (
        ("network", replace(card, network=replace(card.network, digest="c" * 64))),
        ("defence", replace(card, network=replace(card.network, defense="sap:50"))),
        ("images", replace(card, data=replace(card.data, digest="c" * 64))),
    ):
        with pytest.raises(ValueError, match=f"another {name}"):
            compare(card, other)


# --- in words --------------------------------------------------------------------------------------------------------


def test_a_card_in_markdown_has_its_numbers(card: Card) -> None:
    text = card_text(card)
    for threat in card.threats:
        for left in threat.left:
            assert f"{left.worst.percent:.1f} [{left.worst.low:.1f}, {left.worst.high:.1f}]" in text
        assert all(check.statement in text for check in threat.checks)
    assert card.command in text
    assert "Certified" in text
    assert "As the paper evaluates" not in text


def test_names_as_an_enemy_writes_them_do_no_harm() -> None:
    text = card_text(make_card(title="<script>alert(1)</script> | [x](y)"))
    assert "<script>" not in text
    assert "\\[x](y)" in text
    network = replace(make_card().network, model="a`</code><script>b", defense="c``d")
    text = card_text(make_card(network=network, command="saplab ```\n<b>"))
    assert "Network: ``a`</code><script>b``" in text.replace("`` a", "``a").replace("b ``", "b``")
    assert "``` c``d ```" in text
    assert "````\nsaplab ```\n<b>\n````" in text


def test_what_a_rehearsal_said_stands_on_the_card_once() -> None:
    card = make_card()
    note = "The network is random by itself; some draw serves a whole pass."
    text = card_text(replace(card, threats=tuple(replace(threat, notes=(note,)) for threat in card.threats)))
    assert text.count(f"- {note}\n") == 1


def test_shares_keep_the_count_of_images() -> None:
    """To four digits of a percentage, so that a third of the images is not rounded away."""
    assert share(100 * 67 / 200).percent == 33.5


def test_a_card_that_lacks_something_does_not_agree() -> None:
    whole, part = make_card(certified=40.0), make_card()
    for stored, found in ((whole, part), (part, whole)):
        assert not compare(stored, found).agrees


@pytest.mark.parametrize("machine", [MACHINE, ELSEWHERE])
def test_other_outcomes_of_checks_and_calibrations_count_on_machines_of_one_kind(machine: Machine) -> None:
    card = make_card()
    one = card.threats[0]
    checks = (replace(one.checks[0], outcome="failed"), *one.checks[1:])
    errors = (replace(one.calibration[0], brier=one.calibration[0].brier + 0.1), *one.calibration[1:])
    for changed in (replace(one, checks=checks), replace(one, calibration=errors)):
        other = replace(card, threats=(changed, *card.threats[1:]), machine=machine)
        assert compare(card, other).agrees == (machine != MACHINE)
