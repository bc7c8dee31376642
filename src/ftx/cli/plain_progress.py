"""Progress where no bar can be drawn, as in a log file: a line every 30 seconds says how far the work is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

# Work that takes less has no line. Logs are read by people who wait: longer silence looks like a stop.
EVERY_S = 30.0


@dataclass
class PlainTask:
    """One stretch of work: how far it is, and the fields of its last step."""

    description: str
    total: int | None
    began: float
    done: int = 0
    fields: dict[str, str] = field(default_factory=dict[str, str])

    def advance(self, steps: int = 1, **fields: str) -> None:
        """Count steps that are done."""
        self.done += steps
        self.fields |= fields

    def line(self, now: float) -> str:
        """As ``Exporting: 1 of 3, artifact openvino/int8, 90 s``."""
        count = [f"{self.done:,} of {self.total:,}"] if self.total else [f"{self.done:,}"] if self.done else []
        parts = [*count, *(f"{name.replace('_', ' ')} {value}" for name, value in self.fields.items())]
        return f"{self.description}: {', '.join([*parts, f'{now - self.began:.0f} s'])}"


class PlainProgress:
    """Prints a line of the innermost work every ``every_s`` seconds, from a thread, as a step may take minutes."""

    def __init__(self, note: Callable[[str], None], every_s: float = EVERY_S) -> None:
        self._note, self._every_s = note, every_s
        self._tasks: list[PlainTask] = []

    @contextmanager
    def track(self, description: str, total: int | None) -> Generator[PlainTask]:
        """Begin a stretch of work."""
        task = PlainTask(description, total, time.monotonic())
        self._tasks.append(task)
        ended = threading.Event()
        if len(self._tasks) == 1:
            threading.Thread(target=self._report, args=(ended,), daemon=True).start()
        try:
            yield task
        finally:
            self._tasks.remove(task)
            ended.set()

    def _report(self, ended: threading.Event) -> None:
        while not ended.wait(self._every_s):
            if tasks := list(self._tasks):
                self._note(tasks[-1].line(time.monotonic()))
