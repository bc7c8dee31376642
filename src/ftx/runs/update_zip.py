"""An update: one file that turns the base IR of a device into the model that a server trained.

A zip of ``adapter_config.json`` and ``adapter_model.safetensors`` (Hugging Face PEFT, head included), ``update.json``,
and ``answers.safetensors``: the trained model's logits for the reference images next to the base.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ftx.adapters.peft_config import CONFIG
from ftx.adapters.peft_file import WEIGHTS
from ftx.core.errors import ExportError, first_error
from ftx.core.files import write_atomic
from ftx.core.untrusted_input import JsonError, parse_json, require_file
from ftx.core.version import __version__
from ftx.runs.card_json import PROOF_FILE
from ftx.runs.label_record import FileHashes
from ftx.tasks.labels import Labels
from ftx.tasks.output_meaning import Meaning
from ftx.tasks.task_names import TaskName
from ftx.tasks.thresholds import Thresholds

UPDATE_FILE = "update.json"
REFERENCE_LOGITS = "answers.safetensors"
UPDATE_SCHEMA = 1
# Of all files in it, unpacked: the adapters of a ViT-L in rank 64 have 200 MB, and a zip can claim anything.
MOST_BYTES = 1_000_000_000
# What update.json has: the hashes of a few hundred tensors, and all labels.
MOST_TEXT_BYTES = 64_000_000
# Trained weights can hardly be compressed; what unpacks to many times its size, beyond these bytes, is none.
MOST_TIMES, SMALL_BYTES = 20, 16_000_000
# What an update may contain next to update.json.
PARTS = frozenset({REFERENCE_LOGITS, PROOF_FILE, CONFIG, WEIGHTS})


class Update(BaseModel):
    """The facts of an update: its base, its result, and the hash of each other file."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_version: int = Field(default=UPDATE_SCHEMA, alias="schema")
    """The version of this file format."""
    ftx: str = __version__
    """The version of ftx that wrote the file."""
    base_digest: str
    """The SHA-256 hash of the pretrained weights without a head."""
    base_ir_digest: str
    """The SHA-256 hash of the ``card.json`` of the base."""
    image_size: int | str
    """The image size in pixels: the side of a square, or ``HEIGHTxWIDTH``."""
    sequence: Annotated[int, Field(ge=1)]
    """The number of the update. A device accepts only a higher one than its last."""
    previous: str | None = None
    """The SHA-256 hash of the update before; null for the first one."""
    tensors: dict[str, str]
    """The SHA-256 hash of each merged weight and of the head's weights, as fp32."""
    dense_digest: str
    """The hash of the dense model of the run."""
    max_drop: Annotated[float, Field(gt=0, lt=1)]
    """The fraction of images that may be lost at most, for example 0.02."""
    task: TaskName
    """The task that the labels are for."""
    labels: Labels
    """The label names in the order of the logits, groups of mutually exclusive classes, independent labels
    (``singles``), and the parent of each label in a tree.
    """
    thresholds: Thresholds = Thresholds()
    """The score above which an independent label is predicted, by label. ``shared`` is the best single threshold. Empty
    for mutually exclusive classes.
    """
    files: FileHashes
    """The SHA-256 hash of each other file in the update."""

    @property
    def meaning(self) -> Meaning:
        """What the logits mean."""
        return Meaning(task=self.task, labels=self.labels, thresholds=self.thresholds)


def tensor_digest(tensor: np.ndarray) -> str:
    """SHA-256 of a tensor's values as f32, little-endian, row after row."""
    return sha256(np.ascontiguousarray(tensor, "<f4").tobytes()).hexdigest()


def write_update(path: Path, update: Update, files: dict[str, bytes]) -> None:
    """Write the zip; the same files give the same bytes."""
    hashes = {name: sha256(content).hexdigest() for name, content in sorted(files.items())}
    text = update.model_copy(update={"files": hashes}).model_dump_json(indent=2, by_alias=True)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in {UPDATE_FILE: f"{text}\n".encode(), **files}.items():
            # A date of its own, the earliest that the format knows.
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, compresslevel=9)
    write_atomic(path, stream.getvalue())


def read_update(path: Path) -> tuple[Update, dict[str, bytes]]:
    """What an update says, and its files, each of which has the hash that it says.

    Raises: ExportError if the file is cut, altered, or no update.
    """
    again = "copy the file again, or write it again with `ftx export --as-update`"
    if not path.exists():
        raise ExportError(
            "the update does not exist", where=path, fix="give the file that `ftx export --as-update` wrote"
        )
    try:
        require_file(path)
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            names = sizes.keys() - {UPDATE_FILE}
            if (
                len(sizes) < len(archive.infolist())
                or len(names) == len(sizes)
                or not {REFERENCE_LOGITS} <= names <= PARTS
            ):
                raise ExportError("the file must be an update", where=path, found=", ".join(sizes)[:200], fix=again)
            total, zip_bytes = sum(sizes.values()), path.stat().st_size
            most = min(MOST_BYTES, max(SMALL_BYTES, MOST_TIMES * zip_bytes))
            if sizes[UPDATE_FILE] > MOST_TEXT_BYTES or total > most:
                found = f"{total / 1e6:,.0f} MB in a file of {zip_bytes / 1e6:,.1f}"
                raise ExportError("the update is too large when unpacked", where=path, found=found, fix=again)
            update = Update.model_validate(parse_json(_unpacked(archive, UPDATE_FILE)))
            files = {name: _unpacked(archive, name) for name in sorted(names)}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, UnicodeError, JsonError) as error:
        raise ExportError("the update cannot be read", where=path, found=str(error)[:200], fix=again) from error
    except ValidationError as error:
        raise ExportError(f"{UPDATE_FILE} is invalid", where=path, found=first_error(error), fix=again) from error
    if update.schema_version != UPDATE_SCHEMA:
        found = f"version {update.schema_version}, this ftx reads {UPDATE_SCHEMA}"
        raise ExportError(
            f"the update must have schema version {UPDATE_SCHEMA}",
            where=path,
            found=found,
            fix="install the version of ftx that wrote the update",
        )
    hashes = {name: sha256(content).hexdigest() for name, content in files.items()}
    if hashes != update.files:
        wrong = sorted({*hashes.items()} ^ {*update.files.items()})
        raise ExportError(
            "a file of the update has changed since ftx wrote it", where=path, found=wrong[0][0], fix=again
        )
    update.meaning.open()
    return update, files


def _unpacked(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of the zip, which never unpacks to more than its entry says, whatever its stream holds.

    Raises: BadZipFile for a way to compress that no update is written in, and as reading a damaged one does.
    """
    entry = archive.getinfo(name)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"{name} is compressed in another way than updates are")
    with archive.open(entry) as stream:
        return stream.read(entry.file_size + 1)  # with a size, what comes out is bounded while it is unpacked
