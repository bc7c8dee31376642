"""Whatever ends a process, a name holds something whole or nothing."""

from __future__ import annotations

import hashlib
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ftx.errors import EnvironmentFault
from ftx.files import STAGING_PREFIX, disk_faults, stage_folder, write_atomic

SIZE = 4_000_000

# Replaces a file and a folder with ones of one letter, over and over.
REPLACE = f"""
import sys
from pathlib import Path
from ftx.files import stage_folder, write_atomic
root = Path(sys.argv[1])
for letter in b"abcdefgh" * 1000:
    write_atomic(root / "file", bytes([letter]) * {SIZE})
    with stage_folder(root / "folder") as staged:
        for name in ("one", "two"):
            (staged / name).write_bytes(bytes([letter]) * {SIZE})
    print("replaced", flush=True)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_whole_files(tmp_path: Path) -> None:
    for turn in range(6):
        process = subprocess.Popen([sys.executable, "-c", REPLACE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "replaced\n"
        time.sleep(0.007 * turn)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        contents = [tmp_path / "file", *(tmp_path / "folder").glob("*")]
        for path in contents:
            content = path.read_bytes()
            assert content == content[:1] * SIZE
        # Between the two renames that replace a folder there is none; never half of one.
        assert len(contents) in (1, 3)
        assert len({path.read_bytes()[:1] for path in contents[1:]}) <= 1


def test_what_a_killed_process_left_goes_with_the_next_work(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from ftx.files import staging\n"
    code += "with staging(Path(sys.argv[1]) / 'x') as staged: os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (left,) = tmp_path.iterdir()
    (tmp_path / f"{STAGING_PREFIX}elsewhere-1-abc").mkdir()  # of a process on another machine
    with stage_folder(tmp_path / "y"):
        assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{STAGING_PREFIX}elsewhere-1-abc", "y"]


def test_a_failed_block_leaves_what_was_there(tmp_path: Path) -> None:
    with stage_folder(tmp_path / "folder") as staged:
        (staged / "a").write_text("old")

    def fail_half_way() -> None:
        with stage_folder(tmp_path / "folder") as staged:
            (staged / "a").write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert (tmp_path / "folder" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_is_written_is_as_readable_as_the_users_own_files(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("")
    write_atomic(tmp_path / "atomic", b"")
    with stage_folder(tmp_path / "folder") as staged:
        save_file({"a": np.zeros(1)}, staged / "a.safetensors")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
    assert len(modes) == 1


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (RuntimeError("basic_ios::clear: iostream error"), EnvironmentFault),
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), EnvironmentFault),
        (OSError(2, "No such file or directory"), FileNotFoundError),
        (RuntimeError("shapes do not match"), RuntimeError),
    ],
)
def test_only_a_refused_write_is_the_disks_fault(raised: Exception, expected: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(expected), disk_faults(tmp_path):
        raise raised


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "train --data {data} --model vit_tiny_patch16_224 --weights none --image-size 32 --epochs 1 --out {new}",
        "merge {run}",
        "export {run} --format openvino",
        "export {run} --format onnx",
    ],
)
def test_a_disk_that_takes_no_more_is_one_error_and_changes_nothing(
    words: str, whole_run: Path, tmp_path: Path
) -> None:
    before = contents(whole_run)
    command = words.format(data=whole_run.parent.parent / "data", new=tmp_path / "new", run=whole_run)

    def small_files() -> None:  # the system refuses what goes beyond, as a full disk does
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    done = subprocess.run(
        [sys.executable, "-m", "ftx", *command.split()],
        capture_output=True, text=True, check=False, cwd=tmp_path, preexec_fn=small_files, timeout=120,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "the disk takes no more" in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(whole_run) == before
    assert not [path for root in (tmp_path, whole_run) for path in root.rglob(f"{STAGING_PREFIX}*")]
    assert not (tmp_path / "new").exists()
