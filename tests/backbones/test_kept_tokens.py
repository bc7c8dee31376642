"""Tokens that are dropped: against a choice made by hand between timm's own blocks, and in each runtime's graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import openvino as ov
import pytest
import timm
import torch
from tests.backbones.dropped_by_hand import chosen, logits_by_hand
from torch import nn

from ftx.backbones.build import build
from ftx.backbones.kept_tokens import (
    ChooseTokens,
    choice_margins,
    keep_tokens,
    kept_fractions,
    tokens_behind,
)
from ftx.backbones.layer_roles import plain_vit
from ftx.backbones.split_network import cut_after, full_model, set_attention
from ftx.core.errors import ModelError
from ftx.data.preprocess import Preprocess
from ftx.exporting.export_source import trace
from ftx.exporting.onnx import write_onnx
from ftx.exporting.openvino import convert_body
from ftx.runtimes.predictor import INPUT, LOGITS
from ftx.tasks.decisions import LEAST_MARGIN

SHARES = {1: 0.7, 3: 0.5}
VARIANTS = {
    "vit": ("vit_tiny_patch16_224", {}),
    "registers and layer scale": ("vit_small_patch14_reg4_dinov2", {"img_size": 56}),
    "a mean over the patches": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    "norms of queries and keys": ("vit_tiny_patch16_224", {"qk_norm": True, "scale_attn_norm": True}),
    "two class tokens": ("deit_tiny_distilled_patch16_224", {}),
    "norm before the blocks": ("vit_base_patch32_clip_224", {"img_size": 128, "embed_dim": 192, "num_heads": 3}),
}


def small(variant: str) -> nn.Module:
    """Four blocks, 16 patches, in f64."""
    architecture, changed = VARIANTS[variant]
    torch.manual_seed(0)
    model = timm.create_model(architecture, **{"img_size": 64, "num_classes": 3, "depth": 4, **changed})
    for name, parameter in model.named_parameters():
        if name.endswith("qkv.weight"):  # timm draws them so small that all patches are attended to alike
            nn.init.normal_(parameter, std=0.3)
        elif name.endswith(("bias", "gamma")) or "head" in name:
            nn.init.normal_(parameter, std=0.5)
    return model.double().eval()


def images(model: nn.Module, count: int) -> torch.Tensor:
    height, width = model.patch_embed.img_size
    return torch.randn(count, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("plain", [False, True], ids=["fused", "plain"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_patches_dropped_are_those_chosen_by_hand(variant: str, plain: bool) -> None:
    model = small(variant)
    x = images(model, 5)
    expected, whole = logits_by_hand(model, x, SHARES), model(x)
    names = list(model.state_dict())
    keep_tokens(model, SHARES)
    set_attention(model.modules(), plain=plain)
    # f64: the order of the sums differs, and another patch kept moves a logit by far more than 1e-3.
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)
    assert (expected - whole).abs().max() > 1e-3
    assert list(model.state_dict()) == names
    assert kept_fractions(model) == SHARES
    for network in (full_model(model), cut_after(model, 1), cut_after(model, 2)):
        torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-12)


def test_every_parameter_gets_the_gradient_that_the_choice_by_hand_gives() -> None:
    model = small("registers and layer scale")
    x, wanted = images(model, 3), torch.arange(1.0, 4.0, dtype=torch.float64)
    found: list[dict[str, torch.Tensor]] = []
    for _ in range(2):
        model.zero_grad()
        logits = logits_by_hand(model, x, SHARES) if not kept_fractions(model) else model(x)
        (logits * wanted).sum().backward()
        found.append({name: one.grad.clone() for name, one in model.named_parameters()})
        if not kept_fractions(model):
            keep_tokens(model, SHARES)
    by_hand, ours = found
    for name, gradient in by_hand.items():
        # f64: the order of the sums differs, 6e-13 of the largest measured
        largest = float(gradient.abs().max())
        torch.testing.assert_close(ours[name], gradient, rtol=0, atol=1e-11 * largest, msg=name)


@pytest.mark.parametrize(
    ("share", "patches", "kept"), [(0.7, 256, 180), (0.07, 100, 7), (0.5, 5, 3), (0.001, 9, 1), (0.99, 10, 10)]
)
def test_a_share_is_rounded_up_as_it_is_written(share: float, patches: int, kept: int) -> None:
    assert ChooseTokens(1, share).kept(patches) == kept


def test_tokens_behind_a_block_are_counted() -> None:
    model = small("registers and layer scale")
    keep_tokens(model, SHARES)
    vit = plain_vit(model)
    assert vit is not None
    # 16 patches, 12 of them behind block 0, 6 behind block 2; a class token and four registers
    assert [tokens_behind(vit, count) for count in range(5)] == [21, 17, 17, 11, 11]
    for count in range(1, 5):
        assert cut_after(model, count).trunk(images(model, 2)).shape[1] == tokens_behind(vit, count)


class Alone(nn.Module):
    """The choice by a row of an image as the scores, so that they can tie."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.choose = ChooseTokens(2, share)

    def forward(self, images_N3HW: torch.Tensor) -> torch.Tensor:
        return self.choose(images_N3HW[:, 0, 0]).float()


