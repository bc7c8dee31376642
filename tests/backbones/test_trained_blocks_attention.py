"""Attention on queries, keys and values in one tensor is timm's plain attention, to the last bit."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from ftx.backbones.split_network import set_attention
from ftx.backbones.trained_blocks import JoinedAttention, joined_attention, trained_blocks

# Heads of 64, whose scale is a power of two, and of 24.
VARIANTS: dict[str, dict[str, object]] = {
    "heads of 64": {},
    "heads of 24": {"num_heads": 8},
    "normalised behind attention": {"scale_attn_norm": True},  # as BEiT-3
}


def small(**changed: object) -> nn.Module:
    torch.manual_seed(0)
    settings = {"img_size": 32, "num_classes": 3, "depth": 2, "global_pool": "avg", "class_token": False}
    module = timm.create_model("vit_tiny_patch16_224", **{**settings, **changed})
    set_attention(module.modules(), plain=True)
    return module.train()


def gradients(module: nn.Module, x: Tensor, *, bf16: bool = False) -> list[Tensor]:
    """The logits, and the gradient of each parameter."""
    module.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = module(x)
    (logits.double() * torch.arange(1.0, 4.0, dtype=torch.float64)).sum().backward()
    return [logits.detach(), *(parameter.grad.clone() for parameter in module.parameters())]


@pytest.mark.parametrize("computed_in", ["f64", "f32", "bf16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_gradients_are_those_of_timm(variant: str, computed_in: str) -> None:
    module = small(**VARIANTS[variant])
    x = torch.randn(3, 3, 32, 32)
    if computed_in == "f64":
        module, x = module.double(), x.double()
    expected = gradients(module, x, bf16=computed_in == "bf16")
    with joined_attention(trained_blocks(module)):
        found = gradients(module, x, bf16=computed_in == "bf16")
    names = ["logits", *(name for name, _ in module.named_parameters())]
    # The same products of the same numbers; which kernel computes one may hang on how its operands lie in memory: bf16
    # has 2^-8, and a gradient sums many of them.
    bound = {"f64": 1e-13, "f32": 1e-5, "bf16": 2e-2}[computed_in]
    for name, one, other in zip(names, found, expected, strict=True):
        assert (one - other).norm() <= bound * other.norm(), name


def test_the_gradient_is_that_of_the_forward() -> None:
    qkv = torch.randn(2, 3, 3 * 2 * 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: JoinedAttention.apply(x, 2, 0.5), (qkv,))


@pytest.mark.parametrize("shape", [(2, 3, 24), (1, 1, 24)])
def test_what_it_is_given_stays_as_it_was(shape: tuple[int, ...]) -> None:
    qkv = torch.randn(shape, requires_grad=True)
    before = qkv.detach().clone()
    y = JoinedAttention.apply(qkv, 2, 0.5)
    dy = torch.ones_like(y)
    y.backward(dy)
    assert torch.equal(qkv, before)
    assert torch.equal(dy, torch.ones_like(dy))


def test_only_what_is_plain_and_trains_computes_so(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []

    def counted(ctx: object, qkv: Tensor, heads: int, scale: float) -> Tensor:
        called.append(heads)
        return forward(ctx, qkv, heads, scale)

    forward = JoinedAttention.forward
    monkeypatch.setattr(JoinedAttention, "forward", staticmethod(counted))
    x = torch.randn(2, 3, 32, 32)

    def calls(module: nn.Module) -> int:
        called.clear()
        with joined_attention(trained_blocks(module)):
            module(x)
        return len(called)

    module = small()
    assert calls(module) == 2
    with torch.no_grad():
        assert calls(module) == 0
    module(x)
    assert not called
    assert not any("forward" in layer.__dict__ for layer in module.modules())
    module.get_submodule("blocks.0").requires_grad_(False)
    assert calls(module) == 1
    set_attention(module.modules(), plain=False)
    assert calls(module) == 0
    for other in ({"qk_norm": True}, {"attn_drop_rate": 0.1}):
        assert calls(small(**other)) == 0


def test_who_hides_tokens_is_computed_as_before() -> None:
    module = small()
    attention, x = module.get_submodule("blocks.0.attn"), torch.randn(2, 4, 192)
    mask = torch.tensor([True, True, False, True]).expand(2, 1, 4, 4)
    expected = attention(x, attn_mask=mask), attention(x, is_causal=True)
    with joined_attention(trained_blocks(module)):
        found = attention(x, attn_mask=mask), attention(x, is_causal=True)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
