"""A file is read once while it stays as it is, and again after any change."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ftx.core.file_cache import TICK_NS, UnchangedFile
from ftx.core.files import cached_sha256, sha256_file


def settle(*paths: Path) -> None:
    """Wait until a change of any of the files would show."""
    last = max(path.stat().st_ctime_ns for path in paths)
    time.sleep(max(0, TICK_NS + 10_000_000 - (time.time_ns() - last)) / 1e9)


class CountBatch(UnchangedFile[bytes]):
    """Counts how often the file was read."""

    def __init__(self, path: Path) -> None:
        self.times = 0
        super().__init__(path, self.count)

    def count(self, path: Path) -> bytes:
        self.times += 1
        return path.read_bytes()


def test_what_changed_a_moment_ago_is_read_each_time(tmp_path: Path) -> None:
    """Two changes within one tick of the file system's clock would look like one."""
    path = tmp_path / "file"
    path.write_bytes(b"one")
    file = CountBatch(path)
    for content in (b"two", b"six", b"ten"):
        path.write_bytes(content)
        assert [file.get(), file.get()] == [content, content]
        assert sha256_file(path) == cached_sha256(path)
    assert file.times == 6


def test_a_file_that_is_gone_is_asked_for_again(tmp_path: Path) -> None:
    file = CountBatch(tmp_path / "file")
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            file.get()
    (tmp_path / "file").write_bytes(b"one")
    assert file.get() == b"one"


@pytest.mark.representative
def test_every_change_of_a_settled_file_is_noticed(tmp_path: Path) -> None:
    names = ("in place", "by another file", "with its old time", "by a link")
    paths = [tmp_path / name for name in names]
    for path in paths[:3]:
        path.write_bytes(b"one")
    (tmp_path / "target").write_bytes(b"one")
    paths[3].symlink_to(tmp_path / "target")
    settle(*paths, tmp_path / "target")
    files = [CountBatch(path) for path in paths]
    assert [file.get() for file in files for _ in range(3)] == [b"one"] * 12
    assert [file.times for file in files] == [1] * 4
    hashes = [cached_sha256(path) for path in paths]

    paths[0].write_bytes(b"two")
    (tmp_path / "other").write_bytes(b"two")
    (tmp_path / "other").replace(paths[1])
    times = paths[2].stat()
    paths[2].write_bytes(b"two")
    os.utime(paths[2], ns=(times.st_atime_ns, times.st_mtime_ns))
    (tmp_path / "target").write_bytes(b"two")
    assert [file.get() for file in files] == [b"two"] * 4
    assert [cached_sha256(path) for path in paths] == [sha256_file(path) for path in paths] != hashes
