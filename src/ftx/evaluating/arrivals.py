"""Images that come one after the other: named on standard input, or appearing in a folder that is watched."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TextIO

from ftx.core.errors import InputError
from ftx.core.files import disk_faults
from ftx.data.sources.listing import IMAGE_ENDINGS
from ftx.evaluating.predict import path_text

POLL_S = 0.3
# In the watched folder: a line for each image that was answered, so that a restart goes on behind it.
ANSWERED_FILE = ".ftx-answered"
# Of those that wait on standard input, so that the first answers come before all paths are read.
MOST_AT_ONCE = 64


def named_on(stream: TextIO) -> Iterator[list[str]]:
    """Paths, one a line: those that are there, as soon as one is.

    A line that is empty names nothing.
    """
    lines: SimpleQueue[str | None] = SimpleQueue()

    def read() -> None:
        for line in stream:
            lines.put(line.rstrip("\r\n"))
        lines.put(None)

    threading.Thread(target=read, name="ftx-stdin", daemon=True).start()
    ended = False
    while not ended:
        line = lines.get()
        batch: list[str] = []
        while line is not None and len(batch) < MOST_AT_ONCE:
            batch.append(line)
            try:
                line = lines.get_nowait()
            except Empty:
                break
        else:
            ended = line is None
            if line is not None:  # one too many is the first of the next
                batch.append(line)
        named = [path for path in batch if path]
        if named:
            yield named


class WatchedFolder:
    """The images in and below a folder, once each: as they appear, and not those that an earlier watch answered.

    An image is known by its path, size and time of change: one that is written anew is another. One that still grows
    is waited for.
    """

    def __init__(self, folder: Path, *, sleep: Callable[[float], object] = time.sleep) -> None:
        """Read which images were answered.

        Raises: InputError if this is no folder; EnvironmentFault if it cannot be written.
        """
        if not folder.is_dir():
            raise InputError("there is no such folder to watch", where=folder, fix="make it, or name another")
        self.folder = folder
        self._sleep = sleep
        self._kept = folder / ANSWERED_FILE
        with disk_faults(self._kept):
            self._kept.touch()
            self._answered = set(self._kept.read_text(encoding="utf-8", errors="surrogateescape").splitlines())
        self._seen: dict[str, str] = {}

    def __iter__(self) -> Iterator[list[Path]]:
        """Images that are there and whole, and then what arrives, without an end."""
        while True:
            whole = self._whole()
            if whole:
                yield whole
            self._sleep(POLL_S)

    def answered(self, path: str) -> None:
        """Keep that an image has its answer, once that was handed on: after a kill in between it would come again.

        ``path`` is as the answer has it.
        """
        key = self._seen.pop(path, None)
        if key is None:
            return
        self._answered.add(key)
        with disk_faults(self._kept), self._kept.open("a", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(f"{key}\n")

    def _whole(self) -> list[Path]:
        """Those that are as they were a moment ago."""
        before, self._seen = self._seen, {}
        whole: list[Path] = []
        for path in self._images():
            try:
                found = path.stat()
            except OSError:  # gone again
                continue
            key = f"{path.relative_to(self.folder)!s}\t{found.st_size}\t{found.st_mtime_ns}".replace("\n", "\\n")
            if key not in self._answered:
                name = path_text(str(path))
                self._seen[name] = key
                if before.get(name) == key and found.st_size > 0:
                    whole.append(path)
        return whole

    def _images(self) -> Iterator[Path]:
        for folder, subfolders, names in os.walk(self.folder):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in sorted(names):
                if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_ENDINGS:
                    yield Path(folder, name)
