"""Fewer tokens: a block passes on only the patches that its class token attends to most.

Source: EViT, arXiv:2202.07800, section 3.1, without its fused token: what is dropped is gone. Here tokens are chosen
before the MLP and not behind it. An MLP computes each token independently, so the outputs are the same.

Legend: N images, T tokens, P patches, K tokens that are kept, D width, H heads, d width of a head.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from ftx.backbones.attention import attend, attention_weights, is_plain, project
from ftx.backbones.layer_roles import plain_vit, vit_blocks
from ftx.core.errors import ModelError
from ftx.tasks.decisions import LEAST_MARGIN

# Block: the fraction of the patches that it computes.
TokenFractions = Mapping[int, float]
ALL_TOKENS: TokenFractions = MappingProxyType({})


class SelectingBlock(Block):
    """A block of timm's, under its parameters' own names, that gives fewer tokens than it takes."""

    def __init__(self, block: Block, prefix: int, fraction: float) -> None:
        nn.Module.__init__(self)  # its parts are those of the block that it replaces
        for name, part in block.named_children():
            self.add_module(name, part)
        self.choose = ChooseTokens(prefix, fraction)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Shape: [N, T, D] to [N, K, D]."""
        assert attn_mask is None  # as every classifier of timm calls it
        assert not is_causal
        tokens_NTD = x
        q_NHTd, k_NHTd, v_NHTd = project(self.attn, self.norm1(tokens_NTD))
        # Class token to all others: a row of the attention below, whose other rows are computed for fewer tokens.
        scores_NT = attention_weights(self.attn, q_NHTd[:, :, :1], k_NHTd).mean(dim=1)[:, 0]
        chosen_NK = self.choose(scores_NT)
        x_NKD = take(tokens_NTD, chosen_NK)
        q_NKD = take(q_NHTd.transpose(1, 2).flatten(2), chosen_NK)
        q_NHKd = q_NKD.unflatten(2, (k_NHTd.shape[1], -1)).transpose(1, 2)
        x_NKD = x_NKD + self.drop_path1(self.ls1(attend(self.attn, q_NHKd, k_NHTd, v_NHTd)))
        return x_NKD + self.drop_path2(self.ls2(self.mlp(self.norm2(x_NKD))))


class ChooseTokens(nn.Module):
    """The prefix tokens, which always stay, and the fraction of the patches with the highest scores."""

    def __init__(self, prefix: int, fraction: float) -> None:
        super().__init__()
        self.prefix, self.fraction = prefix, fraction

    def kept(self, patches: int) -> int:
        """How many patches stay: the fraction of them, rounded up."""
        # As it is written: the float 0.07 is a hair more, and would round 7 of 100 up to 8.
        return math.ceil(Fraction(str(self.fraction)) * patches)

    def forward(self, scores_NT: Tensor) -> Tensor:
        """The numbers of the kept tokens in their old order; of patches with one score the first. Shape: [N, K]."""
        scores_NP = scores_NT[:, self.prefix :]
        falling_NP = scores_NP.sort(dim=1, descending=True, stable=True).indices
        patches_NK = falling_NP[:, : self.kept(scores_NP.shape[1])].sort(dim=1).values
        always_NK = torch.arange(self.prefix, device=scores_NT.device).expand(scores_NT.shape[0], -1)
        return torch.cat([always_NK, patches_NK + self.prefix], dim=1)


def take(tokens_NTD: Tensor, chosen_NK: Tensor) -> Tensor:
    """Each image's own choice of its tokens. Shape: [N, K, D]."""
    images, tokens, width = tokens_NTD.shape
    # Rows of one long list: runtimes have a faster gather for that than for an index of each number.
    first_N1 = tokens * torch.arange(images, device=chosen_NK.device)[:, None]
    return tokens_NTD.reshape(-1, width).index_select(0, (chosen_NK + first_N1).flatten()).view(images, -1, width)


