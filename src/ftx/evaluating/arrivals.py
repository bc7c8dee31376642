"""Images that come one after the other: named on standard input, or appearing in a folder that is watched."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TextIO

from ftx.core.disk import disk_faults
from ftx.core.errors import EnvironmentFault, InputError, shell_command
from ftx.core.progress import SILENT, Progress
from ftx.data.sources.listing import IMAGE_ENDINGS
from ftx.evaluating.predict import path_text

POLL_S = 0.3
# In the watched folder: a line for each image that was predicted, so that a restart resumes after it.
PREDICTED_FILE = ".ftx-answered"
# Of those that wait on standard input, so that the first predictions come before all paths are read.
MOST_AT_ONCE = 64


def named_on(stream: TextIO) -> Iterator[list[str]]:
    """Paths, one a line: those that are there, as soon as one is.

    A line that is empty names nothing.
    """
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="surrogateescape")  # as file names are, whatever bytes they are made of
    lines: SimpleQueue[str | BaseException | None] = SimpleQueue()

    def read() -> None:
        try:
            for line in stream:
                lines.put(line.rstrip("\r\n"))
            lines.put(None)
        except BaseException as error:
            lines.put(error)

    threading.Thread(target=read, name="ftx-stdin", daemon=True).start()
    while True:
        batch = [lines.get()]
        with suppress(Empty):
            while len(batch) < MOST_AT_ONCE:
                batch.append(lines.get_nowait())
        named = [path for path in batch if isinstance(path, str) and path]
        if named:
            yield named
        if isinstance(batch[-1], OSError):
            fix = "check the program that writes to it, then run the command again"
            raise EnvironmentFault("standard input cannot be read", found=str(batch[-1]), fix=fix) from batch[-1]
        if isinstance(batch[-1], BaseException):
            raise batch[-1]
        if batch[-1] is None:
            return


class WatchedFolder:
    """The images in and below a folder, once each: as they appear, and not those that an earlier watch predicted.

    An image is known by its path, size and time of change: one that is written again is another. One that still grows
    is waited for.
    """

    def __init__(
        self, folder: Path, *, progress: Progress = SILENT, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        """Read which images were predicted.

        Raises: InputError if this is no folder; EnvironmentFault if it cannot be written.
        """
        if not folder.is_dir():
            raise InputError(
                "--watch must be a folder", where=folder, fix=f"create it: {shell_command('mkdir', folder)}"
            )
        self.folder = folder
        self._progress, self._sleep = progress, sleep
        self._kept = folder / PREDICTED_FILE
        with disk_faults(self._kept):
            self._kept.touch()
            *whole, torn = self._kept.read_bytes().split(b"\n")
            self._predicted = set(whole)
            if torn:  # a line whose end was lost with the power: its image comes again
                self._keep(b"\n")
        self._seen: dict[str, bytes] = {}
        self._unreadable: set[str] = set()

    def __iter__(self) -> Iterator[list[Path]]:
        """Images that are there and whole, and then what arrives, without an end."""
        while True:
            whole = self._whole()
            if whole:
                yield whole
            self._sleep(POLL_S)

    def predicted(self, path: str) -> None:
        """Keep that an image has its prediction, once that was handed on: after a kill in between it would come again.

        ``path`` is as the prediction has it.
        """
        key = self._seen.pop(path, None)
        if key is None:
            return
        self._predicted.add(key)
        self._keep(key + b"\n")

    def _keep(self, line: bytes) -> None:
        with disk_faults(self._kept), self._kept.open("ab") as stream:
            stream.write(line)

    def _whole(self) -> list[Path]:
        """Those that are as they were a moment ago."""
        before, self._seen = self._seen, {}
        whole: list[Path] = []
        for path in self._images():
            try:
                found = path.stat()
            except OSError:  # gone again
                continue
            in_one_line = os.fsencode(path.relative_to(self.folder)).replace(b"\n", b"\\n")
            key = b"%b\t%d\t%d" % (in_one_line, found.st_size, found.st_mtime_ns)
            if key not in self._predicted:
                name = path_text(str(path))
                self._seen[name] = key
                if before.get(name) == key and found.st_size > 0:
                    whole.append(path)
        return whole

    def _images(self) -> Iterator[Path]:
        for folder, subfolders, names in os.walk(self.folder, onerror=self._unread):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in sorted(names):
                if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_ENDINGS:
                    yield Path(folder, name)

    def _unread(self, error: OSError) -> None:
        """Say once which folder below cannot be read, and end where the watched one is gone.

        Raises: EnvironmentFault.
        """
        where = str(error.filename)
        if where == str(self.folder):
            raise EnvironmentFault(
                "the watched folder cannot be read any more",
                where=where,
                found=error.strerror,
                fix="make it readable, then run the command again",
            ) from error
        if Path(where).is_dir() and where not in self._unreadable:
            self._unreadable.add(where)
            self._progress.note(f"{path_text(where)} cannot be read: {error.strerror}")
