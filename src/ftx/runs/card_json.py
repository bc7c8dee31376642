"""``card.json``: what a device needs of an exported model that is in no run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from ftx.core.closed_model import ClosedModel
from ftx.core.errors import ExportError
from ftx.core.files import cached_sha256, sha256_file, write_atomic
from ftx.core.version import __version__
from ftx.data.preprocess import Preprocess
from ftx.runs.artifacts import IRS, Artifact, IrVariant
from ftx.runs.label_record import FileHashes, LabelRecord, read_record
from ftx.tasks.labels import Labels
from ftx.tasks.task_names import TaskName
from ftx.tasks.thresholds import Thresholds

# The files of an IR folder.
CARD_FILE = "card.json"
REFERENCE_FILE = "reference.safetensors"
# What machines found out about the model (ftx.runs.proof_json, tuning_json, certificate_json): written later, so not
# in the hashes.
PROOF_FILE = "proof.json"
TUNING_FILE = "tuning.json"
CERTIFICATE_FILE = "certificate.json"
FOUND_OUT = frozenset({PROOF_FILE, TUNING_FILE, CERTIFICATE_FILE})

CARD_SCHEMA = 1


class BaseIr(ClosedModel):
    """What an update changes in a base."""

    base_digest: str
    """The SHA-256 hash of the pretrained weights without a head."""
    constants: dict[str, str]
    """For each weight that an update can change, its name in the network and that of its constant in the IR."""
    head: tuple[str, ...]
    """The names of the weights of the head, which is not trained and which each update replaces."""


class AppliedUpdate(ClosedModel):
    """The update that a model on a device is made from."""

    sequence: int | None
    """The number of the update; null for an adapter that is not an update."""
    update: str
    """The SHA-256 hash of the update."""
    base_ir: str
    """The SHA-256 hash of the ``card.json`` of the base."""


class Card(LabelRecord):
    """What a device needs to know of an exported model."""

    schema_version: int = CARD_SCHEMA
    """The version of this file format."""
    ftx: str = __version__
    """The version of ftx that wrote the file."""
    task: TaskName
    """The task that the labels are for."""
    architecture: Annotated[str, Field(max_length=200)]
    """The name of the architecture in timm."""
    precision: IrVariant
    """The precision of the weights, as in ``--precision``."""
    labels: Labels
    """The label names in the order of the logits, groups of mutually exclusive classes, independent labels
    (``singles``), and the parent of each label in a tree.
    """
    preprocess: Preprocess
    """How images are resized, cropped and normalised."""
    thresholds: Thresholds = Thresholds()
    """The score above which an independent label is predicted, by label. ``shared`` is the best single threshold. Empty
    for mutually exclusive classes.
    """
    dense_digest: str
    """The hash of the dense model that it is made from, or of an adapter that is not an update."""
    keep_tokens: dict[Annotated[int, Field(ge=1)], Annotated[float, Field(gt=0, lt=1)]] = Field(
        default_factory=dict[int, float]
    )
    """By block (counted from 0), the fraction of the remaining patches that the block computes. Absent if no patches
    are dropped.
    """
    files: FileHashes
    """The SHA-256 hash of each other file in the folder, without ``proof.json``, ``tuning.json`` and
    ``certificate.json``."""
    base: BaseIr | None = None
    """Only in a base: what an update changes."""
    update: AppliedUpdate | None = None
    """Only in a model that ``ftx apply`` made: the update."""

    @property
    def artifact(self) -> Artifact:
        """Which of a run's artifacts the folder is."""
        return IRS[self.precision]


def write_card(folder: Path, card: Card) -> None:
    """Write ``card.json`` with the hash of every file now in the folder, but for what is found out later."""
    files = [path for path in sorted(folder.iterdir()) if path.name not in FOUND_OUT | {CARD_FILE}]
    whole = card.model_copy(update={"files": {path.name: sha256_file(path) for path in files}})
    unset = {name for name in ("base", "update", "keep_tokens") if not getattr(card, name)}
    write_atomic(folder / CARD_FILE, f"{whole.model_dump_json(indent=2, exclude=unset)}\n".encode())


def read_card(folder: Path) -> Card:
    """Read a card and check the other files of its folder.

    Raises: ExportError if the card is missing, of another schema, or a file does not have its hash.
    """
    path = folder / CARD_FILE
    if not path.is_file():
        raise ExportError(
            "the folder must be an exported model" if folder.exists() else "the folder does not exist",
            where=folder,
            found=f"no {CARD_FILE} in it" if folder.exists() else None,
            fix="give a folder that `ftx export` wrote",
        )
    card = read_record(path, Card, ExportError, fix="run `ftx export` again")
    for name, digest in card.files.items():
        file = folder / name
        if not file.is_file():
            raise ExportError("a file of the exported model is missing", where=file, fix="copy the whole folder again")
        if cached_sha256(file) != digest:
            raise ExportError(
                "a file of the exported model has changed since ftx wrote it",
                where=file,
                found=f"its hash is not the one in {CARD_FILE}",
                fix="copy the whole folder again, or run `ftx export` again",
            )
    return card
