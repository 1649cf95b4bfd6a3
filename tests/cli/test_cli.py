import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
import torch
from synthetic import fill, make_request
from typer.main import get_command
from typer.testing import CliRunner

from saplab.attacks import eps_of
from saplab.cli import app
from saplab.cli.advice import in_options
from saplab.cli.console import Console
from saplab.cli.errors import explain, guarded
from saplab.cli.options import radii, ready_place
from saplab.data.load import load_data
from saplab.evaluation.advice import Advice
from saplab.evaluation.result import load
from saplab.system import machine
from saplab.system.errors import EvaluationError

ROOT = Path(__file__).parents[2]
VERBS = ("demo", "evaluate", "certify", "reproduce", "sites", "train", "zoo", "train-agent", "play", "report", "runs",
         "doctor")  # fmt: skip
PLAIN = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100"}


def saplab(*words, **changes):
    """Run the command as a user does."""
    command = [sys.executable, "-m", "saplab", *map(str, words)]
    env = {**PLAIN, **changes}
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=env, timeout=120, check=False)


def python(code, **settings):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False, **settings)


# Help


HEAVY = {"torch", "numpy", "scipy", "numba", "altair", "vl_convert", "jinja2", "safetensors", "rich", "ale_py",
         "gymnasium", "PIL"}  # fmt: skip


@pytest.mark.parametrize("words", [["--help"], [], ["--version"], *([verb, "--help"] for verb in VERBS)])
def test_help_imports_nothing_heavy(words):
    code = f"""
import sys
sys.argv = ["saplab", *{words!r}]
from saplab.cli import main
try:
    main()
finally:
    print(*sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)
"""
    done = python(code)
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_help_names_every_verb():
    done = saplab("--help")
    assert all(re.search(rf"^  {verb} ", done.stdout, re.MULTILINE) for verb in VERBS)
    assert saplab().stdout == done.stdout


@pytest.mark.parametrize("verb", [*VERBS, "benchmark"])
def test_help_shows_every_option_at_80_columns(verb):
    command = get_command(app).commands[verb]
    shown = CliRunner().invoke(app, [verb, "--help"], prog_name="saplab", env={"COLUMNS": "80", "TERM": "dumb"}).output
    assert max(map(len, shown.splitlines())) <= 80
    names = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {name for name in names if name.startswith("--") and name not in shown} == set()
    assert ("--defense" in names) == ("--defence" in names)
    assert ("--lambda" not in names) or "--eps" in names
    assert "list[" not in shown
    assert "Options:" not in shown  # each has a group; --help alone is among the others
    assert shown.partition("Other options:\n")[2].split() == ["--help", "Show", "this", "message", "and", "exit."]


def test_summaries_of_verbs_are_whole():
    shown = CliRunner().invoke(app, ["--help"], prog_name="saplab", env={"COLUMNS": "80", "TERM": "dumb"}).output
    summaries = re.findall(r"^  [a-z-]+ {2,}(\S.*)$", shown.partition("Commands:")[2], re.MULTILINE)
    assert len(summaries) == len(VERBS) + 1
    assert all(summary.endswith(".") and "..." not in summary for summary in summaries)


def test_version_is_the_projects():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert saplab("--version").stdout == f"saplab {project['version']}\n"


# A user's mistakes


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--nonsense"], "No such option: --nonsense"),
        (["repot"], "No such command 'repot'"),
        (["report"], "Missing argument"),
        (["report", "nowhere"], "nowhere: not a run folder, it has no request.json"),
        (["doctor", "--jsn"], "No such option: --jsn"),
    ],
)
def test_a_mistake_is_one_line_and_2(words, line, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "saplab", *words], capture_output=True, encoding="utf-8", cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("saplab: error: ")
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_mistake_shows_its_traceback_on_request(tmp_path):
    done = saplab("report", tmp_path / "nowhere", SAPLAB_DEBUG="1")
    assert "Traceback" in done.stderr
    assert "FileNotFoundError" in done.stderr


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("`percent` must be > 0, got -5"), "`percent` must be > 0, got -5"),
        (ValueError("two\n  lines"), "two lines"),
        (ValueError(), "ValueError()"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a/b.npz"), "a/b.npz: No such file"),
        (OSError(errno.ENOSPC, "no space left on the device", "x"), "x: no space left on the device"),
        (OSError("odd"), "odd"),
    ],
)
def test_mistakes_are_explained(error, line, capsys):
    assert guarded(raising(error)) == 2
    assert capsys.readouterr().err == f"saplab: error: {line}\n"


