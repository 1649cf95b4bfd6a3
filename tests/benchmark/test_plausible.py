"""What a card that was sent in cannot say: names, sizes and numbers that no run can have written."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from saplab.benchmark.board import read_cards, stored_cards
from saplab.benchmark.entries import ENTRIES
from saplab.benchmark.plausible import check_card
from saplab.benchmark.protocol import PROTOCOL
from saplab.benchmark.run import Run, load_images
from saplab.data.load import load_data
from saplab.metrics.intervals import normal_quantile, wilson

Card = dict[str, Any]
Spoil = Callable[[Card], object]


def refusal(spoil: Spoil, tmp_path: Path, name: str = "sap-100-dense") -> str:
    """Return why a card of the package is refused once it is spoilt; "" where it is not."""
    card = json.loads(stored_cards("small")[name].to_json())
    spoil(card)
    path = tmp_path / "card.json"
    path.write_text(json.dumps(card), encoding="utf-8")
    try:
        read_cards(path)
    except ValueError as error:
        return str(error)
    return ""


def left(card: Card, k: int = 2) -> Card:
    found: Card = card["threats"][0]["left"][k]
    return found


def share(percent: float, low: float, high: float) -> Card:
    return {"percent": percent, "low": low, "high": high}


def of(percent: float, images: int = 100) -> Card:
    """Return a share of so many images with its interval."""
    low, high = (round(100 * end, 4) for end in wilson(percent / 100, images, normal_quantile(0.95)))
    return share(percent, low, high)


def without(card: Card, word: str) -> None:
    """Take the attacks of that word out of a card, and what they alone left."""
    for threat in card["threats"]:
        threat["attacks"] = [row for row in threat["attacks"] if word not in row["attack"]]


@pytest.mark.parametrize("tier", list(PROTOCOL.tiers))
def test_every_card_of_the_package_passes(tier: str) -> None:
    for card in stored_cards(tier).values():
        check_card(card)


@pytest.mark.parametrize("card", stored_cards("small").values(), ids=lambda card: card.name)
def test_a_card_of_the_package_is_of_the_package_s_network(card: Any) -> None:
    """Else its `--check` is refused: a digest must not change unless the network does."""
    tier = PROTOCOL.tier(card.tier)
    job = next(iter(Run(ENTRIES[card.name], tier, load_images(tier)).jobs().values()))
    assert job.request.cells[0].defender.digest == card.network.digest


@pytest.mark.parametrize("name", ["../evil", "./fast", "/tmp/x", "", ".x", "a b", "a\n", "dеnse", "a](b)|c", "a" * 81,
                                  "fast.md/x", "a\0b", "<script>", "all/"])  # fmt: skip
@pytest.mark.parametrize("field", ["name", "tier"])
def test_a_name_is_one_of_files(field: str, name: str, tmp_path: Path) -> None:
    found = refusal(lambda card: card.update({field: name}), tmp_path)
    assert "Expected `str` matching" in found
    assert f"$.{field}" in found


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(lambda card: card.update(tier="huge"), "`tier` must be one of small, full, smoke"),
     (lambda card: card.update(tier="full"), "the tier full has passes 100, the card 20"),
     (lambda card: card.update(passes=10), "the tier small has passes 20, the card 10"),
     (lambda card: card.update(samples=1), "the tier small has samples 20, the card 1"),
     (lambda card: card.update(seed=7), "the tier small has seed 0, the card 7"),
     (lambda card: card["data"].update(images=6), "the images must be the first 100 of the packaged sample"),
     (lambda card: card["data"].update(digest="0" * 64), "the images must be the first 100 of the packaged sample"),
     (lambda card: card["data"].update(name="mine", digest="0" * 64, images=1000), "got 1,000 others"),
     (lambda card: card["data"].update(images=0), "Expected `int` >= 1 - at `$.data.images`"),
     (lambda card: card["network"].update(digest="abc"), "at `$.network.digest`"),
     (lambda card: card["cost"].update(seconds=-5.0), "at `$.cost.seconds`"),
     (lambda card: card["claim"].update(robust=-500.0), "at `$.claim.robust`"),
     (lambda card: card["claim"].update(eps=0.0), "at `$.claim.eps`"),
     (lambda card: card["published"].update(eps=-3.0), "at `$.published.eps`"),
     (lambda card: card["published"].update(percent=72.7), "must be the mean over its draws"),
     (lambda card: card["published"].update(runs=[]), "must be the mean over its draws"),
     (lambda card: card["published"].update(found=60.0), "must be what the card leaves in that ball"),
     (lambda card: card["published"].update(found=None), "must be what the card leaves in that ball"),
     (lambda card: card.update(time="zzzz"), "at `$.time`"),
     (lambda card: card["threats"].pop(), "a card must be of the protocol's norms and radii"),
     (lambda card: card["threats"].append(card["threats"][0]), "a card must be of the protocol's norms and radii"),
     (lambda card: left(card, 0)["worst"].update(percent=1.0), "must lie within its interval"),
     (lambda card: card["clean"]["averaged"].update(low=90.0), "must lie within its interval"),
     (lambda card: left(card, 2).update(worst=of(50.0)), "must fall with the radius"),
     (lambda card: [left(card, k).update(worst=of(99.0)) for k in range(3)],
      "lies above what its attacks leave"),
     (lambda card: left(card, 0).update(worst=of(17.0)), "lies above what its attacks leave"),
     (lambda card: left(card, 0).update(worst=share(12.5, 0.0, 20.4)), "has a wider interval than 100 images give"),
     (lambda card: left(card, 0).update(worst=share(12.7, 7.5, 20.4)), "must be a share of 200 judgements, got 12.7 %"),
     (lambda card: card["clean"]["averaged"].update(percent=81.5), "must be a share of 100 judgements, got 81.5 %"),
     (lambda card: card["clean"]["averaged"].update(low=79.0), "has a narrower interval than 100 images give"),
     (lambda card: card["clean"].update(majority=81.5), "by the majority, must be a share of 100 judgements"),
     (lambda card: card["threats"][0]["attacks"].pop(), "must stand once at each radius"),
     (lambda card: card["threats"][0]["attacks"].append(card["threats"][0]["attacks"][0]),
      "must stand once at each radius"),
     (lambda card: without(card, "Square"), "in linf; it lacks Square-100"),
     (lambda card: without(card, "momentum"), "it lacks PGD-40 margin relative_step=0.15 momentum=0.9"),
     (lambda card: card["threats"][0]["checks"].pop(0), "must hold each check of the verdict once in linf"),
     (lambda card: card["threats"][0]["checks"].append(card["threats"][0]["checks"][0]),
      "each check of the verdict once"),
     (lambda card: card["threats"][0]["checks"].append(
         card["threats"][0]["checks"][0] | {"key": "mine"}), "each check of the verdict once"),
     (lambda card: card["threats"][0].update(sentence="91 %, proven."), "must begin with what is left at λ = 8"),
     (lambda card: card["threats"][1].update(sentence=card["threats"][1]["sentence"].replace("0.0 %", "30.0 %")),
      "must begin with what is left at ε = 0.5 in L2"),
     (lambda card: card["threats"][0].update(
         sentence="Robust accuracy at λ = 8 is at most 0.0 % [0.0, 3.7]; none shows a masked gradient."),
      "says otherwise of a masked gradient"),
     (lambda card: card.update(time="2999-01-01T00:00:00+00:00"), "cannot be finished in the future"),
     (lambda card: card["threats"][0].update(attacks=[]), "it lacks APGD-20 DLR, PGD-20, PGD-40, PGD-40 margin"),
     (lambda card: left(card).update(attack="mine"), "must be by one of the card's attacks, got 'mine'"),
     (lambda card: left(card, 0)["single_pass"].update(percent=90.0), "must be the least that one attack leaves"),
     (lambda card: left(card, 0).update(majority=90.0), "must be the least that one attack leaves"),
     (lambda card: left(card, 0).update(tries=None), "must be the least that one attack leaves"),
     (lambda card: card["clean"]["tries"].update(percent=99.0, high=100.0), "cannot be more than after one"),
     (lambda card: card["threats"][0].update(masked=False), "must follow from the card's checks"),
     (lambda card: card["threats"][0].update(checks=[]), "must hold each check of the verdict once in linf, got none"),
     (lambda card: card["threats"][0]["checks"][0].update(outcome="fine"), "Invalid enum value 'fine'"),
     (lambda card: card["threats"][0]["calibration"][0].update(brier=9.0), "brier`")],
)  # fmt: skip
def test_numbers_that_no_run_writes_are_refused(spoil: Spoil, message: str, tmp_path: Path) -> None:
    found = refusal(spoil, tmp_path)
    assert found.startswith(str(tmp_path / "card.json"))
    assert message in found


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(lambda card: card["network"].update(defense="sap:100"), "certificates of σ = 0.25 are of that Gaussian noise"),
     (lambda card: card["certified"].update(std=0.5), "certificates of σ = 0.5 are of that Gaussian noise"),
     (lambda card: card["certified"].update(n=1), "take 100 and 1000 passes at α = 0.001, got 100, 1 and 0.001"),
     (lambda card: card["certified"].update(alpha=0.5), "got 100, 1000 and 0.5"),
     (lambda card: card["certified"]["accuracy"][-1].update(radius=9.0), "beyond what 1000 passes can tell"),
     (lambda card: card["certified"]["accuracy"][-1]["accuracy"].update(of(99.0)), "must fall"),
     (lambda card: card["certified"]["accuracy"].reverse(), "must fall"),
     (lambda card: [at.update(accuracy=of(100.0)) for at in card["certified"]["accuracy"]],
      "no more can be certified within 0 than attacks leave there"),
     (lambda card: [at.update(accuracy=of(70.0)) for at in card["certified"]["accuracy"]],
      "no more can be certified within 0.5 than attacks leave there")],
)  # fmt: skip
def test_certificates_are_of_the_tier_and_of_the_noise(spoil: Spoil, message: str, tmp_path: Path) -> None:
    assert message in refusal(spoil, tmp_path, "gaussian-0.25")


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    text = stored_cards("small")["fast"].to_json().decode()
    (tmp_path / "card.json").write_text(text.replace('"name": "fast"', '"name": "fast", "name": "slow"', 1))
    with pytest.raises(ValueError, match=r"card\.json: not a card of the benchmark: 'name' is there twice"):
        read_cards(tmp_path)


def test_what_another_protocol_allows_is_not_asked(tmp_path: Path) -> None:
    for other in ({"protocol": "0"}, {"battery": "standard saplab-0"}):
        assert refusal(lambda card, other=other: card.update(**other, passes=3), tmp_path) == ""  # type: ignore[misc]


def test_the_whole_test_set_is_known_by_its_digest(tmp_path: Path) -> None:
    root = Path(os.environ.get("SAPLAB_CIFAR10", Path(__file__).parents[2] / "data" / "cifar10"))
    if not root.is_dir():
        pytest.skip(f"needs CIFAR-10 in {root} (SAPLAB_CIFAR10)")
    whole = load_data(f"cifar10:{root}")
    assert (whole.name, len(whole), whole.digest()) == PROTOCOL.whole
    data = {"name": whole.name, "digest": whole.digest(), "images": len(whole)}
    assert "a share of 9,980 judgements, got 81 %" in refusal(lambda card: card["data"].update(data), tmp_path)
    assert "9,979 others" in refusal(lambda card: card["data"].update({**data, "images": 9979}), tmp_path)
