"""Whatever ends a process, a name holds something whole or nothing."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ftx.core.disk import disk_faults, settle, umask
from ftx.core.errors import EnvironmentFault, InputError, RunError
from ftx.core.files import (
    STAGING_PREFIX,
    check_no_links,
    check_space,
    is_locked,
    partial_path,
    place_at,
    place_new,
    replace_folder,
    sole_writer,
    stage_folder,
    staged_file,
    staging,
    sweep,
    write_atomic,
)
from ftx.runs.run_json import file_hashes

SIZE = 4_000_000

# Replaces a file and a folder with ones of one letter, over and over.
REPLACE = f"""
import sys
from pathlib import Path
from ftx.core.files import stage_folder, write_atomic
root = Path(sys.argv[1])
for letter in b"abcdefgh" * 1000:
    write_atomic(root / "file", bytes([letter]) * {SIZE})
    with stage_folder(root / "folder") as staged:
        for name in ("one", "two"):
            (staged / name).write_bytes(bytes([letter]) * {SIZE})
    print("replaced", flush=True)
"""


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


# Ends, or waits, at the moment at which each way of writing has something unfinished on the disk.
UNFINISHED = """
import os, sys
from pathlib import Path
from ftx.core import files

root, how = Path(sys.argv[1]), sys.argv[2]

def stop(*_):
    if how == "killed":
        os.kill(os.getpid(), 9)
    print("here", flush=True)
    sys.stdin.read()

os.replace = os.rename = Path.replace = Path.rename = os.fsync = stop
match sys.argv[3]:
    case "file":
        files.write_atomic(root / "reports" / "file", bytes(1000))
    case "folder":
        with files.stage_folder(root / "openvino" / "fp32") as staged:
            (staged / "model.bin").write_bytes(bytes(1000))
    case "retired":
        files.replace_folder(root / "new", root / "dense")
"""


def unfinished(folder: Path) -> list[Path]:
    return sorted(folder.rglob(f"{STAGING_PREFIX}*"))


def stopped(root: Path, how: str, what: str) -> subprocess.Popen[str]:
    (root / "new").mkdir(exist_ok=True)
    (root / "dense").mkdir(exist_ok=True)
    command = [sys.executable, "-c", UNFINISHED, str(root), how, what]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("what", ["file", "folder", "retired"])
def test_what_a_killed_process_left_goes_with_the_next_work(what: str, tmp_path: Path) -> None:
    with stopped(tmp_path, "killed", what) as process:
        assert process.wait() == -signal.SIGKILL
    (left,) = unfinished(tmp_path)
    for elsewhere in ("elsewhere-1-1-abc", "elsewhere-abc"):  # of processes on other machines
        (left.parent / f"{STAGING_PREFIX}{elsewhere}").mkdir()
    write_atomic(left.parent / "next", b"")
    assert [path.name for path in unfinished(tmp_path)] == [
        f"{STAGING_PREFIX}elsewhere-1-1-abc",
        f"{STAGING_PREFIX}elsewhere-abc",
    ]
    assert len({path.name for path in tmp_path.iterdir()} & {"new", "dense"}) == 2


def test_what_a_living_process_works_on_stays_and_goes_from_every_folder_when_it_has_ended(tmp_path: Path) -> None:
    with stopped(tmp_path, "waits", "folder") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        assert len(unfinished(tmp_path)) == 1
        sweep(tmp_path, below=True)
        with stage_folder(tmp_path / "openvino" / "fp16"):
            pass
        (left,) = unfinished(tmp_path)
        process.kill()
        # Ended, and not collected by its parent yet: its number is still taken.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        (tmp_path / "beside").symlink_to(left)
        sweep(tmp_path)
        assert left.exists()
        with sole_writer(tmp_path, print):
            assert not left.exists()
    assert (tmp_path / "openvino" / "fp16").is_dir()


def test_the_number_of_a_process_that_another_program_has_now(tmp_path: Path) -> None:
    mine = partial_path(tmp_path)
    began = mine.name.split("-")[-2]
    assert int(began) > 0
    reused = mine.with_name(mine.name.replace(f"-{began}-", f"-{int(began) - 1}-"))
    for path in (mine, reused):
        path.mkdir()
        (path / "model.bin").write_bytes(b"")
    link = reused.with_name(f"{reused.name}-link")  # as runs/latest is made
    link.symlink_to(mine)
    none = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{10**30}-"))  # the number of no process at all
    none.touch()
    sweep(tmp_path)
    assert set(tmp_path.iterdir()) == {mine, none}
    assert (mine / "model.bin").exists()


@pytest.mark.skipif(not Path("/proc/self/ns/pid").is_symlink(), reason="asks Linux for the container")
def test_the_work_of_another_container_with_our_name_stays(tmp_path: Path) -> None:
    """Whose numbers of processes are others: one that has ended here may live there."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    mine = partial_path(tmp_path)
    left = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{process.pid}-"))
    container = "".join(filter(str.isdigit, Path("/proc/self/ns/pid").readlink().name))
    elsewhere = left.with_name(left.name.replace(container, f"{int(container) + 1}"))
    for folder in (mine, left, elsewhere):
        folder.mkdir(exist_ok=True)
    sweep(tmp_path)
    assert set(tmp_path.iterdir()) == {mine, elsewhere}


