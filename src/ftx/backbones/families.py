"""Where each family of timm keeps its linear layers: the one table.

A leaf's name below an attention or MLP container says which targets its rows serve, in their order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ftx.errors import AdapterError, ModelError
from ftx.recipe import Target


@dataclass(frozen=True)
class Site:
    """One linear layer that can be adapted: its name, its block, and the rows of each target."""

    name: str
    block: int
    rows: dict[Target, slice]


# vit, deit, deit3, dinov2: all are timm's VisionTransformer.
_LEAVES: dict[str, tuple[Target, ...]] = {
    "attn.qkv": ("q", "k", "v"),
    "attn.proj": ("proj",),
    "mlp.fc1": ("fc1",),
    "mlp.fc2": ("fc2",),
}
_BLOCK = re.compile(r"blocks\.(?P<block>\d+)\.(?P<leaf>.+)")


def sites(module: nn.Module) -> list[Site]:
    """Every linear layer of the family table, in the order of the forward pass.

    Raises: ModelError if the family is not in the table.
    """
    vit = as_vit(module)
    found: list[Site] = []
    for name, layer in vit.named_modules():
        match = _BLOCK.fullmatch(name)
        if match is None or match["leaf"] not in _LEAVES or not isinstance(layer, nn.Linear):
            continue
        targets = _LEAVES[match["leaf"]]
        share, rest = divmod(layer.out_features, len(targets))
        if rest:
            raise AdapterError("a fused layer does not divide into its targets", where=name, found=f"{targets}")
        rows: dict[Target, slice] = {target: slice(share * i, share * (i + 1)) for i, target in enumerate(targets)}
        found.append(Site(name=name, block=int(match["block"]), rows=rows))
    return found


def depth(module: nn.Module) -> int:
    """How many transformer blocks there are, adapted or not."""
    return len(list(as_vit(module).get_submodule("blocks").children()))


def head_names(module: nn.Module) -> tuple[str, ...]:
    """The classifier's module names; a distilled model has two."""
    classifier = pretrained_config(module).get("classifier", "head")
    return (classifier,) if isinstance(classifier, str) else tuple(str(name) for name in classifier)  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType, reportUnknownArgumentType]


def as_vit(module: nn.Module) -> VisionTransformer:
    """The module as one of a family in the table.

    Raises: ModelError where the table has no row for this kind of model.
    """
    if not isinstance(module, VisionTransformer):
        raise ModelError(
            "this architecture is not one that ftx adapts",
            found=type(module).__name__,
            mend="choose a vit, deit or dinov2 model of timm, such as dinov2-small",
        )
    if not isinstance(module.patch_embed, PatchEmbed):
        # A convolutional stem keeps batch statistics that move while training and that no adapter holds.
        raise ModelError(
            "this is a hybrid with a convolutional stem, which ftx does not adapt",
            found=f"{type(module.patch_embed).__name__} instead of patches",
            mend="choose a vit, deit or dinov2 model of timm, such as dinov2-small",
        )
    return module


def token_shape(module: nn.Module) -> tuple[int, int]:
    """How many tokens the position embedding knows, and their width."""
    tokens, width = as_vit(module).get_parameter("pos_embed").shape[1:]
    return tokens, width


def pretrained_config(module: nn.Module) -> dict[str, object]:
    """What timm knows of the weights: input size, normalisation, classifier."""
    return getattr(module, "pretrained_cfg", {})
