"""How long work tells that it moves on, without knowing who listens.

Library functions take ``progress``; the command line hands them one that draws, Python callers get
``SILENT`` unless they ask for more, and in a notebook ``SPOKEN``.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Task(Protocol):
    """One stretch of work with a known or unknown number of steps."""

    def advance(self, steps: int = 1, **fields: str) -> None:
        """Report steps done; ``fields`` are shown beside the bar (``loss="0.41"``)."""
        ...


class Progress(Protocol):
    """Whoever listens."""

    def track(self, description: str, total: int | None) -> AbstractContextManager[Task]:
        """Begin a stretch of ``total`` steps; None where the number is unknown."""
        ...

    def note(self, text: str) -> None:
        """Say one thing worth a line of its own."""
        ...


class _SilentTask:
    def advance(self, steps: int = 1, **fields: str) -> None:
        pass


class _Silent:
    def track(self, description: str, total: int | None) -> AbstractContextManager[Task]:
        return nullcontext(_SilentTask())

    def note(self, text: str) -> None:
        pass


class _Spoken(_Silent):
    def note(self, text: str) -> None:
        print(text, file=sys.stderr)  # noqa: T201


SILENT: Progress = _Silent()
# Notes as plain lines on stderr, which a notebook shows below the cell.
SPOKEN: Progress = _Spoken()
