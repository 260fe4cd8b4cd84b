"""What a person sees of a run: live lines of stages, tables, the verdict. Everything goes to standard error."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import Progress as Bars
from rich.progress import SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from dl_pipelines.store.workspace import Partition, Progress
from resources.workspaces import LISTED

COLOURS = {"met": "green", "missed": "yellow", "blocked": "red"}


def console(to_error: bool = True) -> Console:
    """A console on the present standard error (or output); tests replace both."""
    return Console(stderr=to_error, highlight=False, soft_wrap=not sys.stderr.isatty())


class Screen:
    """A Watcher: on a terminal one live line a stage, else one printed line when a stage ends."""

    def __init__(self, screen: Console):
        self.console = screen
        self._bars = Bars(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.fields[stage]:<22}"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.description}"),
            console=screen,
            disable=not screen.is_terminal,
        )
        self._lines: dict[str, TaskID] = {}
        self._last: dict[str, str] = {}

    def __enter__(self) -> Screen:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def _line(self, stage: str) -> TaskID:
        if stage not in self._lines:
            self._lines[stage] = self._bars.add_task("", total=None, stage=stage)
        return self._lines[stage]

    def started(self, stage: str, partition: Partition) -> None:
        """See resources.workspaces.Watcher."""
        self._bars.update(self._line(stage), description=partition.key, total=None)

    def progress(self, step: Progress) -> None:
        """See resources.workspaces.Watcher."""
        share = f" ({step.done:g}/{step.total:g})" if step.done is not None and step.total is not None else ""
        said = f"{step.message}{share}"
        self._bars.update(self._line(step.stage), description=said)
        if not self.console.is_terminal and self._last.get(step.stage) != said:
            self.console.print(f"  {step.stage}: {said}", style="dim", markup=False)
        self._last[step.stage] = said

    def finished(self, end: Any) -> None:
        """See resources.workspaces.Watcher."""
        said = summary(end)
        self._bars.update(self._line(end.stage), description=said, total=1, completed=1)
        if not self.console.is_terminal and (end.among <= LISTED or end.failed):
            self.console.print(f"{end.stage} {end.partition.key}: {said} ({end.seconds:.1f} s)", markup=False)


def summary(end: Any) -> str:
    """One stage's end in a few words."""
    if end.skipped:
        return f"skipped: {end.skipped}"
    failed = [gate.name for gate in end.artifact.gates if gate.passed is False]
    undecided = [gate.name for gate in end.artifact.gates if gate.passed is None]
    words = ["made" if end.made else "nothing to do", end.artifact.short]
    words += [f"failed: {', '.join(failed)}"] if failed else []
    words += [f"undecided: {', '.join(undecided)}"] if undecided else []
    return ", ".join(words)


def verdict_panel(verdict: Mapping[str, Any], report: Path | None, notes: Sequence[str], title: str) -> Panel:
    """The targets with what was measured, where the report is, and what else a person should know."""
    word = verdict["verdict"]
    table = Table(box=None, pad_edge=False, show_header=True, header_style="bold")
    for column in ("target", "measured", "met", "nearest option"):
        table.add_column(column)
    for target in verdict["targets"]:
        measured, met = target["measured"], target["met"]
        table.add_row(
            Text(target["name"]),
            Text(f"{measured:.4g}" if measured is not None else f"not measured: {target.get('reason', '')}"),
            Text("yes" if met else "no", style="green" if met else "red"),
            Text("" if met else str(target.get("nearest") or "")),
        )
    body = Table.grid(padding=(0, 0))
    body.add_row(table)
    body.add_row("")
    if report:
        body.add_row(Text(f"report: {report}"))
    for note in notes:
        body.add_row(Text(note))
    colour = COLOURS.get(word, "white")
    return Panel(body, title=f"{title}: targets {word}", title_align="left", border_style=colour, expand=False)


def plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of text."""
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
