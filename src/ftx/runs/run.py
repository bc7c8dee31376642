"""The run folder, which training makes and every later command adds to.

An artifact is a folder below the run; it is written to a temporary name, moved into place when whole, and rejected
later if a file in it changed or if what it was made from is no longer what the run contains.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from ftx.core.addresses import Address, Location, data_option, is_elsewhere, typed
from ftx.core.disk import settle
from ftx.core.errors import DataError, EnvironmentFault, RunError, listed, shown
from ftx.core.file_cache import UnchangedFile
from ftx.core.files import cached_sha256, check_no_links, replace_folder, sole_writer, staging, write_atomic
from ftx.core.progress import SILENT, Progress
from ftx.data.dataset import Entry, Split
from ftx.data.shards.paths import images_root
from ftx.runs.artifacts import ARTIFACTS, TRAINED, Artifact
from ftx.runs.data_jsonl import read_entries
from ftx.runs.run_json import (
    MANIFEST_FILE,
    RESTORE,
    Lineage,
    Manifest,
    file_hashes,
    folders_in,
    manifest_bytes,
    read_manifest,
)
from ftx.runs.runs_folder import finished_runs, known_runs, latest_run
from ftx.tasks.base import Task
from ftx.tasks.task_names import TASK_FACTS

if TYPE_CHECKING:
    from ftx.recipe.schema import Recipe


@dataclass(frozen=True)
class Run:
    """One run folder, opened."""

    path: Path

    @classmethod
    def open(cls, path: Path | str | None = None) -> Run:
        """Open a run, or the newest one below the current folder.

        Raises: RunError if there is none, if it is unfinished, if its schema version is another, or if a link stands
        for a folder in it.
        """
        folder = latest_run() if path is None else Path(path)
        around = next((parent for parent in folder.parents if (parent / MANIFEST_FILE).is_file()), None)
        if around is not None and not folder.is_dir():
            models = ", ".join(str(artifact) for artifact in cls(around).artifacts())
            fix = f"name the run, {around}, or a model in it: {models}"
            raise RunError("the run does not contain this folder", where=folder, fix=fix)
        if not folder.is_dir():
            raise RunError(
                "the run does not exist",
                where=folder,
                found=known_runs(folder),
                fix="give a run folder: `ftx runs` lists them",
            )
        run = cls(folder)
        _ = run.manifest
        check_no_links(folders_in(folder))
        return run

    @property
    def task(self) -> Task:
        """What reads its logits."""
        return self.manifest.meaning.open()

    @property
    def manifest(self) -> Manifest:
        """``run.json`` as it stands on disk now."""
        return self._manifest_file.get()

    @cached_property
    def _manifest_file(self) -> UnchangedFile[Manifest]:
        return UnchangedFile(self.path / MANIFEST_FILE, read_manifest)

    def folder(self, artifact: Artifact) -> Path:
        """Where an artifact lies, or would lie."""
        return self.path / artifact.name

    def has(self, artifact: Artifact) -> bool:
        """Whether the run has ever been given this artifact."""
        return any(artifact.holds(name) for name in self.manifest.files)

    def artifacts(self) -> list[Artifact]:
        """The artifacts that the run holds, in the order of the pipeline."""
        return [artifact for artifact in ARTIFACTS.values() if self.has(artifact)]

    def require(self, artifact: Artifact) -> Path:
        """The folder of an artifact that is whole, unaltered and not stale.

        Raises: RunError naming the file or the ancestor that is damaged or stale.
        """
        manifest = self.manifest
        if not self.has(artifact):
            raise RunError(
                f"this run has no {artifact}/ yet",
                where=self.path,
                found=self.another_with(artifact),
                fix=f"run: {artifact.command(self.path)}",
            )
        for name, digest in sorted(manifest.files.items()):
            if artifact.holds(name):
                self._check_file(name, digest, artifact.command(self.path))
        self._check_current(artifact)
        if artifact.made_from is not None and artifact.name in manifest.lineage:
            self.require(artifact.made_from)
        return self.folder(artifact)

    def another_with(self, *artifacts: Artifact) -> str | None:
        """The newest other run in ``runs/`` that has one of these artifacts, in words."""
        others = [run for run in finished_runs() if run.resolve() != self.path.resolve()]
        for folder in sorted(others, key=lambda run: (run / MANIFEST_FILE).stat().st_mtime, reverse=True):
            with suppress(RunError):
                if any(map(Run(folder).has, artifacts)):
                    return f"{folder} has one"
        return None

    def _check_current(self, artifact: Artifact) -> None:
        if self.manifest.is_stale(artifact):
            raise RunError(
                f"{artifact}/ is stale",
                where=self.folder(artifact),
                found=f"made from a different {artifact.made_from}/ than the run now has",
                fix=f"run: {artifact.command(self.path)}",
            )

    @classmethod
    def around(cls, folder: Path) -> tuple[Run, Artifact] | None:
        """The run in which a folder is one of its artifacts; None if it is in no run, as on a device.

        Raises: as ``open``.
        """
        for there in (folder.absolute(), folder.resolve()):  # it may be named through a link, or with ".."
            for artifact in ARTIFACTS.values():
                root = Path(there.as_posix().removesuffix(f"/{artifact}"))
                if root != there and (root / MANIFEST_FILE).is_file():
                    return cls.open(root if folder.is_absolute() else os.path.relpath(root)), artifact
        return None

    @classmethod
    def check_folder(cls, folder: Path) -> None:
        """Check that a run made the folder of an artifact in it, from what the run still has.

        Of its files only the card is hashed, which has the hashes of the others.
        Raises: RunError.
        """
        found = cls.around(folder)
        if found is not None:
            run, artifact = found
            card = f"{artifact}/card.json"
            if (run.path / card).exists():
                run._check_file(card, run.manifest.files.get(card, ""), artifact.command(run.path))
            while artifact.made_from is not None:
                run._check_current(artifact)
                artifact = artifact.made_from

    def file(self, name: str) -> Path:
        """A file that training wrote next to its artifact, unaltered.

        Raises: RunError if it is missing or another than was written.
        """
        self._check_file(name, self.manifest.files.get(name, ""), TRAINED.command(self.path))
        return self.path / name

    def recipe(self) -> Recipe:
        """The resolved recipe that the run was trained with.

        Raises: RunError if the file was changed since.
        """
        from ftx.recipe.schema import Recipe

        return Recipe.load(self.file("recipe.yaml"))

    def check_report(self, report: Path, again: str) -> None:
        """Check that a report, if it exists, is what was written; ``again`` is the command that writes it.

        Raises: RunError.
        """
        if (self.path / report).exists():
            self._check_file(report.as_posix(), self.manifest.files.get(report.as_posix(), ""), again)

    def _check_file(self, name: str, digest: str, again: str) -> None:
        path = self.path / name
        if not path.is_file():
            raise RunError("a file of the run is missing", where=path, fix=f"restore the file, or run: {again}")
        found = cached_sha256(path)
        if found != digest:
            raise RunError(
                "a file of the run has changed since ftx wrote it",
                where=path,
                found=f"sha256 {found[:12]}…, run.json contains {digest[:12]}…",
                fix=f"restore the file, or run: {again}",
            )

    @contextmanager
    def add(self, artifact: Artifact, progress: Progress = SILENT) -> Iterator[Path]:
        """Write an artifact: yields a temporary folder that becomes the artifact's when the block ends well.

        Raises: RunError if a folder of that name is there which no command wrote.
        """
        final, source = self.folder(artifact), artifact.made_from
        assert source is not None, f"{artifact} is there from the start"
        if (final.exists() or final.is_symlink()) and not self.has(artifact):
            raise RunError(
                "ftx must not replace a folder that it did not write",
                where=final,
                fix="move this folder to another place, then run the command again",
            )
        line = Lineage(made_from=source.name, digest=self.manifest.digest(source))
        with staging(final) as staged:
            yield staged
            settle(staged)
            files = file_hashes(staged, artifact.name)
            with sole_writer(self.path, progress.note):
                before = self._read()
                kept = {name: digest for name, digest in before.files.items() if not artifact.holds(name)}
                lineage = before.lineage | {artifact.name: line}
                try:
                    # First the hashes, then the folder: a run killed in between names the file that is missing.
                    self._write(before.model_copy(update={"files": kept | files, "lineage": lineage}))
                    replace_folder(staged, final)
                except BaseException:
                    self._write(before)
                    raise

    def write_report(self, name: str, report: BaseModel, progress: Progress = SILENT) -> Path:
        """Write ``reports/NAME.json``."""
        return self.write_file(f"reports/{name}.json", (report.model_dump_json(indent=2) + "\n").encode(), progress)

    def keep_report(self, name: str, report: BaseModel, progress: Progress) -> None:
        """Write ``reports/NAME.json``, or note that the run cannot be written: the result is complete without it."""
        try:
            self.write_report(name, report, progress)
        except EnvironmentFault as fault:
            progress.note(f"reports/{name}.json is not kept: {fault.what} ({fault.found})")

    def write_file(self, name: str, content: bytes, progress: Progress = SILENT) -> Path:
        """Write a file of the run, and its hash into ``run.json``.

        Raises: EnvironmentFault if the run cannot be written.
        """
        path, digest = self.path / name, sha256(content).hexdigest()
        with sole_writer(self.path, progress.note):
            before = self._read()
            try:
                self._write(before.model_copy(update={"files": before.files | {name: digest}}))
                write_atomic(path, content)
            except BaseException:  # what was there before stays, and has its hash
                self._write(before)
                raise
        return path

    def _read(self) -> Manifest:
        """``run.json`` for whoever holds the lock, and is to change it: never what was kept of it."""
        return read_manifest(self.path / MANIFEST_FILE)

    def _write(self, manifest: Manifest) -> None:
        write_atomic(self.path / MANIFEST_FILE, manifest_bytes(manifest))

    def entries(self, split: Split | None = None) -> tuple[Entry, ...]:
        """The images of the run as training split them (``data.jsonl``)."""
        path = self.file("data.jsonl")
        found = read_entries(path)
        if TASK_FACTS[self.manifest.task].one_label and any(len(entry.labels) != 1 for entry in found):
            raise RunError("data.jsonl is invalid", where=path, found="an image without exactly one label", fix=RESTORE)
        if unknown := {name for entry in found for name in entry.labels} - set(self.manifest.labels.names):
            raise RunError(
                "the labels in data.jsonl must be in run.json",
                where=path,
                found=listed(sorted(unknown)),
                fix=RESTORE,
            )
        return tuple(entry for entry in found if split is None or entry.split == split)

    def report_entries(self) -> tuple[Entry, ...]:
        """The held-out images that reports use: ``test``, or ``val`` where there is no test split."""
        entries = self.entries("test") or self.entries("val")
        if not entries:
            raise RunError(
                "the run must have held-out images (test or val)", where=self.path / "data.jsonl", fix=RESTORE
            )
        return entries

    def data_root(self, override: Location | None = None) -> Location:
        """The folder that the paths in data.jsonl count from, or the address that ``override`` names.

        Raises: DataError if the folder is not there, or only the run names an address.
        """
        if override is None and is_elsewhere(self.manifest.data_root):
            raise DataError(
                "the recipe of a run must not contain a URL for its images",
                where=self.path / MANIFEST_FILE,
                found=shown(self.manifest.data_root),
                fix=f"if you trust this URL, run again with {data_option(self.manifest.data_root)}",
            )
        root = Path(self.manifest.data_root) if override is None else images_root(typed(override))
        if not isinstance(root, Address) and not root.is_dir():
            raise DataError(
                "the folder of the images must exist"
                if override is not None
                else "the images of this run are not where they were at training",
                where=root,
                fix="run the command in the folder where you trained, or add --data DIR",
            )
        return root
