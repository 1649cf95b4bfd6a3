"""The protocol's document and object say the same; the entries are what their names promise."""

import re
from pathlib import Path

import msgspec
import pytest

from saplab.attacks.batteries import BATTERIES, VERSIONS, parse_attackers
from saplab.benchmark.board import stored_cards
from saplab.benchmark.card import Card, schema
from saplab.benchmark.entries import ENTRIES, Entry, chosen
from saplab.benchmark.methods import METHODS
from saplab.benchmark.proof import noise_of
from saplab.benchmark.protocol import PROTOCOL
from saplab.benchmark.run import load_images
from saplab.benchmark.words import ball
from saplab.defenses import GaussianNoise, Mixture, defend, defenses_of, parse_defenses
from saplab.evaluation.checks import QUESTIONS
from saplab.models.published import ARCHITECTURES
from saplab.models.zoo import PACKAGED
from saplab.training.zoo import choose

DOCS = Path(__file__).parents[2] / "docs" / "benchmark"
TEXT = (DOCS / "protocol.md").read_text(encoding="utf-8")


def rows(first: str) -> dict[str, list[str]]:
    """Return the cells of each row of the table whose rows begin with one of that name, by their first cell."""
    table = next(part for part in TEXT.split("\n\n") if f"\n| {first}" in part)
    found = (line.strip("|").split("|") for line in table.splitlines())
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in found}


def test_the_document_says_what_the_object_says() -> None:
    facts = {name: cells[0] for name, cells in rows("version").items()}
    linf, l2 = PROTOCOL.threats
    assert facts["version"] == PROTOCOL.version
    assert facts["attacks"].startswith(f"battery `{PROTOCOL.battery}`, version `{PROTOCOL.battery_version}`")
    assert facts["seed"] == str(PROTOCOL.seed)
    assert facts["tries"] == str(PROTOCOL.tries)
    assert facts["certificates"] == f"α = {PROTOCOL.alpha:g}"
    balls = f"L∞: λ = {', '.join(f'{255 * eps:g}' for eps in linf.eps)} pixel steps of 0..255; L2: ε = {l2.eps[0]:g}"
    assert facts["balls"] == balls
    assert facts["leaderboard"] == f"L∞, {ball(*PROTOCOL.headline)}"
    wanted = f"{PROTOCOL.clean_tolerance:g} point without an attack, {PROTOCOL.tolerance:g} points under one"
    assert facts["`--check` on another kind of machine"] == wanted


def test_the_document_has_each_tier() -> None:
    found = rows("`small`")
    for name, tier in PROTOCOL.tiers.items():
        title = f"`{name}`" if tier.listed else f"`{name}` (for tests; last on the leaderboard)"
        numbers = [
            f"{tier.images:,}",
            str(tier.passes),
            str(tier.samples),
            f"{tier.n0} and {tier.n:,}",
            str(tier.batch),
        ]
        assert found[title] == [tier.budget, *numbers]
    assert sum(title.startswith("`") for title in found) == len(PROTOCOL.tiers)


def test_the_battery_is_one_that_has_a_version() -> None:
    assert PROTOCOL.battery in BATTERIES
    assert PROTOCOL.battery_version == VERSIONS[PROTOCOL.battery]


def test_tiers_have_passes_for_the_tries() -> None:
    assert all(tier.passes >= PROTOCOL.tries for tier in PROTOCOL.tiers.values())
    with pytest.raises(ValueError, match="`tier` must be one of small, full, smoke, got 'huge'"):
        PROTOCOL.tier("huge")


def test_all_entries_share_the_images_and_certificates_the_noise() -> None:
    with pytest.raises(ValueError, match=r"`data` must be sample or cifar10:DIR, whose images all entries share"):
        load_images(PROTOCOL.tier("small"), "mine.npz")

    class Quiet(GaussianNoise):
        pass

    net = ENTRIES["dense"].build()
    assert noise_of(defend(net, GaussianNoise(0.5))) == 0.5
    assert noise_of(defend(net, Quiet(0.5))) is None


def test_the_stored_schema_is_that_of_cards() -> None:
    assert (DOCS / "card.schema.json").read_bytes() == schema()


# --- entries ---------------------------------------------------------------------------------------------------------


