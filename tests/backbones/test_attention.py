"""The last block for the class token alone equals timm's whole block: logits and every gradient."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from ftx.backbones.attention import reads_only_class_token
from ftx.backbones.split_network import full_model

SMALL = {"img_size": 32, "num_classes": 3, "depth": 2, "drop_path_rate": 0.0}
VARIANTS = {
    "vit": ("vit_tiny_patch16_224", {}),
    "registers and layer scale": ("vit_small_patch14_reg4_dinov2", {"img_size": 28}),
    "norms inside the attention": ("vit_tiny_patch16_224", {"qk_norm": True, "scale_attn_norm": True}),
}


def small(architecture: str, **changed: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(architecture, **{**SMALL, **changed}).double()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_class_token_alone_gives_the_same_logits_and_gradients(variant: str) -> None:
    architecture, changed = VARIANTS[variant]
    module = small(architecture, **changed)
    assert reads_only_class_token(module)
    side = 28 if "img_size" in changed else 32
    x = torch.randn(3, 3, side, side, dtype=torch.float64)
    found: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = []
    for logits in (module(x), full_model(module)(x)):
        module.zero_grad()
        (logits * torch.arange(1.0, 4.0, dtype=torch.float64)).sum().backward()
        found.append((logits.detach(), {name: p.grad.clone() for name, p in module.named_parameters()}))
    (whole, whole_grads), (alone, alone_grads) = found
    # f64: the order of the sums in the attention differs; measured 6e-16, gradients of up to 700 6e-14
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-14)
    for name, gradient in whole_grads.items():
        torch.testing.assert_close(alone_grads[name], gradient, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize("changed", [{"global_pool": "avg"}, {"class_token": False, "global_pool": "avg"}])
def test_a_head_that_reads_every_token_gets_every_token(changed: dict[str, object]) -> None:
    module = small("vit_tiny_patch16_224", **changed)
    assert not reads_only_class_token(module)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(full_model(module)(x), module(x))


def test_a_distilled_model_keeps_its_two_tokens() -> None:
    module = small("deit_tiny_distilled_patch16_224")
    assert not reads_only_class_token(module)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(full_model(module.eval())(x), module(x))
