"""INT8 by NNCF: a body quantized in one setting; or only its weights in 8 bits.

Shapes: N images, C labels; the body takes normalised f32 [N, 3, H, W].
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ftx.core.progress import ProgressTask
from ftx.core.signal_stack import handle_signals_on_own_stack
from ftx.core.third_parties import no_telemetry, only_errors_of
from ftx.exporting.int8.products import head_of, only_for_maps
from ftx.runtimes.compiled_network import core, first_output
from ftx.tasks.thresholds import Floats

with no_telemetry():
    import nncf
    import openvino as ov
    from nncf.quantization.range_estimator import RangeEstimatorParameters, RangeEstimatorParametersSet

# The labels of logits. Shape: [N, C] -> [N, C].
PredictedLabels = Callable[[Floats], NDArray[np.bool_]]

Int8Preset = Literal["performance", "mixed"]
# Of an activation's range over the calibration images: between the means of their least and greatest values, between
# the least and the greatest of all, or what keeps a histogram nearest.
Ranges = Literal["mean", "widest", "histogram"]
# "mean" is NNCF's own choice.
RANGES: Mapping[Ranges, RangeEstimatorParameters] = {
    "mean": RangeEstimatorParameters(),
    "widest": RangeEstimatorParametersSet.MINMAX,
    "histogram": RangeEstimatorParametersSet.HISTOGRAM,
}


@dataclass(frozen=True)
class Int8Setting:
    """One way to quantize: for a network with attention a strength of SmoothQuant, for another a preset; and the rest.

    ``alpha`` is how far SmoothQuant moves the activations' outliers into the weights: 0 not at all, 1 wholly,
    below 0 it is left out. Of the presets, performance has activations on a scale about 0, mixed between
    their own ends, which suits hard-swish, SiLU and GELU: they end a little below 0 and far above.
    ``in_float`` names the products of the network that stay as they are. With ``accuracy_control`` only products are
    rounded, and more of them stay.
    """

    alpha: float | None = None
    preset: Int8Preset | None = None
    ranges: Ranges | None = None
    bias_correction: bool = True
    in_float: tuple[str, ...] = ()
    accuracy_control: bool = False

    def __str__(self) -> str:
        if self.alpha is None:
            parts = [f"{self.preset} preset"]
        else:
            parts = ["no SmoothQuant" if self.alpha < 0 else f"SmoothQuant {self.alpha:g}"]
        if self.ranges is not None:
            parts.append(f"{self.ranges} ranges")
        if not self.bias_correction:
            parts.append("no bias correction")
        if self.in_float:
            parts.append(f"{len(self.in_float)} in float")
        if self.accuracy_control:
            parts.append("accuracy control")
        return ", ".join(parts)

    @property
    def ranges_of_activations(self) -> Ranges:
        """By default, convolutions' activations by histograms, as they have rare large values.

        Between least and greatest the rest is left few steps. Mean logit error on Fashion-MNIST at 64 px, mixed preset,
        without and with: resnet18 0.032, 0.029 (the greatest 0.66, 0.22), mobilenetv3_large 0.30, 0.28, efficientnet_b0
        0.41, 0.29, convnext_atto 0.027, 0.019. Networks with attention lose by histograms: 0.26 instead of 0.05 on
        DINOv2-small.
        """
        return self.ranges or ("histogram" if self.alpha is None else "mean")


# No strength is best for all: vit_b_16 keeps most with 0.15, swin_v2_s with 0.5, and deit3_small without SmoothQuant
# (published references of OpenVINO). Of nine networks that ftx trained, 0.5 was best for seven, and 0.15 for two. So
# those without it, and with 0.95, NNCF's default, are not tried. Biases are corrected only in the best setting, as that
# changes the error by at most 13 %.
ATTENTION = tuple(Int8Setting(alpha=alpha, ranges="widest", bias_correction=False) for alpha in (0.15, 0.5))
CONVOLUTIONS = (Int8Setting(preset="performance"), Int8Setting(preset="mixed"))


class Batches(Protocol):
    """Normalised images, f32 [N, 3, H, W] each, that can be read again and again."""

    def __len__(self) -> int:
        """The number of batches."""
        ...

    def __iter__(self) -> Iterator[Floats]:
        """All of them, in the same order each time."""
        ...


def reads(setting: Int8Setting, calibration: Batches) -> int:
    """How many images NNCF reads for a setting: SmoothQuant needs a separate pass over them."""
    return (1 if setting.alpha is None or setting.alpha < 0 else 2) * len(calibration)


def quantize(
    body: ov.Model,
    calibration: Batches,
    setting: Int8Setting,
    task: ProgressTask,
    *,
    overflow_safe: bool = False,
) -> ov.Model:
    """Quantize a body in one setting, with the ranges of its activations on training images; the head stays f32.

    ``overflow_safe`` leaves weights one bit less: without VNNI (AVX2, AVX512) two products of 8 bits are added in 16,
    and saturate. ``task`` advances by ``reads``.
    Shape: each item is a batch of normalised images, f32 [N, 3, H, W].
    """
    # The head's rounding goes straight into the logits, and it is a 49th of a ViT's layers and far less of its work:
    # left in f32, the error of the search below fell from 0.136 to 0.117.
    scope = _all_but(*kept_in_float(body), *setting.in_float)
    with quiet():

        def calibrated(ranges: Ranges) -> ov.Model:
            return nncf.quantize(
                body,
                nncf.Dataset(_CountedBatches(calibration, task)),
                # Without it a ViT with outliers fell to cosine 0.37 against f32.
                model_type=None if setting.alpha is None else nncf.ModelType.TRANSFORMER,
                preset=None if setting.preset is None else nncf.QuantizationPreset(setting.preset),
                subset_size=len(calibration),
                ignored_scope=scope,
                advanced_parameters=_advanced(setting, ranges, overflow_safe=overflow_safe),
            )

        try:
            return calibrated(setting.ranges_of_activations)
        except ValueError as error:
            # Numpy's, for a layer whose values are nearly all the same, as at the end of untrained networks.
            if "Too many bins" not in str(error):
                raise
            return calibrated("mean")
        finally:
            # NNCF made Cores of its own, some in other threads, and dropped them.
            handle_signals_on_own_stack()


def _advanced(setting: Int8Setting, ranges: Ranges, *, overflow_safe: bool) -> nncf.AdvancedQuantizationParameters:
    alpha = -1.0 if setting.alpha is None else setting.alpha
    return nncf.AdvancedQuantizationParameters(
        overflow_fix=nncf.OverflowFix.ENABLE if overflow_safe else None,
        activations_range_estimator_params=RANGES[ranges],
        disable_bias_correction=not setting.bias_correction,
        smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=alpha, convolution=-1),
    )


def kept_in_float(body: ov.Model) -> list[str]:
    """The names of the head, and of what only maps need: maps read the head's weights too."""
    head = head_of(body)
    return [*([] if head is None else [head]), *only_for_maps(body)]


