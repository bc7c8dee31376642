"""A process that has imported what the verbs need, and forks one ``ftx`` for each command line that it is told.

Such a child is as fresh as ``python -m ftx``: it has opened no run, no model and no image. It only comes without the
4 seconds in which torch and timm are imported. A command line is one line of JSON on stdin, its status one on stdout.
A process that forks must have no threads, so nothing is computed here, and OpenVINO and ONNX Runtime, which start
some when they are imported, are left to the children.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
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


class Zygote:
    """The tests' side: ``ftx("merge", run, cwd=folder)`` gives what ``subprocess.run`` would."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder = process, folder

    def __call__(self, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        words = [str(argument) for argument in arguments]
        paths = [self._folder / name for name in ("stdout", "stderr")]
        told = {"words": words, "cwd": str(cwd or self._folder), "streams": [str(path) for path in paths]}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        return subprocess.CompletedProcess(["ftx", *words], status, *(path.read_text() for path in paths))


@contextmanager
def zygote(folder: Path) -> Iterator[Zygote]:
    """One for as long as the block lasts; commands run in ``folder`` unless told otherwise."""
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
        yield Zygote(process, folder)
        assert process.stdin is not None
        process.stdin.close()


def serve() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a thread would be missing in the children"
    for line in sys.stdin:
        told = json.loads(line)
        child = os.fork()
        if child == 0:
            for number, path in enumerate([os.devnull, *told["streams"]]):
                os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | (os.O_TRUNC if number else 0)), number)
            os.chdir(told["cwd"])
            sys.argv = ["ftx", *told["words"]]
            importlib.import_module("ftx.cli.app").main()
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
