"""The run folder: what training started and every later verb adds to.

``run.json`` holds the schema version, the labels, the preprocessing, the base's digest, what was made
from what (lineage) and the hash of each file. An artifact is a folder below the run; it is written to
a temporary name, moved into place when whole, and refused later if a file in it changed or if what it
was made from is no longer what the run holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ftx.complaints import first_complaint
from ftx.data.dataset import Entry, Split
from ftx.data.preprocess import Preprocess
from ftx.errors import DataError, EnvironmentFault, RunError, shell_command, shown, told
from ftx.files import (
    below_it,
    place_new,
    replace_folder,
    settle,
    sha256_file,
    sole_writer,
    staging,
    write_atomic,
)
from ftx.labels import Labels
from ftx.progress import SILENT, Progress
from ftx.recipe import Method, TaskName
from ftx.runs import LATEST, known_runs, latest_run
from ftx.strict_json import JsonError, parse_json, read_json
from ftx.tasks import Meaning, Task, Thresholds
from ftx.version import __version__

SCHEMA_VERSION = 1
# The model card of an artifact, under the name that the hub shows.
CARD = "README.md"

# The verb that makes each artifact, for errors that suggest the next command.
MADE_BY = {
    "trained": "ftx train",
    "dense": "ftx merge",
    "onnx": "ftx export --format onnx",
    "openvino/fp32": "ftx export --format openvino --precision fp32",
    "openvino/fp16": "ftx export --format openvino --precision fp16",
    "openvino/int8": "ftx export --format openvino --precision int8",
}


class Lineage(BaseModel):
    """What an artifact was made from, and the digest that had at the time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    made_from: str
    digest: str


