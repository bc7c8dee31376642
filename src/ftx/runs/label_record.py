"""What ``run.json`` and ``card.json`` share: labels of one task, hashes of files, and how they are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self, TypeVar, cast

from pydantic import AfterValidator, ValidationError, model_validator

from ftx.core.closed_model import ClosedModel
from ftx.core.errors import DataError, ExportError, RunError, first_error, shown
from ftx.core.untrusted_input import JsonError, read_json
from ftx.tasks.labels import Labels
from ftx.tasks.output_meaning import Meaning
from ftx.tasks.task_names import TaskName
from ftx.tasks.thresholds import Thresholds

RecordT = TypeVar("RecordT", bound="LabelRecord")


class LabelRecord(ClosedModel):
    """A file that contains what the logits of a model mean. The subclass has the fields, in the order of its file."""

    if TYPE_CHECKING:
        schema_version: int
        task: TaskName
        labels: Labels
        thresholds: Thresholds

    @property
    def meaning(self) -> Meaning:
        """What the logits mean."""
        return Meaning(task=self.task, labels=self.labels, thresholds=self.thresholds)

    @model_validator(mode="after")
    def _of_one_task(self) -> Self:
        self.meaning.open()
        return self


def _below_the_folder(files: dict[str, str]) -> dict[str, str]:
    for name in files:
        parts = Path(name).parts
        if not parts or ".." in parts or Path(name).is_absolute() or "\0" in name or len(name) > 4096:
            raise ValueError(f"{shown(name)} must be a file below the folder")
    return files


# SHA-256 by file, named from the folder of the record on; no name leads out of it.
FileHashes = Annotated[dict[str, str], AfterValidator(_below_the_folder)]


def read_record(path: Path, kind: type[RecordT], error_type: type[RunError | ExportError], fix: str) -> RecordT:
    """A record from its file.

    Raises: ``error_type`` if the file cannot be read, is of another schema version, or invalid.
    """
    try:
        raw = read_json(path)
    except JsonError as error:
        raise error_type(f"{path.name} cannot be read", where=path, found=str(error), fix=fix) from error
    known: int = kind.model_fields["schema_version"].default
    version = cast("dict[str, object]", raw).get("schema_version") if isinstance(raw, dict) else None
    if version != known:
        raise error_type(
            f"{path.name} must have schema version {known}",
            where=path,
            found=f"version {shown(version)}, this ftx reads {known}",
            fix=f"use the version of ftx that wrote it, or {fix}",
        )
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        found = first_error(error)
    except DataError as error:  # its labels, which training rejects in the same words
        found = "; ".join(filter(None, (error.what, error.found)))
    raise error_type(f"{path.name} is invalid", where=path, found=found, fix=fix)
