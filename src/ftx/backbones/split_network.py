"""A network cut in two, so that what is frozen in front is computed once and kept.

The trunk computes features of images, the tail computes logits from features. The forward of both together is the
model's own but for rounding. Both share the model's layers: what is trained through them is trained in the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ftx.backbones.attention import class_token, reads_only_class_token
from ftx.backbones.dropped_patches import ALL_PATCHES, DroppedPatches
from ftx.backbones.kept_tokens import tokens_behind
from ftx.backbones.layer_roles import averaged_heads, depth, head_names, plain_vit, trains, vit_blocks


class SplitNetwork(nn.Module):
    """Images to logits, by way of features."""

    def __init__(self, trunk: nn.Module, tail: nn.Module) -> None:
        super().__init__()
        self.trunk, self.tail = trunk, tail

    def forward(self, images_N3HW: Tensor) -> Tensor:
        """Shape: [N, C]."""
        return self.tail(self.trunk(images_N3HW))


def full_model(model: nn.Module) -> nn.Module:
    """The network to train if no features of it are kept.

    A Vision Transformer that reads only its class token computes its last block for that one, so it is cut before it.
    """
    return cut_after(model, depth(model) - 1) if reads_only_class_token(model) else model


def cut_after(model: nn.Module, blocks: int) -> SplitNetwork:
    """A plain Vision Transformer cut behind its embedding and at least one block."""
    vit = plain_vit(model)
    assert vit is not None
    assert 0 < blocks <= depth(vit)
    return SplitNetwork(VitTrunk(vit, blocks), VitTail(vit, blocks))


def cut_at_head(model: nn.Module) -> SplitNetwork:
    """A model of any family cut before its classifier."""
    return SplitNetwork(HeadInput(model), Head(model))


class VitTrunk(nn.Module):
    """Embedding and the first blocks."""

    def __init__(self, vit: VisionTransformer, blocks: int) -> None:
        super().__init__()
        self.vit, self.last = vit, blocks - 1

    def forward(self, images_N3HW: Tensor) -> Tensor:
        """Shape: [N, tokens, width]."""
        found = self.vit.forward_intermediates(
            images_N3HW,
            indices=[self.last],
            return_prefix_tokens=True,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        (tokens,) = cast("list[Tensor | tuple[Tensor, Tensor]]", found)
        # Those of the patches, and before them the class token and its like, if there are any.
        return tokens if isinstance(tokens, Tensor) else torch.cat([tokens[1], tokens[0]], dim=1)


class VitTail(nn.Module):
    """What comes behind the first blocks, the classifier included."""

    def __init__(self, vit: VisionTransformer, blocks: int) -> None:
        super().__init__()
        self.vit, self.first = vit, blocks
        self.one_token = blocks < depth(vit) and reads_only_class_token(vit)

    def forward(self, tokens_NTD: Tensor) -> Tensor:
        """Shape: [N, C]."""
        blocks = vit_blocks(self.vit)[self.first :]
        last = blocks.pop() if self.one_token else None
        for block in blocks:
            tokens_NTD = block(tokens_NTD)
        if last is not None:
            tokens_NTD = class_token(last, tokens_NTD)
        return self.vit.forward_head(self.vit.norm(tokens_NTD))


class HeadInput(nn.Module):
    """What the classifier reads, or each of the two of a distilled model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.heads = head_names(model)

    def forward(self, images_N3HW: Tensor) -> Tensor:
        """Shape: [N, width], or [N, 2, width]."""
        model = cast("VisionTransformer", self.model)  # every classifier of timm has these two
        features = model.forward_features(images_N3HW)
        if len(self.heads) == 1:
            return model.forward_head(features, pre_logits=True)
        # Before its logits timm averages what the two read, which is too late to distinguish them.
        read: list[Tensor] = []
        hooks = [
            self.model.get_submodule(head).register_forward_pre_hook(lambda _head, inputs: read.append(inputs[0]))
            for head in self.heads
        ]
        model.forward_head(features)
        for hook in hooks:
            hook.remove()
        return torch.stack(read, dim=1)


class Head(nn.Module):
    """The classifier, on the output of ``HeadInput``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.heads = nn.ModuleList(model.get_submodule(head) for head in head_names(model))

    def forward(self, features: Tensor) -> Tensor:
        """Shape: [N, C]."""
        if len(self.heads) == 1:
            return self.heads[0](features)
        # The training mode of timm's distillation would hand out both; a run trains what is deployed.
        return torch.stack([head(features[:, i]) for i, head in enumerate(self.heads)]).mean(dim=0)


def only_head_trains(module: nn.Module) -> bool:
    """Whether nothing but the head trains, and timm computes what the head reads: then only that is kept.

    A distilled model has two heads, whose logits it averages.
    """
    heads = averaged_heads(module)
    if not heads or not (hasattr(module, "forward_features") and hasattr(module, "forward_head")):
        return False
    trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    return bool(trained) and all(name.startswith(tuple(f"{head}." for head in heads)) for name in trained)


def frozen_blocks(module: nn.Module) -> int:
    """How many leading blocks train nothing, the embedding before them included; 0 if ftx cannot cut the family."""
    embedding = ("patch_embed", "pos_embed", "cls_token", "reg_token", "norm_pre")
    if any(parameter.requires_grad and name.startswith(embedding) for name, parameter in module.named_parameters()):
        return 0
    return len(list(takewhile(lambda block: not trains(block), vit_blocks(module))))


def plain_attention_bytes(
    module: nn.Module, batch_size: int, dropped: DroppedPatches = ALL_PATCHES, *, evaluated: int = 0
) -> int | None:
    """Memory that attention takes as plain products; None in other families, which have few tokens in an attention.

    On CPUs the backward of torch's fused kernel is slow: a ViT-S/14 step at 224 px takes 1.38 s of processor time with
    plain products against 1.92 s in bf16, and 2.79 s against 2.99 s in f32. A step leaves patches out; ``evaluated``
    images with all patches are computed at once without a backward.
    """
    vit = plain_vit(module)
    if vit is None:
        return None
    frozen = frozen_blocks(vit)
    tokens, left = tokens_behind(vit, frozen), dropped.step_tokens(vit, frozen)
    # The scores and their softmax, in f32 at most: kept for the backward those of every layer, else of one at a time.
    heads = [int(str(getattr(layer, "num_heads", 0))) for layer in attentions_with_backward(vit)]
    kept, passing = batch_size * sum(heads) * left**2, evaluated * max(heads, default=0) * tokens**2
    return 2 * 4 * max(kept, passing)


def set_attention(layers: Iterable[nn.Module], *, plain: bool) -> None:
    """Compute each layer of attention among these as plain products, or by torch's fused kernel."""
    for layer in layers:
        if hasattr(layer, "fused_attn"):
            setattr(layer, "fused_attn", not plain)  # noqa: B010 - nn.Module types its attributes as tensors


def attentions_with_backward(module: nn.Module) -> list[nn.Module]:
    """The layers of attention of a plain Vision Transformer, without those of frozen blocks in front.

    These have no backward, and are faster fused: 1.25 times eight blocks of a ViT-S/14 at 224 px.
    """
    if plain_vit(module) is None:
        return []
    frozen = {part for block in vit_blocks(module)[: frozen_blocks(module)] for part in block.modules()}
    return [layer for layer in module.modules() if hasattr(layer, "fused_attn") and layer not in frozen]
