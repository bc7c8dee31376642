"""INT8 by NNCF: post-training quantization of the body, in the setting that held-out images choose.

Networks with attention are tried with several strengths of SmoothQuant, others with NNCF's two presets.

Shapes: N images, C labels; the body takes normalised f32 [N, 3, H, W].
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ftx.core.progress import SILENT, Progress, Task
from ftx.core.telemetry import no_telemetry
from ftx.runtimes.openvino import core

with no_telemetry():
    import nncf
    import openvino as ov
    from nncf.quantization.range_estimator import RangeEstimatorParameters, RangeEstimatorParametersSet

Floats = NDArray[np.float32]


class Batches(Protocol):
    """Normalised images, f32 [N, 3, H, W] each, that can be read again and again."""

    def __len__(self) -> int:
        """How many batches there are."""
        ...

    def __iter__(self) -> Iterator[Floats]:
        """All of them, in the same order each time."""
        ...


Preset = Literal["performance", "mixed"]


@dataclass(frozen=True)
class Setting:
    """One way to quantize: for a network with attention a strength of SmoothQuant, for another a preset.

    ``alpha`` is how far SmoothQuant moves the activations' outliers into the weights: 0 not at all, 1 wholly,
    below 0 it is left out. Of the presets, performance has activations on a scale about 0, mixed between
    their own ends, which suits hard-swish, SiLU and GELU: they end a little below 0 and far above.
    """

    alpha: float | None = None
    preset: Preset | None = None

    def __str__(self) -> str:
        if self.alpha is None:
            return f"{self.preset} preset"
        return "no SmoothQuant" if self.alpha < 0 else f"SmoothQuant {self.alpha:g}"


# No value is best for all: deit3_small keeps most without, vit_b_16 with 0.15, swin_v2_s with 0.5 (published OpenVINO
# references), and NNCF's own default is 0.95.
ATTENTION = tuple(Setting(alpha=alpha) for alpha in (-1.0, 0.15, 0.5, 0.95))
CONVOLUTIONS = (Setting(preset="performance"), Setting(preset="mixed"))

# Convolutions' activations have rare large values, and NNCF's own choice, least and mean greatest, leaves the rest few
# steps. Mean logit error on Fashion-MNIST at 64 px, mixed preset, without and with: resnet18 0.032, 0.029 (the
# greatest 0.66, 0.22), mobilenetv3_large 0.30, 0.28, efficientnet_b0 0.41, 0.29, convnext_atto 0.027, 0.019. Bias
# correction layer by layer instead of the fast one took twice as long and gave no less on the latter three.
_HISTOGRAM = RangeEstimatorParametersSet.HISTOGRAM
_DEFAULT_RANGES = RangeEstimatorParameters()

# Images of the search. DINOv2 ViT-S with a linear head on Fashion-MNIST, mean absolute logit difference (the logits'
# deviation is 1.9): with 32 images 0.149, 0.154, 0.111, 0.166 for the alphas above, with 128 images 0.155, 0.147,
# 0.114, 0.142. The order of the best is the same and a trial takes 9 s on 2 cores instead of 25.
SEARCH_IMAGES = 32


@dataclass(frozen=True)
class Quantized:
    """An INT8 body, the setting it was made with, and the mean absolute logit difference of each one tried."""

    model: ov.Model
    setting: Setting
    mean_abs: dict[Setting, float]

    @property
    def int8_share(self) -> float:
        """How much of it this CPU computes in 8 bits, in [0, 1]."""
        return int8_share(_compiled(self.model))


def quantize_body(
    body: ov.Model,
    calibration: Batches,
    held_out: Batches,
    *,
    settings: tuple[Setting, ...] | None = None,
    overflow_safe: bool = False,
    progress: Progress = SILENT,
) -> Quantized:
    """Quantize a body, its activations' ranges taken from training images; the head stays f32.

    Each setting, by default those for the body's kind, is tried with the first few calibration images, the one
    whose logits are nearest to the f32 body's on ``held_out`` is taken, and the body quantized with it and all
    calibration images (there may be no more than those few). ``overflow_safe`` leaves weights one bit less: without
    VNNI (AVX2, AVX512) two products of 8 bits are added in 16, and saturate.
    Shape: each item is a batch of normalised images, f32 [N, 3, H, W].
    """
    if settings is None:
        settings = ATTENTION if has_attention(body) else CONVOLUTIONS
    best = settings[0]
    if len(settings) == 1:
        only = _quantize(body, calibration, best, "INT8: calibrating", progress, overflow_safe=overflow_safe)
        return Quantized(only, best, {})
    few = list(islice(calibration, SEARCH_IMAGES))
    exact_NC = _logits(body, held_out)
    mean_abs: dict[Setting, float] = {}
    nearest: ov.Model | None = None
    for setting in settings:
        tried = _quantize(body, few, setting, f"INT8: trying {setting}", progress, overflow_safe=overflow_safe)
        mean_abs[setting] = float(np.abs(_logits(tried, held_out) - exact_NC).mean())
        if nearest is None or not mean_abs[setting] >= mean_abs[best]:  # whatever is a number beats one that is none
            best, nearest = setting, tried
    assert nearest is not None
    if len(few) < len(calibration):
        said = f"INT8: calibrating, {best}"
        nearest = _quantize(body, calibration, best, said, progress, overflow_safe=overflow_safe)
    return Quantized(nearest, best, mean_abs)


def compress_weights(body: ov.Model) -> ov.Model:
    """The same body with the weights of its linear layers and convolutions in 8 bits, but for the head's.

    They are widened again as they are used, so activations stay floats, and nothing is calibrated.
    """
    head = _head(body)
    with _quiet():
        return nncf.compress_weights(
            body.clone(),
            mode=nncf.CompressWeightsMode.INT8_ASYM,
            ignored_scope=nncf.IgnoredScope(names=[head]) if head else None,
        )


def has_attention(body: ov.Model) -> bool:
    """Whether a matrix product has two sides that both depend on the image, as queries and keys do.

    Seen so, linear attention without a softmax counts, and a softmax that only weighs branches does not.
    """
    moving: set[str] = set()
    for node in body.get_ordered_ops():
        moved = [port.get_source_output().get_node().get_friendly_name() in moving for port in node.inputs()]
        kind = node.get_type_name()
        if kind == "ScaledDotProductAttention" or (kind == "MatMul" and all(moved)):
            return True
        if kind == "Parameter" or any(moved):
            moving.add(node.get_friendly_name())
    return False


def int8_share(compiled: ov.CompiledModel) -> float:
    """The share of a compiled model's linear layers and convolutions that the CPU computes in 8 bits, in [0, 1].

    Linear layers are what the CPU plugin calls FullyConnected: products with constant weights.
    """
    precisions = [
        node.get_rt_info()["runtimePrecision"].astype(str)
        for node in compiled.get_runtime_model().get_ordered_ops()
        if node.get_rt_info()["layerType"].astype(str) in ("FullyConnected", "Convolution")
    ]
    return sum(precision in ("i8", "u8") for precision in precisions) / max(len(precisions), 1)


def _quantize(
    body: ov.Model,
    calibration: Batches,
    setting: Setting,
    description: str,
    progress: Progress,
    *,
    overflow_safe: bool,
) -> ov.Model:
    alpha = -1.0 if setting.alpha is None else setting.alpha
    # SmoothQuant needs a pass over the images of its own.
    passes = 1 if alpha < 0 else 2
    head = _head(body)
    with progress.track(description, passes * len(calibration)) as task, _quiet():

        def calibrated(ranges: RangeEstimatorParameters) -> ov.Model:
            return nncf.quantize(
                body,
                nncf.Dataset(_Counted(calibration, task)),
                # Without it a ViT with outliers fell to cosine 0.37 against f32.
                model_type=None if setting.alpha is None else nncf.ModelType.TRANSFORMER,
                preset=None if setting.preset is None else nncf.QuantizationPreset(setting.preset),
                subset_size=len(calibration),
                # The head's rounding goes straight into the logits, and it is a 49th of a ViT's layers and far less
                # of its work: left in f32, the error above fell from 0.136 to 0.117.
                ignored_scope=nncf.IgnoredScope(names=[head]) if head else None,
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    overflow_fix=nncf.OverflowFix.ENABLE if overflow_safe else None,
                    activations_range_estimator_params=ranges,
                    smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=alpha, convolution=-1),
                ),
            )

        if setting.preset is None:
            return calibrated(_DEFAULT_RANGES)
        try:
            return calibrated(_HISTOGRAM)
        except ValueError as error:
            # Numpy's, of a layer whose values are all but alike, as at the end of untrained networks.
            if "Too many bins" not in str(error):
                raise
            return calibrated(_DEFAULT_RANGES)


def _head(body: ov.Model) -> str | None:
    """The name of the product that makes the logits, if one alone does."""
    node = body.output(0).get_node()
    while node.get_type_name() != "MatMul":
        sources = [port.get_source_output().get_node() for port in node.inputs()]
        variable = [source for source in sources if source.get_type_name() not in ("Constant", "Convert")]
        if len(variable) != 1:
            return None
        node = variable[0]
    return node.get_friendly_name()


@dataclass(frozen=True)
class _Counted:
    """Calibration images that tell how far NNCF has read them."""

    batches: Batches
    task: Task

    def __iter__(self) -> Iterator[Floats]:
        for batch_NCHW in self.batches:
            self.task.advance()  # before, as nobody comes back after the last one
            yield batch_NCHW


def _compiled(model: ov.Model) -> ov.CompiledModel:
    # f32 where it is not INT8: otherwise bf16's own rounding would cover the differences between settings.
    return core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def _logits(model: ov.Model, batches: Batches) -> Floats:
    compiled = _compiled(model)
    return np.concatenate([np.array(compiled(batch_NCHW)[0]) for batch_NCHW in batches])


@contextmanager
def _quiet() -> Iterator[None]:
    """NNCF draws bars and logs on standard output, which is ours for results alone."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