class Manifest(BaseModel):
    """``run.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    schema_version: int = SCHEMA_VERSION
    ftx: str = __version__
    task: TaskName
    model: Annotated[str, Field(max_length=4096)]
    # It stands in the Python of a model card, and timm builds by it: a name, never hf-hub:, local-dir: or a path.
    architecture: Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=200)]
    method: Method
    base_digest: str
    labels: Labels
    # Per label, for tasks that decide label by label.
    thresholds: Thresholds = Thresholds()
    preprocess: Preprocess
    data_root: str
    lineage: dict[str, Lineage] = {}
    files: dict[str, str] = {}

    @property
    def meaning(self) -> Meaning:
        """What the logits mean."""
        return Meaning(task=self.task, labels=self.labels, thresholds=self.thresholds)

    @model_validator(mode="after")
    def _of_one_task(self) -> Self:
        self.meaning.open()
        return self

    @field_validator("files")
    @classmethod
    def _within_the_run(cls, files: dict[str, str]) -> dict[str, str]:
        return below_it(files)

    @model_validator(mode="after")
    def _made_from_what_comes_before(self) -> Self:
        order = list(MADE_BY)
        for artifact, line in self.lineage.items():
            known = artifact in order and line.made_from in order
            if not known or order.index(line.made_from) >= order.index(artifact):
                raise ValueError(f"{artifact} cannot have been made from {line.made_from}")
        return self

    def digest(self, artifact: str) -> str:
        """SHA-256 over the names and hashes of an artifact's files, without its card.

        The card says what was measured, and with which images: what is made from the artifact does not hang on it.
        """
        lines = [
            f"{name} {digest}\n"
            for name, digest in sorted(self.files.items())
            if _belongs(name, artifact) and name != f"{artifact}/{CARD}"
        ]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class Run:
    """One run folder, opened."""

    path: Path

    @classmethod
    def open(cls, path: Path | str | None = None) -> Run:
        """Open a run, or the newest one below the current folder.

        Raises: RunError if there is none, if it is unfinished, or if its schema version is another.
        """
        folder = latest_run() if path is None else Path(path)
        if not folder.is_dir():
            raise RunError(
                "there is no such run", where=folder, found=known_runs(folder), mend="name a run folder, or ftx train"
            )
        run = cls(folder)
        _ = run.manifest
        return run

    @property
    def task(self) -> Task:
        """What reads its logits."""
        return self.manifest.meaning.open()

    @property
    def manifest(self) -> Manifest:
        """``run.json`` as it stands on disk now."""
        return _read_manifest(self.path)

    def has(self, artifact: str) -> bool:
        """Whether the run has ever been given this artifact."""
        return any(_belongs(name, artifact) for name in self.manifest.files)

    def artifacts(self) -> list[str]:
        """The artifacts that the run holds, in the order of the pipeline."""
        return [name for name in MADE_BY if self.has(name)]

    def require(self, artifact: str) -> Path:
        """The folder of an artifact that is whole, unaltered and not stale.

        Raises: RunError naming the file or the ancestor that does not hold.
        """
        manifest = self.manifest
        if not self.has(artifact):
            raise RunError(f"this run has no {artifact}/ yet", where=self.path, mend=f"run: {self._again(artifact)}")
        for name, digest in sorted(manifest.files.items()):
            if _belongs(name, artifact):
                self._check_file(name, digest, artifact)
        line = manifest.lineage.get(artifact)
        if line is not None:
            if manifest.digest(line.made_from) != line.digest:
                raise RunError(
                    f"{artifact}/ is stale",
                    where=self.path / artifact,
                    found=f"it was made from another {line.made_from}/ than the one now in the run",
                    mend=f"run: {self._again(artifact)}",
                )
            self.require(line.made_from)
        return self.path / artifact

    def file(self, name: str) -> Path:
        """A file that training wrote beside its artifact, unaltered.

        Raises: RunError if it is missing or another than was written.
        """
        self._check_file(name, self.manifest.files.get(name, ""), "trained")
        return self.path / name

    def _again(self, artifact: str) -> str:
        """The command that makes the artifact."""
        return shell_command(MADE_BY.get(artifact, "ftx export"), None if artifact == "trained" else self.path)

    def _check_file(self, name: str, digest: str, artifact: str) -> None:
        path = self.path / name
        if not path.is_file():
            raise RunError(
                "a file of the run is missing", where=path, mend=f"restore it, or run: {self._again(artifact)}"
            )
        found = sha256_file(path)
        if found != digest:
            raise RunError(
                "a file of the run is not what was written",
                where=path,
                found=f"sha256 {found[:12]}…, run.json says {digest[:12]}…",
                mend=f"restore it, or run again: {self._again(artifact)}",
            )

    @contextmanager
    def add(self, artifact: str, *, made_from: str, progress: Progress = SILENT) -> Iterator[Path]:
        """Write an artifact: yields a temporary folder that becomes ``artifact`` when the block ends well.

        Raises: RunError if a folder of that name is there which no verb wrote.
        """
        final = self.path / artifact
        if final.exists() and not self.has(artifact):
            raise RunError(
                "a folder that ftx did not write is in the way", where=final, mend="move it, then run this again"
            )
        line = Lineage(made_from=made_from, digest=self.manifest.digest(made_from))
        with staging(final) as staged:
            yield staged
            settle(staged)
            files = _hashes(staged, artifact)
            with sole_writer(self.path, progress.note):
                before = self.manifest
                kept = {name: digest for name, digest in before.files.items() if not _belongs(name, artifact)}
                lineage = before.lineage | {artifact: line}
                try:
                    # First the hashes, then the folder: a run killed in between says what is missing; the verb mends.
                    self._write(before.model_copy(update={"files": kept | files, "lineage": lineage}))
                    replace_folder(staged, final)
                except BaseException:
                    self._write(before)
                    raise

    def write_report(self, name: str, report: BaseModel, progress: Progress = SILENT) -> Path:
        """Write ``reports/NAME.json``."""
        path = self.path / "reports" / f"{name}.json"
        with sole_writer(self.path, progress.note):
            write_atomic(path, (report.model_dump_json(indent=2) + "\n").encode())
            manifest = self.manifest
            files = manifest.files | {f"reports/{name}.json": sha256_file(path)}
            self._write(manifest.model_copy(update={"files": files}))
        return path

    def write_card(self, artifact: str, text: str, progress: Progress = SILENT) -> None:
        """Write an artifact's model card anew; what was made from the artifact does not hang on it."""
        name = f"{artifact}/{CARD}"
        with sole_writer(self.path, progress.note):
            write_atomic(self.path / name, text.encode())
            manifest = self.manifest
            files = manifest.files | {name: sha256_file(self.path / name)}
            self._write(manifest.model_copy(update={"files": files}))

    def keep_report(self, name: str, report: BaseModel, progress: Progress) -> None:
        """Write ``reports/NAME.json``, or say that the run cannot be written: the answer is known all the same."""
        try:
            self.write_report(name, report, progress)
        except EnvironmentFault as fault:
            progress.note(f"reports/{name}.json is not kept: {fault.what} ({fault.found})")

    def _write(self, manifest: Manifest) -> None:
        write_atomic(self.path / "run.json", _manifest_bytes(manifest))

    def entries(self, split: Split | None = None) -> tuple[Entry, ...]:
        """The images of the run as training split them (``data.jsonl``)."""
        path = self.file("data.jsonl")
        # Not splitlines(): a file's name may hold what that takes for the end of a line.
        try:
            lines = path.read_bytes().decode().split("\n")
            found = tuple(Entry.from_json(parse_json(line)) for line in lines if line)
        except (ValueError, DataError) as error:
            raise RunError("data.jsonl does not hold", where=path, found=str(error), mend=_RESTORE) from error
        if self.manifest.task == "multiclass" and any(len(entry.labels) != 1 for entry in found):
            raise RunError(
                "data.jsonl does not hold", where=path, found="an image without exactly one label", mend=_RESTORE
            )
        if unknown := {name for entry in found for name in entry.labels} - set(self.manifest.labels.names):
            raise RunError(
                "data.jsonl names labels that run.json does not",
                where=path,
                found=told(sorted(unknown)),
                mend=_RESTORE,
            )
        return tuple(entry for entry in found if split is None or entry.split == split)

    def report_entries(self) -> tuple[Entry, ...]:
        """The held-out images that reports use: ``test``, or ``val`` where there is no test split."""
        entries = self.entries("test") or self.entries("val")
        if not entries:
            raise RunError("the run has no held-out images", where=self.path / "data.jsonl", mend=_RESTORE)
        return entries

    def data_root(self, override: Path | None = None) -> Path:
        """The folder that the paths in data.jsonl count from.

        Raises: DataError if it is not there.
        """
        root = override if override is not None else Path(self.manifest.data_root)
        if not root.is_dir():
            raise DataError(
                "there is no such folder of images"
                if override is not None
                else "the images of this run are not where they were at training",
                where=root,
                mend="run the command from the folder where training ran, or name the folder: --data DIR",
            )
        return root


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
        if not (staged / "run.json").is_file():
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
    files = _hashes(folder, "")
    write_atomic(folder / "run.json", _manifest_bytes(manifest.model_copy(update={"files": files})))


