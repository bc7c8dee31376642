"""INT8 by NNCF: post-training quantization of the body, with the strength of SmoothQuant chosen on held-out images.

Shapes: N images, C labels; the body takes normalised f32 [N, 3, H, W].
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ftx.progress import SILENT, Progress, Task
from ftx.telemetry import no_telemetry

with no_telemetry():
    import nncf
    import openvino as ov

Floats = NDArray[np.float32]


class Batches(Protocol):
    """Normalised images, f32 [N, 3, H, W] each, that can be read again and again."""

    def __len__(self) -> int:
        """How many batches there are."""
        ...

    def __iter__(self) -> Iterator[Floats]:
        """All of them, in the same order each time."""
        ...


# How far SmoothQuant moves the activations' outliers into the weights: 0 not at all, 1 wholly, below 0 it is left
# out. No value is best for all: deit3_small keeps most without, vit_b_16 with 0.15, swin_v2_s with 0.5
# (published OpenVINO references), and NNCF's own default is 0.95.
ALPHAS = (-1.0, 0.15, 0.5, 0.95)

# Images of the search. DINOv2 ViT-S with a linear head on Fashion-MNIST, mean absolute logit difference (the logits'
# deviation is 1.9): with 32 images 0.149, 0.154, 0.111, 0.166 for the alphas above, with 128 images 0.155, 0.147,
# 0.114, 0.142. The order of the best is the same and a trial takes 9 s on 2 cores instead of 25.
SEARCH_IMAGES = 32


@dataclass(frozen=True)
class Quantized:
    """An INT8 body, the alpha it was made with, and the mean absolute logit difference of each alpha tried."""

    model: ov.Model
    alpha: float
    mean_abs: dict[float, float]


def quantize_body(
    body: ov.Model,
    calibration: Batches,
    held_out: Batches,
    *,
    alphas: tuple[float, ...] = ALPHAS,
    progress: Progress = SILENT,
) -> Quantized:
    """Quantize a body, its activations' ranges taken from training images; the head stays f32.

    Each alpha is tried with the first few calibration images, the one whose logits are nearest to the
    f32 body's on ``held_out`` is taken, and the body quantized with it and all calibration images
    (there may be no more than those few).
    Shape: each item is a batch of normalised images, f32 [N, 3, H, W].
    """
    if len(alphas) == 1:
        return Quantized(_quantize(body, calibration, alphas[0], "INT8: calibrating", progress), alphas[0], {})
    few = list(islice(calibration, SEARCH_IMAGES))
    exact_NC = _logits(body, held_out)
    mean_abs: dict[float, float] = {}
    nearest: ov.Model | None = None
    best = alphas[0]
    for alpha in alphas:
        tried = _quantize(body, few, alpha, f"INT8: trying SmoothQuant {alpha:g}", progress)
        mean_abs[alpha] = float(np.abs(_logits(tried, held_out) - exact_NC).mean())
        if nearest is None or not mean_abs[alpha] >= mean_abs[best]:  # whatever is a number beats one that is none
            best, nearest = alpha, tried
    if nearest is None:
        raise ValueError("no alpha to try")
    if len(few) < len(calibration):
        nearest = _quantize(body, calibration, best, f"INT8: calibrating, SmoothQuant {best:g}", progress)
    return Quantized(nearest, best, mean_abs)


def int8_share(compiled: ov.CompiledModel) -> float:
    """The share of a compiled model's linear layers that the CPU computes in 8 bits, in [0, 1].

    A linear layer is what the CPU plugin calls FullyConnected: a product with constant weights.
    """
    precisions = [
        node.get_rt_info()["runtimePrecision"].astype(str)
        for node in compiled.get_runtime_model().get_ordered_ops()
        if node.get_rt_info()["layerType"].astype(str) == "FullyConnected"
    ]
    return sum(precision in ("i8", "u8") for precision in precisions) / max(len(precisions), 1)


def _quantize(body: ov.Model, calibration: Batches, alpha: float, description: str, progress: Progress) -> ov.Model:
    # SmoothQuant needs a pass over the images of its own.
    passes = 1 if alpha < 0 else 2
    head = _head(body)
    with progress.track(description, passes * len(calibration)) as task, _quiet():
        return nncf.quantize(
            body,
            nncf.Dataset(_Counted(calibration, task)),
            # Without it a ViT with outliers fell to cosine 0.37 against f32.
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(calibration),
            # The head's rounding goes straight into the logits, and it is a 49th of a ViT's layers and far less
            # of its work: left in f32, the error above fell from 0.136 to 0.117.
            ignored_scope=nncf.IgnoredScope(names=[head]) if head else None,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=alpha, convolution=-1)
            ),
        )


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


def _logits(model: ov.Model, batches: Batches) -> Floats:
    # f32 where it is not INT8: otherwise bf16's own rounding would cover the differences between alphas.
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
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
