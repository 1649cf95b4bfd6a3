"""Studies as people write them, and folders as they are received: refused when read, with the line, nothing written."""

import json

import pytest
from synthetic import fill, make_request

from saplab.paper.choice import choose
from saplab.paper.report import write_study
from saplab.paper.study import Figure, Line, line_of, load_figures, read_study, save_figures
from saplab.runs import Store
from saplab.system.folder import NotPlainError

HEAD = '[[figure]]\nname = "first"\n[[figure.line]]\nlabel = "A"\n\n'  # five lines


def refused(tmp_path, text):
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match="is no study") as caught:
        read_study(path)
    said = str(caught.value)
    assert said.startswith(f"{path} is no study: ")
    assert "\n" not in said
    where, _, why = said.removeprefix(f"{path} is no study: ").partition(": ")
    return (int(where[5:]), why) if where.startswith("line ") else (None, f"{where}: {why}")


@pytest.mark.parametrize(
    "name", ["../../ESCAPED", "a/b", "/etc/x", "..", ".hidden", "", "a\\\\b", "x\\u0000", "n" * 81]
)
def test_a_name_that_leaves_the_folder_is_refused(tmp_path, name):
    text = f'{HEAD}[[figure]]\nname = "{name}"\n[[figure.line]]\nlabel = "B"\n'
    line, why = refused(tmp_path, text)
    assert line == 6
    assert why.startswith("`name` must be a name for files")


@pytest.mark.parametrize("name", ["fig1a", "of my own", "Größe-2", "a.b+c_d"])
def test_names_for_files_are_taken(tmp_path, name):
    (tmp_path / "x.toml").write_text(f'[[figure]]\nname = "{name}"\n[[figure.line]]\nlabel = "B"\n')
    assert read_study(tmp_path / "x.toml")[0].name == name


@pytest.mark.parametrize(
    "value", ["model=5", "defense=5", "attack=5", "adversary=1", 'paper="x"', "paper={0=nan}", "paper={300=1}",
              "at=nan", "at=-1", "at=true", "paper={nan=1}", "series=[]"]
)  # fmt: skip
def test_a_value_of_another_type_or_range_in_a_line_is_named_with_its_line(tmp_path, value):
    text = f'{HEAD}[[figure]]\nname = "f"\n[[figure.line]]\nlabel = "A"\n[[figure.line]]\nlabel = "B"\n{value}\n'
    line, why = refused(tmp_path, text)
    assert line == 12
    assert value.partition("=")[0] in why


@pytest.mark.parametrize("strengths", ["[-1]", "[nan]", "[inf]", "[256]", "[true]", "[]", "[[1]]", '["1"]', "5"])
def test_strengths_are_lambdas(tmp_path, strengths):
    text = f'{HEAD}[[figure]]\nname = "f"\nstrengths = {strengths}\n[[figure.line]]\nlabel = "A"\n'
    assert refused(tmp_path, text)[0] == 8


