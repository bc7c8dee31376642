"""``reports/quantize.json``: what INT8 was chosen from, every setting with what it lost and how fast it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from ftx.core.closed_model import ClosedModel
from ftx.runs.artifacts import IR_INT8, IR_INT8_CHECKED, IR_INT8_SAFE, Artifact
from ftx.runs.machine import InstructionSet, Machine

# Within a run, by the artifact that was made.
QUANTIZE_FILES: Mapping[Artifact, Path] = {
    IR_INT8: Path("reports", "quantize.json"),
    IR_INT8_CHECKED: Path("reports", "quantize-checked.json"),
    IR_INT8_SAFE: Path("reports", "quantize-overflow-safe.json"),
}


class CandidateRow(ClosedModel):
    """One setting for int8, and its result."""

    setting: str
    """The setting in words."""
    smooth_quant_alpha: float | None
    """Only with attention: the strength of SmoothQuant, or -1 without it. Otherwise null."""
    preset: Literal["performance", "mixed"] | None
    """Only without attention: the preset of NNCF. Otherwise null."""
    ranges: Literal["mean", "widest", "histogram"]
    """How the range of an activation is chosen: from the ``mean`` of its extremes, from its ``widest`` extremes, or
    from a ``histogram``.
    """
    bias_correction: bool
    """Whether NNCF corrects biases."""
    in_float: list[str]
    """The layers that are not quantized."""
    accuracy_control: bool
    """Whether more layers are left unquantized because too many labels changed."""
    mean_abs: float | None
    """The mean absolute difference of a logit from the float model; null if a logit is not finite."""
    changed: int
    """The number of images with other labels than those of the float model."""
    images: int
    """The number of images that settings are compared on: training images that are not used for calibration."""
    work: float
    """The fraction of the float model's multiplications that remains; one in 8 bits counts as a quarter. The setting
    with the smallest ``mean_abs`` times ``work`` is chosen.
    """
    latency_ms: float | None = None
    """The median time of one image in milliseconds, in files of an earlier ftx; otherwise null."""
    chosen: bool
    """Whether this setting is used."""


class LayerSensitivity(ClosedModel):
    """How much the rounding of one layer contributes to the error."""

    layer: str
    """The name of the layer."""
    kind: Literal["linear", "convolution", "attention"]
    """The kind of the layer."""
    multiplications: int
    """The number of multiplications for one image."""
    gain: float
    """How much the mean logit error falls if the inputs of this layer are not quantized."""


class QuantizeReport(ClosedModel):
    """The settings that were compared for an int8 model."""

    artifact: str
    """The model of the run, for example ``openvino/int8``."""
    machine: Machine
    """The machine that compared them."""
    isa: InstructionSet | None
    """The instruction set that decides which kernels run, for example ``amx``; null on a CPU older than AVX2."""
    candidates: list[CandidateRow]
    """The settings, in the order in which they were tried."""
    sensitivities: list[LayerSensitivity]
    """The most sensitive layers, the largest gain for each multiplication first."""
