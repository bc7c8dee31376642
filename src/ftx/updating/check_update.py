"""What is merged into a base IR: an update that a server made, or a folder in the PEFT format with a head.

Legend: N images, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load

from ftx.adapters.peft_file import PREFIX, WEIGHTS, PeftFile, read_peft_file
from ftx.core.errors import AdapterError, ExportError, InputError, first_error
from ftx.core.files import sha256_file
from ftx.core.untrusted_input import JsonError, parse_json
from ftx.runs.card_json import PROOF_FILE, Card
from ftx.runs.proof_json import Proof, ir_digest, proof_from
from ftx.runs.update_zip import REFERENCE_LOGITS, Update, read_update
from ftx.tasks.labels import Labels
from ftx.tasks.output_meaning import Meaning

OTHER_BASE = "run again with the base that this update was made for: ftx apply UPDATE BASE OUT"
WITH_HEAD = "train it with modules_to_save for the head, as ftx does"
_WRITE_AGAIN = "write it again: ftx export RUN --base DIR --as-update FILE"


@dataclass(frozen=True)
class AdapterToMerge:
    """An adapter; with its update, the labels and the server's proof if it came as one.

    ``logits`` has the tensors of the update's reference logits. ``proof_unused`` is why its proof is not used.
    """

    path: Path
    file: PeftFile
    size_bytes: int
    update: Update | None
    logits: dict[str, NDArray[Any]]
    meaning: Meaning
    proof: Proof | None = None
    proof_unused: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the update, or of the tensors of a plain adapter."""
        return sha256_file(self.path if self.path.is_file() else self.path / WEIGHTS)


def read_adapter(adapter: Path, card: Card, scratch: Path, labels: Sequence[str]) -> AdapterToMerge:
    """Read an adapter for a base of this card; ``labels`` are those of a folder. An update is unpacked in ``scratch``.

    Raises: AdapterError, ExportError, InputError for what is invalid.
    """
    if adapter.is_dir():
        file = read_peft_file(adapter)
        size_bytes = sum(path.stat().st_size for path in adapter.iterdir() if path.is_file())
        return AdapterToMerge(adapter, file, size_bytes, None, {}, _meaning(file, card, labels, adapter))
    if labels:
        raise InputError(
            "--labels must not be given for an update, which has its own",
            where=adapter,
            fix="run the command without --labels",
        )
    update, files = read_update(adapter)
    scratch.mkdir()
    logits = _reference_logits(files.pop(REFERENCE_LOGITS), adapter, len(update.labels))
    proof, proof_unused = _proof(files.pop(PROOF_FILE, None), adapter)
    for name, content in files.items():
        (scratch / Path(name).name).write_bytes(content)
    file = read_peft_file(scratch)
    return AdapterToMerge(adapter, file, adapter.stat().st_size, update, logits, update.meaning, proof, proof_unused)


def _reference_logits(content: bytes, update: Path, labels: int) -> dict[str, NDArray[Any]]:
    """The trained model's logits of the base's reference images, and what goes with them: without, nothing is proved.

    Raises: ExportError if they are invalid.
    """
    try:
        found = load(content)
        if "logits" not in found or found["logits"].dtype.kind != "f":
            raise ValueError(f"no logits, but {', '.join(found) or 'nothing'}")
        logits_NC = found["logits"]
        if logits_NC.ndim != 2 or logits_NC.shape[1] != labels or not np.isfinite(logits_NC).all():
            raise ValueError(f"logits of shape {list(logits_NC.shape)}, of {labels} labels, or with NaN or infinity")
        truth_NC = found.get("targets", logits_NC)  # of no image, if the labels are not the base's
        if truth_NC.shape not in (logits_NC.shape, (0, labels)):
            raise ValueError(f"targets of shape {list(truth_NC.shape)}, logits of {list(logits_NC.shape)}")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ExportError(
            "the logits in the update are invalid",
            where=update,
            found=f"{REFERENCE_LOGITS}: {str(error)[:200]}",
            fix=_WRITE_AGAIN,
        ) from error
    return found


def _proof(content: bytes | None, update: Path) -> tuple[Proof | None, str | None]:
    """The server's proof of the model, if it is bundled in a form that this ftx reads; else why it is not used."""
    if content is None:
        return None, None
    try:
        return proof_from(parse_json(content))
    except (ValidationError, JsonError) as error:
        found = f"{PROOF_FILE}: {first_error(error) if isinstance(error, ValidationError) else error}"
        raise ExportError("the update is invalid", where=update, found=found, fix=_WRITE_AGAIN) from error


def _meaning(file: PeftFile, card: Card, labels: Sequence[str], adapter: Path) -> Meaning:
    """The labels of a plain adapter's logits: the base's, or the given ones, in the order of its head."""
    assert card.base is not None
    own = next((file.tensors[PREFIX + name] for name in card.base.head if PREFIX + name in file.tensors), None)
    if own is None:
        raise AdapterError(
            "the adapter must contain a head: the head of the base is untrained",
            where=adapter,
            found=f"no {', '.join(card.base.head)}",
            fix=WITH_HEAD,
        )
    if not own.ndim:
        raise AdapterError(
            "the adapter's head must have a row for each label", where=adapter, found="one number", fix="train it again"
        )
    if not labels and len(own) == len(card.labels):
        return card.meaning
    if len(labels) != len(own):
        raise InputError(
            "--labels must name each output of the adapter's head",
            where=adapter,
            found=f"{len(own)} outputs, {len(labels) or len(card.labels)} labels",
            fix="name them in order: --labels a,b,c",
        )
    return Meaning(task="multiclass", labels=Labels.multiclass(labels))


def check_fits(given: AdapterToMerge, base: Path, card: Card) -> None:
    """Check the base, base IR, image size and choice of tokens that an adapter was made for.

    Raises: AdapterError, ExportError.
    """
    assert card.base is not None
    digest = given.update.base_digest if given.update else given.file.config.base_digest
    if digest is not None and digest != card.base.base_digest:
        raise AdapterError(
            "the adapter must be trained on this base",
            where=given.path,
            found=f"hash {digest[:12]}, the base's is {card.base.base_digest[:12]}",
            fix=OTHER_BASE,
        )
    if given.update is None:
        if (kept := given.file.config.token_fractions) != card.keep_tokens:
            raise AdapterError(
                "the adapter must be trained with the same token dropping as the base",
                where=given.path,
                found=f"the adapter keeps {dict(kept) or 'all'}, the base keeps {card.keep_tokens or 'all'}",
                fix=OTHER_BASE,
            )
        return
    if given.update.image_size != card.preprocess.image_size:
        raise ExportError(
            "the update must have the image size of the base",
            where=given.path,
            found=f"{given.update.image_size} px, the base has {card.preprocess.image_size}",
            fix=OTHER_BASE,
        )
    if given.update.base_ir_digest != ir_digest(base):
        raise ExportError(
            "the update must be made for this base IR",
            where=given.path,
            found=f"hash {given.update.base_ir_digest[:12]}, this one's is {ir_digest(base)[:12]}",
            fix="copy the base from the server again, or have the update made for this one",
        )
