"""A Vision Transformer cut in two, so that what is frozen in front is computed once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ftx.backbones.class_token import class_token, reads_class_token_alone
from ftx.backbones.families import depth, head_names, plain_vit


def trunk(module: nn.Module, images_N3HW: Tensor, blocks: int) -> Tensor:
    """Embedding and the first ``blocks`` blocks. Shape: [N, tokens, width]."""
    vit = _vit(module)
    tokens = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images_N3HW))))  # pyright: ignore[reportPrivateUsage]
    for block in _blocks(vit)[:blocks]:
        tokens = block(tokens)
    return tokens


def crown(module: nn.Module, tokens_NTD: Tensor, blocks: int) -> Tensor:
    """What comes after the first ``blocks`` blocks: ``crown(trunk(x))`` is ``module(x)`` but for rounding.

    Shape: [N, C].
    """
    vit = _vit(module)
    left = _blocks(vit)[blocks:]
    last = left.pop() if left and reads_class_token_alone(vit) else None
    for block in left:
        tokens_NTD = block(tokens_NTD)
    if last is not None:
        tokens_NTD = class_token(last, tokens_NTD)
    return vit.forward_head(vit.norm(tokens_NTD))


def head_alone(module: nn.Module) -> bool:
    """Whether nothing but the head trains, and timm computes what it reads: then that is all there is to keep.

    A distilled model has two heads, whose answers it averages.
    """
    heads = head_names(module)
    if not (hasattr(module, "forward_features") and hasattr(module, "forward_head")):
        return False
    if len(heads) != 1 and not _distilled(heads):  # volo's second head answers for each patch, and only in training
        return False
    trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    return bool(trained) and all(name.startswith(tuple(f"{head}." for head in heads)) for name in trained)


def head_input(module: nn.Module, images_N3HW: Tensor) -> Tensor:
    """What the head reads, or each of two heads. Shape: [N, width], or [N, 2, width]."""
    timm_model = cast("VisionTransformer", module)  # every classifier of timm has these two
    features = timm_model.forward_features(images_N3HW)
    heads = head_names(module)
    if len(heads) == 1:
        return timm_model.forward_head(features, pre_logits=True)
    # Before its logits timm averages what the two read, which is then too late to tell apart.
    read: list[Tensor] = []
    hooks = [
        module.get_submodule(head).register_forward_pre_hook(lambda _head, inputs: read.append(inputs[0]))
        for head in heads
    ]
    timm_model.forward_head(features)
    for hook in hooks:
        hook.remove()
    return torch.stack(read, dim=1)


def head_logits(module: nn.Module, features: Tensor) -> Tensor:
    """What the model answers to what ``head_input`` kept. Shape: [N, C]."""
    heads = [module.get_submodule(head) for head in head_names(module)]
    if len(heads) == 1:
        return heads[0](features)
    # The training mode of timm's distillation would hand out both; a run trains what is deployed.
    return torch.stack([head(features[:, i]) for i, head in enumerate(heads)]).mean(dim=0)


def _distilled(heads: tuple[str, ...]) -> bool:
    return len(heads) == 2 and "head_dist" in heads[1].split(".")


def frozen_lead(module: nn.Module) -> int:
    """How many leading blocks train nothing, the embedding before them included; 0 where ftx cannot cut the family."""
    vit = plain_vit(module)
    if vit is None:
        return 0
    blocks = depth(vit)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and name.startswith(
            ("patch_embed", "pos_embed", "cls_token", "reg_token", "norm_pre")
        ):
            return 0
    for index, block in enumerate(_blocks(vit)):
        if any(parameter.requires_grad for parameter in block.parameters()):
            return index
    return blocks


def choose_attention(module: nn.Module, *, batch_size: int, memory_bytes: int) -> bool:
    """Use attention as plain products where its matrices fit into memory, else the fused kernel.

    On CPUs the fused kernel's backward is slow: a ViT-S/14 step at 224 px takes 1.38 s of processor time
    with plain products against 1.92 s in bf16, and 2.79 s against 2.99 s in f32.
    Returns: whether plain products were chosen.
    """
    vit = plain_vit(module)
    if vit is None:  # windows and pyramids have few tokens in an attention
        return False
    layers = [layer for layer in module.modules() if hasattr(layer, "fused_attn")]
    tokens, _ = token_shape(vit)
    # Kept for the backward: the scores and their softmax, in f32 at most, of every layer.
    needed_bytes = sum(2 * 4 * batch_size * int(str(getattr(layer, "num_heads", 0))) * tokens**2 for layer in layers)
    plain = needed_bytes <= memory_bytes
    for layer in layers:
        setattr(layer, "fused_attn", not plain)  # noqa: B010 - nn.Module types its attributes as tensors
    return plain


def token_shape(vit: VisionTransformer) -> tuple[int, int]:
    """How many tokens the position embedding knows, and their width."""
    tokens, width = vit.get_parameter("pos_embed").shape[1:]
    return tokens, width


def _vit(module: nn.Module) -> VisionTransformer:
    vit = plain_vit(module)
    assert vit is not None
    return vit


def _blocks(module: VisionTransformer) -> list[nn.Module]:
    found: Iterator[nn.Module] = module.blocks.children()
    return list(found)
