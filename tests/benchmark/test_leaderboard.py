"""The leaderboard: on a page, in a browser, and in Markdown."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cards import make_card, share
from synthetic import HOSTILE

from saplab.benchmark.board import claimed_points, ranked, read_cards, refuse_impostors, stored_cards, write_board
from saplab.benchmark.card import Card, Network, PublishedFound
from saplab.benchmark.entries import ENTRIES
from saplab.benchmark.methods import Claim
from saplab.benchmark.words import tries
from saplab.defenses import parse_defenses
from saplab.defenses.defended import undefended
from saplab.models.identity import network_digest
from saplab.report.claimed import claimed_chart

PNI = PublishedFound("pgd:steps=7,samples=1", "PGD-7", "", "linf", 8 / 255, True, 52.5, (52.5,), 41.0)
VOID = PublishedFound("pgd:redraw=false", "PGD-20 by one draw", "one draw is fixed", "linf", 8 / 255, True, 70.0,
                      (68.0, 72.0), 40.0)  # fmt: skip
NOTE = "The network is random by itself; some draw serves a whole pass."


def noted(card: Card) -> Card:
    threats = tuple(msgspec.structs.replace(threat, notes=(NOTE,)) for threat in card.threats)
    return msgspec.structs.replace(card, threats=threats)


CARDS = (
    make_card("weak", (50.0, 20.0, 5.0), clean=91.0, masked=True),
    make_card("pni", (70.0, 60.0, 42.0), claim=Claim("45.9 %.", "README", robust=45.9), published=PNI),
    noted(make_card("rpf", (65.0, 55.0, 41.0), published=VOID, masked=None, title="filters")),
    make_card("gaussian-0.25", certified=47.0,
              claim=Claim("60 %.", "logs", robust=60.0, norm="l2", eps=0.25, certified=True)),
)  # fmt: skip


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("board")
    write_board([*CARDS, make_card("hostile", (1.0, 1.0, 0.5), title=HOSTILE)], made)
    return made


def test_the_strongest_comes_first_and_an_entry_once() -> None:
    later = make_card("weak", (50.0, 20.0, 45.0), time="2026-02-01T00:00:00+00:00")
    assert [card.name for card in ranked(CARDS)] == ["pni", "rpf", "gaussian-0.25", "weak"]
    for cards in ([*CARDS, later], [later, *CARDS]):
        assert [card.name for card in ranked(cards)] == ["weak", "pni", "rpf", "gaussian-0.25"]


def test_equal_entries_are_told_apart_by_what_smaller_radii_leave() -> None:
    much, more = make_card("much", (60.0, 15.0, 0.0), clean=80.0), make_card("more", (40.0, 20.0, 0.0), clean=80.0)
    l2, clean = make_card("l2", (40.0, 0.0, 0.0), l2=50.0, clean=80.0), make_card("clean", (40.0, 0.0, 0.0), clean=91.0)
    assert [card.name for card in ranked([clean, l2, much, more])] == ["more", "much", "l2", "clean"]


def test_a_tier_that_proves_nothing_comes_last_and_says_so(tmp_path: Path) -> None:
    smoke = make_card("best", (90.0, 90.0, 90.0), tier="smoke")
    full = make_card("full", (90.0, 90.0, 20.0), tier="full")
    assert [card.name for card in ranked([smoke, *CARDS, full])][-3:] == ["full", "weak", "best"]
    write_board([smoke, full], tmp_path)
    table = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "[best](cards/smoke/best.md) (smoke: 200 images, which prove nothing) |" in table
    assert "[full](cards/full/full.md) (full: 200 images) |" in table
    assert "smoke: 200 images, which prove nothing" in (tmp_path / "leaderboard.html").read_text(encoding="utf-8")


def test_a_card_that_is_sent_in_cannot_take_the_place_of_the_package_s() -> None:
    stored = stored_cards("small")["fast"]
    replace = msgspec.structs.replace
    refuse_impostors([stored, make_card("mine")])
    for network in (replace(stored.network, model="mine:net"), replace(stored.network, digest="c" * 64)):
        with pytest.raises(ValueError, match="the card 'fast' is of another network than the package's entry"):
            refuse_impostors([replace(stored, network=network, time="2999-01-01T00:00:00+00:00")])
    with pytest.raises(ValueError, match="the card 'fast' is not the package's own of that name"):
        refuse_impostors([replace(stored, time="2999-01-01T00:00:00+00:00")])
    for name in ("sap-100-fast", "Fast", "FAST", "fast.", "f-a-s-t"):
        with pytest.raises(ValueError, match=f"the card '{name}' is of another network"):
            refuse_impostors([replace(stored, name=name)])
    for name in ("all", "ALL_"):
        with pytest.raises(ValueError, match=f"'all' stands for every entry: the card '{name}' needs another name"):
            refuse_impostors([replace(stored, name=name)])


def test_the_package_s_weights_decide_where_it_has_no_card_of_an_entry() -> None:
    stored = stored_cards("small")["fast"]
    replace = msgspec.structs.replace
    without = next(name for name, entry in ENTRIES.items() if not entry.lacking and name not in stored_cards("small"))
    refuse_impostors([replace(stored, tier="full")])
    entry, digest = ENTRIES[without], network_digest(undefended(ENTRIES[without].build()))
    own = Network(entry.network, digest, parse_defenses(entry.defense)[0].spec, (), (), "", 1)
    refuse_impostors([replace(stored, name=without, network=own)])
    for card in (
        replace(stored, tier="full", network=replace(stored.network, digest="c" * 64)),
        replace(stored, name=without, network=replace(own, digest="c" * 64)),
    ):
        with pytest.raises(ValueError, match=f"the card '{card.name}' is of another network than the package's entry"):
            refuse_impostors([card])


def test_two_networks_cannot_share_a_name() -> None:
    first = make_card("theirs")
    replace = msgspec.structs.replace
    other = replace(first, network=replace(first.network, digest="c" * 64), time="2026-12-03T00:00:00+00:00")
    refuse_impostors([first, replace(first, time=other.time)])
    for second in (other, replace(other, name="Theirs"), replace(first, name="their-s")):
        with pytest.raises(ValueError, match=f"the cards 'theirs' and '{second.name}' must be of one network, or have"):
            refuse_impostors([first, second])


def test_names_that_some_file_systems_do_not_tell_apart_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names of cards must differ by more than capitals, got small/pni twice"):
        write_board([*CARDS, make_card("PNI")], tmp_path)


def test_cards_of_another_protocol_or_battery_stay_away() -> None:
    assert ranked([make_card(protocol="0"), make_card(battery="standard saplab-0")]) == []
    with pytest.raises(ValueError, match="`cards` must hold at least one card of protocol"):
        write_board([make_card(protocol="0")], Path("nowhere"))


def test_claims_stand_beside_what_was_found_in_the_same_ball() -> None:
    found = {(point["entry"], point["kind"]): (point["claimed"], point["found"]) for point in claimed_points(CARDS)}
    assert found == {
        ("pni", "left by the protocol's attacks"): (45.9, 42.0),
        ("pni", "the paper's own evaluation, here"): (45.9, 52.5),
        ("gaussian-0.25", "certified here"): (60.0, 47.0),
    }
    assert claimed_chart(claimed_points(CARDS)).to_dict()["layer"]
    with pytest.raises(ValueError, match="`records` must hold at least one point"):
        claimed_chart([])


def test_the_readme_keeps_what_people_wrote(board: Path) -> None:
    path = board / "README.md"
    text = path.read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("| [")]
    names = ["pni", "rpf", "gaussian-0.25", "weak", "hostile"]
    assert [re.match(r"\| \[([\w.-]+)]", line)[1] for line in table] == names  # type: ignore[index]
    assert table[0].split("|")[2:5] == [" 80.0 ", " 70.0 ", " 60.0 "]
    assert "masked (identity)" in table[3]
    assert f"Entries without a card: {len(ENTRIES) - 3} (" in text
    path.write_text(f"# Mine\n\nBefore.\n\n{text.partition('# Leaderboard')[2].strip()}\n\nAfter.\n", encoding="utf-8")
    write_board(CARDS[:1], board)
    again = path.read_text(encoding="utf-8")
    assert again.startswith("# Mine\n\nBefore.\n\n<!-- leaderboard -->")
    assert again.endswith("<!-- end of the leaderboard -->\n\nAfter.\n")
    assert "[pni]" not in again
    path.write_text("# Mine\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has no part between"):
        write_board(CARDS, board)


def test_cards_are_read_from_files_and_folders(tmp_path: Path) -> None:
    cards = [stored_cards("small")["fast"], stored_cards("small")["dense"]]
    for card, name in zip(cards, ("weak", "pni"), strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_bytes(card.to_json())
    assert read_cards(tmp_path) == cards[::-1]
    assert read_cards(tmp_path / "pni" / "card.json") == cards[1:]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no card\.json"):
        read_cards(tmp_path / "empty")
    (tmp_path / "pni" / "card.json").write_text("{}")
    with pytest.raises(ValueError, match=r"pni.card\.json: not a card"):
        read_cards(tmp_path)


# --- in a browser ----------------------------------------------------------------------------------------------------

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Open the page; afterwards it must have asked for nothing and complained of nothing."""
    write_board([*CARDS, make_card("hostile", (1.0, 1.0, 0.5), title=HOSTILE)], tmp_path)
    url, contexts, complaints, asked = (tmp_path / "leaderboard.html").as_uri(), [], [], []

    def opened(**settings: Any) -> Any:
        contexts.append(browser.new_context(**settings))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
    assert [one for one in asked if not one.startswith(("data:", url))] == []


