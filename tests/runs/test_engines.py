"""Engines: the same bits from each, whatever dies meanwhile; what fails is reported and the rest goes on."""

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stubborn import MARKED, make_run
from synthetic import make_cell, make_result

from saplab.cli.running import engine_of
from saplab.models.zoo import load_model
from saplab.runs import Store, images, saving
from saplab.runs.cell import NUMERICS
from saplab.runs.engines.base import Computed, Failed, Queue, Trouble, Try, trouble_of
from saplab.runs.engines.in_process import InProcess, run
from saplab.runs.engines.parcel import pack, unpack
from saplab.runs.engines.processes import Workers
from saplab.runs.engines.ray import RayCluster, _dumps, _Room
from saplab.runs.groups import groups, work_of
from saplab.runs.record import failures
from saplab.runs.results import DTYPES

TESTS = Path(__file__).parents[1]
GROUPS = 16
SOON = 10  # seconds: two on a machine of its own, which tests do not have

try:
    import ray
except ImportError:
    ray = None
RAY_WARNINGS = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # Ray's own pipes and files
needs_ray = pytest.mark.skipif(ray is None, reason="Ray is not installed (extra cluster)")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """The runs of one undisturbed process and thread, by defence."""
    found = {}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for defense in ("sap:100", ""):
        folder = tmp_path_factory.mktemp("reference")
        request, inputs = make_run(folder / "trap", defense)
        found[defense] = Store.open(folder / "run", request)
        assert run(found[defense], inputs) == ()
    torch.set_num_threads(before)
    return found


def assert_same_bits(store, references):
    reference = references[store.request.cells[0].defender.defense]
    assert store.request.cells == reference.request.cells
    for cell in reference.request.cells:
        mine, other = store.load(cell), reference.load(cell)
        for name in DTYPES:
            assert getattr(mine, name).tobytes() == getattr(other, name).tobytes(), name
        assert mine.made["threads"] == 1


def is_there(pid):
    """Say whether a process is there and not just waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children_of(pid):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


# Tries


def test_a_try_that_fails_comes_back_first_and_three_times_at_most():
    one, two = ((make_cell(start=k, stop=k + 1),) for k in range(2))
    queue = Queue([one, two])
    for number in (1, 2):
        assert queue.take() == Try(one, number)
        assert queue.settle(Try(one, number), Trouble("no")) is None
    assert queue.settle(queue.take(), Trouble("no", "why")) == Failed(one, "no", "why", 3)
    assert queue.settle(queue.take(), [1]) == Computed(two, [1])
    assert (len(queue), queue.take()) == (0, None)


def test_a_final_trouble_is_not_tried_again():
    cells = (make_cell(),)
    assert Queue([]).settle(Try(cells), Trouble("no", final=True)) == Failed(cells, "no", "", 1)


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
    assert list(store.missing()) == missing
    assert sum(ticks) == sum(work_of(group) for group in groups(set_minus(request.cells, missing)))
    assert [note["cells"] for note in failures(store.root)] == [[cell.digest] for cell in missing]
    request, inputs = make_run(tmp_path / "trap", how=error, times=0)
    assert run(store, inputs) == ()
    assert list(failures(store.root)) == []
    assert_same_bits(store, references)


def set_minus(cells, others):
    return [cell for cell in cells if cell not in others]


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
    assert 3 <= GROUPS - len(store.missing()) < GROUPS
    assert request.cells[3] in store.missing()


def test_the_engine_waits_for_a_slow_disk(tmp_path, monkeypatch):
    """No more results wait than the saver's bound, those that its threads hold included."""
    waiting = []

    class Slow:
        def save(self, cell, result):
            time.sleep(0.005)
            waiting.pop()

    with saving.Saver(Slow()) as saver:
        for k in range(60):
            cell = make_cell(start=k, stop=k + 1)
            waiting.append(cell)
            saver.save(Computed((cell,), [make_result(cell)]))
            assert len(waiting) <= saving._WAITING
    assert waiting == []


def test_clean_predictions_are_kept_within_bounds(monkeypatch):
    request, inputs = make_run(Path(os.devnull).parent)
    size = 4 * (4 * 5 * 4)  # four tensors of five images and four classes
    monkeypatch.setattr(images, "_CLEAN_BYTES", 3 * size)
    for group in groups(request.cells):
        images.compute(group, inputs)
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
    with pytest.raises(ValueError, match=f"worker's saplab computes with numerics {NUMERICS}, the driver's with 1"):
        unpack(replace(parcel, numerics=1), "cpu")


