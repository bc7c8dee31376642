"""A process that has imported what the commands need, and forks one ``ftx`` for each command line that it gets.

Such a child is as fresh as ``python -m ftx``: it has opened no run, no model and no image. It only comes without the
4 seconds in which torch and timm are imported. A command line is one line of JSON on stdin, its status one on stdout.
A process that forks must have no threads, so nothing is computed here, and OpenVINO and ONNX Runtime, which start
some when they are imported, are left to the children.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

IMPORTED = (
    "torch",
    "timm",
    "ftx.cli.app",
    "ftx.cli.console",
    "ftx.merging.combine_adapters",
    "ftx.merging.merge_and_prove",
    "ftx.training",
)
READY = "ready\n"
LONGEST_S = 600  # a process that takes longer hangs: the slowest command of the tests takes a tenth of it


class Zygote:
    """The tests' side: ``ftx("merge", run, cwd=folder)`` gives what ``subprocess.run`` would.

    With ``ranks`` as many processes as torchrun would start, each with its own number. They share their streams, and
    the status is that of the first that failed. A ``program`` runs in the place of ftx.
    """

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder = process, folder

    def __call__(
        self,
        *arguments: str | Path,
        cwd: Path | None = None,
        ranks: int = 1,
        program: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        words = [str(argument) for argument in arguments]
        paths = [self._folder / name for name in ("stdout", "stderr")]
        order = {
            "words": words,
            "cwd": str(cwd or self._folder),
            "streams": [str(path) for path in paths],
            "program": str(program) if program else None,
            "environments": [{**(environment or {}), **one} for one in (environments(ranks) if ranks > 1 else [{}])],
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        if status == -signal.SIGALRM:
            raise TimeoutError(f"ftx {' '.join(words)} took over {LONGEST_S} s: {paths[1].read_text()}")
        return subprocess.CompletedProcess(["ftx", *words], status, *(path.read_text() for path in paths))


def environments(ranks: int) -> list[dict[str, str]]:
    """The variables that torchrun sets for each process of one machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    all_have = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    each = [{**all_have, "RANK": rank, "LOCAL_RANK": rank} for rank in range(ranks)]
    return [{name: str(value) for name, value in one.items()} for one in each]


@contextmanager
def zygote(folder: Path) -> Iterator[Zygote]:
    """One for as long as the block lasts; commands run in ``folder`` unless another is named."""
    # One thread: the tests may share the cores, and OpenMP's threads wait for each other by spinning.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=folder,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == READY
        yield Zygote(process, folder)
        assert process.stdin is not None
        process.stdin.close()


def serve() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a thread would be missing in the children"
    sys.stdout.write(READY)
    sys.stdout.flush()
    for line in sys.stdin:
        order = json.loads(line)
        # Opened once: several processes write one after the other, not over each other.
        streams = [os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC) for path in order["streams"]]
        children = [start(order, environment, streams) for environment in order["environments"]]
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        for stream in streams:
            os.close(stream)
        hung = [status for status in statuses if status == -signal.SIGALRM]
        sys.stdout.write(f"{next(filter(None, [*hung, *statuses]), 0)}\n")
        sys.stdout.flush()


def start(order: dict[str, object], environment: dict[str, str], streams: list[int]) -> int:
    """Fork one process, which runs its command line and ends."""
    child = os.fork()
    if child:
        return child
    for number, stream in enumerate([os.open(os.devnull, os.O_RDONLY), *streams]):
        os.dup2(stream, number)
    os.environ.update(environment)
    os.chdir(str(order["cwd"]))
    signal.alarm(LONGEST_S)
    sys.argv = ["ftx", *order["words"]]  # pyright: ignore[reportGeneralTypeIssues]
    if order["program"] is None:
        importlib.import_module("ftx.cli.app").main()
    else:
        runpy.run_path(str(order["program"]), run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    serve()
