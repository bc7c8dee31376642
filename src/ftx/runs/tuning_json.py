"""``tuning.json`` next to an OpenVINO model: how it runs fastest, on each machine that ``ftx bench --save`` was run on.

Like ``proof.json`` it is outside of the hashes, and of one model only, by the digest of its card.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from ftx.core.closed_model import ClosedModel
from ftx.core.files import write_atomic
from ftx.core.processors import cores
from ftx.core.untrusted_input import JsonError, read_json
from ftx.core.version import __version__
from ftx.runs.card_json import TUNING_FILE
from ftx.runs.compute_precision import Compute
from ftx.runs.machine import Machine, this_machine
from ftx.runs.proof_json import ir_digest

TUNING_SCHEMA = 1

# For one image: the shortest time until its prediction. For many: the most of them in a second.
TuningGoal = Literal["latency", "throughput"]

_Count = Annotated[int, Field(ge=1, le=4096)]


class OpenvinoSetting(ClosedModel):
    """How OpenVINO runs a model."""

    compute: Compute = "auto"
    """``f32``, or ``auto`` for the precision that OpenVINO chooses."""
    batch: _Count = 1
    """The number of images in a request."""
    threads: _Count | None = None
    """The number of CPU threads of all streams together; null if it is chosen automatically."""
    streams: _Count | None = None
    """The number of requests at the same time; null if OpenVINO chooses it."""


class TuningResult(ClosedModel):
    """The fastest settings on one machine."""

    machine: Machine
    """The machine that was measured."""
    processors: int
    """The number of processors that ftx could use."""
    latency: OpenvinoSetting
    """The fastest setting for one image at a time."""
    p50_ms: float
    """The median latency of one image with that setting, in milliseconds."""
    throughput: OpenvinoSetting
    """The fastest setting for many images."""
    images_per_s: float
    """The throughput with that setting, in images per second."""

    def setting(self, goal: TuningGoal) -> OpenvinoSetting:
        """The one that serves a goal best."""
        return self.latency if goal == "latency" else self.throughput


class Tuning(ClosedModel):
    """The fastest settings of a model, which ``ftx bench --save`` found."""

    schema_version: int = TUNING_SCHEMA
    """The version of this file format."""
    ftx: str = __version__
    """The version of ftx that wrote the file."""
    ir: str
    """The SHA-256 hash of the ``card.json`` of the model."""
    tuned: list[TuningResult] = Field(default_factory=list[TuningResult])
    """One entry for each machine and number of processors."""


def read_tuning(folder: Path) -> Tuning:
    """What is known of the model in a folder; nothing if the file is missing, invalid, or of another model.

    It is no proof of anything: without it a model runs as OpenVINO chooses.
    """
    nothing = Tuning(ir=ir_digest(folder))
    try:
        known = Tuning.model_validate(read_json(folder / TUNING_FILE))
    except (OSError, JsonError, ValidationError):
        return nothing
    return known if (known.ir, known.schema_version) == (nothing.ir, TUNING_SCHEMA) else nothing


def tuned_here(folder: Path) -> TuningResult | None:
    """What was found on this kind of machine with as many processors; None where nobody looked."""
    here = (this_machine(), cores())
    return next((one for one in read_tuning(folder).tuned if (one.machine, one.processors) == here), None)


def keep_tuned(folder: Path, found: TuningResult) -> None:
    """Add what this machine found, in the place of what it found before.

    Raises: EnvironmentFault if the folder cannot be written.
    """
    known = read_tuning(folder)
    others = [one for one in known.tuned if (one.machine, one.processors) != (found.machine, found.processors)]
    text = known.model_copy(update={"tuned": [*others, found]}).model_dump_json(indent=2)
    write_atomic(folder / TUNING_FILE, f"{text}\n".encode())
