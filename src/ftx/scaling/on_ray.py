"""Parts of a job on Ray Data: worker processes on one machine or many, each with a model and cores of its own.

Ray places the workers, gives each the next part, starts one again that was lost and gives its part to another. The
model travels as bytes, so that a machine needs ftx and the images, and nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ftx.core.errors import EnvironmentFault
from ftx.core.progress import Progress
from ftx.scaling.parts import Part
from ftx.scaling.ray_driver import GO_ON, MODULE, Setting, Told

# What a process that is asked to end takes, until it is made to.
_END_S = 15
# In lines of Ray that say how it goes on, and not why it ended.
_NEWS = ":info_message:"


class RayWorkers:
    """A Ray whose workers answer parts by one model; ``number`` is how many they are."""

    def __init__(self, leader: subprocess.Popen[str], said: IO[bytes], asked: Setting, progress: Progress) -> None:
        self._leader, self._said, self._asked, self._progress = leader, said, asked, progress
        self._tell(asked.model_dump_json())
        self.number = self._next().workers or 0

    def __call__(self, parts: Sequence[tuple[int, Part]]) -> Iterator[tuple[int, str]]:
        """Answer parts. Raises: EnvironmentFault if Ray ends the work, or goes away."""
        self._tell(json.dumps([(nth, part.to_json()) for nth, part in parts]))
        while not (told := self._next()).ended:
            assert told.nth is not None
            if told.lost:
                self._progress.note("a worker was lost; the images that it had were done again by another")
            yield told.nth, told.lines

    def _tell(self, line: str) -> None:
        assert self._leader.stdin is not None
        try:
            self._leader.stdin.write(f"{line}\n")
            self._leader.stdin.flush()
        except BrokenPipeError:
            pass  # what it said last tells why

    def _next(self) -> Told:
        assert self._leader.stdout is not None
        line = self._leader.stdout.readline()
        if not line.endswith("\n"):
            self._said.seek(0)
            text = self._said.read().decode(errors="replace").strip()
            lines = [line for line in text.splitlines() if _NEWS not in line]
            found = lines[-1][:300] if lines else f"exit status {self._leader.wait()}"
            raise EnvironmentFault("Ray went away", where=self._asked.address, found=found, fix=GO_ON)
        told = Told.model_validate_json(line)
        if told.fault is not None:
            raise told.fault.as_error()
        return told


@contextmanager
def ray_workers(
    folder: Path, *, scores: bool, address: str | None, workers: int | None, progress: Progress
) -> Generator[RayWorkers]:
    """Workers that answer parts by the exported model in a folder, for as long as the block lasts.

    ``address`` is that of a cluster; without one RAY_ADDRESS, or a Ray that is started here.
    Raises: EnvironmentFault if there is no Ray at the address.
    """
    with tempfile.TemporaryFile() as said:
        leader = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            encoding="utf-8",
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        with leader:
            try:
                asked = Setting(folder=folder.absolute(), scores=scores, address=address, workers=workers)
                yield RayWorkers(leader, said, asked, progress)
            finally:
                if leader.poll() is None:
                    leader.terminate()
                    try:
                        leader.wait(_END_S)
                    except subprocess.TimeoutExpired:
                        leader.kill()