def test_cells_that_failed_are_no_bug_and_no_mistake(capsys):
    assert guarded(raising(EvaluationError("1 group of cells failed"))) == 1
    assert capsys.readouterr().err == "saplab: error: 1 group of cells failed\n"


@pytest.mark.parametrize("error", [RuntimeError("bug"), TypeError("bug"), KeyError("bug"), ZeroDivisionError()])
def test_bugs_pass_through(error):
    assert explain(error) == ""
    with pytest.raises(type(error)):
        guarded(raising(error))


def test_an_interrupt_is_130(capsys):
    assert guarded(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "saplab: interrupted\n"


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (1, 1), (130, 130)])
def test_a_verbs_exit_code_is_the_processs(result, code):
    assert guarded(lambda: result) == code


# Ctrl-C and closed pipes


STUBBORN = """
import threading, time
from concurrent.futures import ThreadPoolExecutor
from saplab.cli import app, main

@app.command("stubborn")
def stubborn() -> None:
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(time.sleep, 30) for _ in range(2)]
        print("ready", flush=True)
        futures[0].result()

@app.command("polite")
def polite() -> None:
    try:
        print("ready", flush=True)
        time.sleep(30)
    finally:
        print("closed", flush=True)

main()
"""


TALKATIVE = """
from saplab.cli import app, main
from saplab.cli.console import Console

@app.command("talk")
def talk() -> None:
    for _ in range(5000):
        Console().say("λ = 8")

main()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("verb", "rest"), [("stubborn", ""), ("polite", "closed\n")])
def test_ctrl_c_ends_within_two_seconds(verb, rest):
    # A job that was started in the background ignores Ctrl-C.
    listening = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = [sys.executable, "-c", listening + STUBBORN, verb]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout.readline() == "ready\n"
        begin = time.perf_counter()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        seconds = time.perf_counter() - begin
    assert process.returncode == 130
    assert seconds < 10  # two on a machine of its own; the test would go on for twenty
    assert "Traceback" not in err
    assert out == rest


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
@pytest.mark.parametrize("words", ["--help", "talk"])
def test_a_closed_pipe_is_silent(words):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        command = [sys.executable, "-c", TALKATIVE, words]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, encoding="utf-8", check=False)
    assert done.stderr == ""


@pytest.mark.skipif(os.name != "posix", reason="descriptors of POSIX")
@pytest.mark.parametrize(
    ("closed", "code", "line"),
    [
        (">&-", 2, "saplab: error: the standard output is closed; write >/dev/null where it is not wanted\n"),
        (">/dev/full", 2, "saplab: error: the output cannot be written: No space left on device\n"),
        ("2>&-", 0, ""),
        (">/dev/full 2>/dev/full", 2, ""),
    ],
)
def test_a_closed_or_full_output_is_one_line(closed, code, line):
    command = f'"{sys.executable}" -c "$TALKATIVE" talk {closed} | cat >/dev/null; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", command], env={**os.environ, "TALKATIVE": TALKATIVE}, stderr=subprocess.PIPE, encoding="utf-8",
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (code, line)


def test_the_home_of_nobody_is_a_mistake():
    with pytest.raises(ValueError, match="`data` ~nobody-has-this-name/x names a user whose home folder is not known"):
        load_data("~nobody-has-this-name/x")


def test_a_path_of_an_option_may_begin_with_a_home(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "~kept").mkdir()
    for path, line in (
        ("~/x", f"{tmp_path / 'home' / 'x'}: not a run folder"),
        ("~nobody-has-this-name/x", "`folder` ~nobody-has-this-name/x names a user whose home folder is not known"),
        ("~kept", "~kept: not a run folder"),
    ):
        assert guarded(lambda path=path: app(["runs", path], prog_name="saplab", standalone_mode=False)) == 2
        assert capsys.readouterr().err.startswith(f"saplab: error: {line}")


def test_a_terminal_without_greek_letters_is_no_error():
    env = {**PLAIN, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", TALKATIVE, "talk"]
    done = subprocess.run(command, capture_output=True, encoding="cp1252", env=env, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("? = 8")


# Console


def test_json_has_stdout_to_itself(capsys):
    console = Console(json=True)
    console.say("for people")
    with console.progress("work", 2) as tick:
        tick(2)
    console.emit_json({"λ": [1, None]})
    captured = capsys.readouterr()
    assert captured.out == '{"λ": [1, null]}\n'
    assert captured.err.startswith("for people\nwork: 2 to do\n")


def test_what_folders_from_elsewhere_say_commands_no_terminal(capsys):
    Console().say("SAP\x1b[2J\x9b\u202e\r\x00λ\té\n")
    assert capsys.readouterr().out == "SAP\\x1b[2J\\x9b\\u202e\\r\\x00λ\té\n\n"
    assert guarded(raising(ValueError("x\x1b]0;y"))) == 2
    assert capsys.readouterr().err == "saplab: error: x\\x1b]0;y\n"


def test_without_json_text_is_on_stdout(capsys):
    Console().say("for people")
    assert capsys.readouterr() == ("for people\n", "")


def test_json_refuses_nan():
    with pytest.raises(ValueError, match="JSON"):
        Console(json=True).emit_json(float("nan"))


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Console().progress("images", 3) as tick:
        tick(3)
    shown = capsys.readouterr().err
    assert "images" in shown
    assert "100 %" in shown


# Options


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("1,2", ""), (1 / 255, 2 / 255)),
        (("0,8", ""), (0.0, 8 / 255)),
        ((None, ""), (1 / 255, 2 / 255)),
        ((None, "8/255,2/255"), (8 / 255, 2 / 255)),
        ((None, "0.1"), (0.1,)),
    ],
)
def test_radii_come_in_either_unit(words, expected):
    assert radii(*words, usual="1,2") == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("8", "8/255"), "give one of them, got 8 and 8/255"),
        (("1,2", "8/255"), "give one of them, got 1,2 and 8/255"),
        ((None, "8/0"), "`eps` must be numbers or fractions joined by commas, such as 2/255,8/255, got '8/0'"),
        ((None, "eight"), "`eps` must be numbers or fractions"),
        ((None, "8/255,"), "`eps` must be numbers or fractions"),
        ((None, "8"), r"`eps` must be within \[0, 1\]"),
        ((None, "8/255,8/255"), "twice"),
    ],
)
def test_radii_that_cannot_be_are_named(words, message):
    with pytest.raises(ValueError, match=message):
        radii(*words, usual="1,2")


@pytest.mark.parametrize(
    ("advice", "text"),
    [
        (Advice("adaptive", (eps_of(1), eps_of(64))), "--attack adaptive --lambda 1,64"),
        (Advice("pgd:steps=40,backward=identity"), "--attack pgd:steps=40,backward=identity"),
        (Advice("mine:Attack(rate=0.1)"), "--attack 'mine:Attack(rate=0.1)'"),
        (Advice(more_than=200), "more images, by a larger --limit: 200 images are too few"),
        (
            Advice(more_than=20, enough=60),
            "more images, by a larger --limit: 20 images are too few, about 60 would be enough if shares stayed"
            " the same",
        ),
        (Advice(baseline=True), "--baseline (the undefended network beside the defended one)"),
    ],
)
def test_advice_is_worded_as_options(advice, text):
    assert in_options(advice) == text


@pytest.mark.parametrize(("threads", "workers", "crowded"), [(2, 2, True), (1, 2, False), (2, None, False)])
def test_more_threads_than_cores_are_said(threads, workers, crowded, monkeypatch, capsys):
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    ready_place("cpu", threads, workers=workers)
    line = f"{workers} workers with {threads} threads each on 2 cores will wait for each other"
    assert (line in capsys.readouterr().err) is crowded


def test_help_of_a_long_verb_is_in_groups():
    lines = saplab("evaluate", "--help").stdout.splitlines()
    headings = [line for line in lines if line.startswith("The ")]
    assert headings == ["The network:", "The data:", "The defence:", "The attack:", "The judging:", "The machine:",
                        "The output:"]  # fmt: skip
    assert any(line.strip().startswith("--defense, --defence") for line in lines)


# Verbs


def run_here(*words):
    return guarded(lambda: app(list(map(str, words)), standalone_mode=False))


def test_report_prints_its_paths_and_rows(tmp_path, capsys):
    store = fill(tmp_path / "run", replace(make_request(), notes=("It is random by itself.",)), cells=3)
    assert run_here("report", store.root, "--json", "--title", "Mine") == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert Path(result["files"][0]).name == "report.html"
    assert all(Path(path).is_file() for path in result["files"])
    assert len(result["rows"]) == 12
    assert result["notes"] == ["It is random by itself."]
    assert "It is random by itself.\n" in captured.err
    assert "unfinished: 3 of 6 cells" in captured.err
    page = (store.root / "report.html").read_text(encoding="utf-8")
    assert "<h1>Mine</h1>" in page
    assert "--attack adaptive" in page
    told = {check["key"]: check["how"] for check in result["checks"]}
    assert told["black-box"] == "--attack adaptive"
    finding, rest = repr(load(store.root)).split("\n\n", 1)
    note, _, shown = rest.partition("\n")
    assert note == "It is random by itself."
    assert all(part in captured.err for part in (finding, shown.partition("Not run")[0]))


def test_doctor_finds_this_machine_in_order(capsys):
    code = run_here("doctor", "--json")
    found = json.loads(capsys.readouterr().out)
    assert (code, found["problems"]) == (0, [])
    assert found["versions"]["python"] == sys.version.split()[0]
    assert found["threads"]["usable cores"] >= 1
    assert found["kernels"]["cpu"].startswith("numba")
    assert found["kernels"]["cuda"].startswith("triton")


def test_doctor_needs_no_installation_of_the_package_itself(monkeypatch, capsys):
    """It runs from a source tree, as benchmarks/gpu_check.sh does."""
    find = metadata.version

    def version(name):
        if name == "saplab":
            raise metadata.PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(metadata, "version", version)
    assert run_here("doctor", "--json") == 0
    assert json.loads(capsys.readouterr().out)["versions"]["saplab"] == "a source tree"


def test_doctor_tries_the_kernel_of_a_gpu_that_is_there(monkeypatch):
    from saplab.cli.verbs import doctor

    tried = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(doctor, "_tried", lambda device: tried.append(device) or "works")
    assert doctor._kernels()["cuda"].endswith(", works")
    assert tried == ["cpu", "cuda"]


def test_doctor_tells_what_is_broken_and_exits_1(monkeypatch, capsys):
    from saplab.cli.verbs import doctor

    def broken():
        raise ImportError("no kernel")

    monkeypatch.setattr(doctor, "_SECTIONS", {"kernels": broken, "memory": doctor._memory})
    assert run_here("doctor") == 1
    out = capsys.readouterr().out
    assert "PROBLEM  kernels: ImportError: no kernel. Try" in out
    assert "memory" in out


# The project's own files


def test_constraints_are_the_same_for_uv_and_pip():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == project["tool"]["uv"]["constraint-dependencies"]


def test_every_direct_dependency_is_constrained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"].values()
    groups = project["dependency-groups"].values()
    direct = [*project["project"]["dependencies"], *chain(*groups), *chain(*extras)]
    names = {re.split(r"[<>=\[]", item)[0] for item in direct}
    constrained = {item.split("==")[0] for item in project["tool"]["uv"]["constraint-dependencies"]}
    assert names == constrained
