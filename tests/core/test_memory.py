"""Memory that a training gives back comes from the process the next time, not page by page from the system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ftx.core.memory import ASSUMED_FREE_BYTES, available_bytes, keep_freed_memory

_MB = 2**20
# malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# Pages that were touched for the first time while 100 MB came and went ten times.
_CHILD = f"""
import resource, sys
from ftx.core.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
if sys.argv[1] == "training":
    from ftx.adapters.trainable_model import prepare
    from ftx.recipe.schema import Recipe
    from ftx.training.device_placement import place
    place(prepare(Recipe.named({{"name": "test_vit", "weights": "none", "image_size": 32}}), 2), plain_attention=True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    b"x" * (100 * {_MB})
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def touched(how: str) -> int:
    """Of a fresh process, as glibc keeps what it was told for the life of one."""
    made = subprocess.run([sys.executable, "-c", _CHILD, how], capture_output=True, text=True, check=True)
    return int(made.stdout) * 4096


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own")
def test_what_was_freed_is_used_again() -> None:
    once = 100 * _MB
    assert touched("given back") > 9 * once
    assert touched("kept") < 1.2 * once
    assert touched("training") < 1.2 * once


def test_an_older_glibc_keeps_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which refuses more than 32 MB, and answers 0."""
    told: dict[int, int] = {}

    def mallopt(option: int, value: int) -> int:
        if option == M_MMAP_THRESHOLD and value > 32 * _MB:
            return 0
        told[option] = value
        return 1

    monkeypatch.setattr("ftx.core.memory.ctypes.CDLL", lambda _name: SimpleNamespace(mallopt=mallopt))
    assert keep_freed_memory()
    assert told == {M_MMAP_THRESHOLD: 32 * _MB, M_TRIM_THRESHOLD: 2048 * _MB - 1}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the files of Linux are read from."""
    monkeypatch.setattr("ftx.core.memory.Path", lambda path: tmp_path / str(path).lstrip("/"))
    for folder in ("proc", "sys/fs/cgroup"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def test_free_is_what_the_machine_and_the_container_both_have(root: Path) -> None:
    assert available_bytes() == ASSUMED_FREE_BYTES
    (root / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemFree: 1000 kB\nMemAvailable: 5000 kB\nCached: 7 kB\n")
    assert available_bytes() == 5000 * 1024
    group = root / "sys/fs/cgroup"
    for name, text in {"max": "max", "current": "2000000", "stat": "anon 11\ninactive_file 30\nfile 77\n"}.items():
        (group / f"memory.{name}").write_text(f"{text}\n")
    assert available_bytes() == 5000 * 1024
    (group / "memory.max").write_text("3000000\n")
    assert available_bytes() == 1_000_030  # pages of files are given up where memory is asked for
    (group / "memory.stat").write_text("anon 11\ninactive_file 30\nactive_file 500\n")
    assert available_bytes() == 1_000_530
    (group / "memory.stat").unlink()
    assert available_bytes() == 1_000_000
    (group / "memory.max").write_text("1500000\n")  # lowered below what it holds
    assert available_bytes() == 0
    (group / "memory.max").write_text("90000000\n")
    assert available_bytes() == 5000 * 1024
