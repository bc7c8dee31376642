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
    """How OpenVINO runs a model: images in a batch, threads of all streams together, and streams."""

    compute: Compute = "auto"
    batch: _Count = 1
    threads: _Count | None = None
    streams: _Count | None = None


class TuningResult(ClosedModel):
    """What one machine found with ``processors`` to itself: the settings, and what they were chosen by."""

    machine: Machine
    processors: int
    latency: OpenvinoSetting
    p50_ms: float
    throughput: OpenvinoSetting
    images_per_s: float

    def setting(self, goal: TuningGoal) -> OpenvinoSetting:
        """The one that serves a goal best."""
        return self.latency if goal == "latency" else self.throughput


class Tuning(ClosedModel):
    """``tuning.json``; ``ir`` is the SHA-256 of the card."""

    schema_version: int = TUNING_SCHEMA
    ftx: str = __version__
    ir: str
    tuned: list[TuningResult] = Field(default_factory=list[TuningResult])


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
