"""Where each family of timm keeps its linear layers: the one table.

A leaf's name below an attention or MLP container determines which targets its rows serve, in their order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import cast

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ftx.core.errors import AdapterError, nearest
from ftx.core.regular_expressions import ExpressionError, Expressions
from ftx.recipe.adapter_targets import Role, Target

# A run of rows, or their numbers if the targets of one attention head follow each other.
TargetRows = slice | list[int]


@dataclass(frozen=True)
class Site:
    """One linear layer that can be adapted: its name, its block, and the rows of each target."""

    name: str
    block: int
    rows: Mapping[Role, TargetRows]


# Linear layers are adapted only inside of these: never in patch embeddings, pooling heads or position biases, which
# some families build of layers named fc1 and proj as well.
_ATTENTION = r"attn(?:_in|_out|_downsample|_block|_grid)?|token_mixer|xca|e_mhsa|factoratt_crpe\d?"
_MLP = r"mlp(?:_in|_tokens|_channels|\d)?"
_NEVER = frozenset({"patch_embed", "attn_pool", "rel_pos", "shared_rel_pos", "cpb_mlp", "meta_mlp", "embeds", "stem"})
# vit, deit, dinov2, dinov3, beit, swin, maxvit: qkv, proj, fc1, fc2; eva02: q_proj, ..., fc1_g and fc1_x; vitamin: w0,
# w1, w2; pvt, twins: q and kv; convit, tnt: qk and v; crossvit: wq, wk, wv; levit has each in a module of its own.
_LEAVES: Mapping[str, tuple[Target, ...]] = {
    "qkv": ("q", "k", "v"),
    "qk": ("q", "k"),
    "kv": ("k", "v"),
    **dict.fromkeys(("q", "q_proj", "wq", "q.ln", "to_query"), ("q",)),
    **dict.fromkeys(("k", "k_proj", "wk", "to_key"), ("k",)),
    **dict.fromkeys(("v", "v_proj", "wv"), ("v",)),
    **dict.fromkeys(("proj", "o_proj", "proj.ln", "final"), ("proj",)),
    **dict.fromkeys(("fc1", "fc1_g", "fc1_x", "w0", "w1", "ln1", "gate_proj", "up_proj"), ("fc1",)),
    **dict.fromkeys(("fc2", "w2", "ln2", "down_proj"), ("fc2",)),
}
# vit_pwee and vit_dpwee compute attention and MLP in parallel, in layers of the block itself. What leaves both
# through one layer counts as the attention's.
_PARALLEL: Mapping[str, tuple[Target, ...]] = {
    "in_proj": ("fc1", "q", "k", "v"),
    "attn_out_proj": ("proj",),
    "mlp_out_proj": ("fc2",),
    "out_proj": ("proj",),
}
_SITE = re.compile(rf"(?P<block>.+)\.(?P<container>{_ATTENTION}|{_MLP})\.(?P<leaf>[a-z0-9_]+(?:\.ln)?)(?:\.linear)?")
_PARALLEL_SITE = re.compile(rf"(?P<block>blocks\.\d+)\.(?P<leaf>{'|'.join(_PARALLEL)})")
# vit_*_18x2 has several attentions, and several MLPs, in one block.
_ONE_OF_SEVERAL = re.compile(r"\.(?:attns|ffns)\.\d+$")


def sites(module: nn.Module) -> list[Site]:
    """Every linear layer of the family table, in the order of the modules; a layer that has two names, by its first.

    A block is what its attention and its MLP have in common: ``blocks.3``, ``stages.2.blocks.0.attn_grid``.
    """
    heads = head_names(module)
    blocks: dict[str, int] = {}
    found: list[Site] = []
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Linear) or name in heads or _NEVER & set(name.split(".")):
            continue
        # csatv2 has an attention over one channel, in which there is nothing of low rank.
        if (placed := _placed(name)) is None or min(layer.weight.shape) < 2:
            continue
        block_name, container, targets = placed
        block = blocks.setdefault(_ONE_OF_SEVERAL.sub("", block_name), len(blocks))
        found.append(Site(name=name, block=block, rows=_rows(name, layer, targets, module.get_submodule(container))))
    return found


def named_sites(module: nn.Module, expression: str) -> list[Site]:
    """The linear layers whose whole name a regular expression matches, for families that are not in the table.

    Raises: AdapterError naming a layer that cannot be adapted, and why; or the nearest name if none matches.
    """
    heads, expressions = head_names(module), Expressions()
    found: list[Site] = []
    for name, layer in module.named_modules():
        try:
            matched = expressions.fullmatch(expression, name) is not None
        except ExpressionError as error:
            fix = "write it without a repeat inside a repeat, as in blocks\\.\\d+\\.attn\\.qkv"
            raise AdapterError(
                "adapter.layers must be a regular expression that ftx can match in a short time",
                where="adapter.layers",
                found=str(error),
                fix=fix,
            ) from error
        if not matched or not list(layer.parameters(recurse=False)):
            continue  # containers hold layers and are none
        kind = type(layer).__name__
        reason = ""
        if not isinstance(layer, nn.Linear):
            reason = f"it is a {kind}, which is no linear layer"
        elif type(layer).forward is not nn.Linear.forward:
            reason = f"it is a {kind}, which computes differently from a linear layer"
        elif any(f"{name}.".startswith(f"{head}.") for head in heads):
            reason = "it is the classifier, which is trained whole"
        if reason or not isinstance(layer, nn.Linear):
            raise AdapterError(
                "adapter.layers must match only linear layers that can be adapted",
                where=f"adapter.layers, {name}",
                found=reason,
                fix="narrow the expression, which must match the whole name of a layer",
            )
        found.append(Site(name=name, block=len(found), rows={"layer": slice(0, layer.out_features)}))
    if not found:
        linear = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
        alike = nearest(expression, linear)
        raise AdapterError(
            "adapter.layers must match the whole name of a layer",
            where=f"adapter.layers, {expression[:200]}",
            found=f"nearest: {alike}" if alike else f"linear layers are {', '.join(linear[:3])}, …",
            fix="write the whole name, as in blocks\\.\\d+\\.attn\\.qkv",
        )
    return found


def _placed(name: str) -> tuple[str, str, tuple[Target, ...]] | None:
    """The block of a layer, the module that calls it, and its targets in the order of its rows; None for no site."""
    if (parallel := _PARALLEL_SITE.fullmatch(name)) is not None:
        return parallel["block"], parallel["block"], _PARALLEL[parallel["leaf"]]
    inside = _SITE.fullmatch(name)
    if inside is None or inside["leaf"] not in _LEAVES:
        return None
    return inside["block"], f"{inside['block']}.{inside['container']}", _LEAVES[inside["leaf"]]


def _rows(name: str, layer: nn.Linear, targets: tuple[Target, ...], container: nn.Module) -> dict[Role, TargetRows]:
    """The rows of each target in a fused layer."""
    if targets == ("q", "k", "v") and layer.out_features == 2 * layer.in_features:
        targets = ("k", "v")  # gcvit's global attention takes its queries from elsewhere and calls the rest qkv
    interleaved = _head_by_head(layer, targets, container)
    if interleaved is not None:
        return interleaved
    width, rest = divmod(layer.out_features, len(targets))
    widths = [width] * len(targets)
    if len(targets) > 3:  # an MLP's first layer is wider than the q, k and v in the same layer
        widths = [int(width) for width in getattr(container, "in_split", ())]
        rest = sum(widths) - layer.out_features
    if rest:
        raise AdapterError(
            "a fused layer must divide into its targets",
            where=name,
            found=", ".join(targets),
            fix="select whole layers instead: --layers REGEX",
        )
    starts = accumulate(widths, initial=0)
    return {target: slice(start, start + width) for target, start, width in zip(targets, starts, widths, strict=False)}


def _head_by_head(layer: nn.Linear, targets: tuple[Target, ...], attention: nn.Module) -> dict[Role, TargetRows] | None:
    """The rows in families that put q, k and v of one head behind each other; None in the others.

    Source: timm's forward of levit, tiny_vit, efficientformer (``key_dim``, ``val_dim``) and maxvit (``head_first``).
    """
    heads = getattr(attention, "num_heads", None)
    if not isinstance(heads, int) or len(targets) < 2:
        return None
    key, value = getattr(attention, "key_dim", None), getattr(attention, "val_dim", None)
    if isinstance(key, int) and isinstance(value, int):
        widths = [value if target == "v" else key for target in targets]
    elif getattr(attention, "head_first", False):
        widths = [layer.out_features // (heads * len(targets))] * len(targets)
    else:
        return None
    if sum(widths) * heads != layer.out_features:
        return None
    by_head = torch.arange(layer.out_features).view(heads, -1).split(widths, dim=1)
    return {target: rows.flatten().tolist() for target, rows in zip(targets, by_head, strict=True)}


def expose(module: nn.Module) -> None:
    """Let every qkv be called: beit's, swinv2's and eva's use its weight without that, so an adapter is bypassed.

    Timm computes the same with the bias apart, but for rounding (1.2e-7).
    """
    for layer in module.modules():
        if hasattr(layer, "qkv_bias_separate"):
            setattr(layer, "qkv_bias_separate", True)  # noqa: B010 - nn.Module types its attributes as tensors


def adds_in_place(module: nn.Module, name: str) -> bool:
    """Whether the module around a layer adds to the layer's output in place, as those that ``expose`` changed do."""
    return name.endswith(".qkv") and hasattr(module.get_submodule(name.rpartition(".")[0]), "qkv_bias_separate")


