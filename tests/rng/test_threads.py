"""Many threads, forked and spawned workers, failures and interrupts: the same bits, and no lock left behind."""

import _thread
import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from exact_law import rows

from saplab.pruning.finite import NotFiniteError
from saplab.pruning.operator import prune
from saplab.rng import threads
from saplab.rng.team import has_team
from saplab.rng.threads import GRAIN, LEAST, over_rows, pool

ROWS = 32


def needs_fork(test: Callable[[], None]) -> Callable[[], None]:
    known = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of Python 3.12: the process has threads
    return pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")(known(test))


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def activations(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS, 4096, generator=generator).relu()  # 4 times GRAIN: worth threads


def digest(seed: int, draws: int = 3000) -> str:
    """Prune one batch, take its gradient, and give the SHA-256 of both."""
    h = activations(seed).requires_grad_()
    out = prune(h, rows(ROWS, seed=seed), draws)
    out.square().sum().backward()
    assert h.grad is not None
    return hashlib.sha256(out.detach().numpy().tobytes() + h.grad.numpy().tobytes()).hexdigest()


def forward_digest(h: torch.Tensor, seed: int) -> str:
    """Prune one batch; of torch's own parallel functions, which hang in a forked child, this calls none."""
    return hashlib.sha256(prune(h, rows(ROWS, seed=seed), 3000).numpy().tobytes()).hexdigest()


def send_digests(pipe, workers: int) -> None:
    torch.set_num_threads(workers)
    pipe.send([digest(seed) for seed in range(4)])


def send_forward_digests(pipe, batches: list[torch.Tensor]) -> None:
    pipe.send([forward_digest(h, seed) for seed, h in enumerate(batches)])


def answer_of_a_child(method: str, target: Callable[..., None], argument: object) -> list[str]:
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    child = context.Process(target=target, args=(theirs, argument))
    child.start()
    try:
        assert ours.poll(60), f"a {method} child gave nothing in 60 s"
        answer = ours.recv()
        child.join(60)
        assert child.exitcode == 0, "the child must end by itself"
        return answer
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize("callers", [2, 8])
def test_many_python_threads_draw_what_one_draws(callers: int) -> None:
    serial = [digest(seed) for seed in range(40)]
    start = threading.Barrier(callers)

    def work(first: int) -> list[str]:
        start.wait()
        return [digest(seed) for seed in range(first, 40, callers)]

    with ThreadPoolExecutor(callers) as pool:
        parts = list(pool.map(work, range(callers)))
    assert [parts[seed % callers][seed // callers] for seed in range(40)] == serial


def test_callers_with_other_thread_counts_do_not_disturb_one_another() -> None:
    serial = [digest(seed) for seed in range(12)]

    def work(seed: int) -> str:
        torch.set_num_threads(1 + seed % 4)
        return digest(seed)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(12))) == serial


@needs_fork
def test_a_forked_child_draws_the_same_on_as_many_threads() -> None:
    batches = [activations(seed) for seed in range(4)]
    expected = [forward_digest(h, seed) for seed, h in enumerate(batches)]
    assert answer_of_a_child("fork", send_forward_digests, batches) == expected


def send_of_a_pool(pipe, number: int) -> None:
    pipe.send([pool(1).submit(str, number).result(30)])


@needs_fork
def test_a_forked_child_has_pools_of_its_own() -> None:
    assert pool(1).submit(str, 1).result() == "1"  # a thread that no child inherits
    assert answer_of_a_child("fork", send_of_a_pool, 7) == ["7"]


@needs_fork
def test_a_forked_child_with_one_thread_takes_gradients_too() -> None:
    # one thread, as in the workers of torch's DataLoader
    assert answer_of_a_child("fork", send_digests, 1) == [digest(seed) for seed in range(4)]


@needs_fork
def test_a_child_may_be_forked_while_other_threads_prune() -> None:
    batches = [activations(seed) for seed in range(4)]
    expected = [forward_digest(h, seed) for seed, h in enumerate(batches)]
    stop = threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            forward_digest(batches[0], 0)

    busy = [threading.Thread(target=keep_busy) for _ in range(3)]
    for thread in busy:
        thread.start()
    try:
        answers = [answer_of_a_child("fork", send_forward_digests, batches) for _ in range(5)]
    finally:
        stop.set()
        for thread in busy:
            thread.join()
    assert answers == 5 * [expected]


def test_a_spawned_child_draws_the_same() -> None:
    assert answer_of_a_child("spawn", send_digests, 2) == [digest(seed) for seed in range(4)]


