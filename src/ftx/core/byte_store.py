"""Bytes by key in one file that only grows: what can be computed again, kept from one process to the next.

``content`` contains what was put, one after the other; ``index`` a record for each: key, offset, size, and a checksum
of key and content. A record is written when its content is on disk, so a process or a machine that stops in between
loses only the last ones. Damaged content is treated as missing. Decision 29 compares it with SQLite and LMDB.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import weakref
import zlib
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import NamedTuple, Self

from filelock import FileLock, Timeout

from ftx.core.disk import fsync_folder

KEY_BYTES = 32
_RECORD = struct.Struct(f"<{KEY_BYTES}sQQI")
# At most this is lost if the machine stops: a second's work, or less.
_SYNCED_EVERY_BYTES = 64 << 20
# Others need some of the space that the disk has left.
_FRACTION_OF_FREE = 0.5


class _Record(NamedTuple):
    offset: int
    size: int
    check: int


class _Contents:
    """The content of one store and its records; its owner may add to it, or remove it, meanwhile."""

    def __init__(self, content: FileIO, records: dict[bytes, _Record]) -> None:
        self.content, self.records = content, records
        weakref.finalize(self, content.close)

    def read_into(self, key: bytes, into: memoryview, verified: set[bytes]) -> bool:
        """Copy the bytes of a key; False, and from then on unknown, if they are missing, damaged or of another size."""
        record = self.records.get(key)
        if record is None:
            return False
        try:
            self.content.seek(record.offset)
            whole = record.size == len(into) == self.content.readinto(into)
        except OSError:
            whole = False
        if whole and (key in verified or zlib.crc32(into, zlib.crc32(key)) == record.check):
            return True
        del self.records[key]
        return False


class ByteStore:
    """One process's store, for its threads in turn; ``limit_bytes`` is how large its content may become.

    It lies in ``folder``. Without one, or if another process has it open, it is a temporary file, and what the other
    process has kept until now can be read too. A full disk only ends the keeping: ``fault`` is then the reason.
    """

    def __init__(self, folder: Path | None, limit_bytes: float) -> None:
        self.fault: str | None = None
        self._one_at_a_time = Lock()
        self._lock: FileLock | None = None
        self._index: FileIO | None = None
        self._others: dict[Path, _Contents] = {}
        self._verified: set[bytes] = set()
        self._unwritten = bytearray()
        self._size = 0
        self._settled = True  # whether the records that were written are on the disk
        own = None if folder is None else self._open(folder)
        self._on_disk = Path(tempfile.gettempdir()) if own is None or folder is None else folder
        self._own = own or _Contents(tempfile.TemporaryFile(prefix="ftx-", buffering=0), {})  # noqa: SIM115
        self._synced_bytes = self._size
        self.most_bytes = limit_bytes
        self.measure_disk()

    def measure_disk(self) -> None:
        """Let the content grow to ``most_bytes``, or to what it has and half of what the disk has free now."""
        free_bytes = shutil.disk_usage(self._on_disk).free
        self.limit_bytes = min(self.most_bytes, self._size + _FRACTION_OF_FREE * free_bytes)

    def _open(self, folder: Path) -> _Contents | None:
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            self.read_also(folder)
            return None
        try:
            content, self._index = _opened(folder / "content"), _opened(folder / "index")
            fsync_folder(folder)
            records, self._size, index_bytes = _read_records(self._index, content.seek(0, os.SEEK_END))
            self._index.truncate(index_bytes)
            self._index.seek(index_bytes)
            content.truncate(self._size)
        except OSError:
            lock.release()
            self._index = None
            return None
        self._lock = lock
        return _Contents(content, records)

    def read_also(self, folder: Path) -> None:
        """Read from now on what another store contains at this moment too; nothing if there is none."""
        try:
            content, index = (FileIO(folder / name) for name in ("content", "index"))
        except OSError:
            return
        with index:
            records, _, _ = _read_records(index, content.seek(0, os.SEEK_END))
        self._others[folder] = _Contents(content, records)

    @property
    def lasting(self) -> bool:
        """Whether a later process finds what is put."""
        return self._index is not None

    @property
    def size_bytes(self) -> int:
        """How much is kept."""
        return self._size

    def __len__(self) -> int:
        return len(self._own.records)

    def __contains__(self, key: bytes) -> bool:
        return self._record(key) is not None

    def _record(self, key: bytes) -> _Record | None:
        stores = (self._own, *self._others.values())
        return next((store.records[key] for store in stores if key in store.records), None)

    def get(self, key: bytes) -> bytearray | None:
        """The bytes of a key; None if they are missing or damaged."""
        record = self._record(key)
        if record is None:
            return None
        found = bytearray(record.size)
        return found if self.read_into(key, memoryview(found)) else None

    def read_into(self, key: bytes, into: memoryview) -> bool:
        """Copy the bytes of a key to ``into``, of the same size; False if they are missing or damaged."""
        with self._one_at_a_time:
            if key not in self._own.records:
                return any(other.read_into(key, into, set()) for other in self._others.values())
            whole = self._own.read_into(key, into, self._verified)
            self._verified.add(key)  # what is damaged may be put again, at the end
            return whole

    def put(self, key: bytes, content: memoryview) -> bool:
        """Keep bytes under a key; False if the limit or the disk does not allow it."""
        assert len(key) == KEY_BYTES
        with self._one_at_a_time:
            if key in self._own.records:
                return True
            if self.fault is not None or self._size + len(content) > self.limit_bytes:
                return False
            try:
                self._own.content.seek(self._size)
                if self._own.content.write(content) < len(content):
                    self.fault = "the disk is full"
            except OSError as error:
                self.fault = error.strerror or str(error)
            if self.fault is not None:
                return False
            record = _Record(self._size, len(content), zlib.crc32(content, zlib.crc32(key)))
            self._own.records[key] = record
            self._verified.add(key)
            self._unwritten += _RECORD.pack(key, *record) if self.lasting else b""
            self._size += len(content)
            return True

    def sync(self, *, due: bool = False) -> None:
        """Let a later process find what was put until now; only if that is much already, if it is just ``due``.

        Unless it is just due, it is on the disk afterwards, whatever happens to the machine.
        """
        with self._one_at_a_time:
            if self._index is None or (due and self._size - self._synced_bytes < _SYNCED_EVERY_BYTES):
                return
            records, self._unwritten, self._synced_bytes = self._unwritten, bytearray(), self._size
            try:
                if records:
                    os.fsync(self._own.content.fileno())
                    self._index.write(records)
                    self._settled = False
                if not (due or self._settled):
                    os.fsync(self._index.fileno())
                    self._settled = True
            except OSError as error:
                self.fault = error.strerror or str(error)

    def close(self) -> None:
        """Sync, and let other processes write."""
        self.sync()
        self._own.content.close()
        if self._index is not None:
            self._index.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read_records(index: FileIO, content_bytes: int) -> tuple[dict[bytes, _Record], int, int]:
    """The records that can be trusted, the size of their content, and how many bytes of the index they are.

    Content that was damaged and put again has two records, of which the later one counts.
    """
    found: dict[bytes, _Record] = {}
    end, index_bytes, written = 0, 0, index.readall()
    for key, offset, size, check in _RECORD.iter_unpack(written[: len(written) // _RECORD.size * _RECORD.size]):
        if offset != end or offset + size > content_bytes:
            break  # incomplete, or not what was written: what follows cannot be trusted
        found[key] = _Record(offset, size, check)
        end += size
        index_bytes += _RECORD.size
    return found, end, index_bytes


def _opened(path: Path) -> FileIO:
    """A file to read and write anywhere, created if it does not exist."""
    path.touch(mode=0o600)
    return FileIO(path, "r+")
