"""Compiled blocks take the step that others take, but for rounding, and only where they are asked for."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ftx.adapters.adapter_spec import AdapterSpec
from ftx.adapters.attach import attach
from ftx.backbones.build import build
from ftx.backbones.kept_tokens import ALL_TOKENS, TokenFractions, keep_tokens
from ftx.backbones.split_network import attentions_with_backward, full_model, set_attention
from ftx.backbones.trained_blocks import blocks_to_compile, compiled_blocks, compiling, recomputing

IMAGES = 3


def model(dtype: torch.dtype, *, dropout: float = 0.0, shares: TokenFractions = ALL_TOKENS) -> nn.Module:
    """DoRA with factors and magnitudes that are not fresh, in all of six blocks."""
    module = build("test_vit", weights="none", num_classes=4, image_size=64, seed=0).module
    keep_tokens(module, shares)
    spec = AdapterSpec("dora", {"q": 2, "v": 3, "fc1": 2}, {"q": 4.0, "v": 3.0, "fc1": 4.0}, dropout=dropout)
    attach(module, spec, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, one in module.named_parameters():
            if "lora_B" in name:
                one.copy_(0.05 * torch.randn(one.shape, generator=generator))
            if "magnitude" in name:
                one.mul_(1 + 0.1 * torch.randn(one.shape, generator=generator))
    set_attention(attentions_with_backward(module), plain=True)
    return module.to(dtype).train()


def step(module: nn.Module, images: int = IMAGES, *, bf16: bool = False) -> dict[str, Tensor]:
    """Logits of images of noise, and the gradients of all that trains."""
    dtype = next(module.parameters()).dtype
    x_N3HW = torch.randn(images, 3, 64, 64, generator=torch.Generator().manual_seed(2)).to(dtype)
    module.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits_NC = full_model(module)(x_N3HW)
    logits_NC.double().square().sum().backward()
    found = {name: one.grad.double() for name, one in module.named_parameters() if one.grad is not None}
    return {"logits": logits_NC.detach().double(), **found}


def furthest(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """The largest distance of all tensors, each as a share of its length."""
    assert found.keys() == exact.keys()
    return max(float((found[name] - exact[name]).norm() / exact[name].norm()) for name in exact)


# One rounding is 1.1e-16 in f64 and 6e-8 in f32; a gradient goes through sums of some thousand terms.
@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("again", [False, True], ids=["kept", "recomputed"])
def test_the_step_is_the_same(dtype: torch.dtype, bound: float, again: bool) -> None:
    module = model(dtype, shares={5: 0.5})
    expected = step(module)
    with compiled_blocks(module, IMAGES), recomputing(module) if again else nullcontext():
        found = step(module)
    assert 0 < furthest(found, expected) < bound  # not the same kernels
    assert all(torch.equal(one, expected[name]) for name, one in step(module).items())


@pytest.mark.slow
def test_in_bf16_it_is_as_near_to_f32() -> None:
    module = model(torch.float32)
    exact, plain = step(module), furthest(step(module, bf16=True), step(module))
    with compiled_blocks(module, IMAGES):
        found = furthest(step(module, bf16=True), exact)
    assert 0 < found < 1.5 * plain


@pytest.mark.slow
def test_masks_of_dropout_are_those_of_the_step() -> None:
    module = model(torch.float64, dropout=0.3)
    expected = step(module)
    with compiled_blocks(module, IMAGES):
        assert furthest(step(module), expected) < 1e-12


def test_other_numbers_of_images_and_questions_compute_as_before() -> None:
    module = model(torch.float32)
    expected = step(module, IMAGES - 1)
    with compiled_blocks(module, IMAGES), torch.no_grad():
        asked = full_model(module)(torch.zeros(IMAGES, 3, 64, 64))
        with torch.enable_grad():
            found = step(module, IMAGES - 1)
    assert all(torch.equal(one, expected[name]) for name, one in found.items())
    with torch.no_grad():
        assert torch.equal(asked, full_model(module)(torch.zeros(IMAGES, 3, 64, 64)))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_blocks_that_are_computed_again_take_the_same_step(dropout: float) -> None:
    """The masks of dropout among it: those of the forward. Frozen blocks and a question keep nothing anyway."""
    module = model(torch.float64, dropout=dropout)
    expected, again = step(module), list[int]()
    hook = module.blocks[2].norm1.register_forward_pre_hook(lambda *_: again.append(1))
    with recomputing(module):
        found = step(module)
        assert len(again) == 2
        with torch.no_grad():
            full_model(module)(torch.zeros(1, 3, 64, 64, dtype=torch.float64))
        assert len(again) == 3
    assert all(torch.equal(one, expected[name]) for name, one in found.items())
    step(module)
    assert len(again) == 4  # afterwards as before
    hook.remove()


def test_other_families_compute_again_until_the_step_is_over() -> None:
    module = build("swin_tiny_patch4_window7_224", weights="none", num_classes=2, image_size=224, seed=0).module
    with recomputing(module):
        assert {stage.grad_checkpointing for stage in module.layers} == {True}
    assert {stage.grad_checkpointing for stage in module.layers} == {False}


def test_compiled_code_is_kept_by_the_release_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And lies where the user has it otherwise, once the training is over."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = []
    for before in (None, "mine"):
        for release in ("2.99.0", "2.99.1"):
            monkeypatch.setattr(torch, "__version__", release)
            monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
            if before is not None:
                monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", before)
            with compiling() as folder:
                assert folder is not None
                assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
                assert folder.is_relative_to(tmp_path)
            assert os.environ.get("TORCHINDUCTOR_CACHE_DIR") == before
            folders.append(folder)
    assert folders[0] != folders[1]
    assert folders[:2] == folders[2:]


def test_the_block_that_is_computed_for_the_class_token_is_left_out() -> None:
    module = model(torch.float32)
    assert len(blocks_to_compile(module)) == 5
    assert blocks_to_compile(build("resnet18", weights="none", num_classes=2, image_size=32, seed=0).module) == []