def _all_but(*names: str) -> nncf.IgnoredScope | None:
    return nncf.IgnoredScope(names=list(names)) if names else None


def compress_weights(body: ov.Model) -> ov.Model:
    """The same body with the weights of its linear layers and convolutions in 8 bits, except the head's.

    They are converted to floats when they are used, so activations stay floats, and nothing is calibrated.
    """
    with quiet():
        return nncf.compress_weights(
            body.clone(),
            mode=nncf.CompressWeightsMode.INT8_ASYM,
            ignored_scope=_all_but(*kept_in_float(body)),
        )


@dataclass(frozen=True)
class _CountedBatches:
    """Calibration images that advance the progress when NNCF reads them."""

    batches: Batches
    task: ProgressTask

    def __iter__(self) -> Iterator[Floats]:
        for batch_NCHW in self.batches:
            self.task.advance()  # before, as a generator is not resumed after its last item
            yield batch_NCHW


def compiled(model: ov.Model) -> ov.CompiledModel:
    """For comparisons: f32 except for INT8, as bf16's own rounding would hide the differences between settings."""
    return core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def logits_of(model: ov.Model, batches: Iterable[Floats]) -> Floats:
    """The logits of a body. Shape: [N, C]."""
    ready = compiled(model)
    return np.concatenate([first_output(ready, batch_NCHW) for batch_NCHW in batches])


@contextmanager
def quiet() -> Iterator[None]:
    """Without the bars and log of NNCF on standard output, which is only for results."""
    with only_errors_of("nncf"), redirect_stdout(io.StringIO()):
        yield
