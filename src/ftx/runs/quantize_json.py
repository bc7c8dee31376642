"""``reports/quantize.json``: what INT8 was chosen from, every setting with what it lost and how fast it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from ftx.core.closed_model import ClosedModel
from ftx.runs.artifacts import IR_INT8, IR_INT8_SAFE, Artifact
from ftx.runs.machine import InstructionSet, Machine

# Within a run, by the artifact that was made.
QUANTIZE_FILES: Mapping[Artifact, Path] = {
    IR_INT8: Path("reports", "quantize.json"),
    IR_INT8_SAFE: Path("reports", "quantize-overflow-safe.json"),
}


class CandidateRow(ClosedModel):
    """One setting.

    ``mean_abs`` is the mean absolute difference of a logit from the float model's on the images that judge (null where
    one is no number), ``changed`` how many of the ``images`` have other labels. ``work`` is what is left of the float
    model's multiplications, with one in 8 bits counted as a quarter: chosen is the least product of error and work,
    which no clock has a part in. ``latency_ms`` is the median of one image on this machine.
    """

    setting: str
    smooth_quant_alpha: float | None
    preset: Literal["performance", "mixed"] | None
    ranges: Literal["mean", "widest", "histogram"]
    bias_correction: bool
    in_float: list[str]
    accuracy_control: bool
    mean_abs: float | None
    changed: int
    images: int
    work: float
    latency_ms: float
    chosen: bool


class LayerSensitivity(ClosedModel):
    """A product that was rounded to 8 bits: ``gain`` is by how much the error falls if its activations are not.

    ``multiplications`` are those of one image.
    """

    layer: str
    kind: Literal["linear", "convolution", "attention"]
    multiplications: int
    gain: float


class QuantizeReport(ClosedModel):
    """A search, in the order in which it went."""

    artifact: str
    machine: Machine
    isa: InstructionSet | None
    candidates: list[CandidateRow]
    sensitivities: list[LayerSensitivity]