_RESTORE = "restore the file from a copy of the run, or train again"


def _read_manifest(folder: Path) -> Manifest:
    path = folder / "run.json"
    if not path.is_file():
        raise RunError(
            "this folder is no finished run", where=folder, found="no run.json in it", mend="name a run folder"
        )
    try:
        raw = read_json(path)
    except JsonError as error:
        raise RunError("run.json cannot be read", where=path, found=str(error), mend=_RESTORE) from error
    version: object = raw.get("schema_version") if isinstance(raw, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if version != SCHEMA_VERSION:
        raise RunError(
            "this run was written with another schema version",
            where=path,
            found=f"version {shown(version)}, this ftx ({__version__}) reads version {SCHEMA_VERSION}",
            mend="use the ftx that made the run, or train again",
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        raise RunError("run.json does not hold", where=path, found=first_complaint(error), mend=_RESTORE) from error
    except DataError as error:  # its labels, which training refuses in the same words
        found = "; ".join([error.what, *(text for _, text in error.details())])
        raise RunError("run.json does not hold", where=path, found=found, mend=_RESTORE) from error


def _manifest_bytes(manifest: Manifest) -> bytes:
    return (manifest.model_dump_json(indent=2) + "\n").encode()


def _belongs(name: str, artifact: str) -> bool:
    return name.startswith(f"{artifact}/")


def _hashes(folder: Path, prefix: str) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(Path(prefix, path.relative_to(folder)).as_posix()): sha256_file(path) for path in paths}
