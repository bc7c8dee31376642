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
# What machines found out about the model (ftx.runs.proof_json, tuning_json): written later, so outside of the hashes.
PROOF_FILE = "proof.json"
TUNING_FILE = "tuning.json"

CARD_SCHEMA = 1


class BaseIr(ClosedModel):
    """What makes an IR a base: ``ftx apply`` merges adapters into its constants.

    ``constants`` has the name of the constant of each weight that an adapter may change, and of the head's tensors, by
    the names of the network; ``head`` are those of the latter. The head itself is no trained one.
    """

    base_digest: str
    constants: dict[str, str]
    head: tuple[str, ...]


class AppliedUpdate(ClosedModel):
    """The update that an IR was made by on a device, and the base, each by its SHA-256.

    ``sequence`` is null of an adapter that came without the trained model's logits.
    """

    sequence: int | None
    update: str
    base_ir: str


class Card(LabelRecord):
    """Labels, thresholds, preprocessing and hashes of one exported folder."""

    schema_version: int = CARD_SCHEMA
    ftx: str = __version__
    task: TaskName
    architecture: Annotated[str, Field(max_length=200)]
    precision: IrVariant
    labels: Labels
    preprocess: Preprocess
    # Per label, for tasks that decide label by label; empty where the best label wins.
    thresholds: Thresholds = Thresholds()
    # The digest of the dense weights that the model was made from.
    dense_digest: str
    # By block, the fraction of the patches that enter it; empty where all tokens do.
    keep_tokens: dict[Annotated[int, Field(ge=1)], Annotated[float, Field(gt=0, lt=1)]] = Field(
        default_factory=dict[int, float]
    )
    # Of every other file of the folder.
    files: FileHashes
    base: BaseIr | None = None
    update: AppliedUpdate | None = None

    @property
    def artifact(self) -> Artifact:
        """Which of a run's artifacts the folder is."""
        return IRS[self.precision]


def write_card(folder: Path, card: Card) -> None:
    """Write ``card.json`` with the hash of every file now in the folder, but for what is found out later."""
    files = [path for path in sorted(folder.iterdir()) if path.name not in (CARD_FILE, PROOF_FILE, TUNING_FILE)]
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
