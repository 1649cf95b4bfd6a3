"""Engines: the same bits from each, whatever dies meanwhile; what fails is reported and the rest goes on."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from drivers import GROUPS, SOON, assert_same_bits, drive, is_there, one_thread, references
from stubborn import MARKED, make_run
from synthetic import make_cell, make_result

from saplab.defenses import Defense
from saplab.runs import ImageCell, Network, Store, groups_of, images, run, work_of
from saplab.runs.engines import Computed, Failed, InProcess, Options, Workers, make_engine, parcel
from saplab.runs.engines.base import Queue, Trouble, trouble_of
from saplab.runs.engines.parcel import pack, unpack
from saplab.runs.record import failures
from saplab.runs.run import _WAITING, saving

__all__ = ["one_thread", "references"]  # fixtures


def children_of(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


# Tries


def test_a_try_that_fails_comes_back_first_and_three_times_at_most():
    one, two = ((make_cell(start=k, stop=k + 1),) for k in range(2))
    ticks = []
    queue = Queue([one, two], ticks.append)
    for _ in range(2):
        assert queue.take() == one
        assert queue.settle(one, Trouble("no")) is None
    assert queue.settle(queue.take(), Trouble("no", "why")) == Failed(one, "no", "why", 3)
    assert ticks == []
    assert queue.settle(queue.take(), [1]) == Computed(two, [1])
    assert (len(queue), queue.take(), ticks) == (0, None, [work_of(two)])


def test_a_final_trouble_is_not_tried_again():
    cells = (make_cell(),)
    assert Queue([]).settle(cells, Trouble("no", final=True)) == Failed(cells, "no", "", 1)


def test_ticks_of_failed_tries_are_taken_back():
    """Whatever a try has ticked before it fails."""
    cells = (make_cell(),)

    class Failing:
        tries = 0

        def compute(self, group, tick):
            tick(5)
            Failing.tries += 1
            if Failing.tries < 3:
                raise OSError("a moment")
            tick(2)
            return ["result"]

    ticks = []
    assert list(InProcess()([cells], Failing(), ticks.append)) == [Computed(cells, ["result"])]
    assert ticks == [5, -5, 5, -5, 5, 2]


def test_trouble_is_told_in_one_line():
    try:
        raise RuntimeError("two\n  lines")
    except RuntimeError as error:
        found = trouble_of(error)
    assert (found.reason, found.final) == ("RuntimeError: two lines", False)
    assert "test_trouble_is_told" in found.details
    assert trouble_of(ValueError("x")).final


@pytest.mark.parametrize(("error", "tries"), [(RuntimeError("no luck"), 3), (ValueError("cannot"), 1)])
def test_a_group_that_fails_is_reported_and_the_rest_goes_on(tmp_path, references, error, tries):
    request, inputs = make_run(tmp_path / "trap", how=error, times=99)
    store = Store.open(tmp_path / "run", request)
    ticks = []
    failed = run(store, inputs, ticks.append)
    assert {(failure.group[0].start, failure.group[0].stop) for failure in failed} == {(MARKED.start, MARKED.stop)}
    assert [(f.reason, f.tries) for f in failed] == [(f"{type(error).__name__}: {error}", tries)] * 2
    assert "raise self.how" in failed[0].details
    assert len(list((tmp_path / "trap").iterdir())) == 2 * tries
    missing = [cell for failure in failed for cell in failure.group]
    assert list(store.survey().missing) == missing
    assert sum(ticks) == work_of(cell for cell in request.cells if cell not in missing)
    assert [note.cells for note in failures(store.root)[0]] == [(cell.digest,) for cell in missing]
    request, inputs = make_run(tmp_path / "trap", how=error, times=0)
    assert run(store, inputs) == ()
    assert failures(store.root) == ((), ())
    assert_same_bits(store, references)


def test_a_group_that_fails_once_is_tried_again(tmp_path, references):
    request, inputs = make_run(tmp_path / "trap", how=OSError("a moment"), times=2)
    store = Store.open(tmp_path / "run", request)
    assert run(store, inputs) == ()
    assert_same_bits(store, references)


# Saving


def test_a_save_that_fails_ends_the_run_and_the_engine(tmp_path, monkeypatch):
    request, inputs = make_run(tmp_path / "trap")
    store = Store.open(tmp_path / "run", request)
    ended = []

    class Engine:
        def __call__(self, todo, inputs, tick):
            try:
                yield from InProcess()(todo, inputs, tick)
            finally:
                ended.append(True)

        def __str__(self):
            return "test"

    save = Store.save

    def full(store, cell, result):
        if cell == request.cells[3]:
            raise OSError(28, "no space left on the device", str(store.path(cell)))
        save(store, cell, result)

    monkeypatch.setattr(Store, "save", full)
    with pytest.raises(OSError, match="no space left"):
        run(store, inputs, engine=Engine())
    assert ended == [True]
    assert 3 <= GROUPS - len(store.survey().missing) < GROUPS
    assert request.cells[3] in store.survey().missing


def test_the_engine_waits_for_a_slow_disk(tmp_path, monkeypatch):
    """No more results wait than the saver's bound, those that its threads hold included."""
    waiting = []

    class Slow:
        def save(self, cell, result):
            time.sleep(0.005)
            waiting.pop()

    with saving(Slow()) as save:
        for k in range(60):
            cell = make_cell(start=k, stop=k + 1)
            waiting.append(cell)
            save(cell, make_result(cell))
            assert len(waiting) <= _WAITING
    assert waiting == []


