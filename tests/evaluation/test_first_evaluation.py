"""docs/first-evaluation.md as it stands."""

from pages import Page

import saplab

PAGE = Page("first-evaluation.md")


def test_the_page_runs(tmp_path):
    with PAGE.unpacked(tmp_path):
        names = PAGE.run()
        assert (tmp_path / "page" / "report.html").stat().st_size > 10_000
        assert saplab.load("runs/mine").rows == names["result"].rows
        assert [row["model"] for row in names["found"]] == 3 * ["mine:net"]
        assert {row["images"] for row in names["defended"].rows} == {16}
        assert names["straight"]["curve"] != names["own"]["curve"]