def test_a_network_that_cannot_be_sent_is_named(tmp_path):
    _, inputs = make_run(tmp_path / "trap")
    next(iter(inputs.models.values())).hook = lambda: None
    with pytest.raises(ValueError, match=r"cannot be sent to other processes, compute in process: .*lambda"):
        next(Workers(1, 1)([()], inputs, lambda n: None))


# Worker processes


def test_workers_give_the_same_bits_though_one_is_killed(tmp_path, references):
    request, inputs = make_run(tmp_path / "trap", times=1)
    store = Store.open(tmp_path / "run", request)
    ticks = []
    assert run(store, inputs, ticks.append, Workers(2, 1)) == ()
    assert sum(ticks) == sum(map(work_of, groups(request.cells)))
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
    assert len(store.missing()) == 2


def test_workers_that_cannot_begin_end_the_run(tmp_path, monkeypatch):
    """The pickle names a module that is not there for the worker."""
    _, inputs = make_run(tmp_path / "trap")
    parcel = pack(inputs)
    broken = replace(parcel, networks=np.frombuffer(b"cnowhere\nnothing\n.", np.uint8))
    monkeypatch.setattr("saplab.runs.engines.processes.pack", lambda inputs: broken)
    with pytest.raises(ChildProcessError, match=r"cannot load the networks: ModuleNotFoundError: .*nowhere"):
        next(Workers(1, 1)([(make_cell(),)], inputs, lambda n: None))


def drive(folder, pause, *words):
    """Start a driver as a process of its own group, and wait until its first cell is stored."""
    command = [sys.executable, str(TESTS / "stubborn.py"), str(folder), str(pause), *map(str, words)]
    driver = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not any((folder / "run" / "cells").glob("*.safetensors")):
        assert driver.poll() is None, driver.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return driver


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
    assert 0 < len(store.missing()) < GROUPS
    assert store.problems() == []
    assert run(store, inputs) == ()
    assert_same_bits(store, references)


# The choice of an engine


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("slurm", None, None, None), "`engine` must be one of local, ray, got 'slurm'"),
        (("local", 0, None, None), "`workers` must be >= 1, got 0"),
        (("local", 2, "auto", None), "`address` is for `engine` ray, got 'auto' with local"),
        (("ray", 2, None, None, "tpu"), "`device` of a Ray cluster's tasks must be auto, cpu or cuda, got 'tpu'"),
    ],
)
def test_a_choice_that_cannot_be_is_named(words, message):
    with pytest.raises(ValueError, match=message):
        engine_of(*words)


def test_threads_are_divided_among_workers(monkeypatch):
    monkeypatch.setattr("saplab.system.machine.usable_cores", lambda: 8)
    assert engine_of("local", None, None, 3) == InProcess()
    assert engine_of("local", 3, None, None) == Workers(3, 2)
    assert engine_of("local", 16, None, None) == Workers(16, 1)
    assert engine_of("local", 3, None, 5) == Workers(3, 5)


def test_ray_that_is_not_installed_is_one_line(monkeypatch, capsys):
    from saplab.cli import app
    from saplab.cli.errors import guarded

    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["evaluate", "--engine", "ray"]
    assert guarded(lambda: app(words, prog_name="saplab", standalone_mode=False)) == 2
    assert capsys.readouterr().err == "saplab: error: `engine` ray needs Ray: pip install 'saplab[cluster]'\n"


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://[::1]:1"])
def test_a_cluster_that_is_not_there_is_named_at_once(tmp_path, address):
    _, inputs = make_run(tmp_path / "trap")
    with pytest.raises(ConnectionError, match=f"no Ray cluster answers at {re.escape(address)}: "):
        next(RayCluster(address)([(make_cell(),)], inputs, lambda n: None))


class FakeRay:
    """Nodes by their cores and GPUs, and the options of the task that is made."""

    def __init__(self, *nodes):
        self.resources = [{"CPU": cores, "GPU": gpus} for cores, gpus in nodes]

    def nodes(self):
        return [*({"Alive": True, "Resources": found} for found in self.resources), {"Alive": False, "Resources": {}}]

    def cluster_resources(self):
        return {name: sum(node[name] for node in self.resources) for name in ("CPU", "GPU")}

    def remote(self, **options):
        return lambda function: options


