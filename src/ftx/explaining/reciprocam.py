"""ReciproCAM: the evidence for each label if the model saw only one patch of the image.

Before the last of what mixes a network's tokens all patches but one are masked; what the rest of the network then
computes is that patch's value in the map of each label. There is a mask for each patch, so done literally this is as
many passes through the rest as there are patches. Here it is one.

- Where the head reads the class token (and its like), masks lie between the last block's first norm and its attention.
  Keys and values of a token that is masked are the layer's biases. Softmax takes no notice of what all scores have in
  common, so with g 1 for a token that is left and 0 for one that is masked, k and v less their biases b, the attention
  of all masks is softmax(g q k) (g v) + b: one product, multiplied by the masks before its softmax and behind it.
  What follows needs only the class token, once a mask.
- Where the head reads the mean of the patches, masks lie before that mean.

What is in front of the patches (class token, registers, distillation token) is never masked.

Source: ViT-ReciproCAM, arXiv:2310.02588, section 3; for means Recipro-CAM, arXiv:2209.14074. Neither its Gaussian mask
nor its bare logits: docs/decisions/0012-maps.md.

Legend: N images, T tokens, P patches, M masks (one a patch), Q tokens that the head reads, D width, H heads, d width of
a head, C labels, h x w the grid of patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import torch
from timm.layers.attention import Attention
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from ftx.backbones.attention import attend, is_plain, queries_keys_values, reads_only_class_token
from ftx.backbones.kept_tokens import recorded_choices
from ftx.backbones.layer_roles import depth, head_names, plain_vit, vit_blocks
from ftx.backbones.split_network import VitTrunk
from ftx.core.errors import ModelError
from ftx.data.preprocess import Preprocess
from ftx.tasks.labels import Labels

# The numbers of labels of which one holds, for each such group.
ExclusiveGroups = Sequence[Sequence[int]]
# Means in two steps and in one differ only by rounding in f32.
SAME = 1e-3


class TimmClassifier(Protocol):
    """The interface of every classifier of timm."""

    num_features: int

    def forward_features(self, x: Tensor) -> Tensor: ...
    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor: ...


def explained(module: nn.Module, groups: ExclusiveGroups, pre: Preprocess) -> nn.Module:
    """The network with its maps, for images of its size: logits [N, C], maps [N, C, h, w], features [N, D].

    A map is in [0, 1]; features are what the classifier reads.
    Raises: ModelError for a head that reads neither its first tokens nor a mean over patches.
    """
    assert not module.training
    vit = plain_vit(module)
    if vit is not None and _reads_first_tokens(vit):
        return FirstTokens(vit, groups)
    # Some image that is not uniform, which shows how a head reads its features.
    some_N3HW = torch.rand(1, 3, pre.height, pre.width, generator=torch.Generator().manual_seed(0))
    return MeanOfPatches(module, groups, some_N3HW.to(next(module.parameters())))


def exclusive_groups(labels: Labels) -> ExclusiveGroups:
    """The groups of mutually exclusive classes."""
    return [[labels.index(name) for name in group] for group in labels.groups if len(group) > 1]


def against_others(logits_NC: Tensor, groups: ExclusiveGroups) -> Tensor:
    """The evidence for each label against the others of its exclusive group: its logarithmic odds among them.

    Of an independent label its logit. Shape: [N, C].
    """
    grouped = [label for group in groups for label in group]
    independent = sorted(set(range(logits_NC.shape[1])) - set(grouped))
    parts = [_log_odds(logits_NC[:, list(group)]) for group in groups] + [logits_NC[:, independent]]
    order = grouped + independent
    return torch.cat(parts, dim=1)[:, [order.index(label) for label in range(len(order))]]


def _log_odds(logits_NC: Tensor) -> Tensor:
    """Each logit less the logarithm of the others' sum of exponentials, of two labels at least.

    The logarithm of a probability would do as well, but near 1 nothing but rounding is left of it.
    """
    top_NC = torch.arange(logits_NC.shape[1], device=logits_NC.device) == logits_NC.argmax(dim=1, keepdim=True)
    all_N1 = logits_NC.logsumexp(dim=1, keepdim=True)
    below_top_N1 = logits_NC.masked_fill(top_NC, -torch.inf).logsumexp(dim=1, keepdim=True)
    # Of all but the top one the probability is half at most, and can be subtracted from the sum.
    share_NC = (logits_NC - all_N1).masked_fill(top_NC, -1.0).exp()
    return logits_NC - torch.where(top_NC, below_top_N1, all_N1 + torch.log1p(-share_NC))


def in_unit_range(scores_NCM: Tensor) -> Tensor:
    """Each label's scores, moved and scaled so that the lowest is 0 and the highest 1; all 0 where they are equal."""
    low_NC1 = scores_NCM.amin(dim=-1, keepdim=True)
    span_NC1 = scores_NCM.amax(dim=-1, keepdim=True) - low_NC1
    return (scores_NCM - low_NC1) / span_NC1.clamp(min=torch.finfo(scores_NCM.dtype).tiny)


