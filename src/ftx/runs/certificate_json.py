"""``certificate.json`` in an int8-checked folder: the bound that decides which images also run in float.

The bound is the largest movement of n images (``ftx.tasks.decisions``). With 95 % confidence, a new image exceeds it
with probability at most 1 - 0.05^(1/n), if it is from the same source. Its labels can then differ from the float
model's. Like ``proof.json``, the file is outside of the hashes and about one model, given by the digest of its card.
Source of the interval: Clopper and Pearson, Biometrika 26 (1934) 404-413, for no hit in n trials.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from ftx.core.closed_model import ClosedModel
from ftx.core.files import write_atomic
from ftx.core.statistics import fraction_at_most
from ftx.core.untrusted_input import JsonError, read_json
from ftx.core.version import __version__
from ftx.runs.card_json import CERTIFICATE_FILE
from ftx.runs.compute_precision import ComputeField, ComputePrecision
from ftx.runs.machine import InstructionSet, Machine
from ftx.runs.parity_json import KernelPath, Verdict
from ftx.runs.proof_json import ir_digest

CERTIFICATE_SCHEMA = 1
CONFIDENCE = 0.95


class Certificate(ClosedModel):
    """The bound for one way to run the int8 model, and the images that it was measured on."""

    machine: Machine
    """The machine that was measured."""
    isa: InstructionSet | None
    """The instruction set that decided which kernels ran; null on a CPU older than AVX2."""
    compute: ComputeField
    """The precision that the int8 model computed in where it does not compute in 8 bits, for example ``auto:bf16``."""
    kernels: KernelPath
    """``batch``: with the kernels for batches. ``single``: with those for single images."""
    source: str
    """The images: for example the split of the run."""
    images: Annotated[int, Field(ge=1)]
    """The number of images."""
    bound: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """The largest movement of an image, in logits. Images with a smaller margin also run in float."""
    changed: Annotated[int, Field(ge=0)]
    """The number of these images for which int8 without the float model predicts other labels."""
    twice: Annotated[int, Field(ge=0)]
    """The number of these images that also run in float."""

    @property
    def differ_at_most(self) -> float:
        """The fraction of new images whose labels can differ from the float model's, with 95 % confidence."""
        return fraction_at_most(0, self.images, CONFIDENCE)

    @property
    def verdict(self) -> Verdict:
        """Proved if fewer labels can differ than int8 changed by itself."""
        return "proved" if self.differ_at_most < self.changed / self.images else "unproved"

    @property
    def needed_images(self) -> int | None:
        """The number of images that would prove it if the rest stays; None if int8 changed no label."""
        if not self.changed:
            return None
        if self.changed == self.images:
            return 1
        return math.floor(math.log(1 - CONFIDENCE) / math.log(1 - self.changed / self.images)) + 1

    @property
    def summary(self) -> str:
        """The certificate in a sentence."""
        at_most = f"at most {100 * self.differ_at_most:.2g} % of labels differ from fp32's"
        measured = f"({100 * CONFIDENCE:g} % confidence, {self.images:,} images)"
        if self.verdict == "proved":
            return f"{at_most} {measured}"
        if self.needed_images is None:
            return f"int8 has the same bound without the second model: {at_most} {measured}"
        return f"not certified: needs {self.needed_images:,} images, has {self.images:,}"

    @property
    def run_twice(self) -> str:
        """How many images also run in float, in words."""
        return f"{100 * self.twice / self.images:.1f} % of images also run in fp32"

    def covers(self, isa: InstructionSet | None, compute: ComputePrecision, kernels: KernelPath, openvino: str) -> bool:
        """Whether a process that runs the model so computes the same."""
        here = (isa, compute.dtype, kernels, openvino)
        return (self.isa, self.compute.dtype, self.kernels, self.machine.openvino) == here


class Certificates(ClosedModel):
    """What is known of one int8-checked model, by the way in which it runs."""

    schema_version: int = CERTIFICATE_SCHEMA
    """The version of this file format."""
    ftx: str = __version__
    """The version of ftx that wrote the file."""
    ir: str
    """The SHA-256 hash of the ``card.json`` of the model."""
    certificates: list[Certificate] = Field(default_factory=list[Certificate])
    """One entry for each instruction set, precision, kind of kernel and version of OpenVINO."""

    @property
    def largest_bound(self) -> float:
        """For a way to run that no certificate covers; infinite without any: each image then also runs in float."""
        return max((one.bound for one in self.certificates), default=math.inf)


def read_certificates(folder: Path) -> Certificates:
    """The certificates of the model in a folder; none if the file is missing, invalid, or of another model."""
    nothing = Certificates(ir=ir_digest(folder))
    try:
        known = Certificates.model_validate(read_json(folder / CERTIFICATE_FILE))
    except (OSError, JsonError, ValidationError):
        return nothing
    return known if (known.ir, known.schema_version) == (nothing.ir, CERTIFICATE_SCHEMA) else nothing


def keep_certificates(folder: Path, found: list[Certificate]) -> None:
    """Add certificates, in the place of those for the same ways to run.

    Raises: EnvironmentFault if the folder cannot be written.
    """
    known = read_certificates(folder)
    ways = {_way(one) for one in found}
    others = [one for one in known.certificates if _way(one) not in ways]
    text = known.model_copy(update={"certificates": [*others, *found]}).model_dump_json(indent=2)
    write_atomic(folder / CERTIFICATE_FILE, f"{text}\n".encode())


def _way(one: Certificate) -> tuple[object, ...]:
    return one.isa, one.compute.dtype, one.kernels, one.machine.openvino
