"""The process that drives Ray: ``ftx.scaling.on_ray`` starts it with ``python -m`` and reads its messages.

It is a separate process because Ray's library ends its own process if the cluster fails, and prints as it likes.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ftx.core.child_process import Fault
from ftx.core.closed_model import ClosedModel
from ftx.core.errors import EnvironmentFault, FtxError
from ftx.runs.calibration import COVERAGE
from ftx.runtimes import load
from ftx.scaling.parts import JobPart
from ftx.scaling.resumable_job import as_lines

MODULE = "ftx.scaling.ray_driver"
RESUME = "run the command again: it resumes with the parts that are left"
# Cores of one worker: further threads for one image bring less and less.
_CORES = 4
# Workers lost at the same images, before these get an error. Ray itself would try them for ever.
_MOST_LOST = 5
_CONNECT_S = 10
# Ray's own messages, and its reports to its makers, are off unless the user sets these variables.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class WorkerSetup(ClosedModel):
    """The first line on the driver's stdin. The second line contains the parts."""

    folder: Path
    scores: bool
    coverage: float = COVERAGE
    address: str | None
    workers: int | None


class DriverMessage(ClosedModel):
    """A line on the driver's stdout: the number of ``workers``, a part that is done, an error, or the end."""

    workers: int | None = None
    nth: int | None = None
    lines: str = ""
    lost: int = 0
    fault: Fault | None = None
    ended: bool = False


class Coordinator:
    """What all workers of a job share, also those that are restarted: the model's ``files``, and who was lost where."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files, self._starts = files, Counter[int]()

    def model(self) -> Mapping[str, bytes]:
        """The files of the model, by name."""
        return self._files

    def begin(self, nth: int) -> int:
        """Count a worker that starts on this part; return how many started before."""
        self._starts[nth] += 1
        return self._starts[nth] - 1


class Worker:
    """A process that predicts parts, with its own model and its own cores of the machine."""

    def __init__(self, coordinator: str, scores: bool, coverage: float, cores: int, folder: str | None) -> None:
        import ray

        if folder is not None:  # to which paths of images are relative
            try:
                os.chdir(folder)
            except OSError as error:
                raise RuntimeError(f"a worker's machine has no folder {folder}: {error.strerror}") from error
        self._cores, self._get = _own_cores(cores), ray.get
        self._coordinator: Any = ray.get_actor(coordinator)
        self._folder = tempfile.TemporaryDirectory(prefix="ftx-model-")
        files: Mapping[str, bytes] = self._get(self._coordinator.model.remote())
        for name, content in files.items():
            Path(self._folder.name, name).write_bytes(content)
        self._predictor = load(Path(self._folder.name), goal="throughput", coverage=coverage)
        self._scores = scores

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Predict the parts of a batch. Columns ``nth`` and ``part`` to ``nth``, ``lines`` and ``lost``."""
        done: dict[str, list[Any]] = {"nth": list(map(int, batch["nth"])), "lines": [], "lost": []}
        for nth, text in zip(done["nth"], batch["part"], strict=True):
            lost: int = self._get(self._coordinator.begin.remote(nth))
            part = JobPart.from_json(str(text))
            if lost < _MOST_LOST:
                predictions = part.predictions(self._predictor, scores=self._scores)
            else:
                predictions = part.failed(
                    f"{lost} workers were lost, one after the other, at this image or those next to it"
                )
            done["lines"].append(as_lines(predictions))
            done["lost"].append(lost)
        return done