def test_where_the_system_tells_nothing_of_processes_the_work_of_a_living_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_text = Path.read_text

    def without_proc(path: Path, *words: Any, **named: Any) -> str:  # as on macOS
        if path.is_relative_to("/proc"):
            raise FileNotFoundError(path)
        return read_text(path, *words, **named)

    monkeypatch.setattr(Path, "read_text", without_proc)
    with subprocess.Popen(["true"]) as process:
        process.wait()
    mine = partial_path(tmp_path)
    left = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{process.pid}-"))
    for path in (mine, left):
        path.touch()
    write_atomic(tmp_path / "file", b"whole")
    assert set(tmp_path.iterdir()) == {mine, tmp_path / "file"}
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_a_file_that_cannot_get_its_name_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "name" / "of").mkdir(parents=True)
    with pytest.raises(EnvironmentFault, match="a folder has the name of a file") as caught:
        write_atomic(tmp_path / "name", b"new")
    assert caught.value.where == str(tmp_path / "name")
    assert [path.name for path in tmp_path.rglob("*")] == ["name", "of"]


def test_a_file_that_is_written_anew_is_another_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    (tmp_path / "link").hardlink_to(path)
    with path.open("rb") as opened:
        write_atomic(path, b"new")
        # Whoever had it open, or linked it, keeps what it was: nothing is written in place.
        assert opened.read() == (tmp_path / "link").read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_nothing_begins_where_the_disk_cannot_hold_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 25 blocks of 40 bytes are free for the user, and some more for root alone.
    status = os.statvfs_result((4096, 40, 1000, 99, 25, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: status)
    check_space(tmp_path / "not" / "there", 1000)
    with pytest.raises(EnvironmentFault, match="too full") as caught:
        check_space(tmp_path / "not" / "there", 1001)
    assert caught.value.where == str(tmp_path)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no file system without space here")
def test_a_file_system_without_blocks_is_not_called_full() -> None:
    check_space(Path("/proc/models"), 1000)
    for writing in (staging, staged_file):
        with pytest.raises(EnvironmentFault, match="this folder cannot be written to"), writing(Path("/proc/models")):
            raise AssertionError


# Holds the folder until its end, and says so.
HOLD = """
import sys
from pathlib import Path
from ftx.core.files import sole_writer
with sole_writer(Path(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_writer_at_a_time_and_none_that_is_dead(tmp_path: Path) -> None:
    said: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"

        def note(text: str) -> None:
            said.append(text)
            process.kill()

        with sole_writer(tmp_path, note):  # comes in once the other one is killed
            assert process.wait() == -signal.SIGKILL
    assert said == [f"another ftx is writing to {tmp_path}: waiting for it"]
    with sole_writer(tmp_path, said.append):
        pass
    assert len(said) == 1


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


def test_a_folder_that_cannot_be_moved_into_place_leaves_the_old_one(tmp_path: Path) -> None:
    final = tmp_path / "dense"
    final.mkdir()
    (final / "model").write_text("old")
    with pytest.raises(FileNotFoundError):  # what was to take its place was swept away meanwhile
        replace_folder(tmp_path / "gone", final)
    assert (final / "model").read_text() == "old"
    assert list(tmp_path.iterdir()) == [final]
    (tmp_path / "new").mkdir()
    replace_folder(tmp_path / "new", final)
    assert list(tmp_path.rglob("*")) == [final]


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
        (Exception('I/O error: Permission denied (os error 13) at path "checkpoints/.tmp"'), EnvironmentFault),
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


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(
            "train --data {data} --model vit_tiny_patch16_224 --weights none --image-size 32 --epochs 1 --out {new}",
            marks=pytest.mark.slow,
        ),
        pytest.param("merge {run}", marks=pytest.mark.representative),
        pytest.param("export {run} --format openvino", marks=pytest.mark.slow),
        pytest.param("export {run} --format onnx", marks=pytest.mark.slow),
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
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(whole_run) == before
    assert not [path for root in (tmp_path, whole_run) for path in root.rglob(f"{STAGING_PREFIX}*")]
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc")
@pytest.mark.parametrize("write", [staged_file, stage_folder])
def test_a_place_that_holds_no_folders_is_no_bug(write: Callable[[Path], AbstractContextManager[Path]]) -> None:
    with pytest.raises(EnvironmentFault, match="cannot be written"), write(Path("/proc/nowhere/at/all")):
        pass


def test_a_folder_that_came_meanwhile_stays(tmp_path: Path) -> None:
    staged, final = tmp_path / "staged", tmp_path / "final"
    for folder, text in ((staged, "ours"), (final, "theirs")):
        folder.mkdir()
        (folder / "file").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="another program created this folder at the same time"):
        place_at(staged, final)
    assert (final / "file").read_text(encoding="utf-8") == "theirs"
    place_at(staged, tmp_path / "free")
    assert (tmp_path / "free" / "file").read_text(encoding="utf-8") == "ours"


def test_a_new_folder_has_the_first_name_that_is_free(tmp_path: Path) -> None:
    """Whatever has the others: a folder, a file, a link to nothing; and an empty folder is one as well."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run-2").write_text("mine")
    (tmp_path / "run-3").symlink_to(tmp_path / "gone")
    for expected in ("run-4", "run-5"):
        (tmp_path / "staged").mkdir()
        (tmp_path / "staged" / expected).touch()
        assert place_new(tmp_path / "staged", tmp_path / "run") == tmp_path / expected
        assert [path.name for path in (tmp_path / expected).iterdir()] == [expected]
    assert list((tmp_path / "run").iterdir()) == []
    assert (tmp_path / "run-2").read_text() == "mine"
    (tmp_path / "staged").mkdir()
    assert place_new(tmp_path / "staged", tmp_path / "other") == tmp_path / "other"


