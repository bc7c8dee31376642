"""A new run: filled under a temporary name, sealed, and moved to its own when whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ftx.core.disk import settle
from ftx.core.errors import RunError
from ftx.core.files import check_no_links, place_new, sole_writer, staging, write_atomic
from ftx.data.dataset import Entry
from ftx.runs.data_jsonl import write_entries
from ftx.runs.run_json import (
    CHECKPOINTS,
    MANIFEST_FILE,
    Manifest,
    file_hashes,
    folders_in,
    is_run,
    manifest_bytes,
    read_manifest,
)
from ftx.runs.runs_folder import LATEST

# What training writes, and what of a run's folder is no part of the run.
_TRAINING = ("trained/", "data.jsonl", "recipe.yaml", "reports/train.jsonl", "reports/tensorboard/")
_UNSEALED = (f"{CHECKPOINTS}/", ".ftx-", MANIFEST_FILE)


@dataclass
class NewRun:
    """A run in the making: the ``folder`` to fill, and the ``path`` that it gets, or has since it was shown."""

    folder: Path
    path: Path
    shown: bool = False
    lock: ExitStack = field(default_factory=ExitStack, repr=False)

    def show(self) -> None:
        """Give the unfinished run its name, for its training to be resumed from there; no other process changes it.

        If another process took the name meanwhile, the run gets the next free one (``path-2``): hours of training are
        not thrown away, nor is the other's run.
        """
        if not self.shown:
            self.place()
            self.lock.enter_context(sole_writer(self.folder, lambda _text: None))

    def place(self) -> None:
        """Move the folder to its name."""
        settle(self.folder)
        self.folder = self.path = place_new(self.folder, self.path)
        self.shown = True


@contextmanager
def new_run(out: Path) -> Iterator[NewRun]:
    """Make a run: its temporary folder gets its name when it is shown, or when the block ends well.

    The block fills the folder and ends with ``seal``. Where it fails after the run was shown, a run that is finished,
    or whose training can be resumed, stays.
    Raises: RunError if ``out`` exists.
    """
    check_name_free(out)
    with staging(out) as staged, ExitStack() as lock:
        made = NewRun(staged, out, lock=lock)
        try:
            yield made
            assert (made.folder / MANIFEST_FILE).is_file(), "a new run is sealed before it ends"
            if not made.shown:
                made.place()
        except BaseException:
            if made.shown and not is_run(made.folder):
                shutil.rmtree(made.folder, ignore_errors=True)
            raise


@contextmanager
def unfinished_run(path: Path) -> Iterator[NewRun]:
    """A run that was shown before it was finished, or that was interrupted; no other process changes it.

    Raises: RunError if another process changes it, or if its run.json is invalid, which ``seal`` would find only after
    all the training.
    """
    check_no_links(folders_in(path))
    with sole_writer(path, None):
        if (path / MANIFEST_FILE).is_file():
            read_manifest(path / MANIFEST_FILE)
        yield NewRun(path, path, shown=True)


def check_name_free(out: Path) -> None:
    """Raise RunError if ``out`` exists: a run is never written over another."""
    if out.absolute() == LATEST.absolute():
        raise RunError(
            "--out must not be runs/latest, where ftx keeps the newest run",
            where=out,
            fix="choose another name for --out",
        )
    if out.exists() or out.is_symlink():
        raise RunError(
            "--out must not exist yet", where=out, fix="choose another folder for --out, or move the existing one"
        )


def seal(folder: Path, manifest: Manifest, entries: tuple[Entry, ...]) -> None:
    """Write data.jsonl and run.json, the last files of a new run.

    What was made from an earlier state of it, while its training was interrupted, stays, and is stale.
    """
    write_entries(folder, entries)
    settle(folder)
    made = {name: digest for name, digest in file_hashes(folder, "").items() if not name.startswith(_UNSEALED)}
    if (folder / MANIFEST_FILE).is_file():
        before = read_manifest(folder / MANIFEST_FILE)
        later = {name: digest for name, digest in before.files.items() if not name.startswith(_TRAINING)}
        made = {name: digest for name, digest in made.items() if name.startswith(_TRAINING)} | later
        manifest = manifest.model_copy(update={"lineage": before.lineage})
    write_atomic(folder / MANIFEST_FILE, manifest_bytes(manifest.model_copy(update={"files": made})))
