"""Everything that ftx draws: bars, errors, tables. The only importer of rich.

Answers go to stdout; progress, notes and errors go to stderr. Text is never read as rich's markup: a
path or a label may hold brackets.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TextIO, cast

from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as RichTask
from rich.table import Column, Table
from rich.text import Text
from rich.tree import Tree

from ftx.core.errors import FtxError
from ftx.core.progress import SILENT, ProgressTask

if TYPE_CHECKING:
    from ftx.training.state import EpochEnd

Style = Literal["plain", "good", "bad", "strong", "dim"]
_STYLES: dict[Style, str] = {"plain": "", "good": "green", "bad": "bold red", "strong": "bold", "dim": "dim"}

# Into a pipe or a file there is no width to fit: nothing may be cut or wrapped there.
_UNBOUNDED_WIDTH = 10_000

_answers: TextIO | None = None


def reserve_stdout() -> None:
    """Keep stdout for JSON alone: whatever else is written there, C libraries' output included, goes to stderr."""
    global _answers  # the process has one stdout
    sys.stdout.flush()
    _answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = cast("TextIO", _Unheard(sys.stderr))


def abandon_stdout() -> None:
    """Send what is still to be written to nowhere: its reader has gone, and Python would complain on its way out."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, _answers):
        if stream is not None:
            os.dup2(nowhere, stream.fileno())


def print_json(answer: BaseModel) -> None:
    """Write an answer on stdout as one indented JSON object."""
    print_line(answer.model_dump_json(indent=2))


def print_line(document: str) -> None:
    """Write a JSON document on stdout, and let its reader have it now; what could move a terminal is escaped in it."""
    escaped = (one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in document)
    _write_line(document if document.isprintable() else "".join(escaped))


def print_fields(fields: Sequence[str]) -> None:
    """Write one line of an answer on stdout, with a tab between its fields, and let its reader have it now."""
    _write_line("\t".join(map(_printable, fields)))


def _write_line(text: str) -> None:
    stream = _answers or sys.stdout
    stream.write(text + "\n")
    stream.flush()


def answers_on_terminal() -> bool:
    """Whether lines of an answer would run into a bar drawn on the same terminal."""
    return (_answers or sys.stdout).isatty()


def print_error(error: FtxError) -> None:
    """What, where, found, fix."""
    text = Text.assemble(("error: ", _STYLES["bad"]), (_printable(error.what), _STYLES["strong"]))
    for heading, detail in error.details():
        text.append(f"\n  {heading}: ", style=_STYLES["dim"])
        text.append("\n    ".join(map(_printable, detail.split("\n"))))
    _stderr().print(text, soft_wrap=True)


def print_note(text: str, style: Style = "plain") -> None:
    """One line beside the answer, on stderr."""
    _stderr().print(Text(_printable(text), style=_STYLES[style]), soft_wrap=True)


def width() -> int:
    """Columns that an answer may take."""
    return _stdout().width


def print_facts(facts: Sequence[tuple[str, str]], style: Style = "plain") -> None:
    """Lines of a name and a value, on stdout, the values below each other."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        line = Text.assemble((name.ljust(width), _STYLES["dim"]), "  ", (_printable(value), _STYLES[style]))
        _stdout().print(line, soft_wrap=True)


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    styles: Sequence[Style] = (),
    title: str | None = None,
    spare: Sequence[str] = (),
) -> None:
    """A table on stdout; a column whose cells are all numbers stands flush right, ``styles`` has one entry a row.

    Where the terminal is narrower than the table, ``spare`` columns are left out, the first of them first.
    """
    widths = {name: max(map(len, cells)) for name, *cells in zip(columns, columns, *rows, strict=True)}
    left_out: list[str] = []
    while len(left_out) < len(spare) and sum(widths.values()) + len(widths) - 1 > width():
        left_out.append(spare[len(left_out)])
        del widths[left_out[-1]]
    if left_out:
        kept = [at for at, name in enumerate(columns) if name in widths]
        columns, rows = [columns[at] for at in kept], [[row[at] for at in kept] for row in rows]
    headers: list[Column] = []
    for index, name in enumerate(columns):
        numeric = bool(rows) and all(_is_figure(row[index]) for row in rows)
        # On a narrow terminal names are folded; half a number is none.
        headers.append(Column(Text(name), justify="right" if numeric else "left", overflow="fold", no_wrap=numeric))
    table = Table(*headers, header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, row in enumerate(rows):
        table.add_row(
            *(Text(_printable(cell)) for cell in row),
            style=_STYLES[styles[index]] if styles else "",
        )
    console = _stdout()
    if sum(max(map(len, column)) + 2 for column in zip(columns, *rows, strict=True)) > console.width:
        table.padding = (0, 1, 0, 0)
    if title:
        console.print(_title(title), soft_wrap=True)
    console.print(table)
    if left_out:
        print_note(f"the terminal is too narrow for: {', '.join(left_out)}; --json has all", "dim")


@dataclass(frozen=True)
class Node:
    """A line of a tree: a name, what stands behind it, and the lines below."""

    name: str
    behind: str = ""
    below: Sequence[Node] = ()


def print_tree(title: str, nodes: Sequence[Node]) -> None:
    """A tree on stdout."""

    def grow(tree: Tree, node: Node) -> None:
        branch = tree.add(Text.assemble(_printable(node.name), ("  " + _printable(node.behind), _STYLES["dim"])))
        for one in node.below:
            grow(branch, one)

    root = Tree(_title(title))
    for node in nodes:
        grow(root, node)
    _stdout().print(root)


def bar(share: float, width: int = 20) -> str:
    """A share in [0, 1] as a bar of blocks; what is above 0 is seen."""
    try:
        "█".encode(sys.stdout.encoding or "ascii")
        block = "█"
    except UnicodeEncodeError:
        block = "#"
    return block * max(round(share * width), 1 if share > 0 else 0)


def _title(text: str) -> Text:
    """A line in bold; a line break at its beginning leaves one free before it."""
    return Text("\n" * text.startswith("\n") + _printable(text.lstrip("\n")), style=_STYLES["strong"])


def _printable(text: str) -> str:
    """Without what a file's name may hold to colour or move the terminal, or to look like a line of its own."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _is_figure(cell: str) -> bool:
    return cell in ("", "-", ".") or cell.lstrip("+-")[:1].isdigit()


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # Rich would end the program with status 1, which is a failed gate's.
        raise BrokenPipeError


def _stdout() -> Console:
    stream = sys.stdout
    return _Console(file=stream, highlight=False, width=None if stream.isatty() else _UNBOUNDED_WIDTH)


class _Unheard:
    """A stream whose reader may go away: what is said beside the answer must not stop the work."""

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


def _stderr() -> Console:
    stream = cast("TextIO", _Unheard(sys.stderr))
    return _Console(file=stream, highlight=False, width=None if stream.isatty() else _UNBOUNDED_WIDTH)


class _Count(ProgressColumn):
    """``128/960``, or ``128`` where the total is unknown."""

    def render(self, task: RichTask) -> Text:
        total = "" if task.total is None else f"/{task.total:.0f}"
        return Text(f"{task.completed:.0f}{total}")


class _Speed(ProgressColumn):
    """Steps a second; a step is an image wherever images are worked through."""

    def render(self, task: RichTask) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.{0 if speed >= 10 else 1}f}/s", style="dim")


class _BarTask:
    def __init__(self, bars: Progress, task: RichTask) -> None:
        self._bars = bars
        self._task = task

    def advance(self, steps: int = 1, **fields: str) -> None:
        if fields:
            text = "  ".join(f"{name.replace('_', ' ')} {value}" for name, value in fields.items())
            self._bars.update(self._task.id, shown=text)
        self._bars.advance(self._task.id, steps)


class TerminalProgress:
    """ftx.core.progress.Progress drawn on stderr: bars on a terminal, notes as plain lines anywhere else."""

    def __init__(self, *, bars: bool = True) -> None:
        self._console = _stderr()
        # FORCE_COLOR asks for colours, not for a bar redrawn ten times a second into a log file.
        self._drawn = bars and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._open = 0
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            _Count(),
            TextColumn("{task.fields[shown]}", markup=False, style="cyan"),
            _Speed(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self._console,
            transient=True,
        )

    @contextmanager
    def track(self, description: str, total: int | None) -> Generator[ProgressTask]:
        if not self._drawn:
            with SILENT.track(description, total) as task:
                yield task
            return
        task_id = self._bars.add_task(description, total=total, shown="")
        if self._open == 0:
            self._bars.start()
        self._open += 1
        try:
            yield _BarTask(self._bars, next(task for task in self._bars.tasks if task.id == task_id))
        finally:
            self._open -= 1
            self._bars.remove_task(task_id)
            if self._open == 0:
                self._bars.stop()

    def note(self, text: str) -> None:
        self._console.print(Text(_printable(text)), soft_wrap=True)

    def note_epoch(self, end: EpochEnd) -> None:
        """Say what came of an epoch."""
        self.note(str(end))
