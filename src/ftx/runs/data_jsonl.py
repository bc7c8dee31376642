"""``data.jsonl``: the images of a run, a line each, as training split them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from ftx.core.errors import DataError, RunError
from ftx.core.files import write_atomic
from ftx.core.untrusted_input import parse_json
from ftx.data.dataset import Entry
from ftx.runs.run_json import RESTORE

ENTRIES = "data.jsonl"


def read_entries(path: Path) -> tuple[Entry, ...]:
    """The images of a run.

    Raises: RunError if a line is invalid.
    """
    # Not splitlines(): a file's name may hold what that takes for the end of a line.
    try:
        lines = path.read_bytes().decode().split("\n")
        return tuple(Entry.from_json(parse_json(line)) for line in lines if line)
    except (OSError, ValueError, DataError) as error:
        raise RunError(f"{ENTRIES} is invalid", where=path, found=str(error), fix=RESTORE) from error


def write_entries(folder: Path, entries: Sequence[Entry]) -> None:
    """Write data.jsonl."""
    write_atomic(folder / ENTRIES, _lines(entries))


def entries_digest(entries: Sequence[Entry]) -> str:
    """The SHA-256 of data.jsonl."""
    return hashlib.sha256(_lines(entries)).hexdigest()


def _lines(entries: Sequence[Entry]) -> bytes:
    return "".join(json.dumps(entry.to_json(), ensure_ascii=False) + "\n" for entry in entries).encode()
