"""A new run: filled under a temporary name, sealed, and moved to its own when whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ftx.core.errors import RunError
from ftx.core.files import place_new, settle, staging, write_atomic
from ftx.data.dataset import Entry
from ftx.runs.latest import LATEST
from ftx.runs.manifest import MANIFEST_FILE, Manifest, file_hashes, manifest_bytes


@dataclass
class NewRun:
    """A run in the making: the temporary ``folder`` to fill, and the ``path`` that it gets."""

    folder: Path
    path: Path


@contextmanager
def new_run(out: Path) -> Iterator[NewRun]:
    """Make a run: its temporary folder moves to ``out`` when the block ends well.

    The block fills the folder and ends with ``seal``. If another process took the name meanwhile, the run
    gets the next free one (``out-2``): hours of training are not thrown away, nor is the other's run.
    Raises: RunError if ``out`` exists.
    """
    refuse_existing(out)
    with staging(out) as staged:
        made = NewRun(staged, out)
        yield made
        if not (staged / MANIFEST_FILE).is_file():
            raise AssertionError("a new run is sealed before it ends")
        settle(staged)
        made.path = place_new(staged, out)


def refuse_existing(out: Path) -> None:
    """Raise RunError if ``out`` is taken: a run is never written over another."""
    if out.absolute() == LATEST.absolute():
        raise RunError("runs/latest is where ftx keeps the newest run", where=out, mend="choose another name")
    if out.exists() or out.is_symlink():
        raise RunError("--out exists already", where=out, mend="choose another name, or move the old run away")


def seal(folder: Path, manifest: Manifest, entries: tuple[Entry, ...]) -> None:
    """Write data.jsonl and run.json, the last files of a new run."""
    lines = [json.dumps(entry.to_json(), ensure_ascii=False) + "\n" for entry in entries]
    write_atomic(folder / "data.jsonl", "".join(lines).encode())
    files = file_hashes(folder, "")
    write_atomic(folder / MANIFEST_FILE, manifest_bytes(manifest.model_copy(update={"files": files})))