@pytest.mark.parametrize(
    ("engine", "device", "share", "room"),
    [
        (RayCluster("auto"), "cuda", 1, 2 * 3),
        (RayCluster("auto", workers=2), "cuda", 1, 2),
        (RayCluster("auto", workers=6), "cuda", 0.5, 6),
        (RayCluster("auto", workers=7), "cuda", 1 / 3, 7),
        (RayCluster("auto", device="cpu"), "cpu", 0, 2 * 20),
        (RayCluster("auto", threads=3, device="cpu"), "cpu", 0, 2 * (5 + 1)),
    ],
)
def test_tasks_take_what_they_need_and_not_too_many_are_submitted(engine, device, share, room):
    """Two machines: 16 cores and 2 GPUs, 4 cores and one."""
    nodes = FakeRay((16, 2), (4, 1))
    options, where = engine._task(nodes)
    assert where == device
    assert options == {"num_cpus": engine.threads, "num_gpus": share, "max_retries": 0, "max_calls": 0}
    assert _Room(nodes, engine.threads, device, engine.workers)() == room


def test_a_cluster_that_lacks_what_is_asked_for_is_refused():
    nodes = FakeRay((4, 0), (2, 0))
    with pytest.raises(ValueError, match="`threads` must be at most 4, the cores of the largest node, got 5"):
        _Room(nodes, 5, "cpu", None)
    with pytest.raises(ValueError, match="`device` cuda needs a cluster with GPUs, this one has none"):
        RayCluster("auto", device="cuda")._task(nodes)


@needs_ray
def test_code_of_the_working_folder_travels_with_a_network(tmp_path, monkeypatch):
    """The other side has neither the network's module nor the one that it imports."""
    (tmp_path / "theirs_a.py").write_text("def act(x):\n    return x.relu()\n")
    (tmp_path / "theirs_b.py").write_text(
        "import theirs_a\nfrom torch import nn\n"
        "class Net(nn.Module):\n    def forward(self, x):\n        return theirs_a.act(x)\n"
    )
    monkeypatch.chdir(tmp_path)
    content = _dumps(load_model("theirs_b:Net"))
    monkeypatch.chdir("/")
    for name in ("theirs_a", "theirs_b"):
        monkeypatch.delitem(sys.modules, name)
    assert torch.equal(pickle.loads(content)(torch.tensor([-1.0, 2.0])), torch.tensor([0.0, 2.0]))


# Ray: two nodes of one core each, on this machine


@pytest.fixture(scope="module")
def cluster():
    if ray is None:
        pytest.skip("Ray is not installed (extra cluster)")
    from ray.cluster_utils import Cluster

    impatient = {"health_check_period_ms": 500, "health_check_timeout_ms": 2000, "health_check_failure_threshold": 3}
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": impatient}
    found = Cluster(initialize_head=True, head_node_args=head)
    found.second = found.add_node(num_cpus=1)
    yield found
    found.shutdown()


@needs_ray
@RAY_WARNINGS
@pytest.mark.parametrize("stop", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_killed_driver_of_a_cluster_goes_on(tmp_path, references, cluster, stop):
    """The cluster ends the driver's tasks, and a second driver finds what was saved."""
    driver = drive(tmp_path, 0.1, "ray", cluster.address)
    begin = time.monotonic()
    driver.send_signal(stop)
    _, said = driver.communicate()
    assert time.monotonic() - begin < SOON
    assert driver.returncode == (130 if stop == signal.SIGINT else -9)
    assert said == ("saplab: interrupted\n" if stop == signal.SIGINT else "")
    request, inputs = make_run(tmp_path / "trap", "")
    store = Store.open(tmp_path / "run", request)
    assert 0 < len(store.missing()) < GROUPS
    assert run(store, inputs) == ()
    assert_same_bits(store, references)


@needs_ray
@RAY_WARNINGS
def test_ray_gives_the_same_bits_though_a_worker_and_a_node_die(tmp_path, references, cluster):
    """Last of all: it leaves one node."""
    request, inputs = make_run(tmp_path / "trap", times=1, pause=0.05)
    store = Store.open(tmp_path / "run", request)
    ticks = []

    def tick(n):
        ticks.append(n)
        if len(ticks) == 6:
            cluster.remove_node(cluster.second, allow_graceful=False)

    assert run(store, inputs, tick, RayCluster(cluster.address)) == ()
    assert sum(ticks) == sum(map(work_of, groups(request.cells)))
    assert len(list((tmp_path / "trap").iterdir())) == 1
    assert_same_bits(store, references)
    assert not ray.is_initialized()