@pytest.mark.representative
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_of_patches_with_one_score_each_runtime_keeps_the_first(tmp_path: Path, share: float) -> None:
    """Scores of three values over 64 patches: most choices end among equals."""
    generator = np.random.default_rng(0)
    scores_NT = generator.integers(0, 3, (8, 66)).astype(np.float32) / 4
    images_N3HW = np.zeros((8, 3, 2, 66), np.float32)
    images_N3HW[:, 0, 0] = scores_NT
    expected = np.array([chosen(row, 2, share) for row in scores_NT])
    alone = Alone(share).eval()
    assert np.array_equal(alone(torch.from_numpy(images_N3HW)).numpy(), expected)
    pre = Preprocess(2, 66, 66, "bicubic", (0.5,) * 3, (0.5,) * 3)
    program = trace(alone, pre)
    body = convert_body(program, pre, "alone")
    for precision in ("f32", "bf16"):  # which has quarters
        compiled = ov.Core().compile_model(body, "CPU", {"INFERENCE_PRECISION_HINT": precision})
        assert np.array_equal(compiled(images_N3HW)[0], expected), precision
    write_onnx(program, {}, tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert np.array_equal(session.run([LOGITS], {INPUT: images_N3HW})[0], expected)


def test_it_is_told_which_images_rounding_could_change() -> None:
    choose = ChooseTokens(1, 0.5)
    clear, tied = [0.4, 0.3, 0.2, 0.06, 0.04], [0.4, 0.2, 0.1, 0.1 * (1 - 5e-5), 0.1 * (1 - 6e-5)]
    with choice_margins(nn.ModuleList([choose])) as found:
        choose(torch.tensor([clear, tied], dtype=torch.float64))
        choose(torch.tensor([tied, clear, [*clear[:3], 0.2 * (1 - 2e-4), 0.1]], dtype=torch.float64))
    assert found.clear() is not None
    assert found.clear().tolist() == [True, False, False, True, True]
    choose(torch.tensor([tied], dtype=torch.float64))
    assert len(found.clear()) == 5  # what comes after is not choice_margins
    several = nn.ModuleList([ChooseTokens(1, 0.5), ChooseTokens(1, 0.5)])
    with choice_margins(several) as found:  # clearly in each of the blocks
        for one, scores in zip(several, ([clear, tied, clear], [tied, clear, clear]), strict=True):
            one(torch.tensor(scores, dtype=torch.float64))
    assert found.clear().tolist() == [False, False, True]
    with choice_margins(small("vit")) as nothing:
        pass
    assert nothing.clear() is None


def test_rounding_in_f32_moves_scores_by_less_than_what_counts_as_a_tie() -> None:
    """So images that are told apart keep the same patches, whatever runtime computes in f32."""
    model = small("registers and layer scale")
    keep_tokens(model, SHARES)
    scores: list[list[torch.Tensor]] = []
    for dtype in (torch.float64, torch.float32):
        kept: list[torch.Tensor] = []
        hooks = [
            one.register_forward_hook(lambda _one, given, _out, kept=kept: kept.append(given[0].double()))
            for one in model.modules()
            if isinstance(one, ChooseTokens)
        ]
        model.to(dtype)(images(model, 16).to(dtype))
        scores.append(kept)
        for hook in hooks:
            hook.remove()
    # The first choice alone: behind it, images that tie may go on with other patches.
    exact, rounded = scores[0][0], scores[1][0]
    # 4.4e-5: these weights are ten times what a trained network has, in which it is 1.2e-5
    assert ((rounded - exact).abs() / exact).max() < LEAST_MARGIN


@pytest.mark.parametrize(
    ("architecture", "shares", "found"),
    [
        ("test_resnet", {1: 0.5}, "ResNet"),
        ("vit_base_patch16_siglip_224", {1: 0.5}, "without a class token"),
        ("test_vit", {6: 0.5}, "block 6 of blocks 0 to 5"),
        ("vit_tiny_patch16_224", {3: 0.5, 40: 0.5}, "block 40 of blocks 0 to 11"),
        ("vit_small_patch16_36x1_224", {40: 0.5}, "block 40 of blocks 0 to 35"),
        ("vit_small_patch16_18x2_224", {2: 0.5}, "block 1 is a ParallelThingsBlock"),
    ],
)
def test_a_network_that_cannot_drop_them_is_refused(architecture: str, shares: dict[int, float], found: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(architecture)
    with pytest.raises(ModelError, match=found) as raised:
        keep_tokens(model, shares)
    assert raised.value.where == "model.keep_tokens"
    assert raised.value.fix


def test_a_recipe_s_model_is_built_with_it() -> None:
    made = build("test_vit", weights="none", num_classes=2, image_size=64, seed=0, token_fractions={2: 0.5})
    assert kept_fractions(made.module) == {2: 0.5}
    plain = build("test_vit", weights="none", num_classes=2, image_size=64, seed=0)
    assert made.digest == plain.digest  # the base is the same, whatever it drops
