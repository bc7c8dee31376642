"""``certificate.json`` in an int8-checked folder: the bounds that decide which images also run in float, by machine.

Like ``proof.json``, the file is outside of the hashes and about one model, given by the digest of its card.
"""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import Field, ValidationError

from ftx.core.closed_model import ClosedModel
from ftx.core.errors import EnvironmentFault
from ftx.core.files import write_atomic
from ftx.core.progress import SILENT, Progress
from ftx.core.untrusted_input import JsonError, read_json
from ftx.core.version import __version__
from ftx.runs.card_json import CERTIFICATE_FILE
from ftx.runs.certificate import Certificate, QuickModel
from ftx.runs.compute_precision import Dtype
from ftx.runs.machine import InstructionSet
from ftx.runs.proof_json import ir_digest
from ftx.runs.views import KernelPath

CERTIFICATE_SCHEMA = 1


class Certificates(ClosedModel):
    """What is known of one int8-checked model, by the way in which it runs."""

    schema_version: int = CERTIFICATE_SCHEMA
    """The version of this file format."""
    ftx: str = __version__
    """The version of ftx that wrote the file."""
    ir: str
    """The SHA-256 hash of the ``card.json`` of the model."""
    certificates: list[Certificate] = Field(default_factory=list[Certificate])
    """One entry for each quick model, instruction set, precision, kind of kernel and version of OpenVINO."""

    @property
    def largest_bound(self) -> float:
        """For int8 run in a way that no certificate covers; infinite without any: each image also runs in float."""
        return max((one.bound for one in self.certificates if one.quick == "int8"), default=math.inf)

    def measured(self, isa: InstructionSet | None, dtype: Dtype, openvino: str) -> list[Certificate]:
        """Those that were measured with this instruction set, precision and version of OpenVINO."""
        here = (isa, dtype, openvino)
        return [one for one in self.certificates if (one.isa, one.compute.dtype, one.machine.openvino) == here]

    def quick_model(self, isa: InstructionSet | None, dtype: Dtype, openvino: str, kernels: KernelPath) -> QuickModel:
        """The model that takes least time for one image there, int8 with these kernels; int8 if none was measured."""
        known = [one for one in self.measured(isa, dtype, openvino) if one.quick == "bf16" or one.kernels == kernels]
        return min(known, key=lambda one: one.time_vs_fp32).quick if known else "int8"


def read_certificates(folder: Path) -> Certificates:
    """The certificates of the model in a folder; none if the file is missing, invalid, or of another model."""
    nothing = Certificates(ir=ir_digest(folder))
    try:
        known = Certificates.model_validate(read_json(folder / CERTIFICATE_FILE))
    except (OSError, JsonError, ValidationError):
        return nothing
    return known if (known.ir, known.schema_version) == (nothing.ir, CERTIFICATE_SCHEMA) else nothing


def keep_certificates(folder: Path, found: list[Certificate], progress: Progress = SILENT) -> None:
    """Add certificates, in the place of those for the same ways to run; a folder that cannot be written is noted.

    One that proves less than the known one replaces it only if its bound is larger: then the known bound is exceeded.
    """
    known = read_certificates(folder)
    kept = {_way(one): one for one in known.certificates}
    for one in found:
        before = kept.get(_way(one))
        if before is not None and before.verdict == "proved" and one.verdict != "proved" and one.bound <= before.bound:
            progress.note(f"{one.way}: the certificate of {before.images:,} images stays. New: {one.summary}")
        else:
            kept[_way(one)] = one
    text = known.model_copy(update={"certificates": list(kept.values())}).model_dump_json(indent=2)
    try:
        write_atomic(folder / CERTIFICATE_FILE, f"{text}\n".encode())
    except EnvironmentFault as fault:
        progress.note(f"{CERTIFICATE_FILE} is not kept: {fault.what} ({fault.found})")


def _way(one: Certificate) -> tuple[object, ...]:
    return one.quick, one.isa, one.compute.dtype, one.kernels, one.machine.openvino
