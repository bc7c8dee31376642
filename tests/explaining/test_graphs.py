"""Maps as a graph: what OpenVINO and ONNX Runtime answer is what torch does, of each kind of network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from tests.explaining.small_networks import drawn_anew, images, pre_of
from torch import nn

from ftx.backbones.kept_tokens import keep_tokens
from ftx.explaining.reciprocam import explained
from ftx.exporting.export_source import trace
from ftx.exporting.onnx import write_onnx
from ftx.exporting.openvino import convert_body
from ftx.exporting.separate_qkv import separate_qkv
from ftx.runtimes.compiled_network import core
from ftx.runtimes.predictor import INPUT, OUTPUTS

NETWORKS = {
    "registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 56, "depth": 4}),
    "fewer tokens": ("vit_tiny_patch16_224", {"img_size": 64, "depth": 4}),
    "two class tokens": ("deit_tiny_distilled_patch16_224", {"img_size": 64, "depth": 4}),
    "windows": ("swin_tiny_patch4_window7_224", {"img_size": 64, "depths": (1, 1, 2, 1)}),
    "channels first": ("resnet18", {}),
    "tokens and their mean": ("vit_tiny_patch16_224", {"img_size": 64, "depth": 4, "global_pool": "avg"}),
}
RIVALS = [[2, 0]]


def small(kind: str) -> nn.Module:
    torch.manual_seed(0)
    name, changed = NETWORKS[kind]
    # f64 and back: what is drawn anew is in f64, for the tests of equations.
    model = drawn_anew(timm.create_model(name, num_classes=3, **changed)).float()
    if kind == "fewer tokens":
        keep_tokens(model, {2: 0.6})
    return model


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.representative if kind == "channels first" else pytest.mark.slow)
        for kind in NETWORKS
    ],
)
def test_runtimes_answer_as_torch_does(kind: str, tmp_path: Path) -> None:
    model = small(kind)
    x = images(*model.patch_embed.img_size, 3).float() if hasattr(model, "patch_embed") else images(64, 64, 3).float()
    network = explained(model, RIVALS, pre_of(x))
    with torch.inference_mode():
        expected = [one.numpy() for one in network(x)]
    program = trace(network, pre_of(x))
    body = separate_qkv(convert_body(program, pre_of(x), kind))
    assert [port.any_name for port in body.outputs] == list(OUTPUTS)
    compiled = core().compile_model(body, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    write_onnx(program, {}, tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 3):  # of a free batch
        ours = compiled(x[:count].numpy(), share_inputs=False)
        theirs = session.run(list(OUTPUTS), {INPUT: x[:count].numpy()})
        for place, name in enumerate(OUTPUTS):
            # f32 in another order; a map is scaled by what one label's scores differ in.
            bound = 5e-3 if name == "saliency_map" else 1e-4
            for answer in (ours[name], theirs[place]):
                np.testing.assert_allclose(answer, expected[place][:count], rtol=0, atol=bound)
