"""The engine of a Ray cluster: what it asks for, and the same bits whatever dies; its cluster has two nodes here."""

import getpass
import os
import pickle
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from drivers import GROUPS, SOON, assert_same, assert_same_bits, drive, one_thread, references
from outside import import_outside, run_outside
from stubborn import make_run
from synthetic import make_cell

import saplab
from saplab.models.zoo import load_model
from saplab.runs import Store, run, work_of
from saplab.runs.engines import InProcess, RayCluster, private_ray
from saplab.runs.engines.ray import _dumps

__all__ = ["one_thread", "references"]  # fixtures

try:
    import ray
except ImportError:
    ray = None
RAY_WARNINGS = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # Ray's own pipes and files
needs_ray = pytest.mark.skipif(ray is None, reason="Ray is not installed (extra cluster)")


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://[::1]:1"])
def test_a_cluster_that_is_not_there_is_named_at_once(tmp_path, address):
    _, inputs = make_run(tmp_path / "trap")
    with pytest.raises(ConnectionError, match=f"no Ray cluster answers at {re.escape(address)}: "):
        next(RayCluster(address)([(make_cell(),)], inputs, lambda n: None))


def test_a_node_that_takes_its_time_to_begin_is_waited_for(monkeypatch):
    """... for as long as is said, after which Ray's own error is that of the engine."""
    monkeypatch.setattr(private_ray.time, "sleep", lambda seconds: clock.append(clock[-1] + seconds))
    monkeypatch.setattr(private_ray.time, "monotonic", lambda: clock[-1])
    clock = [0.0]

    def get_node(address, node):
        if clock[-1] < start:
            raise RuntimeError("no such node")
        return address, node

    services = SimpleNamespace(get_node=get_node)
    with private_ray._patience(services):
        start = 100.0
        assert services.get_node("here", 1) == ("here", 1)
        start = 1_000.0
        with pytest.raises(RuntimeError, match="no such node"):
            services.get_node("here", 1)
    assert 200 < clock[-1] < 300
    assert services.get_node is get_node


def test_what_cannot_be_a_left_folder_of_ray_stops_no_run(tmp_path, monkeypatch):
    """... a dangling link, a file, and the folder of a process that is there; that of one that has ended is removed."""
    monkeypatch.setattr(private_ray.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(private_ray, "_LONGEST", 1000)
    (tmp_path / "saplab-ray-1-link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "saplab-ray-99999999-file").touch()
    for name in (f"saplab-ray-{os.getpid()}-mine", "saplab-ray-99999999-left"):
        (tmp_path / name).mkdir()
    with private_ray._folder():
        pass
    left = {path.name.rpartition("-")[2] for path in tmp_path.iterdir()}
    assert left == {"link", "file", "mine"}


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
    ("engine", "share", "room"),
    [
        (RayCluster("auto", device="cuda"), 1, 2 * 3),
        (RayCluster("auto", workers=2, device="cuda"), 1, 2),
        (RayCluster("auto", workers=6, device="cuda"), 0.5, 6),
        (RayCluster("auto", workers=7, device="cuda"), 1 / 3, 7),
        (RayCluster("auto"), 0, 2 * 20),
        (RayCluster("auto", threads=3), 0, 2 * 6),
    ],
)
def test_tasks_take_what_they_need_and_not_too_many_are_submitted(engine, share, room):
    """Two machines: 16 cores and 2 GPUs, 4 cores and one."""
    nodes = FakeRay((16, 2), (4, 1))
    options = engine._task(nodes)
    assert options == {"num_cpus": engine.threads, "num_gpus": share, "max_retries": 0, "max_calls": 0}
    assert engine._room(nodes, engine.workers)() == room


def test_a_cluster_that_lacks_what_is_asked_for_is_refused():
    nodes = FakeRay((4, 0), (2, 0))
    with pytest.raises(ValueError, match="`threads` must be at most 4, the cores of the largest node, got 5"):
        RayCluster("auto", threads=5)._task(nodes)
    with pytest.raises(ValueError, match="`device` cuda needs a cluster with GPUs, this one has none"):
        RayCluster("auto", device="cuda")._task(nodes)
    with pytest.raises(
        ValueError, match="`threads` must be at most 4, the cores of the largest node with a GPU, got 8"
    ):
        RayCluster("auto", device="cuda", threads=8)._task(FakeRay((64, 0), (4, 1)))


@needs_ray
def test_code_that_is_not_installed_travels_with_a_network(tmp_path, monkeypatch):
    """The other side has neither the network's module, nor the one that it imports, which is in another folder."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "theirs_a.py").write_text("def act(x):\n    return x.relu()\n")
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

    impatient = {"health_check_period_ms": 500, "health_check_timeout_ms": 2000, "health_check_failure_threshold": 3,
                 "worker_niceness": 0}  # fmt: skip
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": impatient}
    found = Cluster(initialize_head=True, head_node_args=head)
    found.second = found.add_node(num_cpus=1)
    yield found
    found.shutdown()


@needs_ray
@RAY_WARNINGS
@pytest.mark.parametrize("stop", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL])
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
    assert 0 < len(store.survey().missing) < GROUPS
    assert run(store, inputs, engine=RayCluster(cluster.address)) == ()
    assert_same_bits(store, references)


@needs_ray
@RAY_WARNINGS
def test_classes_from_outside_compute_on_ray(tmp_path, cluster, monkeypatch):
    import_outside(tmp_path / "outside", monkeypatch)
    on_ray, here = run_outside(tmp_path / "ray", RayCluster(cluster.address)), run_outside(tmp_path, InProcess())
    assert_same(on_ray, here)


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
    assert sum(ticks) == work_of(request.cells)
    assert len(list((tmp_path / "trap").iterdir())) == 1
    assert_same_bits(store, references)
    assert not ray.is_initialized()


# Ray of this machine's own


def listening(pids):
    """Return the addresses (IP, hexadecimal) at which processes listen, from Linux's own tables."""
    inodes = set()
    for pid in pids:
        with suppress(OSError):
            links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]  # noqa: PTH115
            inodes |= {link[8:-1] for link in links if link.startswith("socket:[")}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                found.add(words[1].partition(":")[0])
    return found