def keep_tokens(module: nn.Module, fractions: TokenFractions) -> None:
    """Let a plain Vision Transformer drop tokens, in place; its parameters keep their names.

    ``fractions`` are of the patches that are left before each block named, counted from 0.
    Raises: ModelError for a family without a class token, and for blocks that are not there.
    """
    vit, where = plain_vit(module), "model.keep_tokens"
    if vit is None or vit.cls_token is None:
        raise ModelError(
            "model.keep_tokens must be all for a model without a class token",
            where=where,
            found=type(module).__name__ + (" without a class token" if vit else ""),
            fix="remove the key, or use a Vision Transformer with a class token: --model dinov2-small",
        )
    blocks = vit_blocks(vit)
    if absent := [block for block in fractions if not 0 < block < len(blocks)]:
        raise ModelError(
            f"model.keep_tokens must name blocks from 1 to {len(blocks) - 1}",
            where=where,
            found=f"block {', '.join(map(str, absent))} of blocks 0 to {len(blocks) - 1}",
            fix="change the blocks in model.keep_tokens, as tokens are dropped between two blocks",
        )
    for block, fraction in fractions.items():
        before = blocks[block - 1]
        if not (isinstance(before, Block) and is_plain(before)):
            found = f"block {block - 1} is a {type(before).__name__} of {type(module).__name__}"
            fix = "remove the key, or name blocks that follow a plain block"
            raise ModelError(
                "model.keep_tokens must name blocks that follow a block with plain attention",
                where=where,
                found=found,
                fix=fix,
            )
        vit.blocks.add_module(str(block - 1), SelectingBlock(before, vit.num_prefix_tokens, fraction))


def kept_fractions(module: nn.Module) -> dict[int, float]:
    """The fractions that ``keep_tokens`` was called with; nothing if all tokens stay."""
    blocks = enumerate(vit_blocks(module), start=1)
    return {number: before.choose.fraction for number, before in blocks if isinstance(before, SelectingBlock)}


def tokens_behind(vit: VisionTransformer, count: int) -> int:
    """How many tokens the first ``count`` blocks pass on."""
    tokens: int = vit.get_parameter("pos_embed").shape[1] + (vit.num_prefix_tokens if vit.no_embed_class else 0)
    for block in vit_blocks(vit)[:count]:
        if isinstance(block, SelectingBlock):
            tokens = vit.num_prefix_tokens + block.choose.kept(tokens - vit.num_prefix_tokens)
    return tokens


def tokens_by_block(module: nn.Module) -> dict[int, int]:
    """How many tokens the first block gets, and each before which some are dropped; empty if all stay."""
    vit, fractions = plain_vit(module), kept_fractions(module)
    return {block: tokens_behind(vit, block) for block in (0, *fractions)} if vit is not None and fractions else {}


@contextmanager
def recorded_choices(module: nn.Module) -> Iterator[list[Tensor]]:
    """The numbers of the tokens that each choosing block kept, in the order of evaluation. Shape: [N, K]."""
    chosen: list[Tensor] = []
    with _noting(module, lambda _choose, _given, kept_NK: chosen.append(kept_NK)):
        yield chosen


class ChoiceMargins:
    """How clearly the patches of each image were chosen, while a model was evaluated."""

    def __init__(self) -> None:
        self._margins = defaultdict[ChooseTokens, list[Tensor]](list)

    def note(self, choose: ChooseTokens, given: tuple[Tensor], _chosen: Tensor) -> None:
        """Note how far the last patch that stays lies above the first that goes, as a fraction of its score."""
        scores_NP = given[0][:, choose.prefix :].sort(dim=1, descending=True).values
        kept = choose.kept(scores_NP.shape[1])
        if kept < scores_NP.shape[1]:
            first_gone_N, last_kept_N = scores_NP[:, kept], scores_NP[:, kept - 1]
        else:  # so few patches that a fraction rounded up is all of them
            first_gone_N, last_kept_N = torch.zeros_like(scores_NP[:, 0]), torch.ones_like(scores_NP[:, 0])
        self._margins[choose].append((1 - first_gone_N / last_kept_N).detach().float().cpu())

    def clear(self) -> NDArray[np.bool_] | None:
        """Whether rounding in f32 cannot change which patches of an image stay; None if all tokens stay.

        Shape: [N], in the order of evaluation.
        """
        if not self._margins:
            return None
        margins_MN = torch.stack([torch.cat(margins) for margins in self._margins.values()])
        return (margins_MN > LEAST_MARGIN).all(dim=0).numpy()


@contextmanager
def choice_margins(module: nn.Module) -> Iterator[ChoiceMargins]:
    """The margins of a model's choices, noted until the block ends."""
    margins = ChoiceMargins()
    with _noting(module, margins.note):
        yield margins


@contextmanager
def _noting(module: nn.Module, note: Callable[[ChooseTokens, tuple[Tensor], Tensor], None]) -> Iterator[None]:
    """Call ``note`` with the input and the output of each choice, until the block ends."""
    hooks = [one.register_forward_hook(note) for one in module.modules() if isinstance(one, ChooseTokens)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