def _own_cores(number: int) -> list[FileLock]:
    """Keep this process to cores that no other worker of this machine uses. The locks end with the process."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    held: dict[int, FileLock] = {}
    for core in sorted(os.sched_getaffinity(0)):
        lock = FileLock(Path(tempfile.gettempdir(), f"ftx-core-{os.getuid()}-{core}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        held[core] = lock
        if len(held) == number:
            os.sched_setaffinity(0, held)
            return list(held.values())
    for lock in held.values():  # fewer cores than needed: share all of them
        lock.release()
    return []


def lead(setup: WorkerSetup, parts: Iterator[str]) -> Iterator[DriverMessage]:
    """Predict parts, given as one line of JSON after the number of workers was sent.

    Raises: EnvironmentFault if there is no Ray at the address, or it ends the work.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    address = setup.address or os.environ.get("RAY_ADDRESS")
    try:
        _check_reachable(address)
        ray.init(address=address or "local", log_to_driver=False, configure_logging=False)
        nodes = ray.nodes()
    except Exception as error:  # ConnectionError, RuntimeError, TimeoutError, and others of grpc
        fix = "start it (ray start --head), check --address, or run the command without --engine ray"
        raise EnvironmentFault("Ray does not respond", where=address, found=_last_line(error), fix=fix) from error
    number, cores = workers_and_cores(nodes, setup.workers)
    yield DriverMessage(workers=number)
    given: list[tuple[int, str]] = json.loads(next(parts))
    files = {path.name: path.read_bytes() for path in setup.folder.iterdir() if path.is_file()}
    name = f"ftx-{secrets.token_hex(8)}"
    try:
        # It stays while something refers to it.
        coordinator = ray.remote(num_cpus=0)(Coordinator).options(name=name).remote(files)
        folder = str(Path.cwd()) if any(JobPart.from_json(text).is_relative for _, text in given) else None
        for row in _rows(given, number, cores, (name, setup.scores, setup.coverage, cores, folder)):
            yield DriverMessage(nth=int(row["nth"]), lines=str(row["lines"]), lost=int(row["lost"]))
        del coordinator
    except Exception as error:  # whatever ended the work there
        raise EnvironmentFault(
            "Ray ended the work", where=setup.address, found=_last_line(error), fix=RESUME
        ) from error
    ray.shutdown()
    yield DriverMessage(ended=True)


def _rows(
    parts: Sequence[tuple[int, str]], workers: int, cores: int, given: Sequence[object]
) -> Iterator[Mapping[str, Any]]:
    from ray.data import ActorPoolStrategy, DataContext, from_items

    DataContext.get_current().enable_progress_bars = False
    rows = [{"nth": nth, "part": part} for nth, part in parts]
    done = from_items(rows, override_num_blocks=len(rows)).map_batches(
        Worker, batch_size=1, compute=ActorPoolStrategy(size=workers), num_cpus=cores, fn_constructor_args=given
    )
    yield from done.iter_rows()


def _check_reachable(address: str | None) -> None:
    """Raise OSError in seconds if nothing listens at an address. Ray itself would take minutes."""
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()


def workers_and_cores(nodes: Sequence[Mapping[str, Any]], workers: int | None) -> tuple[int, int]:
    """How many workers to start, at most one per core, and the most cores that each of them can have."""
    usable = [cpus for node in nodes if node["Alive"] and (cpus := int(node["Resources"].get("CPU", 0)))]
    if not usable:
        raise EnvironmentFault(
            "the Ray cluster must have at least one CPU core", fix="add CPU cores to it: ray start --num-cpus N"
        )
    number = min(workers or sum(max(1, cpus // _CORES) for cpus in usable), sum(usable))
    fitting = (cores for cores in range(max(usable), 0, -1) if sum(cpus // cores for cpus in usable) >= number)
    return number, next(fitting)


def _last_line(error: Exception) -> str:
    """The last line of Ray's error: the lines before quote the workers' tracebacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


def main() -> None:
    """Write messages to the given stdout, and nothing else: what Ray prints goes to stderr."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        logging.disable(logging.CRITICAL)
        setup, parts = WorkerSetup.model_validate_json(sys.stdin.readline()), iter(sys.stdin)
        try:
            for message in lead(setup, parts):
                out.write(f"{message.model_dump_json()}\n")
                out.flush()
        except FtxError as error:
            out.write(f"{DriverMessage(fault=Fault.of(error)).model_dump_json()}\n")


if __name__ == "__main__":
    main()
