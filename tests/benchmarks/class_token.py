"""Times the IR whose last block is computed for the class token alone: ``python -m tests.benchmarks.class_token``.

DINOv2-small at 224 px without its image path, against the same network converted as timm has it; both in turn, the
median of the ratios.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import openvino as ov
from torch import nn

from ftx.backbones.build import build
from ftx.backbones.split_network import uncut
from ftx.exporting.openvino import convert_body
from ftx.exporting.tracing import trace
from ftx.runtimes.openvino import core

ROUNDS = {1: 200, 8: 40}


def main() -> None:
    """Print a line for each precision and batch."""
    backbone = build("dinov2-small", weights="auto", num_classes=10, image_size=224, seed=0)
    module, pre = backbone.module.eval(), backbone.preprocess
    nn.init.normal_(module.get_parameter("head.weight"))
    bodies = [convert_body(trace(each, pre), pre, "body") for each in (module, uncut(module))]
    for precision in ("f32", "bf16"):
        for batch, rounds in ROUNDS.items():
            images = np.random.default_rng(0).standard_normal((batch, 3, 224, 224)).astype(np.float32)
            plain, alone = (
                core().compile_model(body, "CPU", {"INFERENCE_PRECISION_HINT": precision}).create_infer_request()
                for body in bodies
            )
            difference = np.abs(_logits(plain, images) - _logits(alone, images)).max()
            seconds = [(_seconds(plain, images), _seconds(alone, images)) for _ in range(rounds)]
            ratio = statistics.median(after / before for before, after in seconds)
            ms = [1e3 * statistics.median(column) for column in zip(*seconds, strict=True)]
            print(
                f"{precision} batch {batch}: {ms[0]:.1f} ms as timm has it, {ms[1]:.1f} ms, ratio {ratio:.3f}; "
                f"logits differ by {difference:.1e}"
            )


def _logits(request: ov.InferRequest, images: np.ndarray) -> np.ndarray:
    return request.infer([images])[0].copy()


def _seconds(request: ov.InferRequest, images: np.ndarray) -> float:
    started = time.perf_counter()
    request.infer([images])
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
