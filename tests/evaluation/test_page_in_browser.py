"""The pages in a browser without a window: nothing loads, nothing fails, and mouse, keyboard and small screens work."""

import shutil
from dataclasses import replace

import pytest
from msgspec import structs
from synthetic import HOSTILE, MINE, fill, make_curve

from saplab.evaluation.report import write_report
from saplab.paper.report import write_study
from saplab.paper.study import read_study, save_figures
from saplab.runs import Request

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
OWN = "1 of my.own+"  # a figure's name, which is no name for CSS
CHART = {"evaluation": "#chart", "study": f'[data-drawing="{OWN}"]'}
BOXES = {"evaluation": "#legend input", "study": f'fieldset[data-chart="{OWN}"] input'}


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Pages by name; the last one's names are written by an enemy."""
    folder = tmp_path_factory.mktemp("pages")
    evaluation = fill(folder / "evaluation")
    study = fill(folder / "study", Request("Mine", tuple(_curve(k) for k in range(3)), "saplab reproduce"))
    (folder / "s.toml").write_text(MINE)
    save_figures(study.root, [structs.replace(one, name=OWN) for one in read_study(folder / "s.toml")])
    curves = (make_curve(HOSTILE, claim=HOSTILE), make_curve("other", seed=1))
    hostile = fill(folder / "hostile", Request(HOSTILE, curves, HOSTILE, notes=(HOSTILE * 3,)))
    found = {
        "evaluation": write_report(evaluation, evaluation.root),
        "study": write_study(study),
        "hostile": write_report(hostile, hostile.root),
    }
    return {name: report.files[0].as_uri() for name, report in found.items()}


def _curve(k):
    label = ("plain", "pruned", "from the other")[k]
    return replace(make_curve(label, seed=k, eps=(0.0, 4 / 255)), figure=OWN)


@pytest.fixture
def watched(browser, pages):
    """Open a page by name; afterwards it must have asked for nothing and complained of nothing."""
    contexts, complaints, asked = [], [], []

    def visit(name, **settings):
        contexts.append(browser.new_context(**settings))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(pages[name])
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith(("data:", *pages.values()))] == []


def lines(page, chart):
    """Find the measured lines: the paper's are dashed."""
    return page.locator(f"{chart} .mark-line path:not([stroke-dasharray])")


@pytest.mark.parametrize("name", ["evaluation", "study"])
def test_the_legend_hides_and_shows_curves(watched, name):
    page = watched(name)
    sync_api.expect(lines(page, CHART[name])).to_have_count(3)
    page.locator(BOXES[name]).first.uncheck()
    sync_api.expect(lines(page, CHART[name])).to_have_count(2)
    page.locator(BOXES[name]).first.check()
    sync_api.expect(lines(page, CHART[name])).to_have_count(3)


@pytest.mark.parametrize("name", ["evaluation", "study"])
def test_the_legend_is_reached_and_used_by_the_keyboard(watched, name):
    page = watched(name)
    sync_api.expect(lines(page, CHART[name])).to_have_count(3)
    wanted = page.locator(BOXES[name]).nth(1)
    for _ in range(40):
        page.keyboard.press("Tab")
        if wanted.evaluate("box => box === document.activeElement"):
            break
    page.keyboard.press("Space")
    sync_api.expect(lines(page, CHART[name])).to_have_count(2)


@pytest.mark.parametrize("name", ["evaluation", "study"])
def test_a_point_tells_its_numbers_under_the_mouse(watched, name):
    page = watched(name)
    page.locator(f"{CHART[name]} .mark-symbol path").first.hover(force=True)
    tip = page.locator("#vg-tooltip-element.visible")
    sync_api.expect(tip).to_contain_text("accuracy %")
    sync_api.expect(tip).to_contain_text("λ")


def test_another_way_of_counting_is_taken_back_by_the_menu(watched):
    """What is drawn otherwise must leave the records as they were."""
    page = watched("evaluation")
    sync_api.expect(lines(page, CHART["evaluation"])).to_have_count(3)

    def drawn():
        return [line.get_attribute("d") for line in lines(page, CHART["evaluation"]).all()]

    averaged, seen = "; ".join(drawn()), []
    for way in ("single_pass", "averaged", "after_10_tries", "averaged"):
        page.locator(".vega-bindings select[name=counted]").select_option(way)
        seen.append("; ".join(drawn()))
    assert seen[1] == seen[3] == averaged
    assert len({averaged, seen[0], seen[2]}) == 3


@pytest.mark.parametrize("name", ["evaluation", "study", "hostile"])
def test_a_small_screen_needs_no_sideways_scrolling(watched, name):
    page = watched(name, viewport={"width": 390, "height": 800})
    page.wait_for_selector(".vega-embed svg")
    width = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert width[0] == width[1] == 390


@pytest.mark.parametrize(("width", "shown", "head"), [(390, '"λ = 4"', "none"), (1200, "none", "table-header-group")])
def test_rows_are_stacked_on_phones(watched, width, shown, head):
    page = watched("evaluation", viewport={"width": width, "height": 800})
    cell = "[...document.querySelectorAll('.numbers td')].find(cell => cell.dataset.label === 'λ = 4')"
    assert page.evaluate(f"getComputedStyle({cell}, '::before').content") == shown
    assert page.evaluate("getComputedStyle(document.querySelector('.numbers thead')).display") == head


def test_a_phone_shows_the_pictures_of_every_strength(watched):
    page = watched("evaluation", viewport={"width": 390, "height": 800})
    ends = page.evaluate("[...document.querySelectorAll('.gallery td')].map(td => td.getBoundingClientRect().right)")
    assert ends
    assert max(ends) <= 390
    assert page.evaluate("getComputedStyle(document.querySelector('.gallery td'), '::before').content") == '"λ = 0"'


def test_print_leaves_out_what_is_for_the_screen(watched):
    page = watched("evaluation", color_scheme="dark")
    page.wait_for_selector(".vega-embed svg")
    page.locator("#legend input").first.uncheck()
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    labels = "[...document.querySelectorAll('#legend label')].map(label => getComputedStyle(label).display)"
    assert page.evaluate(labels) == ["none", "flex", "flex"]


def test_dark_and_light_follow_the_reader(watched):
    grounds = [
        watched("evaluation", color_scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert grounds == ["rgb(255, 255, 255)", "rgb(22, 25, 29)"]


@pytest.mark.parametrize("name", ["evaluation", "study"])
def test_tables_and_drawings_need_no_javascript(watched, name):
    page = watched(name, java_script_enabled=False)
    assert page.locator("table.numbers tbody tr").count() == 3
    assert page.locator("noscript svg").first.is_visible()


def test_a_page_that_asks_the_network_is_caught(browser, pages):
    """The watch sees what it is there to see."""
    context, seen = browser.new_context(), []
    page = context.new_page()
    page.on("console", lambda message: seen.append(message.text))
    page.goto(pages["evaluation"])
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=\"https://saplab.invalid/x.png\">')")
    page.wait_for_timeout(200)
    context.close()
    assert any("Content Security Policy" in text for text in seen)
