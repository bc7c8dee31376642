"""INT8 by NNCF: a body quantized in one setting; and weights alone in 8 bits.

Shapes: N images, C labels; the body takes normalised f32 [N, 3, H, W].
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ftx.core.progress import Progress, ProgressTask
from ftx.core.signals import handle_signals_on_own_stack
from ftx.core.third_parties import no_telemetry
from ftx.exporting.int8.products import beside_logits, head_of
from ftx.exporting.int8.setting import Ranges, Setting
from ftx.runtimes.compiled_network import core, first_output

with no_telemetry():
    import nncf
    import openvino as ov
    from nncf.quantization.advanced_parameters import AdvancedAccuracyRestorerParameters
    from nncf.quantization.range_estimator import RangeEstimatorParameters, RangeEstimatorParametersSet

Floats = NDArray[np.float32]
# Which labels logits give. Shape: [N, C] -> [N, C].
Called = Callable[[Floats], NDArray[np.bool_]]

# "mean" is NNCF's own choice.
RANGES: Mapping[Ranges, RangeEstimatorParameters] = {
    "mean": RangeEstimatorParameters(),
    "widest": RangeEstimatorParametersSet.MINMAX,
    "histogram": RangeEstimatorParametersSet.HISTOGRAM,
}
# Of layers that NNCF's accuracy control puts back into float: each is an evaluation of all held-out images.
MOST_REVERTED = 24


class Batches(Protocol):
    """Normalised images, f32 [N, 3, H, W] each, that can be read again and again."""

    def __len__(self) -> int:
        """How many batches there are."""
        ...

    def __iter__(self) -> Iterator[Floats]:
        """All of them, in the same order each time."""
        ...


@dataclass(frozen=True)
class Goal:
    """What NNCF's accuracy control is to reach: of these images at most the share ``max_drop`` may change its labels.

    Shape: ``exact_NC`` the float model's logits, in the order of the images.
    """

    images: Batches
    exact_NC: Floats
    called: Called
    max_drop: float

    def kept(self, model: ov.CompiledModel, items: Iterable[tuple[Floats, Floats]]) -> tuple[float, None]:
        """The share of some of the images whose labels are the float model's."""
        same = [
            bool((self.called(first_output(model, image)) == self.called(exact_C[None])).all())
            for image, exact_C in items
        ]
        return float(np.mean(same)), None


def quantize(
    body: ov.Model,
    calibration: Batches,
    setting: Setting,
    description: str,
    progress: Progress,
    *,
    overflow_safe: bool = False,
    goal: Goal | None = None,
) -> ov.Model:
    """Quantize a body in one setting, its activations' ranges taken from training images; the head stays f32.

    ``overflow_safe`` leaves weights one bit less: without VNNI (AVX2, AVX512) two products of 8 bits are added in 16,
    and saturate. ``goal`` goes with a setting of accuracy control.
    Shape: each item is a batch of normalised images, f32 [N, 3, H, W].
    """
    alpha = -1.0 if setting.alpha is None else setting.alpha
    # SmoothQuant needs a pass over the images of its own.
    passes = 1 if alpha < 0 else 2
    # The head's rounding goes straight into the logits, and it is a 49th of a ViT's layers and far less of its work:
    # left in f32, the error of the search below fell from 0.136 to 0.117.
    kept = [name for name in (head_of(body), *setting.in_float, *beside_logits(body)) if name is not None]
    with progress.track(description, passes * len(calibration)) as task, quiet():

        def calibrated(ranges: Ranges) -> ov.Model:
            known: dict[str, Any] = {
                "model": body,
                "calibration_dataset": nncf.Dataset(_Counted(calibration, task)),
                # Without it a ViT with outliers fell to cosine 0.37 against f32.
                "model_type": None if setting.alpha is None else nncf.ModelType.TRANSFORMER,
                "preset": None if setting.preset is None else nncf.QuantizationPreset(setting.preset),
                "subset_size": len(calibration),
                "ignored_scope": nncf.IgnoredScope(names=kept) if kept else None,
            }
            advanced = nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.ENABLE if overflow_safe else None,
                activations_range_estimator_params=RANGES[ranges],
                disable_bias_correction=not setting.bias_correction,
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=alpha, convolution=-1),
            )
            if not setting.accuracy_control:
                return nncf.quantize(**known, advanced_parameters=advanced)
            assert goal is not None
            judged = list(zip(goal.images, goal.exact_NC, strict=True))
            return nncf.quantize_with_accuracy_control(
                **known,
                validation_dataset=nncf.Dataset(judged, _image),
                validation_fn=goal.kept,
                max_drop=goal.max_drop,
                advanced_quantization_parameters=advanced,
                advanced_accuracy_restorer_parameters=AdvancedAccuracyRestorerParameters(
                    max_num_iterations=MOST_REVERTED
                ),
            )

        try:
            return calibrated(setting.ranges_of_activations)
        except ValueError as error:
            # Numpy's, of a layer whose values are all but alike, as at the end of untrained networks.
            if "Too many bins" not in str(error):
                raise
            return calibrated("mean")
        finally:
            # NNCF made Cores of its own, some in other threads, and dropped them.
            handle_signals_on_own_stack()


def _image(item: tuple[Floats, Floats]) -> Floats:
    return item[0]


def compress_weights(body: ov.Model) -> ov.Model:
    """The same body with the weights of its linear layers and convolutions in 8 bits, but for the head's.

    They are widened again as they are used, so activations stay floats, and nothing is calibrated.
    """
    # Maps read the head's weights as well: left out there alone, they would be in 8 bits for both.
    kept = [name for name in (head_of(body), *beside_logits(body)) if name is not None]
    with quiet():
        return nncf.compress_weights(
            body.clone(),
            mode=nncf.CompressWeightsMode.INT8_ASYM,
            ignored_scope=nncf.IgnoredScope(names=kept) if kept else None,
        )


@dataclass(frozen=True)
class _Counted:
    """Calibration images that tell how far NNCF has read them."""

    batches: Batches
    task: ProgressTask

    def __iter__(self) -> Iterator[Floats]:
        for batch_NCHW in self.batches:
            self.task.advance()  # before, as nobody comes back after the last one
            yield batch_NCHW


def compiled(model: ov.Model) -> ov.CompiledModel:
    """For comparing: f32 where it is not INT8, as bf16's own rounding would cover the differences between settings."""
    return core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def logits_of(model: ov.Model, batches: Iterable[Floats]) -> Floats:
    """What a body answers. Shape: [N, C]."""
    ready = compiled(model)
    return np.concatenate([first_output(ready, batch_NCHW) for batch_NCHW in batches])


@contextmanager
def quiet() -> Iterator[None]:
    """NNCF draws bars and logs on standard output, which is ours for results alone."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