class FirstTokens(nn.Module):
    """A plain Vision Transformer whose head reads its class token, or the two tokens of a distilled one."""

    masks_MP: Tensor

    def __init__(self, vit: VisionTransformer, groups: ExclusiveGroups) -> None:
        super().__init__()
        self.vit, self.groups = vit, groups
        self.all_but_last = VitTrunk(vit, depth(vit) - 1)
        self.read = 2 if isinstance(vit, VisionTransformerDistilled) else 1
        self.grid = cast("tuple[int, int]", vit.patch_embed.grid_size)
        self.register_buffer("masks_MP", torch.eye(self.grid[0] * self.grid[1]), persistent=False)

    def forward(self, images_N3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Shape: [N, C], [N, C, h, w] and [N, D]."""
        block = vit_blocks(self.vit)[-1]
        assert isinstance(block, Block)
        with recorded_choices(self.vit) as chosen:
            tokens_NTD = self.all_but_last(images_N3HW)
        masks_MP = self.masks_MP.to(tokens_NTD.dtype)
        always = self.vit.num_prefix_tokens
        masks_NMK = _of_those_kept(masks_MP, chosen, tokens_NTD.shape[0], always)
        masks_NMT = torch.nn.functional.pad(masks_NMK, (always, 0), value=1.0)
        y_NQD, y_NMQD = attended(block.attn, block.norm1(tokens_NTD), masks_NMT, self.read)
        images, masks = y_NMQD.shape[:2]
        x_NQD = tokens_NTD[:, : self.read]
        x_MQD = x_NQD[:, None].expand(-1, masks, -1, -1).flatten(0, 1)
        features_NQD = self._behind(block, x_NQD, y_NQD)
        scores_MC = against_others(self._classify(self._behind(block, x_MQD, y_NMQD.flatten(0, 1))), self.groups)
        maps_NCM = in_unit_range(scores_MC.unflatten(0, (images, masks)).transpose(1, 2))
        return self._classify(features_NQD), maps_NCM.unflatten(2, self.grid), features_NQD.mean(dim=1)

    def _behind(self, block: Block, x_NQD: Tensor, y_NQD: Tensor) -> Tensor:
        """What each classifier reads, given the output of the last attention. Shape: [N, Q, D]."""
        x_NQD = x_NQD + block.ls1(y_NQD)
        x_NQD = self.vit.norm(x_NQD + block.ls2(block.mlp(block.norm2(x_NQD))))
        return x_NQD if self.read == 2 else self.vit.forward_head(x_NQD, pre_logits=True)[:, None]

    def _classify(self, features_NQD: Tensor) -> Tensor:
        heads = [self.vit.get_submodule(name) for name in head_names(self.vit)]
        return torch.stack([head(features_NQD[:, i]) for i, head in enumerate(heads)]).mean(dim=0)


def attended(attn: nn.Module, x_NTD: Tensor, masks_NMT: Tensor, read: int) -> tuple[Tensor, Tensor]:
    """What the first tokens get from all tokens, and what they would get from those that each mask leaves.

    Shape: [N, Q, D] and [N, M, Q, D].
    """
    assert isinstance(attn, Attention)
    q_NHTd, k_NHTd, v_NHTd = queries_keys_values(attn, x_NTD)
    q_NHQd = attn.q_norm(q_NHTd[:, :, :read])
    plain_NQD = attend(attn, q_NHQd, attn.k_norm(k_NHTd), v_NHTd)
    # Of a token that is masked whole: the layer's bias.
    bias_3H1d = x_NTD.new_zeros(3 * attn.num_heads, 1, k_NHTd.shape[-1])
    if (bias := cast("Tensor | None", attn.qkv.bias)) is not None:
        bias_3H1d = bias.view(bias_3H1d.shape)
    _, k_H1d, v_H1d = bias_3H1d.chunk(3)
    masks_N11MT = masks_NMT[:, None, None]
    # Between a token and one that is masked whole: a norm of keys is not linear in them.
    kept_NHQ1T, gone_NHQ11 = (
        ((attn.scale * q_NHQd) @ attn.k_norm(keys).transpose(-2, -1))[:, :, :, None] for keys in (k_NHTd, k_H1d)
    )
    shares_NHQMT = ((kept_NHQ1T - gone_NHQ11) * masks_N11MT).softmax(dim=-1) * masks_N11MT
    y_NHQMd = shares_NHQMT @ (v_NHTd - v_H1d)[:, :, None] + v_H1d[:, None]
    y_NMQD = y_NHQMd.permute(0, 3, 2, 1, 4).flatten(3)
    return plain_NQD, attn.proj(attn.norm(y_NMQD))


class MeanOfPatches(nn.Module):
    """A network whose head reads the mean over its last features: windows, pyramids, models without a class token."""

    masks_MP: Tensor

    def __init__(self, module: nn.Module, groups: ExclusiveGroups, images_N3HW: Tensor) -> None:
        super().__init__()
        if not (hasattr(module, "forward_features") and hasattr(module, "forward_head")):
            raise _not_explained(module, "its features and its head are not separate")
        # With random weights its output hardly differs from the mean's, so a comparison would not show it.
        if getattr(module, "attn_pool", None) is not None:
            raise _not_explained(module, "its head pools by attention")
        self.module, self.timm, self.groups = module, cast("TimmClassifier", module), groups
        with torch.no_grad(), recorded_choices(module) as chosen:
            features = self.timm.forward_features(images_N3HW)
            self.layout = _layout(module, features, images_N3HW, fewer=bool(chosen))
            whole_NC = self.timm.forward_head(features)
            of_mean_NC = self.timm.forward_head(self.layout.one_place(self.layout.patches(features).mean(dim=1)))
        if (whole_NC - of_mean_NC).abs().max() > SAME * max(1.0, float(whole_NC.abs().max())):
            raise _not_explained(module, "its head reads something else than the mean of its last features")
        height, width = self.layout.grid
        self.register_buffer("masks_MP", torch.eye(height * width), persistent=False)

    def forward(self, images_N3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Shape: [N, C], [N, C, h, w] and [N, D]."""
        with recorded_choices(self.module) as chosen:
            features = self.timm.forward_features(images_N3HW)
        patches_NPD = self.layout.patches(features)
        masks_MP = self.masks_MP.to(patches_NPD.dtype)
        masks_NMP = _of_those_kept(masks_MP, chosen, patches_NPD.shape[0], self.layout.in_front)
        means_NMD = masks_NMP @ patches_NPD / patches_NPD.shape[1]
        logits_MC = self.timm.forward_head(self.layout.one_place(means_NMD.flatten(0, 1)))
        scores_MC = against_others(logits_MC, self.groups)
        maps_NCM = in_unit_range(scores_MC.unflatten(0, means_NMD.shape[:2]).transpose(1, 2))
        read_ND = self.timm.forward_head(features, pre_logits=True)
        return self.timm.forward_head(features), maps_NCM.unflatten(2, self.layout.grid), read_ND


@dataclass(frozen=True)
class _Layout:
    """How a network's last features lie: tokens [N, T, D] with some in front of the patches, or maps."""

    kind: Literal["NTD", "NhwD", "NDhw"]
    in_front: int
    grid: tuple[int, int]

    def patches(self, features: Tensor) -> Tensor:
        """Shape: [N, P, D]."""
        if self.kind == "NTD":
            return features[:, self.in_front :]
        return features.flatten(1, 2) if self.kind == "NhwD" else features.flatten(2).transpose(1, 2)

    def one_place(self, mean_ND: Tensor) -> Tensor:
        """Features of one place, of which this is the mean."""
        if self.kind == "NTD":
            return torch.nn.functional.pad(mean_ND[:, None], (0, 0, self.in_front, 0))
        return mean_ND[:, None, None] if self.kind == "NhwD" else mean_ND[:, :, None, None]


def _layout(module: nn.Module, features: object, images_N3HW: Tensor, *, fewer: bool) -> _Layout:
    width = cast("TimmClassifier", module).num_features
    if not isinstance(features, Tensor) or features.ndim not in (3, 4):
        raise _not_explained(module, "its last features are not one map of the image")
    if features.ndim == 4:
        _, first, second, last = features.shape
        if last == width != first:
            return _Layout("NhwD", 0, (first, second))
        return _Layout("NDhw", 0, (second, last))
    in_front = cast("int", getattr(module, "num_prefix_tokens", 0))
    if fewer:
        grid = cast("tuple[int, int]", cast("VisionTransformer", module).patch_embed.grid_size)
        return _Layout("NTD", in_front, grid)
    patches = features.shape[1] - in_front
    height = round(math.sqrt(patches * images_N3HW.shape[2] / images_N3HW.shape[3]))
    if height < 1 or patches % height:
        raise _not_explained(module, f"its {patches} last tokens are not a grid")
    return _Layout("NTD", in_front, (height, patches // height))


def _reads_first_tokens(vit: VisionTransformer) -> bool:
    two = type(vit) is VisionTransformerDistilled and is_plain(vit_blocks(vit)[-1])
    return depth(vit) > 1 and (two or reads_only_class_token(vit))


def _of_those_kept(masks_MP: Tensor, chosen: list[Tensor], images: int, in_front: int) -> Tensor:
    """What each mask leaves of each patch that was not dropped on the way. Shape: [N, M, K]."""
    masks_NMP = masks_MP.expand(images, -1, -1)
    for kept_NK in chosen:
        patches_NMK = (kept_NK[:, in_front:] - in_front)[:, None].expand(-1, masks_NMP.shape[1], -1)
        masks_NMP = masks_NMP.gather(2, patches_NMK)
    return masks_NMP


def _not_explained(module: nn.Module, found: str) -> ModelError:
    return ModelError(
        "ReciproCAM cannot explain this network",
        where=type(module).__name__,
        found=found,
        fix="train a plain Vision Transformer, or a network that pools by the mean: --model dinov2-small",
    )