def test_a_folder_is_held_while_another_process_writes_to_it(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert is_locked(tmp_path)
        with pytest.raises(RunError, match="another ftx is using this folder"), sole_writer(tmp_path, None):
            raise AssertionError
        process.communicate("")
    assert not is_locked(tmp_path)
    with sole_writer(tmp_path, None):
        pass


def test_a_link_anywhere_in_a_folder_is_refused_by_its_name(tmp_path: Path) -> None:
    """In the second of the folders, and below the first level."""
    one, two = tmp_path / "one", tmp_path / "two"
    (two / "a" / "b").mkdir(parents=True)
    one.mkdir()
    check_no_links([one, two])
    (two / "a" / "b" / "link").symlink_to(tmp_path)
    with pytest.raises(RunError, match="must not contain links") as refused:
        check_no_links([one, two])
    assert (refused.value.where, refused.value.found) == (str(two / "a" / "b" / "link"), f"it points at {tmp_path}")
    (tmp_path / "three").symlink_to(one)
    with pytest.raises(RunError) as refused:
        check_no_links([one, tmp_path / "three"])
    assert refused.value.where == str(tmp_path / "three")


def test_what_others_put_into_a_folder_stays_as_it_is(tmp_path: Path) -> None:
    """Nothing outside is made readable, and a pipe is not waited for."""
    victims = [tmp_path / name for name in ("linked", "named twice")]
    for victim in victims:
        victim.write_text("secret")
        victim.chmod(0o600)
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "link").symlink_to(victims[0])
    (folder / "below" / "other").hardlink_to(victims[1])
    (folder / "nowhere").symlink_to(tmp_path / "nothing")
    (folder / "device").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe")
    own = folder / "below" / "own"
    own.write_text("ours")
    own.chmod(0o600)
    settle(folder)
    assert [stat.S_IMODE(victim.stat().st_mode) for victim in victims] == [0o600, 0o600]
    assert stat.S_IMODE(own.stat().st_mode) == 0o666 & ~umask()
    assert set(file_hashes(folder, "a")) == {"a/below/other", "a/below/own"}
