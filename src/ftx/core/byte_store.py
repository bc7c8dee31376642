"""Bytes by key in one file that only grows: what can be made again, kept from one process to the next.

``content`` holds what was put, one after the other; ``index`` a record for each: key, offset, size, and a check of key
and content. A record is written when its content is on disk, so that a process or a machine that stops in between loses
the last of them and no more. Content that is no longer what was put is as if it were not there.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import weakref
import zlib
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, NamedTuple, Self

from filelock import FileLock, Timeout

from ftx.core.disk import fsync_folder

KEY_BYTES = 32
_RECORD = struct.Struct(f"<{KEY_BYTES}sQQI")
# What is lost at most where the machine stops: a second's work, or less.
_SYNCED_EVERY_BYTES = 64 << 20
# Of the space that the disk has left, others need some.
_SHARE_OF_FREE = 0.5


class _Record(NamedTuple):
    offset: int
    size: int
    check: int

    def holds(self, key: bytes, content: memoryview) -> bool:
        return zlib.crc32(content, zlib.crc32(key)) == self.check


class _Beside(NamedTuple):
    """What another store had kept when it was looked at; its owner may go on with it, or take it away."""

    content: FileIO
    records: dict[bytes, _Record]

    def read_into(self, key: bytes, into: memoryview) -> bool:
        record = self.records.get(key)
        if record is None:
            return False
        if _read(self.content, record, into) and record.holds(key, into):
            return True
        del self.records[key]
        return False


class ByteStore:
    """One process's hold of a store, for its threads in turn; ``limit_bytes`` is how large its content may become.

    In ``folder``, or where there is none, or another process holds it, in a file without a name that is gone
    afterwards; what the other has kept until now is read all the same. A disk that takes no more ends the keeping and
    nothing else: ``fault`` says why.
    """

    def __init__(self, folder: Path | None, limit_bytes: float) -> None:
        self.fault: str | None = None
        self._one_at_a_time = Lock()
        self._lock: FileLock | None = None
        self._index: FileIO | None = None
        self._records: dict[bytes, _Record] = {}
        self._sound: set[bytes] = set()
        self._unwritten: list[tuple[bytes, _Record]] = []
        self._size = 0
        self._settled = True  # whether the records that were written are on the disk
        self._beside: dict[Path, _Beside] = {}
        content = None if folder is None else self._open(folder)
        self._content = content or tempfile.TemporaryFile(prefix="ftx-", buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._content.close)  # at the latest
        self._synced_to = self._size
        self._on_disk = Path(tempfile.gettempdir()) if content is None or folder is None else folder
        self.asked_bytes = limit_bytes
        self.measure_room()

    def measure_room(self) -> None:
        """Let the content become as large as was asked for, or as half of what the disk has free now allows."""
        free_bytes = shutil.disk_usage(self._on_disk).free
        self.limit_bytes = min(self.asked_bytes, self._size + _SHARE_OF_FREE * free_bytes)

    def _open(self, folder: Path) -> FileIO | None:
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            self.look_beside(folder)
            return None
        try:
            content, self._index = _opened(folder / "content"), _opened(folder / "index")
            fsync_folder(folder)
            self._records, self._size, whole = _read_records(self._index, content.seek(0, os.SEEK_END))
            self._index.truncate(whole)
            self._index.seek(whole)
            content.truncate(self._size)
        except OSError:
            lock.release()
            self._index = None
            return None
        self._lock = lock
        return content

    def look_beside(self, folder: Path) -> None:
        """Read from now on what another store has kept until now as well; nothing where there is none.

        Looked at again, it is read as it is then.
        """
        try:
            content, index = (FileIO(folder / name) for name in ("content", "index"))
        except OSError:
            return
        with index:
            records, _, _ = _read_records(index, content.seek(0, os.SEEK_END))
        self._beside[folder] = _Beside(content, records)
        weakref.finalize(self, content.close)

    @property
    def lasting(self) -> bool:
        """Whether a later process finds what is put."""
        return self._index is not None

    @property
    def size_bytes(self) -> int:
        """How much is kept."""
        return self._size

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, key: bytes) -> bool:
        return key in self._records or any(key in other.records for other in self._beside.values())

    def get(self, key: bytes) -> bytearray | None:
        """What was put under a key; None where there is nothing that holds."""
        known = (self._records, *(other.records for other in self._beside.values()))
        record = next((records[key] for records in known if key in records), None)
        if record is None:
            return None
        found = bytearray(record.size)
        return found if self.read_into(key, memoryview(found)) else None

    def read_into(self, key: bytes, into: memoryview) -> bool:
        """Copy what was put under a key to ``into``, of the same size; False where there is nothing that holds."""
        with self._one_at_a_time:
            record = self._records.get(key)
            if record is None:
                return any(other.read_into(key, into) for other in self._beside.values())
            whole = _read(self._content, record, into)
            if whole and key not in self._sound:
                whole = record.holds(key, into)
                self._sound.add(key)
            if not whole:
                del self._records[key]  # it may be put again, at the end
            return whole

    def put(self, key: bytes, content: memoryview) -> bool:
        """Keep bytes under a key; False where the limit or the disk does not allow it."""
        assert len(key) == KEY_BYTES
        with self._one_at_a_time:
            return self._put(key, content)

    def _put(self, key: bytes, content: memoryview) -> bool:
        if key in self._records:
            return True
        if self.fault is not None or self._size + len(content) > self.limit_bytes:
            return False
        try:
            self._content.seek(self._size)
            written = self._content.write(content)
        except OSError as error:
            written, self.fault = 0, error.strerror or str(error)
        if written < len(content):
            self.fault = self.fault or "the disk is full"
            return False
        self._records[key] = _Record(self._size, len(content), zlib.crc32(content, zlib.crc32(key)))
        self._sound.add(key)
        self._unwritten.append((key, self._records[key]))
        self._size += len(content)
        return True

    def sync(self, *, due: bool = False) -> None:
        """Let a later process find what was put until now; only what is worth it, if it is just ``due``.

        If it is not, what was put is on the disk afterwards, whatever the machine does.
        """
        with self._one_at_a_time:
            if not due or self._size - self._synced_to >= _SYNCED_EVERY_BYTES:
                self._write_records()
            if not due and self._index is not None and not self._settled:
                self._noting_a_fault(os.fsync, self._index.fileno())
                self._settled = True

    def _write_records(self) -> None:
        if self._index is None or not self._unwritten:
            return
        records = b"".join(_RECORD.pack(key, one.offset, one.size, one.check) for key, one in self._unwritten)
        if self._noting_a_fault(os.fsync, self._content.fileno()):
            self._noting_a_fault(self._index.write, records)
        self._unwritten, self._synced_to, self._settled = [], self._size, False

    def _noting_a_fault(self, step: Callable[[Any], object], given: object) -> bool:
        try:
            step(given)
        except OSError as error:
            self.fault = error.strerror or str(error)
            return False
        return True

    def close(self) -> None:
        """Sync, and let go."""
        self.sync()
        self._content.close()
        if self._index is not None:
            self._index.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()


def _read_records(index: FileIO, content_bytes: int) -> tuple[dict[bytes, _Record], int, int]:
    """The records that can be trusted, the size of their content, and how many bytes of the index they are.

    What was damaged and put again has two, of which the later one counts.
    """
    found: dict[bytes, _Record] = {}
    end, whole, written = 0, 0, index.readall()
    for key, offset, size, check in _RECORD.iter_unpack(written[: len(written) // _RECORD.size * _RECORD.size]):
        if offset != end or offset + size > content_bytes:
            break  # cut off, or not what was written: what follows cannot be trusted
        found[key] = _Record(offset, size, check)
        end += size
        whole += _RECORD.size
    return found, end, whole


def _read(content: FileIO, record: _Record, into: memoryview) -> bool:
    try:
        content.seek(record.offset)
        return record.size == len(into) == content.readinto(into)
    except OSError:
        return False


def _opened(path: Path) -> FileIO:
    """A file to read and write anywhere, made where it is not there."""
    path.touch(mode=0o600)
    return FileIO(path, "r+")
