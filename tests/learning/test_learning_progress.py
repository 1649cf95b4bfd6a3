"""What is told of a run: TensorBoard's numbers, and a chart's series."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import altair as alt
import pytest

from saplab.learning.plot import line_chart, save_plot
from saplab.learning.progress import Progress, TensorBoard


@dataclass(frozen=True)
class Record:
    step: int
    loss: float | None
    games: int
    points: tuple[float, ...] = ()


RECORDS = [Record(400, None, 0), Record(800, 0.25, 3, (10.0, 20.0))]


class Log(Progress[Record]):
    def __init__(self) -> None:
        self.told: list[object] = []

    def on_start(self, history, done, total):
        self.told.append((list(history), done, total))

    def on_step(self, step, numbers):
        self.told.append((step, dict(numbers)))

    def on_record(self, record):
        self.told.append(record)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What a stand-in for TensorBoard's writer gets."""
    calls: list[tuple[object, ...]] = []
    monkeypatch.setitem(
        sys.modules,
        "torch.utils.tensorboard",
        SimpleNamespace(
            SummaryWriter=lambda folder, purge_step: (
                calls.append((folder, purge_step))
                or SimpleNamespace(add_scalar=lambda *numbers: calls.append(numbers), flush=lambda: None)
            )
        ),
    )
    return calls


def test_tensorboard_gets_every_number_of_a_record(tmp_path: Path, written: list[tuple[object, ...]]) -> None:
    board = TensorBoard(tmp_path, Progress())
    board.on_start([], 0, 1_200)
    for record in RECORDS:
        board.on_record(record)
    numbers = [("games", 0, 400), ("loss", 0.25, 800), ("games", 3, 800), ("points", 15.0, 800)]
    assert written == [(str(tmp_path), 0), *numbers]


def test_tensorboard_drops_what_a_resumed_run_repeats(tmp_path: Path, written: list[tuple[object, ...]]) -> None:
    TensorBoard(tmp_path, Progress()).on_start(RECORDS, 800, 1_200)
    assert written == [(str(tmp_path), 801)]


def test_tensorboard_passes_all_reports_on(tmp_path: Path, written: list[tuple[object, ...]]) -> None:
    log = Log()
    board = TensorBoard(tmp_path, log)
    board.on_start(RECORDS[:1], 400, 1_200)
    board.on_step(401, {"loss": 1.0})
    board.on_record(RECORDS[1])
    assert log.told == [(RECORDS[:1], 400, 1_200), (401, {"loss": 1.0}), RECORDS[1]]


def test_without_tensorboard_one_line_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="`tensorboard` needs the package of that name: pip install tensorboard"):
        TensorBoard(tmp_path, Progress())


def test_a_series_keeps_its_colour_when_another_is_missing(tmp_path: Path) -> None:
    x, y = alt.X("x:Q"), alt.Y("y:Q")
    both = line_chart({"a": [(1, 2.0)], "b": [(1, 3.0), (2, 4.0)]}, x, y)
    only = line_chart({"a": [], "b": [(1, 3.0), (2, 4.0)]}, x, y)
    scales = [chart.to_dict()["encoding"]["color"]["scale"] for chart in (both, only)]
    assert scales[0]["domain"] == ["a", "b"]
    assert scales[1] == {"domain": ["b"], "range": scales[0]["range"][1:]}
    rows = only.to_dict()["data"]["values"]
    assert rows == [{"x": 1, "y": 3.0, "of": "b"}, {"x": 2, "y": 4.0, "of": "b"}]
    save_plot(both, tmp_path)
    assert (tmp_path / "history.svg").read_text().startswith("<svg")
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")
