"""``card.json``: what a device must know of an exported model that stands alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ftx.core.errors import DataError, ExportError, shown
from ftx.core.files import below_it, sha256_file, write_atomic
from ftx.core.pydantic_errors import first_error
from ftx.core.strict_json import JsonError, read_json
from ftx.core.version import __version__
from ftx.data.preprocess import Preprocess
from ftx.tasks.labels import Labels
from ftx.tasks.meaning import Meaning
from ftx.tasks.names import TaskName
from ftx.tasks.thresholds import Thresholds

CARD = "card.json"
REFERENCE = "reference.safetensors"
# What machines found out about the model (ftx.evaluating.proof_file): written later, so outside of the hashes.
PROOF = "proof.json"
PROOF_SCHEMA = 1
SCHEMA_VERSION = 1

Precision = Literal["fp32", "fp16", "int8"]


class Card(BaseModel):
    """Labels, thresholds, preprocessing and hashes of one exported folder."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    schema_version: int = SCHEMA_VERSION
    ftx: str = __version__
    task: TaskName
    architecture: Annotated[str, Field(max_length=200)]
    precision: Precision
    labels: Labels
    preprocess: Preprocess
    # Per label, for tasks that decide label by label; empty where the best label wins.
    thresholds: Thresholds = Thresholds()
    # The digest of the dense weights that the model was made from.
    dense_digest: str
    # SHA-256 of every other file of the folder.
    files: dict[str, str]

    @model_validator(mode="after")
    def _of_one_task(self) -> Self:
        self.meaning.open()
        return self

    @field_validator("files")
    @classmethod
    def _within_the_folder(cls, files: dict[str, str]) -> dict[str, str]:
        return below_it(files)

    @property
    def meaning(self) -> Meaning:
        """What the logits mean."""
        return Meaning(task=self.task, labels=self.labels, thresholds=self.thresholds)


def write_card(folder: Path, card: Card) -> None:
    """Write ``card.json`` with the hash of every file now in the folder, but for what is found out later."""
    hashes = {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.name not in (CARD, PROOF)}
    whole = card.model_copy(update={"files": hashes})
    write_atomic(folder / CARD, (whole.model_dump_json(indent=2) + "\n").encode())


def read_card(folder: Path) -> Card:
    """Read a card and check the files beside it.

    Raises: ExportError if the card is missing, of another schema, or a file is not what it says.
    """
    path = folder / CARD
    if not path.is_file():
        raise ExportError(
            "this folder is no exported model",
            where=folder,
            found=f"no {CARD} in it",
            mend="name a folder that ftx export wrote",
        )
    try:
        raw = read_json(path)
    except JsonError as error:
        raise ExportError(f"{CARD} cannot be read", where=path, found=str(error)) from error
    version = cast("dict[str, object]", raw).get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise ExportError(
            f"{CARD} has another schema version",
            where=path,
            found=f"version {shown(version)}, this ftx reads {SCHEMA_VERSION}",
            mend="export it again",
        )
    try:
        card = Card.model_validate(raw)
    except ValidationError as error:
        raise ExportError(f"{CARD} does not hold", where=path, found=first_error(error)) from error
    except DataError as error:  # its labels, which training refuses in the same words
        found = "; ".join([error.what, *(text for _, text in error.details())])
        raise ExportError(f"{CARD} does not hold", where=path, found=found) from error
    for name, digest in card.files.items():
        beside = folder / name
        if not beside.is_file():
            raise ExportError("a file of the exported model is missing", where=beside, mend="copy the whole folder")
        if sha256_file(beside) != digest:
            raise ExportError(
                "a file of the exported model is not what was written",
                where=beside,
                found=f"its hash is not the one in {CARD}",
                mend="copy the whole folder again, or export it again",
            )
    return card
