"""``proof.json`` next to an OpenVINO model: what was found out about it, and where.

``ftx validate RUN`` writes the verdict, its figures and the model's own logits for the reference images, so that a
device can compare its own with them; ``ftx validate IR`` adds what that machine found. The file is not in the
hashes of card and run. It is about one model, given by its digest.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, cast

import numpy as np
from pydantic import Field, ValidationError, model_validator

from ftx.core.closed_model import ClosedModel
from ftx.core.errors import EnvironmentFault, ExportError, first_error
from ftx.core.files import cached_sha256, write_atomic
from ftx.core.progress import SILENT, Progress
from ftx.core.untrusted_input import JsonError, read_json
from ftx.core.version import __version__
from ftx.runs.artifacts import Artifact
from ftx.runs.calibration import Calibration
from ftx.runs.card_json import CARD_FILE, PROOF_FILE
from ftx.runs.compute_precision import ComputeField, ComputePrecision
from ftx.runs.machine import InstructionSet, Machine, this_machine, this_set
from ftx.runs.parity_json import Family, ParityReport, ParityRow, Summary, Transfer, Verdict
from ftx.runs.views import PixelView
from ftx.tasks.thresholds import Floats

PROOF_SCHEMA = 4
# Version 3 has no calibrations. Version 2 has ``said`` for ``summary``. Version 1 has no view either: no int8 model was
# run on single images.
_READ = (1, 2, 3, PROOF_SCHEMA)


class ReferenceLogits(ClosedModel):
    """The logits of a model for its reference images, in one precision."""

    compute: ComputeField
    """The precision that it computed in: ``f32``, or for example ``auto:bf16`` if the runtime chose bf16."""
    images: Annotated[int, Field(ge=1)]
    """The number of images."""
    labels: Annotated[int, Field(ge=1)]
    """The number of labels."""
    logits: str
    """The logits as base64: fp32, little-endian, image after image."""
    view: PixelView = "graph"
    """``graph``: with the kernels for batches. ``one_image``: with those for single images."""

    @model_validator(mode="after")
    def _as_many_as_it_says(self) -> ReferenceLogits:
        blob = base64.b64decode(self.logits, validate=True)
        if len(blob) != 4 * self.images * self.labels:
            raise ValueError(f"{len(blob)} bytes must be {self.images} x {self.labels} numbers")
        return self

    @classmethod
    def of(cls, compute: ComputePrecision, logits_NC: Floats, view: PixelView = "graph") -> ReferenceLogits:
        """From an array. Shape: [N, C]."""
        blob = base64.b64encode(logits_NC.astype("<f4").tobytes()).decode()
        return cls(compute=compute, images=logits_NC.shape[0], labels=logits_NC.shape[1], logits=blob, view=view)

    @property
    def array(self) -> Floats:
        """Shape: [images, labels]."""
        return np.frombuffer(base64.b64decode(self.logits), "<f4").reshape(self.images, self.labels).astype(np.float32)


class RunProof(ClosedModel):
    """What ``ftx validate RUN`` found of this model."""

    verdict: Verdict
    """The verdict on the model."""
    summary: Summary
    """The figures of the verdict, in a sentence."""
    max_drop: float
    """The fraction of images that may be lost at most, for example 0.02."""
    split: str
    """The split of the images."""
    whole: bool
    """Whether all images were run with the default bounds."""
    machine: Machine
    """The machine that ran the model."""
    family: Family
    """How the error of all tests together is limited."""
    rows: Annotated[list[ParityRow], Field(min_length=1)]
    """The comparisons of this model."""
    answers: Annotated[list[ReferenceLogits], Field(min_length=1)]
    """Its logits for the reference images, with which a device compares its own."""
    isa: InstructionSet | None = None
    """The instruction set that decided which kernels ran; null if it is unknown."""
    emulated: bool = False
    """Whether the process was limited to ``isa`` on a CPU that has a newer instruction set."""


class Proof(ClosedModel):
    """What is known of an exported model, and from which machines."""

    schema_version: int = PROOF_SCHEMA
    """The version of this file format."""
    ftx: str = __version__
    """The version of ftx that wrote the file."""
    ir: str
    """The SHA-256 hash of its ``card.json``, which contains the hash of each other file."""
    run: RunProof | None = None
    """The result of ``ftx validate RUN``; null if there is none."""
    sets: list[RunProof] = []  # noqa: RUF012  pydantic copies it
    """The results of the same command in other instruction sets (``--isa``), or with other releases of OpenVINO."""
    devices: list[Transfer] = []  # noqa: RUF012  pydantic copies it
    """The results of ``ftx validate`` for this folder, one for each machine."""
    calibrations: list[Calibration] = []  # noqa: RUF012  pydantic copies it
    """What its prediction sets rest on, one entry for each way in which a machine runs the model."""


def ir_digest(folder: Path) -> str:
    """What a proof names an exported model by.

    Raises: ExportError if there is none.
    """
    try:
        return cached_sha256(folder / CARD_FILE)
    except FileNotFoundError as error:
        raise ExportError(
            "the exported model does not exist any more",
            where=folder / CARD_FILE,
            fix="restore the folder, or run `ftx export` again",
        ) from error


def read_proof(folder: Path, progress: Progress = SILENT) -> Proof:
    """What is known of the model in a folder: nothing, where the file is missing, or says nothing of it.

    Raises: ExportError if the file is damaged.
    """
    path, nothing = folder / PROOF_FILE, Proof(ir=ir_digest(folder))
    if not path.exists():
        return nothing
    try:
        proof, unused = proof_from(read_json(path), nothing.ir)
    except (ValidationError, JsonError) as error:
        found = first_error(error) if isinstance(error, ValidationError) else str(error)
        raise ExportError(
            f"{PROOF_FILE} is damaged",
            where=path,
            found=found,
            fix="copy the file again, or delete it and run `ftx validate` again",
        ) from error
    if unused is not None:
        progress.note(f"{PROOF_FILE} is not used: {unused}")
    return proof or nothing


def proof_from(raw: object, ir: str | None = None) -> tuple[Proof | None, str | None]:
    """A proof from JSON; or None, and in words why it says nothing of the model of this digest.

    Raises: ValidationError if it is damaged.
    """
    given = cast("dict[str, object]", raw) if isinstance(raw, dict) else None
    if given is not None and not _is_read(given):
        found = given.get("schema_version")
        return None, f"it is of schema version {found}, this ftx reads {', '.join(map(str, _READ))}"
    if given is not None and ir is not None and given.get("ir") != ir:
        return None, "it is of another model"
    proof = Proof.model_validate(raw)
    rows = proof.run.rows if proof.run else []
    if proof.schema_version == 1 and any(row.subject.precision == "int8" for row in rows):
        return None, "it is of an older ftx, which did not run int8 on single images"
    # Written again it is of this schema, whichever it was.
    return proof.model_copy(update={"schema_version": PROOF_SCHEMA}), None


def keep_proof(
    folder: Path,
    ir: str,
    report: ParityReport,
    artifact: Artifact,
    reference_logits: list[ReferenceLogits],
    progress: Progress = SILENT,
    *,
    sets: list[RunProof] | None = None,
) -> None:
    """Write what a run's validation found of the model of this digest; what devices found is dropped.

    What is known of other instruction sets stays.
    """
    measured, known = [_where(proof) for proof in sets or []], _known(folder, ir)
    others = [proof for proof in known.sets if _where(proof) not in measured]
    found = RunProof(
        verdict=report.verdicts[artifact.name],
        summary=report.summary[artifact.name],
        max_drop=report.max_drop,
        split=report.split,
        whole=report.whole,
        machine=report.machine,
        family=report.family,
        rows=[row for row in report.own_rows if row.subject == artifact],
        answers=reference_logits,
        isa=this_set(),
    )
    kept = known.model_copy(update={"run": found, "sets": [*others, *(sets or [])], "devices": []})
    _write(folder, kept, progress)


def _where(proof: RunProof) -> tuple[object, ...]:
    return proof.isa, proof.machine.openvino, proof.machine.device


def _known(folder: Path, ir: str) -> Proof:
    try:
        known = read_proof(folder)
    except ExportError:  # it is written again
        return Proof(ir=ir)
    return known if known.ir == ir else Proof(ir=ir)


def keep_calibrations(folder: Path, found: list[Calibration], progress: Progress = SILENT) -> None:
    """Add calibrations, in the place of those for the same kernels."""
    known, ways = _known(folder, ir_digest(folder)), {one.way for one in found}
    others = [one for one in known.calibrations if one.way not in ways]
    _write(folder, known.model_copy(update={"calibrations": [*others, *found]}), progress)


def forget_calibrations(folder: Path) -> None:
    """Drop those for the kernels that this process runs."""
    known, here = _known(folder, ir_digest(folder)), (this_set(), this_machine().openvino)
    others = [one for one in known.calibrations if (one.isa, one.machine.openvino) != here]
    if len(others) < len(known.calibrations):
        _write(folder, known.model_copy(update={"calibrations": others}), SILENT)


def carry_proof(folder: Path, proof: Proof) -> None:
    """Write a proof that was found elsewhere next to the same weights here, without what devices found there.

    Raises: EnvironmentFault if the folder cannot be written.
    """
    carried = proof.model_copy(update={"ir": ir_digest(folder), "devices": []})
    write_atomic(folder / PROOF_FILE, _bytes(carried))


def keep_transfer(folder: Path, proof: Proof, found: Transfer, progress: Progress = SILENT) -> None:
    """Add what this machine found, in the place of what it found before; a file of another schema stays as it is."""
    if _is_of_another_schema(folder / PROOF_FILE):
        progress.note(f"{PROOF_FILE} stays as another ftx wrote it, without what was found here")
        return
    others = [other for other in proof.devices if other.machine != found.machine]
    _write(folder, proof.model_copy(update={"devices": [*others, found]}), progress)


def _is_of_another_schema(path: Path) -> bool:
    try:
        raw = read_json(path)
    except (OSError, JsonError):
        return False
    return isinstance(raw, dict) and not _is_read(cast("dict[str, object]", raw))


def _is_read(given: dict[str, object]) -> bool:
    return given.get("schema_version") in _READ


def _write(folder: Path, proof: Proof, progress: Progress) -> None:
    try:
        write_atomic(folder / PROOF_FILE, _bytes(proof))
    except EnvironmentFault as fault:  # a device's disk is often read only; the verdict is known all the same
        progress.note(f"{PROOF_FILE} is not kept: {fault.what} ({fault.found})")


def _bytes(proof: Proof) -> bytes:
    return (proof.model_dump_json(indent=2) + "\n").encode()