def test_clean_predictions_are_kept_within_bounds(monkeypatch):
    request, inputs = make_run(Path(os.devnull).parent)
    size = 4 * (4 * 5 * 4)  # four tensors of five images and four classes
    monkeypatch.setattr(images, "_CLEAN_BYTES", 3 * size)
    for group in groups_of(request.cells):
        inputs.compute(group)
    assert [key[3] for key in inputs.clean] == [25, 30, 35]


# Parcels


def test_a_parcel_gives_back_what_was_packed(tmp_path):
    _, inputs = make_run(tmp_path / "trap")
    again = unpack(pack(inputs), "cpu")
    assert again.data.digest() == inputs.data.digest()
    assert (again.data.name, again.data.classes) == (inputs.data.name, inputs.data.classes)
    assert torch.equal(again.data.indices, inputs.data.indices)
    (name, model), (other, before) = *again.models.items(), *inputs.models.items()
    assert name == other
    assert torch.equal(model(inputs.data.images), before(inputs.data.images))


def test_a_parcel_of_another_version_is_refused(tmp_path):
    parcel = pack(make_run(tmp_path / "trap")[1])
    with pytest.raises(
        ValueError, match=f"worker's saplab computes with numerics {ImageCell.numerics}, the driver's with 1"
    ):
        unpack(replace(parcel, numerics=1), "cpu")


def test_the_working_folder_is_the_last_place_where_a_parcels_modules_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*(before := list(sys.path))])
    unpack(pack(make_run(tmp_path / "trap")[1]), "cpu")
    assert sys.path == [*before, str(tmp_path)]


def test_a_network_that_cannot_be_sent_is_named(tmp_path):
    _, inputs = make_run(tmp_path / "trap")
    next(iter(inputs.models.values())).hook = lambda: None
    with pytest.raises(ValueError, match=r"cannot be sent to other processes, compute in process: .*lambda"):
        next(Workers(1, 1)([()], inputs, lambda n: None))


def test_a_process_ends_whose_gpu_answers_no_more(monkeypatch):
    """... instead of failing one group after another; its engine starts another process."""
    ended = []
    monkeypatch.setattr(parcel.os, "_exit", lambda code: ended.append(code) or (_ for _ in ()).throw(SystemExit(code)))
    with pytest.raises(SystemExit):
        parcel.compute(b"", SimpleNamespace(device="cuda:7"))
    assert ended == [1]
    assert parcel._computes("cpu")


# Worker processes


def test_workers_give_the_same_bits_though_one_is_killed(tmp_path, references):
    request, inputs = make_run(tmp_path / "trap", times=1)
    store = Store.open(tmp_path / "run", request)
    ticks = []
    assert run(store, inputs, ticks.append, Workers(2, 1)) == ()
    assert sum(ticks) == work_of(request.cells)
    (killed,) = (tmp_path / "trap").iterdir()
    assert int(killed.read_text()) != os.getpid()
    assert not is_there(int(killed.read_text()))
    assert_same_bits(store, references)


@pytest.mark.slow
def test_a_group_that_kills_its_workers_is_given_up(tmp_path):
    request, inputs = make_run(tmp_path / "trap", "", times=99)
    store = Store.open(tmp_path / "run", request)
    failed = run(store, inputs, engine=Workers(2, 1))
    assert [(f.group[0].start, f.reason, f.tries) for f in failed] == [(20, "its process died (signal 9)", 3)] * 2
    assert len(store.survey().missing) == 2