@pytest.mark.usefixtures("on_either")
@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("size", [1, GRAIN, 10 * GRAIN])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_row_is_worked_on_once(count: int, size: int, workers: int) -> None:
    torch.set_num_threads(workers)
    slices: list[tuple[int, int]] = []
    over_rows(lambda start, stop: slices.append((start, stop)), count, size)
    assert sorted(n for start, stop in slices for n in range(start, stop)) == list(range(count))
    useful = max(1, min(workers, count, count * size // GRAIN))
    assert (len(slices) == 1) == (useful == 1)
    if useful > 1:
        lengths = [stop - start for start, stop in sorted(slices)]
        assert max(lengths) <= max(1, -(-LEAST // size), count // (2 * useful))  # no thread waits long for the last
        assert lengths[:-1] == sorted(lengths[:-1], reverse=True)


def fail_in(part: int, error: BaseException) -> Callable[[int, int], None]:
    def work(start: int, stop: int) -> None:
        if start == part:
            raise error
        time.sleep(0.05)

    return work


@pytest.fixture(params=["PyTorch's team", "pool"])
def on_either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "pool":
        monkeypatch.setattr(threads, "has_team", lambda: False)
    elif not has_team():
        pytest.skip("PyTorch has no OpenMP team here")


def send_whether_there_is_a_team(pipe, _) -> None:
    pipe.send([str(has_team())])


@needs_fork
def test_a_forked_child_leaves_the_team_alone() -> None:
    assert answer_of_a_child("fork", send_whether_there_is_a_team, None) == ["False"]


@pytest.mark.skipif(not has_team(), reason="PyTorch has no OpenMP team here")
def test_rows_are_shared_out_over_the_threads_that_pytorch_has() -> None:
    torch.set_num_threads(3)
    torch.zeros(1 << 20).add_(1)  # starts PyTorch's
    before = {path.name for path in Path("/proc/self/task").iterdir()}
    seen, all_here = [], threading.Barrier(3)

    def work(start: int, stop: int) -> None:
        if str(threading.get_native_id()) not in seen:
            seen.append(str(threading.get_native_id()))
            all_here.wait(30)  # no thread takes a second slice before each has one

    over_rows(work, 12, GRAIN)
    assert len(set(seen)) == 3
    assert set(seen) <= before


@pytest.mark.usefixtures("on_either")
@pytest.mark.parametrize("part", [0, 1, 2, 3])
@pytest.mark.parametrize("error", [MemoryError("no room"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_of_any_slice_is_raised_and_the_pool_lives_on(part: int, error: BaseException) -> None:
    torch.set_num_threads(4)
    with pytest.raises(type(error)) as caught:
        over_rows(fail_in(part, error), 4, GRAIN)
    assert caught.value is error
    done: list[int] = []
    over_rows(lambda start, stop: done.append(start), 4, GRAIN)
    assert sorted(done) == [0, 1, 2, 3]


@pytest.mark.usefixtures("on_either")
def test_a_late_thread_leaves_its_slices_to_others() -> None:
    done: dict[int, list[int]] = {}

    def work(start: int, stop: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.3)
        done.setdefault(threading.get_ident(), []).extend(range(start, stop))
        time.sleep(0.01)

    over_rows(work, 16, GRAIN)
    assert len(done[threading.get_ident()]) > 8
    assert sorted(row for rows in done.values() for row in rows) == list(range(16))


@pytest.mark.usefixtures("on_either")
def test_a_failure_leaves_later_slices_undone() -> None:
    done: list[int] = []

    def work(start: int, stop: int) -> None:
        if start == 0:
            raise ValueError("first slice")
        time.sleep(0.1)
        done.append(start)

    with pytest.raises(ValueError, match="first slice"):
        over_rows(work, 16, GRAIN)
    assert len(done) < 7


@pytest.mark.usefixtures("on_either")
def test_a_failure_waits_for_the_other_slices() -> None:
    # they write into arrays that the caller frees
    running = threading.Event()

    def work(start: int, stop: int) -> None:
        if start == 0:
            running.wait(10)
            raise ValueError("first slice")
        running.set()
        time.sleep(0.2)
        running.clear()

    with pytest.raises(ValueError, match="first slice"):
        over_rows(work, 2, GRAIN)
    assert not running.is_set()


@pytest.mark.parametrize("place", [0, ROWS - 1])
def test_a_bad_row_in_any_thread_is_found(place: int) -> None:
    h = activations(0)
    h[place, 7] = float("nan")
    with pytest.raises(NotFiniteError, match=f"first in example {place}$"):
        prune(h, rows(ROWS), 3000)


@pytest.fixture
def listening() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt, also in a process that was started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening", "on_either")
def test_ctrl_c_interrupts_and_nothing_stays_locked() -> None:
    expected = digest(0)
    for delay in (0.03, 0.07, 0.11):
        timer = threading.Timer(delay, _thread.interrupt_main)
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            timer.start()
            while True:
                prune(activations(0), rows(ROWS), 3000)
        timer.join()
        assert digest(0) == expected
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(digest, [0, 0])) == [expected, expected]