def names(page: Any) -> list[str]:
    rows = page.locator(".board tbody tr:visible th a").all()
    return [row.text_content() for row in rows]


@needs_browser
def test_the_table_is_sorted_by_its_heads_and_by_the_menu(visit: Any) -> None:
    page = visit(viewport={"width": 1280, "height": 900})
    assert names(page) == ["pni", "rpf", "gaussian-0.25", "weak", "hostile"]
    page.get_by_role("button", name="clean").click()
    assert names(page)[0] == "weak"
    assert page.locator("th[aria-sort=descending]").text_content() == "clean"
    page.get_by_role("button", name="clean").click()
    assert names(page)[-1] == "weak"
    page.get_by_label("Sort by").select_option(label="entry, A to Z")
    assert names(page) == ["gaussian-0.25", "hostile", "pni", "rpf", "weak"]


@needs_browser
def test_what_is_missing_comes_last_either_way_and_one_try_is_ten_where_passes_do_not_differ(visit: Any) -> None:
    page = visit(viewport={"width": 1280, "height": 900})
    for order in ("from the highest", "from the lowest"):
        page.get_by_label("Sort by").select_option(label=f"certified, {order}")
        assert names(page)[0] == "gaussian-0.25"
    still = make_card("still", (60.0, 50.0, 30.0), clean=80.0)
    still = msgspec.structs.replace(still, clean=msgspec.structs.replace(still.clean, tries=None))
    assert (tries(still), tries(CARDS[1])) == (still.left("linf", 8 / 255).single_pass, share(32.0))  # type: ignore[union-attr]


