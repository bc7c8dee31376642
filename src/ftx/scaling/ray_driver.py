"""The process that leads Ray's workers: ``python -m`` this, by ``ftx.scaling.on_ray``, which it tells what is done.

A process of its own, as Ray's library ends the one that it runs in where the cluster goes away, and prints as it likes.
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
from pydantic import BaseModel, ConfigDict

from ftx.core.child_process import Fault
from ftx.core.errors import EnvironmentFault, FtxError
from ftx.runtimes import load
from ftx.scaling.job import as_lines
from ftx.scaling.parts import Part

MODULE = "ftx.scaling.ray_driver"
# Of one worker: more threads on one image bring less and less.
_CORES = 4
# Workers that were lost at the same images, which Ray itself would give to another for ever.
_MOST_LOST = 5
_KNOCK_S = 10
GO_ON = "run the command again: it goes on with the parts that are left"
# What Ray prints of itself, and reports to its makers, unless the user says otherwise.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class Setting(BaseModel):
    """The first line that the process is given: the model's folder, and as ``on_ray``; the second are parts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path
    scores: bool
    address: str | None
    workers: int | None


class Told(BaseModel):
    """A line that the process says: how many ``workers`` there are, a part that is done, an error, or the end."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workers: int | None = None
    nth: int | None = None
    lines: str = ""
    lost: int = 0
    fault: Fault | None = None
    ended: bool = False


class Foreman:
    """What all workers of a job ask for, also those that are started again: the model, and who was lost where."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files, self._begun = files, Counter[int]()

    def model(self) -> Mapping[str, bytes]:
        """The files of the model, by name."""
        return self._files

    def begin(self, nth: int) -> int:
        """How many workers have begun with this part before."""
        self._begun[nth] += 1
        return self._begun[nth] - 1


class Worker:
    """A process that answers parts: its model, on the cores that are its share of the machine."""

    def __init__(self, foreman: str, scores: bool, cores: int, here: str | None) -> None:
        import ray

        if here is not None:
            _go_to(here)
        self._cores = _own_cores(cores)
        self._foreman: Any = ray.get_actor(foreman)
        self._folder = tempfile.TemporaryDirectory(prefix="ftx-model-")
        files: Mapping[str, bytes] = _get(self._foreman.model.remote())
        for name, content in files.items():
            Path(self._folder.name, name).write_bytes(content)
        self._predictor, self._scores = load(Path(self._folder.name), goal="throughput"), scores

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Answer the parts of a batch. Columns ``nth`` and ``part`` to ``nth``, ``lines`` and ``lost``."""
        answered: dict[str, list[Any]] = {"nth": [], "lines": [], "lost": []}
        for nth, text in zip(batch["nth"], batch["part"], strict=True):
            lost: int = _get(self._foreman.begin.remote(int(nth)))
            part = Part.from_json(str(text))
            if lost < _MOST_LOST:
                answers = part.answered(self._predictor, scores=self._scores)
            else:
                answers = part.refused(
                    f"{lost} workers were lost, one after the other, at this image or those beside it"
                )
            lines = as_lines(answers)
            for column, value in (("nth", int(nth)), ("lines", lines), ("lost", lost)):
                answered[column].append(value)
        return answered


def _go_to(folder: str) -> None:
    """Go where the command was given, as paths of images count from there. Raises: RuntimeError."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise RuntimeError(
            f"a worker's machine has no {folder}, from which the images are looked for: {error.strerror}"
        ) from error


def _get(reference: Any) -> Any:
    """What a call of another process answered."""
    import ray

    return ray.get(reference)


def _own_cores(number: int) -> list[FileLock]:
    """Keep this process to cores that no other worker on this machine has; the locks go with the process."""
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
    for lock in held.values():  # of too few cores none is its own
        lock.release()
    return []


def lead(asked: Setting, parts: Iterator[str]) -> Iterator[Told]:
    """Answer parts, given as one line of JSON once the number of workers is told.

    Raises: EnvironmentFault if there is no Ray at the address, or it ends the work.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    try:
        _knock(asked.address)
        ray.init(
            address=asked.address or os.environ.get("RAY_ADDRESS") or "local",
            log_to_driver=False,
            configure_logging=False,
        )
        number, cores = shares(ray.nodes(), asked.workers)
    except EnvironmentFault:
        raise
    except Exception as error:  # ConnectionError, RuntimeError, TimeoutError, and others of grpc
        raise EnvironmentFault(
            "Ray is not there",
            where=asked.address or os.environ.get("RAY_ADDRESS"),
            found=_said(error),
            fix="start it (ray start --head), check the address, or leave --engine ray out",
        ) from error
    yield Told(workers=number)
    given: list[tuple[int, str]] = json.loads(next(parts))
    files = {path.name: path.read_bytes() for path in asked.folder.iterdir() if path.is_file()}
    name = f"ftx-{secrets.token_hex(8)}"
    try:
        # It stays for as long as something refers to it.
        foreman = ray.remote(num_cpus=0)(Foreman).options(name=name).remote(files)
        here = str(Path.cwd()) if any(Part.from_json(text).counts_from_here for _, text in given) else None
        for row in _answered(given, number, cores, (name, asked.scores, cores, here)):
            yield Told(nth=int(row["nth"]), lines=str(row["lines"]), lost=int(row["lost"]))
        del foreman
    except Exception as error:  # whatever ended the work there
        raise EnvironmentFault("Ray ended the work", where=asked.address, found=_said(error), fix=GO_ON) from error
    ray.shutdown()
    yield Told(ended=True)


def _answered(
    parts: Sequence[tuple[int, str]], workers: int, cores: int, given: Sequence[object]
) -> Iterator[Mapping[str, Any]]:
    from ray.data import ActorPoolStrategy, DataContext, from_items

    DataContext.get_current().enable_progress_bars = False
    rows = [{"nth": nth, "part": part} for nth, part in parts]
    answered = from_items(rows, override_num_blocks=len(rows)).map_batches(
        Worker, batch_size=1, compute=ActorPoolStrategy(size=workers), num_cpus=cores, fn_constructor_args=given
    )
    yield from answered.iter_rows()


def _knock(address: str | None) -> None:
    """Find out in seconds whether anything is at an address, for which Ray itself takes minutes. Raises: OSError."""
    host, _, port = (address or os.environ.get("RAY_ADDRESS", "")).rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


def shares(nodes: Sequence[Mapping[str, Any]], workers: int | None) -> tuple[int, int]:
    """How many workers there are, at most one a core, and the most cores that each of them can have."""
    paid = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
    usable = [cpus for cpus in paid if cpus]
    if not usable:
        raise EnvironmentFault("this Ray has no cores", fix="start machines with cores: ray start --num-cpus N")
    number = min(workers or sum(max(1, cpus // _CORES) for cpus in usable), sum(usable))
    fitting = (cores for cores in range(max(usable), 0, -1) if sum(cpus // cores for cpus in usable) >= number)
    return number, next(fitting)


def _said(error: Exception) -> str:
    """The last line of what Ray says: it quotes the workers' tracebacks before."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


def main() -> None:
    """Say on the stdout that was given what is told, and nothing else: what Ray prints goes to stderr."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        logging.disable(logging.CRITICAL)
        asked, parts = Setting.model_validate_json(sys.stdin.readline()), iter(sys.stdin)
        try:
            for told in lead(asked, parts):
                out.write(f"{told.model_dump_json()}\n")
                out.flush()
        except FtxError as error:
            out.write(f"{Told(fault=Fault.of(error)).model_dump_json()}\n")


if __name__ == "__main__":
    main()