def test_there_are_the_entries_that_were_asked_for() -> None:
    trained = [entry for entry in ENTRIES.values() if entry.trained]
    assert len(trained) >= 8
    assert len(ENTRIES) >= 20
    for network in ("dense", "fast", "adversarial"):
        methods = {entry.method for entry in ENTRIES.values() if entry.name.endswith(f"-{network}")}
        wanted = "sap dropout rna rsa rnw rsw swp snd rnd rfd resize-pad crop jpeg rounding rpi"
        assert methods >= set(wanted.split())


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES.keys())
def test_an_entry_names_what_there_is_or_will_be(entry: Entry) -> None:
    assert ENTRIES[entry.name] is entry
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]+", entry.name)
    assert entry.method in METHODS
    assert parse_defenses(entry.defense) if entry.defense else True
    coming = set(choose("small", None)) | set(choose("paper", None))
    assert set(entry.networks) <= coming | set(PACKAGED)
    assert set(entry.lacking) == set(entry.networks) - set(PACKAGED)
    published = entry.facts.published
    if published is not None:
        (attacker,) = parse_attackers(published.attack)
        assert attacker.attack.steps_at(published.eps) >= 1


@pytest.mark.parametrize("card", stored_cards("small").values(), ids=stored_cards("small").keys())
def test_a_stored_card_says_of_its_entry_what_the_package_says(card: Card) -> None:
    entry = ENTRIES[card.name]
    facts = entry.facts
    assert (card.title, card.source, card.what, card.trained) == (facts.title, facts.source, facts.what, entry.trained)
    assert (card.claim, card.found_elsewhere, card.departures) == (entry.stated, facts.found, facts.departures)
    assert card.network.model == entry.network
    told = {(check.key, check.statement) for threat in card.threats for check in threat.checks}
    assert told <= {(asked.key, asked.statement.format(symbol=symbol)) for asked in QUESTIONS for symbol in "λε"}
    assert (card.published is None) == (facts.published is None)
    if card.published is not None:
        wanted = msgspec.structs.asdict(facts.published)
        del wanted["draws"]
        assert {name: getattr(card.published, name) for name in wanted} == wanted
        assert len(card.published.runs) == facts.published.draws


def test_evaluations_that_are_void_say_so_and_are_what_they_say() -> None:
    void = {name: method.published for name, method in METHODS.items() if method.published and method.published.void}
    assert set(void) == {"rpi", "rpf", "random-norm"}
    for published in void.values():
        (attacker,) = parse_attackers(published.attack)
        assert not attacker.attack.gradient.redraw  # type: ignore[attr-defined]


def test_networks_are_built_with_their_defences() -> None:
    sap, rpi, mixture = (ENTRIES[name].build() for name in ("sap-100-dense", "rpi-fast", "mixture-dense"))
    assert [defense.spec for defense in defenses_of(sap)] == ["sap:100"]
    plan = rpi._saplab_plan
    assert plan.sites == ("stage*",)  # type: ignore[union-attr]
    assert len(plan.parameters) == 18  # type: ignore[arg-type, union-attr]  # but for the first, the last, shortcuts
    assert isinstance(mixture, Mixture)
    assert mixture.weights.tolist() == [0.5, 0.5]
    assert ENTRIES["mixture-dense"].network == "0.5 preact-resnet20-dense + 0.5 resnet20-dense"


def test_an_entry_without_its_weights_is_listed_and_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saplab.benchmark.entries.PACKAGED", {"preact-resnet20-dense": None})
    entry = ENTRIES["sap-100-fast"]
    assert entry.lacking == ("preact-resnet20-fast",)
    with pytest.raises(ValueError, match="sap-100-fast needs networks whose weights are not in the package"):
        entry.build()
    names = {entry.name for entry in chosen(("all",))}
    assert "sap-100-dense" in names
    assert not names & {"sap-100-fast", "lwta"}


def test_names_are_chosen_once_and_unknown_ones_refused() -> None:
    assert [entry.name for entry in chosen(("rse", "dense", "rse"))] == ["rse", "dense"]
    with pytest.raises(ValueError, match="or all, got 'sap'"):
        chosen(("sap",))


def test_trained_networks_of_published_defences_draw_by_themselves() -> None:
    for name in ("rse", "pni", "rpf", "random-norm", "lwta", "wca"):
        (network,) = ENTRIES[name].networks
        recipe = network.rpartition("-")[2]
        assert f"{recipe}-resnet20" in ARCHITECTURES
        assert not ENTRIES[name].defense
