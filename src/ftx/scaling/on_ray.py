"""Parts of a job on Ray Data: worker processes on one machine or many, each with its own model and cores.

Ray places the workers, gives each the next part, restarts a worker that was lost and gives its part to another. The
model is sent as bytes, so that a machine needs only ftx and the images.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from ftx.core.errors import EnvironmentFault
from ftx.core.progress import Progress
from ftx.scaling.parts import JobPart
from ftx.scaling.ray_driver import MODULE, RESUME, DriverMessage, WorkerSetup

# Seconds for the driver process to end, before it is killed.
_END_S = 15
# Marks lines of Ray's log that are news, and not the reason why it ended.
_NEWS = ":info_message:"


class RayWorkers:
    """A running Ray with ``number`` workers, which all predict with one model."""

    def __init__(self, driver: subprocess.Popen[str], log: IO[bytes], setup: WorkerSetup, progress: Progress) -> None:
        self._driver, self._log, self._address, self._progress = driver, log, setup.address, progress
        self._send(setup.model_dump_json())
        self.number = self._next().workers or 0

    def lines_of(self, parts: Sequence[tuple[int, JobPart]]) -> Iterator[tuple[int, str]]:
        """Predict parts. Raises: EnvironmentFault if Ray ends the work, or itself."""
        self._send(json.dumps([(nth, part.to_json()) for nth, part in parts]))
        while not (message := self._next()).ended:
            assert message.nth is not None
            if message.lost:
                self._progress.note("a worker was lost; another one predicted its images again")
            yield message.nth, message.lines

    def _send(self, line: str) -> None:
        assert self._driver.stdin is not None
        try:
            self._driver.stdin.write(f"{line}\n")
            self._driver.stdin.flush()
        except BrokenPipeError:
            pass  # its log has the reason

    def _next(self) -> DriverMessage:
        assert self._driver.stdout is not None
        line = self._driver.stdout.readline()
        if not line.endswith("\n"):
            self._log.seek(0)
            log = self._log.read().decode(errors="replace").strip()
            lines = [line for line in log.splitlines() if _NEWS not in line]
            found = lines[-1][:300] if lines else f"exit status {self._driver.wait()}"
            raise EnvironmentFault("Ray ended unexpectedly", where=self._address, found=found, fix=RESUME)
        message = DriverMessage.model_validate_json(line)
        if message.fault is not None:
            raise message.fault.as_error()
        return message


@contextmanager
def ray_workers(setup: WorkerSetup, progress: Progress) -> Generator[RayWorkers]:
    """Workers that predict with the exported model in a folder, while the block lasts.

    Raises: EnvironmentFault if there is no Ray at the address.
    """
    with tempfile.TemporaryFile() as log:
        driver = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            encoding="utf-8",
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        with driver:
            try:
                yield RayWorkers(driver, log, setup, progress)
            finally:
                driver.terminate()
                try:
                    driver.wait(_END_S)
                except subprocess.TimeoutExpired:
                    driver.kill()
