"""``run.json``: labels, preprocessing, the base's digest, what was made from what, and the hash of each file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ftx.core.errors import DataError, RunError, shell_command, shown
from ftx.core.files import below_it, sha256_file
from ftx.core.pydantic_errors import first_error
from ftx.core.strict_json import JsonError, read_json
from ftx.core.version import __version__
from ftx.data.preprocess import Preprocess
from ftx.recipe.sections import Method
from ftx.tasks.labels import Labels
from ftx.tasks.meaning import Meaning
from ftx.tasks.names import TaskName
from ftx.tasks.thresholds import Thresholds

SCHEMA_VERSION = 1
# The model card of an artifact, under the name that the hub shows.
MODEL_CARD = "README.md"

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
            if belongs(name, artifact) and name != f"{artifact}/{MODEL_CARD}"
        ]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


RESTORE = "restore the file from a copy of the run, or train again"


def read_manifest(folder: Path) -> Manifest:
    """``run.json`` of a run folder.

    Raises: RunError if there is none, it is of another schema version, or it does not hold.
    """
    path = folder / "run.json"
    if not path.is_file():
        cut_off = (folder / "checkpoints").is_dir()
        mend = f"go on with its training: {shell_command('ftx train --resume', folder)}" if cut_off else None
        raise RunError(
            "this folder is no finished run", where=folder, found="no run.json in it", mend=mend or "name a run folder"
        )
    try:
        raw = read_json(path)
    except JsonError as error:
        raise RunError("run.json cannot be read", where=path, found=str(error), mend=RESTORE) from error
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
        raise RunError("run.json does not hold", where=path, found=first_error(error), mend=RESTORE) from error
    except DataError as error:  # its labels, which training refuses in the same words
        found = "; ".join([error.what, *(text for _, text in error.details())])
        raise RunError("run.json does not hold", where=path, found=found, mend=RESTORE) from error


def manifest_bytes(manifest: Manifest) -> bytes:
    """The content of ``run.json``."""
    return (manifest.model_dump_json(indent=2) + "\n").encode()


def belongs(name: str, artifact: str) -> bool:
    """Whether a file of the run is an artifact's."""
    return name.startswith(f"{artifact}/")


def file_hashes(folder: Path, prefix: str) -> dict[str, str]:
    """SHA-256 of every file in a folder, by its path behind the prefix."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(Path(prefix, path.relative_to(folder)).as_posix()): sha256_file(path) for path in paths}