@pytest.mark.parametrize(
    ("more", "line", "why"),
    [
        ("strengths = [2, 2.0]\n[[figure.line]]\nlabel='A'", 6, "must not name a value twice"),
        ("[[figure.line]]\nlabel='A'\n[[figure.line]]\nlabel='A'", 6, "lines with different labels"),
        ("[[figure.line]]\nlabel=''", 8, "`label` must be one line of text"),
        ("[[figure.line]]\nlabel='''a\nb'''", 8, "`label` must be one line of text"),
        ("[[figure.line]]\nlabel='A'\ncolour='red'", 8, "unknown field `colour`"),
        ("[[figure.line]]\nmodel='A'", 8, "missing required field `label`"),
        ("[[figure.lines]]\nlabel='A'", 6, "unknown field `lines`"),
        ("[[figure.line]]\nlabel='A'\n[[figure.claim]]\ntext='x'\nfirst='A'\nsecond='A'\nrelation='same'\n"
         "strengths=[2]", 10, "`relation` must be one of"),
        ("[[figure.line]]\nlabel='A'\n[[figure.claim]]\ntext='x'\nfirst='A'\nsecond='A'\nrelation='lower'\n"
         "strengths=[2]", 10, "a claim must speak of two lines, got 'A' twice"),
    ],
)  # fmt: skip
def test_what_a_figure_refuses_is_named_with_its_line(tmp_path, more, line, why):
    where, said = refused(tmp_path, f'{HEAD}[[figure]]\nname = "f"\n{more}\n')
    assert (where, why in said) == (line, True), said


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("figure = 5", "Expected `array`, got `int`"),
        ("[figure]\nname='x'", "Expected `array`, got `object`"),
        ("[[line]]\nlabel='A'", "unknown field `line`"),
        ("", "figures with different names"),
        (HEAD + HEAD, "figures with different names"),
        (HEAD + HEAD.replace("first", "FIRST"), "figures with different names"),
        (HEAD + HEAD.replace("first", "first-against"), "would be one file"),
        (HEAD + HEAD.replace("first", "First-Against"), "would be one file"),
        ("a = " + 5000 * "[", "nested too deeply"),
        ("x = ", "at end of document"),
        ("\xff", ""),
    ],
)
def test_what_is_no_study_is_said_in_one_line(tmp_path, text, why):
    assert why in refused(tmp_path, text)[1]


def test_bytes_that_are_no_text_are_no_study(tmp_path):
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"x\.toml is no study"):
        read_study(tmp_path / "x.toml")


def test_figures_that_no_table_begins_have_no_line():
    assert line_of('figure = [{name = "x", line = 5}]', "Expected - at `$.figure[0].line`") == 1
    assert line_of("", "anything") is None


def test_two_studies_do_not_share_a_name(tmp_path):
    for name, label in (("a", "A"), ("b", "B"), ("same", "A")):
        (tmp_path / f"{name}.toml").write_text(f'[[figure]]\nname = "fig"\n[[figure.line]]\nlabel = "{label}"\n')
    names = [str(tmp_path / f"{name}.toml") for name in ("a", "b")]
    with pytest.raises(ValueError, match=r"b\.toml names a figure 'fig', which another study has already"):
        choose(names, "smoke")
    assert len(choose([names[0], str(tmp_path / "same.toml")], "smoke").figures) == 1
    (tmp_path / "c.toml").write_text('[[figure]]\nname = "fig1a"\n[[figure.line]]\nlabel = "A"\n')
    with pytest.raises(ValueError, match="fig1a"):
        choose([str(tmp_path / "c.toml"), "fig1a"], "smoke")


# Folders from elsewhere


@pytest.fixture
def received(tmp_path):
    request = make_request()
    store = fill(tmp_path / "run", request)
    save_figures(store.root, [Figure("mine", lines=(Line("dense"), Line("SAP-100")))])
    return Store.read(store.root)


def test_a_received_folder_whose_figure_would_leave_it_is_refused(received, tmp_path):
    path = received.root / "study.json"
    path.write_text(path.read_text().replace('"mine"', '"../../ESCAPED"'))
    with pytest.raises(ValueError, match=r"study\.json is no study: `name` must be a name for files"):
        write_study(received)
    assert not list(tmp_path.rglob("*ESCAPED*"))


def test_a_received_folder_whose_figures_are_elsewhere_is_refused(received, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (received.root / "figures").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotPlainError, match="it is a link, not a folder"):
        write_study(received)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_study_that_is_nested_too_deeply_is_named(received):
    (received.root / "study.json").write_text('{"figure":' + 100_000 * "[")
    with pytest.raises(ValueError, match=r"study\.json is no study"):
        load_figures(received.root)


def test_the_report_is_of_the_figures_that_were_asked_for(received):
    """Another command may write its own study.json into a folder of games meanwhile."""
    asked = (Figure("asked", lines=(Line("dense"),)),)
    assert [section.figure.name for section in write_study(received, figures=asked).sections] == ["asked"]
    assert [section.figure.name for section in write_study(received).sections] == ["mine"]
    assert json.loads((received.root / "study.json").read_text())["figure"][0]["name"] == "mine"