def of_session(folder):
    """Return the numbers of the processes that work in a folder of Ray's."""
    lines = {int(path.name): path for path in Path("/proc").iterdir() if path.name.isdigit()}
    found = []
    for pid, path in lines.items():
        with suppress(OSError):
            if folder.encode() in (path / "cmdline").read_bytes():
                found.append(pid)
    return found


STRANGER = """
import sys
from ray._raylet import GcsClient
try:
    print(GcsClient(address=sys.argv[1]).internal_kv_keys(b"gcs_pid", None, timeout=60)[0])
except Exception as error:
    print(type(error).__name__)
"""


def asked(address, environment):
    """Return what a process of its own learns from a Ray at an address."""
    line = [sys.executable, "-c", STRANGER, address]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300, check=True).stdout.strip()


LOOPBACK = {"0100007F", "0" * 24 + "01000000", "0000000000000000FFFF00000100007F"}


@needs_ray
@RAY_WARNINGS
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's tables of sockets")
def test_ray_of_this_machine_is_the_users_alone(tmp_path, monkeypatch):
    """It listens on 127.0.0.1 behind a token, in a closed folder, and does not look into the working folder first."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", "the user's own")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(Path(module).parents[1]) for module in (saplab.__file__,)))
    monkeypatch.chdir(tmp_path)
    with RayCluster(workers=1)._connected(ray):
        session = Path(ray._private.worker._global_node.get_session_dir_path())
        (folder,) = (path for path in session.parents if path.name.startswith("saplab-ray-"))
        pids = of_session(str(folder))
        assert len(pids) >= 2
        addresses = listening(pids)
        assert addresses
        assert addresses <= LOOPBACK
        assert ray.nodes()[0]["NodeManagerAddress"] == "127.0.0.1"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.owner() == getpass.getuser()

        @ray.remote
        def look():
            return sys.path, os.environ["RAY_AUTH_MODE"], len(os.environ["RAY_AUTH_TOKEN"]), os.nice(0)

        path, mode, length, niceness = ray.get(look.remote())
        assert niceness == os.nice(0)  # Ray's own choice is 15 more, which leaves tasks nothing of a busy machine
        assert str(tmp_path) not in path
        assert (mode, length) == ("token", 64)
        gcs = ray._private.worker._global_node.gcs_address
        assert asked(gcs, dict(os.environ)) == "b'gcs_pid'"
        stranger = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
        assert asked(gcs, stranger).startswith("AuthenticationError")
    assert not folder.exists()
    assert (os.environ["RAY_AUTH_TOKEN"], "RAY_AUTH_MODE" in os.environ) == ("the user's own", False)


@needs_ray
@RAY_WARNINGS
@pytest.mark.slow
def test_a_killed_driver_with_a_ray_of_its_own_goes_on(tmp_path, references):
    """Its Ray ends with it, and the next driver removes the folder that it left."""
    driver = drive(tmp_path, 0.1, "ray")
    left = set(Path(tempfile.gettempdir()).glob(f"saplab-ray-{driver.pid}-*"))
    assert len(left) == 1
    driver.kill()
    driver.communicate()
    request, inputs = make_run(tmp_path / "trap", "")
    store = Store.open(tmp_path / "run", request)
    assert 0 < len(store.survey().missing) < GROUPS
    assert run(store, inputs, engine=RayCluster()) == ()
    assert_same_bits(store, references)
    assert not any(path.exists() for path in left)


def test_a_ray_that_does_not_start_is_tried_again(monkeypatch):
    class Slow:
        tries = 0
        job_config = SimpleNamespace(JobConfig=lambda: SimpleNamespace())

        def init(self, **settings):
            self.tries += 1
            if self.tries < 3:
                raise RuntimeError("The current node timed out during startup.")

        def shutdown(self):
            pass

    RayCluster()._connect(slow := Slow(), {"address": "local"})
    assert slow.tries == 3
    slow.tries = -9
    with pytest.raises(ConnectionError, match="Ray on this machine cannot be used: The current node timed out"):
        RayCluster()._connect(slow, {"address": "local"})
    assert slow.tries == -6
