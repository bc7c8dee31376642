"""Times the IR against a plain conversion of the same network: ``python -m tests.benchmarks.ir_graph``.

DINOv2-small at 224 px: as timm has it and without an image path; with its last block for the class token alone; the
same as ``ftx export`` writes it (an image path, from bytes; queries, keys and values by three products); and that with
fewer tokens. In turn; the medians of the ratios to the first.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import openvino as ov
from torch import nn

from ftx.backbones.build import build
from ftx.backbones.kept_tokens import TokenFractions
from ftx.backbones.split_network import full_model
from ftx.data.preprocess import normalise
from ftx.exporting.export_source import trace
from ftx.exporting.openvino import convert_body
from ftx.exporting.preprocess_graph import embed_preprocessing
from ftx.exporting.separate_qkv import separate_qkv
from ftx.runtimes.compiled_network import core

ROUNDS = {1: 200, 8: 40}
FEWER = ({3: 0.7, 6: 0.7, 9: 0.7}, {4: 0.5, 8: 0.5})


def main() -> None:
    """Print a line for each precision and batch."""
    backbone = build("dinov2-small", weights="auto", num_classes=10, image_size=224, seed=0)
    module, pre = backbone.module.eval(), backbone.preprocess
    nn.init.normal_(module.get_parameter("head.weight"), std=0.02)
    plain, alone = (convert_body(trace(each, pre), pre, "body") for each in (module, full_model(module)))
    whole = embed_preprocessing(separate_qkv(alone), pre)
    fewer = [_with_fewer(shares) for shares in FEWER]
    for precision in ("f32", "bf16"):
        for batch, rounds in ROUNDS.items():
            pixels = np.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3), dtype=np.uint8)
            normalised = normalise(pixels, pre)
            requests = [
                core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision}).create_infer_request()
                for model in (plain, alone, whole, *fewer)
            ]
            inputs = (normalised, normalised, pixels, *[pixels for _ in FEWER])
            answers = [request.infer([images])[0].copy() for request, images in zip(requests, inputs, strict=True)]
            seconds = [
                [_seconds(request, images) for request, images in zip(requests, inputs, strict=True)]
                for _ in range(rounds)
            ]
            ms = [1e3 * statistics.median(column) for column in zip(*seconds, strict=True)]
            ratios = [statistics.median(row[which] / row[0] for row in seconds) for which in range(1, len(ms))]
            apart = [np.abs(answer - answers[0]).max() for answer in answers[1:]]
            print(
                f"{precision} batch {batch}: plain {ms[0]:.1f} ms; class token alone {ms[1]:.1f} ms, {ratios[0]:.3f}, "
                f"logits {apart[0]:.1e} apart; with image path {ms[2]:.1f} ms, {ratios[1]:.3f}, {apart[1]:.1e} apart"
            )
            for shares, one_ms, ratio in zip(FEWER, ms[3:], ratios[2:], strict=True):
                print(f"    {shares}: {one_ms:.1f} ms, {ratio:.3f}")


def _with_fewer(shares: TokenFractions) -> ov.Model:
    backbone = build("dinov2-small", weights="auto", num_classes=10, image_size=224, seed=0, token_fractions=shares)
    pre = backbone.preprocess
    body = convert_body(trace(full_model(backbone.module.eval()), pre), pre, "body")
    return embed_preprocessing(separate_qkv(body), pre)


def _seconds(request: ov.InferRequest, images: np.ndarray) -> float:
    started = time.perf_counter()
    request.infer([images])
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
