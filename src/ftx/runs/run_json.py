"""``run.json``: labels, preprocessing, the base's digest, what was made from what, and the hash of each file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from ftx.core.closed_model import ClosedModel
from ftx.core.errors import RunError, shell_command
from ftx.core.files import is_locked, sha256_file
from ftx.core.version import __version__
from ftx.data.preprocess import Preprocess
from ftx.recipe.method_defaults import Method
from ftx.runs.artifacts import ARTIFACTS, Artifact
from ftx.runs.label_record import FileHashes, LabelRecord, read_record
from ftx.tasks.labels import Labels
from ftx.tasks.task_names import TaskName
from ftx.tasks.thresholds import Thresholds

MANIFEST_FILE = "run.json"
MANIFEST_SCHEMA = 1
# The model card of an artifact, under the name that the hub shows.
MODEL_CARD = "README.md"


class Lineage(ClosedModel):
    """What an artifact was made from, and the digest that had at the time."""

    made_from: str
    digest: str


class RecoverRecord(ClosedModel):
    """How a run's weights were trained further through 8 bits: from which ``trained/`` (its digest), with which result.

    Errors are mean absolute differences of a logit from the model in f32 before.
    """

    trained: str
    steps: int
    lr: float
    error_before: float
    error_after: float


class InitialWeights(ClosedModel):
    """The weights that training started with, of another run: the digest of its ``trained/``, and the head's rows.

    ``labels_kept`` rows were that run's, those of ``labels_new`` are new.
    """

    trained: str
    labels_kept: int
    labels_new: tuple[str, ...]


class Manifest(LabelRecord):
    """``run.json``."""

    schema_version: int = MANIFEST_SCHEMA
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
    # Of a run that ``ftx export --recover`` made; training from its recipe makes the run before.
    recovered: RecoverRecord | None = None
    # Of a run that ``ftx train --from`` made.
    begun_from: InitialWeights | None = None
    lineage: dict[str, Lineage] = Field(default_factory=dict[str, Lineage])
    files: FileHashes = Field(default_factory=dict[str, str])

    @model_validator(mode="after")
    def _made_from_what_the_table_says(self) -> Self:
        for name, line in self.lineage.items():
            artifact = ARTIFACTS.get(name)
            if artifact is None or artifact.made_from is None or artifact.made_from.name != line.made_from:
                raise ValueError(f"{name} cannot have been made from {line.made_from}")
        return self

    def digest(self, artifact: Artifact) -> str:
        """SHA-256 over the names and hashes of an artifact's files, without its card.

        The card contains what was measured, and on which images: what is made from the artifact does not depend on it.
        """
        lines = [
            f"{name} {digest}\n"
            for name, digest in sorted(self.files.items())
            if artifact.holds(name) and name != f"{artifact}/{MODEL_CARD}"
        ]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def is_stale(self, artifact: Artifact) -> bool:
        """Whether an artifact was made from another one than the run holds now."""
        line, source = self.lineage.get(artifact.name), artifact.made_from
        return line is not None and source is not None and line.digest != self.digest(source)


# Of an unfinished training, to resume from.
CHECKPOINTS = "checkpoints"
RESUME = "ftx train --resume"
RESTORE = "restore the file from a copy of the run, or train again"


def checkpoint_records(run: Path) -> list[Path]:
    """The records of a run's checkpoints, the newest first."""
    named = [path for path in (run / CHECKPOINTS).glob("*.json") if path.stem.isdecimal()]
    return sorted(named, key=lambda path: -int(path.stem))


def folders_in(run: Path) -> list[Path]:
    """Where ftx writes in a run, whether these are there or not."""
    parts = {artifact.name.partition("/")[0] for artifact in ARTIFACTS.values()}
    return [run / name for name in (*sorted(parts), "reports", CHECKPOINTS)]


def is_run(folder: Path) -> bool:
    """Whether a folder is a run, be its training finished or not."""
    return (folder / MANIFEST_FILE).is_file() or bool(checkpoint_records(folder))


def read_manifest(path: Path) -> Manifest:
    """``run.json`` of a run folder.

    Raises: RunError if there is none, it is of another schema version, or invalid.
    """
    if not path.is_file():
        found, fix = f"no {path.name} in it", "give a run folder: `ftx runs` lists them"
        if checkpoint_records(path.parent):
            found, fix = "its training has not ended", f"resume it: {shell_command(RESUME, path.parent)}"
            if is_locked(path.parent):
                fix = "wait for the other ftx that is training it"
        raise RunError("this folder must be a finished run", where=path.parent, found=found, fix=fix)
    return read_record(path, Manifest, RunError, RESTORE)


def manifest_bytes(manifest: Manifest) -> bytes:
    """The content of ``run.json``."""
    unset = {name for name in ("recovered", "begun_from") if getattr(manifest, name) is None}
    return (manifest.model_dump_json(indent=2, exclude=unset) + "\n").encode()


def file_hashes(folder: Path, prefix: str) -> dict[str, str]:
    """SHA-256 of every file in a folder, by its path behind the prefix; links are left out."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(Path(prefix, path.relative_to(folder)).as_posix()): sha256_file(path) for path in paths}
