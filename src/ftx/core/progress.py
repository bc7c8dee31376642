"""How long work reports its progress, without knowing who listens; and the time that a part of it takes.

Library functions take ``progress``. The command line passes one that draws; Python callers get ``SILENT`` unless they
pass another, as ``NOTES_ONLY`` in a notebook.
"""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Protocol


class ProgressTask(Protocol):
    """One stretch of work with a known or unknown number of steps."""

    def advance(self, steps: int = 1, **fields: str) -> None:
        """Report steps done; ``fields`` are shown next to the bar (``loss="0.41"``)."""
        ...


class Progress(Protocol):
    """A listener."""

    def track(self, description: str, total: int | None) -> AbstractContextManager[ProgressTask]:
        """Begin a stretch of ``total`` steps; None if the number is unknown."""
        ...

    def note(self, text: str) -> None:
        """Show a line of its own."""
        ...


class _SilentTask:
    def advance(self, steps: int = 1, **fields: str) -> None:
        pass


class _Silent:
    def track(self, description: str, total: int | None) -> AbstractContextManager[ProgressTask]:
        return nullcontext(_SilentTask())

    def note(self, text: str) -> None:
        pass


class _NotesOnly(_Silent):
    def note(self, text: str) -> None:
        print(text, file=sys.stderr)  # noqa: T201


SILENT: Progress = _Silent()
# Notes as plain lines on stderr, which a notebook shows below the cell.
NOTES_ONLY: Progress = _NotesOnly()


class Stopwatch:
    """Seconds that a part of the work takes, added up over all its blocks; one block at a time."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds += time.perf_counter() - self._started
