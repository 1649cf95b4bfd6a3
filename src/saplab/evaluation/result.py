"""The result of an evaluation, in memory or in a folder: table, verdict, chart and report."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import altair as alt

from saplab.evaluation.findings import Findings, find, judged
from saplab.evaluation.report import Report, axis_of, chart_records, drawn, write_report
from saplab.evaluation.rows import Summary, summarise
from saplab.evaluation.text import finding_text, notes_text, rows_text, verdict_text, within
from saplab.evaluation.verdict import Verdict
from saplab.metrics.minimax import Game
from saplab.report.charts import PAPER, accuracy_chart, to_bytes
from saplab.runs import Request, Results, Store
from saplab.system.words import counted

_NOTEBOOK: Final = 92  # columns of text


@dataclass(frozen=True)
class Result:
    """What an evaluation found. Printed, it shows its table and verdict; in a notebook, its chart as well.

    Attributes:
        store: every cell's predictions, in memory or in a folder.
    """

    store: Results

    @property
    def request(self) -> Request:
        """Return what was asked for."""
        return self.store.request

    @cached_property
    def summary(self) -> Summary:
        """Return all rows, and how many cells there are; ValueError where nothing has been computed yet."""
        return summarise(self.store)

    @cached_property
    def findings(self) -> Findings | None:
        """Return verdict, calibration, convergence and games; None while no curve of images is finished."""
        return find(self.store)

    @property
    def verdict(self) -> Verdict:
        """Return what holds: `.sentence`, `.masked`, `.checks`, `.robust`.

        Raises:
            ValueError: no curve is finished, or the folder holds a study of several networks.
        """
        if self.findings is None:
            if len(networks := judged(self.store)) > 1:
                names = ", ".join(dict.fromkeys(network.label for network in networks))
                raise ValueError(f"a verdict is about one network, but this is a study of {len(networks)}: {names}")
            raise ValueError("no curve of images is finished, so there is nothing to judge")
        return self.findings.verdict

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Return a record for each curve and radius, by the names of the CSV's columns; accuracies in %."""
        return [row.record() for row in self.summary.rows]

    @property
    def minimax(self) -> Mapping[float, Game]:
        """Return the game of defences against attacks at each λ or ε at which every defender met every adversary."""
        return {} if self.findings is None else self.findings.games

    def to_dataframe(self) -> Any:
        """Return the rows as a data frame of pandas, or else of polars; ImportError where neither is installed."""
        for package in ("pandas", "polars"):
            with suppress(ImportError):
                return import_module(package).DataFrame(self.rows)
        raise ImportError("`to_dataframe` needs pandas or polars: pip install pandas")

    def plot(self) -> alt.LayerChart:
        """Draw accuracy against the radius, with 95 % intervals; ValueError without rows of images."""
        rows = self.summary.images
        return accuracy_chart(
            chart_records(rows), PAPER, self.request.title, drawn(self.summary, self.findings), axis_of(rows)
        )

    def report(self, folder: Path | str | None = None) -> Report:
        """Write the page, the charts as files, and the numbers as CSV and Parquet; by default beside the results.

        Raises:
            ValueError: no `folder` for results in memory, or nothing has been computed yet.
        """
        if folder is None:
            if not isinstance(self.store, Store):
                raise ValueError("`folder` must be given for results in memory")
            folder = self.store.root
        return write_report(self.store, folder)

    def __repr__(self) -> str:
        found = [] if self.findings is None else [finding_text(self.findings.verdict)]
        return "\n\n".join([*found, self._numbers()])

    def _numbers(self) -> str:
        """Return the table, and what the verdict rests on."""
        told = [notes_text(self.request.notes)] if self.request.notes else []
        judged = [] if self.findings is None else [verdict_text(self.findings.verdict)]
        return "\n\n".join([*told, rows_text(self.summary.rows), *judged, *self._lacking])

    @property
    def _lacking(self) -> tuple[str, ...]:
        """Return what to say where results are missing, which the table and the verdict leave out."""
        summary = self.summary
        if summary.finished == summary.total:
            return ()
        broken = f"; {counted(len(summary.damaged), 'file')} damaged" if summary.damaged else ""
        return (
            f"Unfinished: {summary.total - summary.finished} of {counted(summary.total, 'part')} are missing{broken};"
            " the call that made this folder computes them.",
        )

    def _repr_html_(self) -> str:
        found = self.findings and self.findings.verdict
        finding = f"<p><strong>{escape(found.sentence)}</strong> {escape(found.meaning)}</p>" if found else ""
        with within(_NOTEBOOK):
            return f"{finding}{to_bytes(self.plot(), 'svg').decode()}<pre>{escape(self._numbers())}</pre>"


def load(folder: Path | str) -> Result:
    """Open the results in a run folder, finished or not: what `evaluate` returned, and the command line made.

    Raises:
        FileNotFoundError: `folder` is no run folder.
        ValueError: its request cannot be read, or names a defence or attack that is not known here.
    """
    return Result(Store.read(folder))
