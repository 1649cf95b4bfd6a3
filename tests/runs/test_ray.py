"""The engine of a Ray cluster: what it asks for, and the same bits whatever dies; its cluster has two nodes here."""

import pickle
import re
import signal
import sys
import time

import pytest
import torch
from drivers import GROUPS, SOON, assert_same, assert_same_bits, drive, one_thread, references
from outside import import_outside, run_outside
from stubborn import make_run
from synthetic import make_cell

from saplab.models.zoo import load_model
from saplab.runs import Store, run, work_of
from saplab.runs.engines import InProcess, RayCluster
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
    assert 0 < len(store.survey().missing) < GROUPS
    assert run(store, inputs) == ()
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
