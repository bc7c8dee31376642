"""Processes that have what tests import already loaded, but none of ftx: each is forked, runs pytest once, and ends."""

from __future__ import annotations

import importlib
import json
import os
import resource
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

HEAVY = """torch torch._dynamo torch.onnx torch.export torchvision.transforms.v2 timm openvino onnx onnxruntime
onnxscript nncf nncf.torch peft transformers transformers.models.vit.modeling_vit torchmetrics scipy.stats skimage
pydantic typer rich hypothesis safetensors.torch yaml PIL.Image pytest typer.testing coverage""".split()
LEFT_OUT = frozenset(".git .venv build dist runs data quickstart".split())  # at the root
MEMORY_BYTES = 8 << 30
FILE_BYTES = 2 << 30
HANGS = 60  # looks at it, a second apart, that found none of its processes at work


def load_heavy() -> None:
    """Import what tests need most, on one thread each: a fork lacks the waiting ones of OpenVINO and onnxruntime."""
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in HEAVY:
            importlib.import_module(name)
    import hypothesis

    # Time limits of examples are a matter of the machine's load, and a mutant shall meet the same examples each time.
    hypothesis.settings.register_profile("mutants", deadline=None, derandomize=True, database=None)
    hypothesis.settings.load_profile("mutants")
    assert not any(name.split(".")[0] == "ftx" for name in sys.modules)
    # Started in the background, Ctrl-C is ignored, and what tests start would ignore it as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def copy_tree(root: Path, tree: Path) -> Path:
    """What the tests need of the repository, embedded weights as hard links."""

    def put(source: str, target: str) -> None:
        if Path(source).stat().st_size > 1 << 20:
            try:
                os.link(source, target)
                return
            except OSError:
                pass
        shutil.copy2(source, target)

    def left_out(folder: str, names: list[str]) -> set[str]:
        at_root = LEFT_OUT.intersection(names) if Path(folder) == root else set[str]()
        return at_root | {name for name in names if name == "__pycache__" or name.startswith(".hypothesis")}

    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(root, tree, copy_function=put, ignore=left_out)
    return tree


@dataclass
class Child:
    """One run of pytest in a tree of its own."""

    pid: int
    folder: Path
    cpu_limit_s: float
    cpu_s: float = 0.0
    idle: int = 0
    stopped: str = ""

    def poll(self) -> dict[str, Any] | None:
        """What it has found, once it has ended."""
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if not pid:
            return None
        self._kill()  # whatever its tests left behind
        self.cpu_s = max(self.cpu_s, usage.ru_utime + usage.ru_stime)
        result = self.folder / "result.json"
        told: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
        code = os.waitstatus_to_exitcode(status)
        if not self.stopped and code < 0:
            self.stopped = "time" if -code in (signal.SIGPROF, signal.SIGXCPU) else signal.Signals(-code).name
        return told | {"stopped": self.stopped, "cpu_s": round(self.cpu_s, 2)}

    def watch(self) -> None:
        """End it where it takes more time or memory than its tests can need, or does nothing at all."""
        try:
            processes = [(process := psutil.Process(self.pid)), *process.children(recursive=True)]
            times = [each.cpu_times() for each in processes]
            memory = sum(each.memory_info().rss for each in processes)
            working = any(each.status() in (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP) for each in processes)
        except psutil.Error:  # one has just ended
            return
        cpu_s = sum(each.user + each.system for each in times) + times[0].children_user + times[0].children_system
        working = working or cpu_s > self.cpu_s + 0.02
        self.cpu_s = max(self.cpu_s, cpu_s)
        self.idle = 0 if working else self.idle + 1  # not by the clock, which goes on where we are stopped ourselves
        if self.cpu_s > self.cpu_limit_s or self.idle > HANGS:
            self.stop("time")
        elif memory > MEMORY_BYTES:
            self.stop("memory")

    def stop(self, why: str) -> None:
        self.stopped = why
        self._kill()

    def _kill(self) -> None:
        try:
            family = psutil.Process(self.pid).children(recursive=True)
        except psutil.Error:
            family = []
        for process in family:
            if process.is_running():
                process.kill()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def fork_pytest(tree: Path, folder: Path, arguments: Callable[[], tuple[list[str], Any]], cpu_limit_s: float) -> Child:
    """Run pytest on the tree with ``arguments()`` (its words, and a plugin with ``told``) in a forked process."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)  # what a test has made unreadable stays
    (folder / "result.json").unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Child(pid, folder, cpu_limit_s)
    code = 1
    try:
        _enter(tree, folder, cpu_limit_s)
        import pytest

        words, plugin = arguments()
        words += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of plugins that are loaded already
        words += ["-c", str(tree / "pyproject.toml"), "--rootdir", str(tree), "--basetemp", str(folder / "base")]
        status = int(pytest.main([*words, "-q", "-p", "no:cacheprovider", "-p", "no:xdist"], plugins=[plugin]))
        signal.setitimer(signal.ITIMER_PROF, 0)
        told = plugin.listed() | {"status": status}
        (folder / "part.json").write_text(json.dumps(told), encoding="utf-8")
        (folder / "part.json").replace(folder / "result.json")
        code = 0
    except BaseException:
        traceback.print_exc()  # into its log: the caller sees a child without a result
    finally:
        sys.stdout.flush()
        os._exit(code)


def _enter(tree: Path, folder: Path, cpu_limit_s: float) -> None:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, opened in ((0, nothing), (1, log), (2, log)):
        os.dup2(opened, number)
    limit = int(cpu_limit_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name in ("home", "tmp"):
        (folder / name).mkdir(exist_ok=True)
    os.environ |= {
        "PYTHONPATH": str(tree / "src"),
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
    }
    os.chdir(tree)
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]  # ours; the tree has its own
    sys.path[:] = [str(tree / "src"), str(tree), *(each for each in sys.path if each)]
