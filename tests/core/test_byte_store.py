"""Bytes by key: found again by the next process, whatever happened to the one before."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ftx.core.byte_store import ByteStore

ROOMY = 1e9


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def content(number: int, size: int = 100) -> bytes:
    return bytes([number]) * size


def put(store: ByteStore, *numbers: int) -> list[bool]:
    return [store.put(key(number), memoryview(content(number))) for number in numbers]


def read(store: ByteStore, number: int, size: int = 100) -> bytes | None:
    into = bytearray(size)
    return bytes(into) if store.read_into(key(number), memoryview(into)) else None


def test_what_was_put_is_found_by_the_next_process(tmp_path: Path) -> None:
    with ByteStore(tmp_path, ROOMY) as store:
        assert read(store, 1) is None
        assert put(store, 1, 2, 1) == [True] * 3
        assert [read(store, number) for number in (1, 2)] == [content(1), content(2)]
        assert (len(store), store.size_bytes) == (2, 200)
    with ByteStore(tmp_path, ROOMY) as store:
        assert put(store, 3) == [True]
    with ByteStore(tmp_path, ROOMY) as store:
        assert [read(store, number) for number in (1, 2, 3)] == [content(number) for number in (1, 2, 3)]
        assert key(4) not in store
        assert read(store, 3, size=99) is None  # of another kind of content: not this one


def test_a_process_that_is_killed_loses_what_was_not_synced(tmp_path: Path) -> None:
    program = f"""
import os
from pathlib import Path
from tests.core.test_byte_store import ROOMY, put
from ftx.core.byte_store import ByteStore
store = ByteStore(Path({str(tmp_path)!r}), ROOMY)
put(store, 1)
store.sync()
put(store, 2)
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
    with ByteStore(tmp_path, ROOMY) as store:
        assert (read(store, 1), read(store, 2)) == (content(1), None)
        put(store, 2)
    with ByteStore(tmp_path, ROOMY) as store:
        assert [read(store, number) for number in (1, 2)] == [content(1), content(2)]


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which file it was")
def test_content_is_on_disk_before_its_record_and_both_where_all_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync = os.fsync

    def noting(handle: int) -> None:
        fsync(handle)
        done.append(f"{Path(f'/proc/self/fd/{handle}').readlink().name} {os.fstat(handle).st_size}")

    with ByteStore(tmp_path, ROOMY) as store:
        monkeypatch.setattr("ftx.core.byte_store.os.fsync", noting)
        put(store, 1)
        store.sync(due=True)  # not worth it
        assert done == []
        store.sync()
        assert done == ["content 100", "index 52"]
        store.sync()
        assert len(done) == 2
        monkeypatch.setattr("ftx.core.byte_store._SYNCED_EVERY_BYTES", 100)
        put(store, 2)
        store.sync(due=True)
        assert done[2:] == ["content 200"]
        store.sync()  # nothing was put since, but the record is not sure to be there
        assert done[3:] == ["index 104"]
        # What is due is counted from the last time: the disk is not waited for at every image that follows.
        monkeypatch.setattr("ftx.core.byte_store._SYNCED_EVERY_BYTES", 250)
        for number in range(3, 9):
            put(store, number)
            store.sync(due=True)
        assert done[4:] == ["content 500", "content 800"]


