"""Three products for queries, keys and values: the same answers, without the transpose that parted them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import timm
import torch
from torch import nn

from ftx.backbones.kept_tokens import keep_tokens
from ftx.backbones.split_network import full_model
from ftx.data.preprocess import Preprocess
from ftx.exporting.export_source import trace
from ftx.exporting.int8.products import products, quantized_products, with_exact_inputs
from ftx.exporting.int8.quantize import Int8Setting
from ftx.exporting.int8.search import quantize_body
from ftx.exporting.openvino import compress_to_fp16, convert_body
from ftx.exporting.separate_qkv import separate_qkv, with_split_weights

PX = 64
ALIKE = {
    "vit": ("vit_tiny_patch16_224", {}),
    "registers and layer scale": ("vit_small_patch14_reg4_dinov2", {"patch_size": 16, "embed_dim": 96, "num_heads": 3}),
    "a mean over the patches": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    # 1 / sqrt(12) is no power of two: the scale rounds the weights once more.
    "heads of 12": ("vit_tiny_patch16_224", {"embed_dim": 36}),
}
ANOTHER = {
    "norms of queries and keys": ("vit_tiny_patch16_224", {"depth": 2, "qk_norm": True}),
    "biases of positions": ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1), "embed_dim": 24}),
    "rotated": ("eva02_tiny_patch14_224", {"depth": 2}),
}


def network(architecture: str, **changed: object) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(architecture, **{"img_size": PX, "num_classes": 5, **changed})
    for name, parameter in model.named_parameters():
        if name.endswith(("qkv.weight", "qkv.bias", "gamma")) or "head" in name:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def body_of(model: nn.Module, px: int = PX) -> ov.Model:
    pre = Preprocess(px, px, px, "bicubic", (0.5,) * 3, (0.5,) * 3)
    return convert_body(trace(full_model(model), pre), pre, "body")


def kinds(model: ov.Model) -> Counter[str]:
    return Counter(node.get_type_name() for node in model.get_ordered_ops())


def parting(model: ov.Model) -> int:
    return sum(
        node.get_type_name() == "Transpose" and len(node.output(0).get_partial_shape()) == 5
        for node in model.get_ordered_ops()
    )


def assert_same_answers(one: ov.Model, other: ov.Model) -> None:
    images_N3HW = np.random.default_rng(0).standard_normal((3, 3, PX, PX)).astype(np.float32)
    expected_NC, answered_NC = (
        ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(images_N3HW)[0]
        for model in (one, other)
    )
    assert np.abs(expected_NC).max() > 0.1
    # The same products, whose terms another kernel may add in another order: some roundings of f32 (6e-8) a block.
    assert np.abs(answered_NC - expected_NC).max() <= 1e-5 * np.abs(expected_NC).max()


@pytest.mark.parametrize("variant", ALIKE)
def test_three_products_answer_as_one_does(variant: str) -> None:
    architecture, changed = ALIKE[variant]
    joined = body_of(network(architecture, depth=2, **changed))
    separate = separate_qkv(joined)
    assert (parting(joined), parting(separate)) == (2, 0)
    assert kinds(separate)["MatMul"] == kinds(joined)["MatMul"] + 4
    assert_same_answers(joined, separate)
    parted = with_split_weights(separate)
    assert not {"Split", "VariadicSplit"} & set(kinds(parted))
    assert_same_answers(joined, parted)


@pytest.mark.slow
def test_tokens_are_kept_as_before() -> None:
    """There the keys are also what the choice is made from."""
    model = network("vit_tiny_patch16_224", depth=4)
    keep_tokens(model, {1: 0.7, 3: 0.5})
    joined = body_of(model)
    separate = separate_qkv(joined)
    assert (parting(joined), parting(separate)) == (4, 0)
    assert_same_answers(joined, separate)


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "biases of positions" else pytest.mark.representative)
        for name in ANOTHER
    ],
)
def test_another_attention_stays_as_it_is(variant: str) -> None:
    architecture, changed = ANOTHER[variant]
    px = 224 if "swin" in architecture else 56
    joined = body_of(network(architecture, img_size=px, **changed), px)
    assert kinds(separate_qkv(joined)) == kinds(joined)


def test_weights_in_half_the_bits_are_parted_too(tmp_path: Path) -> None:
    narrow = compress_to_fp16(body_of(network("vit_tiny_patch16_224", depth=2)), tmp_path)
    separate = separate_qkv(narrow)
    assert parting(separate) == 0
    assert_same_answers(narrow, separate)


def test_the_compiled_network_parts_nothing_by_itself() -> None:
    """Neither weights while it runs, nor the answers of one product."""
    separate = separate_qkv(body_of(network("vit_tiny_patch16_224", depth=2)))
    done = [
        node.get_rt_info()["layerType"].astype(str)
        for node in ov.Core().compile_model(separate, "CPU").get_runtime_model().get_ordered_ops()
    ]
    assert not {"Split", "VariadicSplit"} & set(done)


@pytest.mark.representative
def test_queries_alone_take_their_inputs_in_float() -> None:
    """They share them with keys and values, of which no more is asked."""
    body = with_split_weights(separate_qkv(body_of(network("vit_tiny_patch16_224", depth=2))))
    some = list(np.random.default_rng(0).standard_normal((4, 1, 3, PX, PX)).astype(np.float32))
    quantized = quantize_body(body, some, some, settings=(Int8Setting(alpha=0.5),)).model
    names = [one.name for one in products(body)]
    rounded = quantized_products(quantized, names)
    one_of_three = [name for name in rounded if name.endswith(("/q", "/k", "/v"))]
    assert len(one_of_three) == 6
    for name in one_of_three:
        exact = with_exact_inputs(quantized, [name])
        assert set(rounded) - set(quantized_products(exact, names)) == {name}
