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
from ftx.runs.card_json import FOUND_OUT
from ftx.runs.label_record import FileHashes, LabelRecord, read_record
from ftx.tasks.labels import Labels
from ftx.tasks.task_names import TaskName
from ftx.tasks.thresholds import Thresholds

MANIFEST_FILE = "run.json"
MANIFEST_SCHEMA = 1
# The model card of an artifact, under the name that the hub shows.
MODEL_CARD = "README.md"


class Lineage(ClosedModel):
    """What a model was made from."""

    made_from: str
    """The model that it was made from, for example ``dense``."""
    digest: str
    """The hash of that model at the time."""


class RecoverRecord(ClosedModel):
    """How ``ftx export --recover`` trained the weights of a run further."""

    trained: str
    """The hash of the trained model that it started from."""
    steps: int
    """The number of training steps."""
    lr: float
    """The learning rate of the first step."""
    error_before: float
    """The mean absolute difference of a logit between the simulated int8 model and the fp32 model, before these steps.
    It is measured on training images that no step uses.
    """
    error_after: float
    """The same difference after these steps."""


class InitialWeights(ClosedModel):
    """The weights of another run that a training started with."""

    trained: str
    """The hash of the trained model of that run."""
    labels_kept: int
    """The number of labels whose weights in the head are from that run."""
    labels_new: tuple[str, ...]
    """The labels whose weights in the head are new."""


class Manifest(LabelRecord):
    """The facts of a run, with the hash of each file."""

    schema_version: int = MANIFEST_SCHEMA
    """The version of this file format."""
    ftx: str = __version__
    """The version of ftx that wrote the file."""
    task: TaskName
    """The task that the labels are for."""
    model: Annotated[str, Field(max_length=4096)]
    """The model that was trained, as in ``--model``."""
    # It stands in the Python of a model card, and timm builds by it: a name, never hf-hub:, local-dir: or a path.
    architecture: Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=200)]
    """The name of the architecture in timm."""
    method: Method
    """The training method, for example ``dora``."""
    base_digest: str
    """The SHA-256 hash of the pretrained weights without a head."""
    labels: Labels
    """The label names in the order of the logits, groups of mutually exclusive classes, independent labels
    (``singles``), and the parent of each label in a tree.
    """
    thresholds: Thresholds = Thresholds()
    """The score above which an independent label is predicted, by label. ``shared`` is the best single threshold. Empty
    for mutually exclusive classes.
    """
    preprocess: Preprocess
    """How images are resized, cropped and normalised."""
    data_root: str
    """The folder or URL of the images when the run was trained."""
    recovered: RecoverRecord | None = None
    """Only in a run of ``ftx export --recover``: how it was made. Its recipe makes the run before."""
    begun_from: InitialWeights | None = None
    """Only in a run of ``ftx train --from``: the weights that it started with."""
    lineage: dict[str, Lineage] = Field(default_factory=dict[str, Lineage])
    """For each model that is made from another one: from which, and its hash at the time."""
    files: FileHashes = Field(default_factory=dict[str, str])
    """The SHA-256 hash of each file, without ``proof.json`` and ``tuning.json``."""

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
    """SHA-256 of every file in a folder, by its path behind the prefix; without links and what is found out later."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    paths = [path for path in paths if path.name not in FOUND_OUT]
    return {str(Path(prefix, path.relative_to(folder)).as_posix()): sha256_file(path) for path in paths}