def test_a_defence_that_cannot_be_sent_is_named(tmp_path):
    @dataclass(frozen=True)
    class Local(Defense):
        def activation(self, h, draw, where):
            return h

    _, inputs = make_run(tmp_path / "trap")
    cell = make_cell(Network("stubborn", "", (Local(),)))
    with pytest.raises(ValueError, match=r"cannot be sent to other processes, compute in process: .*Local"):
        list(Workers(1, 1)([(cell,)], inputs, lambda n: None))


def test_workers_import_nothing_from_the_working_folder_first(tmp_path, monkeypatch):
    """A file there may have the name of a module that workers need."""
    for name in ("pickle", "socket", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a module of the working folder')")
    request, inputs = make_run(tmp_path / "trap", "")
    monkeypatch.chdir(tmp_path)
    (outcome,) = Workers(1, 1)(groups_of(request.cells)[:1], inputs, lambda n: None)
    assert isinstance(outcome, Computed)
    assert "PYTHONSAFEPATH" not in os.environ


def test_workers_that_cannot_begin_end_the_run(tmp_path, monkeypatch):
    """The pickle names a module that is not there for the worker."""
    _, inputs = make_run(tmp_path / "trap")
    parcel = pack(inputs)
    broken = replace(parcel, networks=np.frombuffer(b"cnowhere\nnothing\n.", np.uint8))
    monkeypatch.setattr("saplab.runs.engines.processes.pack", lambda inputs: broken)
    with pytest.raises(ChildProcessError, match=r"cannot load the networks: ModuleNotFoundError: .*nowhere"):
        next(Workers(1, 1)([(make_cell(),)], inputs, lambda n: None))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and sends signals to a group")
@pytest.mark.parametrize("stop", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_all_workers_end_with_the_driver_and_the_run_goes_on(tmp_path, references, stop):
    """Ctrl-C reaches the whole group, as from a terminal; kill -9 the driver alone."""
    driver = drive(tmp_path, 0.1, "workers", 1)
    workers = children_of(driver.pid)
    assert workers
    begin = time.monotonic()
    os.killpg(driver.pid, stop) if stop == signal.SIGINT else driver.kill()
    _, said = driver.communicate()
    while any(map(is_there, workers)):
        assert time.monotonic() - begin < SOON
        time.sleep(0.02)
    assert time.monotonic() - begin < SOON
    assert driver.returncode == (130 if stop == signal.SIGINT else -9)
    assert said == ("saplab: interrupted\n" if stop == signal.SIGINT else "")
    request, inputs = make_run(tmp_path / "trap", "")
    store = Store.open(tmp_path / "run", request)
    assert 0 < len(store.survey().missing) < GROUPS
    assert store.survey().damaged == ()
    assert run(store, inputs) == ()
    assert_same_bits(store, references)


# The choice of an engine


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("slurm",), "`engine` must be one of local, ray.* or package.module:maker, got 'slurm'"),
        (("nowhere:maker",), "nowhere:maker cannot be imported: No module named 'nowhere'"),
        (("local", 0), "`workers` must be >= 1, got 0"),
        (("local", 2, 0), "`threads` must be >= 1, got 0"),
        (("local", 2, None, "auto"), "`address` is for `engine` ray, got 'auto' with local"),
        (("ray", 2, None, None, "tpu"), "`device` of a Ray cluster's tasks must be auto, cpu or cuda, got 'tpu'"),
    ],
)
def test_a_choice_that_cannot_be_is_named(words, message):
    with pytest.raises(ValueError, match=message):
        make_engine(words[0], Options(*words[1:]))


def test_threads_are_divided_among_workers(monkeypatch):
    monkeypatch.setattr("saplab.runs.engines.base.usable_cores", lambda: 8)
    assert make_engine("local", Options(threads=3)) == InProcess()
    assert make_engine("local", Options(3)) == Workers(3, 2)
    assert make_engine("local", Options(16)) == Workers(16, 1)
    assert make_engine("local", Options(3, threads=5)) == Workers(3, 5)


def test_ray_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"^`engine` ray needs Ray: pip install 'saplab\[cluster\]'$"):
        make_engine("ray", Options())
