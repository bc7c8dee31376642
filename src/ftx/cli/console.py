"""Everything that ftx draws: bars, errors, tables. The only importer of rich.

Results go to stdout; progress, notes and errors go to stderr. Text is never read as rich's markup: a
path or a label may hold brackets.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TextIO, TypeVar, cast

from pydantic import BaseModel
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text
from rich.tree import Tree

from ftx.cli.plain_progress import PlainProgress
from ftx.core.command_report import CommandReport
from ftx.core.errors import FtxError, GateFailed
from ftx.core.progress import ProgressTask

if TYPE_CHECKING:
    from ftx.training.state import EpochEnd

Style = Literal["plain", "good", "bad", "strong", "dim"]
_STYLES: dict[Style, str] = {"plain": "", "good": "green", "bad": "bold red", "strong": "bold", "dim": "dim"}
_Report = TypeVar("_Report", bound=CommandReport)

# A pipe or a file has no width: nothing may be cut or wrapped there.
_UNBOUNDED_WIDTH = 10_000

_results: TextIO | None = None
_details = False


def show_details(on: bool) -> None:
    """Whether to print details from now on, as ``-v`` requires."""
    global _details  # the process runs one command line at a time
    _details = on


def shows_details() -> bool:
    """Whether the user gave ``-v``."""
    return _details


def reserve_stdout() -> None:
    """Keep stdout for JSON: whatever else is written there, C libraries' output included, goes to stderr."""
    global _results  # the process has one stdout
    sys.stdout.flush()
    _results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = cast("TextIO", _UnreadStream(sys.stderr))


def abandon_stdout() -> None:
    """Send what is still to be written to nowhere: its reader is gone, and Python would complain when it exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, _results):
        if stream is not None:
            os.dup2(nowhere, stream.fileno())


def show(report: _Report, printer: Callable[[_Report], None], *, json: bool) -> int:
    """Print a report, as JSON or by ``printer`` for people, and give the exit status."""
    if json:
        print_json(report)
    else:
        printer(report)
    return 0 if report.ok else GateFailed.exit_code


def print_json(report: BaseModel) -> None:
    """Write a report on stdout as one indented JSON object."""
    print_line(report.model_dump_json(indent=2))


def print_line(document: str) -> None:
    """Write a JSON document on stdout without delay; characters that could move a terminal are escaped in it."""
    escaped = (one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in document)
    _write_line(document if document.isprintable() else "".join(escaped))


def print_fields(fields: Sequence[str]) -> None:
    """Write one line of a result on stdout without delay, with a tab between its fields."""
    _write_line("\t".join(map(_printable, fields)))


def print_csv(fields: Sequence[str]) -> None:
    """Write one line of comma-separated values on stdout without delay (RFC 4180)."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(list(map(_printable, fields)))
    _write_line(line.getvalue())


def _write_line(text: str) -> None:
    stream = _results or sys.stdout
    stream.write(text + "\n")
    stream.flush()


def results_on_terminal() -> bool:
    """Whether lines of a result would run into a bar drawn on the same terminal."""
    return (_results or sys.stdout).isatty()


def print_error(error: FtxError) -> None:
    """What, where, found, fix."""
    text = Text.assemble(("error: ", _STYLES["bad"]), (_lines(error.what), _STYLES["strong"]))
    for heading, detail in error.details():
        text.append(f"\n  {heading}: ", style=_STYLES["dim"])
        text.append(_lines(detail))
    _console(_UnreadStream(sys.stderr)).print(text, soft_wrap=True)


def print_note(text: str, style: Style = "plain") -> None:
    """One line next to the result, on stderr."""
    _console(_UnreadStream(sys.stderr)).print(Text(_printable(text), style=_STYLES[style]), soft_wrap=True)


def width() -> int:
    """Columns that a result may take."""
    return _console(sys.stdout).width