@needs_browser
def test_the_notes_of_a_card_are_on_the_page_and_a_search_finds_its_verdict(visit: Any) -> None:
    page = visit(viewport={"width": 1280, "height": 900})
    assert page.locator("#e-small-rpf").text_content().count(NOTE) == 1
    page.get_by_label("Search").fill("cannot tell")
    assert names(page) == ["rpf"]
    assert [card.get_attribute("id") for card in page.locator("article:visible").all()] == ["e-small-rpf"]


@needs_browser
def test_the_search_finds_entries_by_all_its_words(visit: Any) -> None:
    page = visit(viewport={"width": 1280, "height": 900})
    page.get_by_label("Search").fill("RESNET20 filters")
    assert names(page) == ["rpf"]
    assert page.locator("article:visible").count() == 1
    assert page.get_by_role("status").text_content() == "1 of 5 entries"
    page.get_by_label("Search").fill("nothing of the kind")
    assert names(page) == []
    page.get_by_label("Search").fill("")
    assert len(names(page)) == 5


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_screens_wide_and_narrow(visit: Any, width: int, scheme: str) -> None:
    page = visit(viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    ground = {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 25, 29)"}[scheme]
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
    ink = page.evaluate("getComputedStyle(document.querySelector('.drawing svg text')).fill")
    assert ink == {"light": "rgb(31, 35, 40)", "dark": "rgb(230, 233, 236)"}[scheme]


@needs_browser
def test_a_void_evaluation_is_said_beside_the_true_one(visit: Any) -> None:
    text = visit().locator("#e-small-rpf").text_content()
    assert "70.0 [63.3, 75.9] %" in text
    assert "40.0 %" in text
    assert "void: one draw is fixed" in " ".join(text.split())


@needs_browser
def test_the_table_needs_no_javascript(visit: Any) -> None:
    page = visit(java_script_enabled=False)
    assert page.locator(".board tbody tr").count() == 5
    assert page.locator(".drawing svg").is_visible()


def test_the_command_writes_ones_own_card_beside_the_others(
    card: Card, mine: Path, benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    made = mine.parents[2] / "board"
    assert benchmark("--leaderboard", str(made), "--cards", str(mine), "--json") == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert all(Path(file).is_file() for file in files)
    assert "e-smoke-mine" in (made / "leaderboard.html").read_text(encoding="utf-8")
    assert "[mine](cards/smoke/mine.md)" in (made / "README.md").read_text(encoding="utf-8")
    assert (made / "cards" / "smoke" / "mine.md").is_file()


def test_the_command_names_cards_that_it_leaves_out(
    card: Card, folder: Path, benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "older.json").write_bytes(msgspec.structs.replace(card, battery="standard saplab-0").to_json())
    words = ("--leaderboard", "left-out", "--cards", "older.json")
    assert benchmark(*words, tier="small") == 0
    told = "mine is left out: it is of protocol 1, battery standard saplab-0"
    assert told in capsys.readouterr().out
    assert benchmark(*words, "--json", tier="small") == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == ["mine"]