def depth(module: nn.Module) -> int:
    """How many transformer blocks there are, adapted or not."""
    return len(vit_blocks(module)) or len({site.block for site in sites(module)})


def head_names(module: nn.Module) -> tuple[str, ...]:
    """The classifier's module names: two for a distilled model built with both, none for an encoder without one."""
    classifier = pretrained_config(module).get("classifier", "head")
    if isinstance(classifier, str):
        # levit_384_s8 has a second head that timm does not name among its classifiers.
        second = classifier.replace("head", "head_dist", 1)
        distilled = isinstance(getattr(module, "head_dist", None), nn.Module) and second != classifier
        names = (classifier, second) if distilled else (classifier,)
    else:
        names = tuple(map(str, cast("list[object]", classifier or [])))
    modules = {name for name, _ in module.named_modules()}
    return tuple(name for name in names if name in modules) or names


def averaged_heads(module: nn.Module) -> tuple[str, ...]:
    """The names of the classifiers whose logits are averaged: one, or the two of a distilled model.

    None if there are others: volo's second head classifies each patch, and only in training.
    """
    heads = head_names(module)
    distilled = len(heads) == 2 and "head_dist" in heads[1].split(".")
    return heads if len(heads) == 1 or distilled else ()


def plain_vit(module: nn.Module) -> VisionTransformer | None:
    """The module as timm's VisionTransformer on patches, which ftx can cut in two; None for another family.

    A convolutional stem keeps batch statistics, so what is behind it is not the same for all batches.
    """
    return module if isinstance(module, VisionTransformer) and isinstance(module.patch_embed, PatchEmbed) else None


def token_shape(vit: VisionTransformer) -> tuple[int, int]:
    """How many tokens the position embedding has, and their width."""
    tokens, width = vit.get_parameter("pos_embed").shape[1:]
    return tokens, width


def vit_blocks(module: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a plain Vision Transformer, in order; none in other families."""
    return [] if plain_vit(module) is None else list(module.get_submodule("blocks").children())


def trains(module: nn.Module) -> bool:
    """Whether any parameter of a module trains."""
    return any(parameter.requires_grad for parameter in module.parameters())


def fix_size(module: nn.Module) -> None:
    """Let a plain ViT take only images of its own size, in place; its outputs for those stay.

    timm builds some that resample their positions for each image, with antialias, for which OpenVINO has no operation.
    """
    vit = plain_vit(module)
    if vit is not None and vit.dynamic_img_size:
        vit.dynamic_img_size = False
        vit.patch_embed.flatten = True  # tokens in a row, not in a grid
        vit.patch_embed.strict_img_size = True


def pretrained_config(module: nn.Module) -> dict[str, object]:
    """timm's record of the weights: input size, normalisation, classifier."""
    return getattr(module, "pretrained_cfg", {})