@pytest.mark.parametrize("left", [0, 1, 51, 52, 60])
def test_an_index_that_is_cut_off_counts_as_far_as_it_goes(tmp_path: Path, left: int) -> None:
    with ByteStore(tmp_path, ROOMY) as store:
        put(store, 1, 2)
    index = tmp_path / "index"
    index.write_bytes(index.read_bytes()[:left])
    with ByteStore(tmp_path, ROOMY) as store:
        assert len(store) == left // 52
        put(store, 3)
    with ByteStore(tmp_path, ROOMY) as store:
        assert (len(store), read(store, 3)) == (left // 52 + 1, content(3))


def test_content_that_is_damaged_or_gone_is_put_again(tmp_path: Path) -> None:
    with ByteStore(tmp_path, ROOMY) as store:
        put(store, 1, 2, 3)
    damaged = bytearray((tmp_path / "content").read_bytes())
    damaged[150] ^= 1
    (tmp_path / "content").write_bytes(damaged[:250])
    for _ in range(2):
        with ByteStore(tmp_path, ROOMY) as store:
            assert read(store, 1) == content(1)
            assert put(store, 2, 3) == [True, True]
            if read(store, 2) is None:
                put(store, 2)
            assert [read(store, number) for number in (2, 3)] == [content(2), content(3)]


def test_what_was_put_again_costs_no_record_behind_it(tmp_path: Path) -> None:
    with ByteStore(tmp_path, ROOMY) as store:
        put(store, 1, 2)
    (tmp_path / "content").write_bytes(b"x" * 100 + content(2))
    with ByteStore(tmp_path, ROOMY) as store:
        assert read(store, 1) is None
        put(store, 1, 3)
    for _ in range(2):  # the next process reads the index, and writes behind it
        with ByteStore(tmp_path, ROOMY) as store:
            assert [read(store, number) for number in (1, 2, 3)] == [content(number) for number in (1, 2, 3)]
            put(store, 4)
    with ByteStore(tmp_path, ROOMY) as store:
        assert [read(store, number) for number in (1, 2, 3, 4)] == [content(number) for number in (1, 2, 3, 4)]


def test_a_record_is_held_to_its_key(tmp_path: Path) -> None:
    """One that names the content of another key is none."""
    with ByteStore(tmp_path, ROOMY) as store:
        put(store, 1)
    index = tmp_path / "index"
    index.write_bytes(key(2) + index.read_bytes()[32:])
    with ByteStore(tmp_path, ROOMY) as store:
        assert read(store, 2) is None


def test_beyond_its_limit_nothing_is_kept(tmp_path: Path) -> None:
    with ByteStore(tmp_path, 250) as store:
        assert put(store, 1, 2, 3) == [True, True, False]
        assert [read(store, number) for number in (2, 3)] == [content(2), None]
        assert store.fault is None


def test_a_full_disk_ends_the_keeping_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ByteStore(tmp_path, ROOMY) as store:
        put(store, 1)
        with monkeypatch.context() as patch:

            def full(_fd: int) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr("ftx.core.byte_store.os.fsync", full)
            store.sync()
        assert store.fault == "No space left on device"
        assert (put(store, 2), read(store, 1)) == ([False], content(1))


def test_the_disk_keeps_half_of_what_it_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nearly_full(_path: Path) -> SimpleNamespace:
        return SimpleNamespace(free=300)

    monkeypatch.setattr("ftx.core.byte_store.shutil.disk_usage", nearly_full)
    with ByteStore(tmp_path, ROOMY) as store:
        assert put(store, 1, 2) == [True, False]
        store.measure_disk()  # half of what is free now, beside what is kept already
        assert put(store, 2, 3) == [True, False]
    with ByteStore(tmp_path, ROOMY) as store:
        assert put(store, 3, 4) == [True, False]
    with ByteStore(tmp_path, 350) as store:  # less than the disk would give
        assert put(store, 4) == [False]


@pytest.mark.parametrize("place", ["held", "read only", "none"])
def test_without_a_place_of_its_own_it_keeps_for_this_process(tmp_path: Path, place: str) -> None:
    first = ByteStore(tmp_path, ROOMY)
    if place == "read only":
        first.close()
        (tmp_path / "content").unlink()
        (tmp_path / "content").mkdir()
    with ByteStore(None if place == "none" else tmp_path, ROOMY) as store:
        put(store, 1)
        assert read(store, 1) == content(1)
    first.close()
    if place != "read only":
        with ByteStore(tmp_path, ROOMY) as store:
            assert read(store, 1) is None