def print_facts(facts: Sequence[tuple[str, str]], style: Style = "plain") -> None:
    """Lines of a name and a value, on stdout, the values below each other."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        line = Text.assemble((name.ljust(width), _STYLES["dim"]), "  ", (_printable(value), _STYLES[style]))
        _console(sys.stdout).print(line, soft_wrap=True)


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    styles: Sequence[Style] = (),
    title: str | None = None,
    spare: Sequence[str] = (),
) -> None:
    """A table on stdout; a column whose cells are all numbers stands flush right, ``styles`` has one entry a row.

    If the terminal is narrower than the table, ``spare`` columns are left out, the first of them first.
    """
    console = _console(sys.stdout)
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    kept, left_out = list(range(len(columns))), list[str]()
    while len(left_out) < len(spare) and sum(widths[at] + 1 for at in kept) - 1 > console.width:
        left_out.append(spare[len(left_out)])
        kept.remove(columns.index(left_out[-1]))
    numeric = {at: bool(rows) and all(_is_figure(row[at]) for row in rows) for at in kept}
    table = Table(
        # On a narrow terminal names are folded, those of the first column last; half a number is none.
        *(
            Column(
                Text(columns[at]),
                justify="right" if numeric[at] else "left",
                overflow="fold",
                no_wrap=numeric[at],
                min_width=min(widths[at], console.width // 3) if at == 0 else None,
            )
            for at in kept
        ),
        header_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2 if sum(widths[at] + 2 for at in kept) <= console.width else 1, 0, 0),
    )
    for number, row in enumerate(rows):
        style = _STYLES[styles[number]] if styles else ""
        table.add_row(*(Text(_printable(row[at])) for at in kept), style=style)
    if title:
        console.print(_title(title), soft_wrap=True)
    console.print(table)
    if left_out:
        print_note(f"not shown, as the terminal is too narrow: {', '.join(left_out)}", "dim")


@dataclass(frozen=True)
class TreeLine:
    """A line of a tree: a name, a detail behind it, and the lines below."""

    name: str
    detail: str = ""
    below: Sequence[TreeLine] = ()


def print_tree(title: str, lines: Sequence[TreeLine]) -> None:
    """A tree on stdout."""

    def grow(tree: Tree, lines: Sequence[TreeLine]) -> None:
        for line in lines:
            text = Text.assemble(_printable(line.name), ("  " + _printable(line.detail), _STYLES["dim"]))
            grow(tree.add(text), line.below)

    root = Tree(_title(title))
    grow(root, lines)
    _console(sys.stdout).print(root)


def bar(fraction: float, width: int = 20) -> str:
    """A fraction in [0, 1] as a bar of blocks; one above 0 has at least one block."""
    try:
        "█".encode(sys.stdout.encoding or "ascii")
        block = "█"
    except UnicodeEncodeError:
        block = "#"
    return block * max(round(fraction * width), 1 if fraction > 0 else 0)


def figure(value: float | None, spec: str) -> str:
    """A number in a format, or a dash if there is none."""
    return "-" if value is None else format(value, spec)


def _title(text: str) -> Text:
    """A line in bold; a line break at its beginning leaves one free before it."""
    return Text("\n" * text.startswith("\n") + _printable(text.lstrip("\n")), style=_STYLES["strong"])


def _printable(text: str) -> str:
    """Without characters of a file's name that could colour or move the terminal, or begin a line of their own."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _lines(text: str) -> str:
    """Text of several lines; those after the first are indented, so none looks like another part of the error."""
    return "\n    ".join(_printable(line.strip(" ")) for line in text.split("\n"))


def _is_figure(cell: str) -> bool:
    return cell in ("", "-", ".") or cell.lstrip("+-")[:1].isdigit()


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # Rich would end the program with status 1, which is a failed gate's.
        raise BrokenPipeError


class _UnreadStream:
    """A stream whose reader may go away: output next to the result must not stop the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):  # ValueError: it was closed
            return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def _console(stream: TextIO | _UnreadStream) -> Console:
    file = cast("TextIO", stream)
    return _Console(file=file, highlight=False, width=None if file.isatty() else _UNBOUNDED_WIDTH)


class _Count(ProgressColumn):
    """``128/960``, or ``128`` if the total is unknown."""

    def render(self, task: Task) -> Text:
        total = "" if task.total is None else f"/{task.total:.0f}"
        return Text(f"{task.completed:.0f}{total}")


class _Speed(ProgressColumn):
    """Steps a second; a step is an image wherever images are worked through."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.{0 if speed >= 10 else 1}f}/s", style="dim")


class _BarTask:
    def __init__(self, bars: Progress, task: Task) -> None:
        self._bars, self._task = bars, task

    def advance(self, steps: int = 1, **fields: str) -> None:
        if fields:
            text = "  ".join(f"{name.replace('_', ' ')} {value}" for name, value in fields.items())
            self._bars.update(self._task.id, shown=text)
        self._bars.advance(self._task.id, steps)


class TerminalProgress:
    """ftx.core.progress.Progress on stderr: bars on a terminal, anywhere else a plain line now and then."""

    def __init__(self, *, bars: bool = True) -> None:
        # FORCE_COLOR is for colours, not for a bar redrawn ten times a second into a log file.
        self._drawn = bars and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._plain = PlainProgress(self.note)
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            _Count(),
            TextColumn("{task.fields[shown]}", markup=False, style="cyan"),
            _Speed(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=_console(_UnreadStream(sys.stderr)),
            transient=True,
        )

    @contextmanager
    def track(self, description: str, total: int | None) -> Generator[ProgressTask]:
        if not self._drawn:
            with self._plain.track(description, total) as task:
                yield task
            return
        task_id = self._bars.add_task(description, total=total, shown="")
        self._bars.start()  # if it is not yet
        try:
            yield _BarTask(self._bars, next(task for task in self._bars.tasks if task.id == task_id))
        finally:
            self._bars.remove_task(task_id)
            if not self._bars.tasks:
                self._bars.stop()

    def note(self, text: str) -> None:
        self._bars.console.print(Text(_printable(text)), soft_wrap=True)

    def note_epoch(self, end: EpochEnd) -> None:
        """Show the result of an epoch."""
        self.note(str(end))
