"""Fewer tokens: a block hands on only the patches that its class token attends to most.

Source: EViT, arXiv:2202.07800, section 3.1, without its fused token: what is dropped is gone. Here tokens are chosen
before the MLP and not behind it, as an MLP takes each token by itself: the same answers without that work.

Legend: N images, T tokens, P patches, K tokens that are kept, D width, H heads, d width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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

# Block: the share of its patches that go on into it.
TokenFractions = Mapping[int, float]
ALL_TOKENS: TokenFractions = MappingProxyType({})

# Two patches whose scores are nearer than this share of them may be told apart by rounding alone. In f32 that moves a
# score by 1.2e-5 of it at most (DINOv2-small with random head, 114 photographs, three choices, against float64), so
# there is room for eight times as much; 5 % of those images have two such patches somewhere.
LEAST_MARGIN = 1e-4


class SelectingBlock(Block):
    """A block of timm's, under its parameters' own names, that gives fewer tokens than it takes."""

    def __init__(self, block: Block, prefix: int, share: float) -> None:
        nn.Module.__init__(self)  # its parts are those of the block that it replaces
        for name, part in block.named_children():
            self.add_module(name, part)
        self.choose = ChooseTokens(prefix, share)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Shape: [N, T, D] to [N, K, D]."""
        assert attn_mask is None  # as every classifier of timm calls it
        assert not is_causal
        tokens_NTD = x
        q_NHTd, k_NHTd, v_NHTd = project(self.attn, self.norm1(tokens_NTD))
        # Class token to all others: a row of the attention below, whose other rows are asked for less often.
        scores_NT = attention_weights(self.attn, q_NHTd[:, :, :1], k_NHTd).mean(dim=1)[:, 0]
        chosen_NK = self.choose(scores_NT)
        x_NKD = take(tokens_NTD, chosen_NK)
        asked_NKD = take(q_NHTd.transpose(1, 2).flatten(2), chosen_NK)
        q_NHKd = asked_NKD.unflatten(2, (k_NHTd.shape[1], -1)).transpose(1, 2)
        x_NKD = x_NKD + self.drop_path1(self.ls1(attend(self.attn, q_NHKd, k_NHTd, v_NHTd)))
        return x_NKD + self.drop_path2(self.ls2(self.mlp(self.norm2(x_NKD))))


class ChooseTokens(nn.Module):
    """The tokens in front, which always stay, and of the patches the share with the highest scores."""

    def __init__(self, prefix: int, share: float) -> None:
        super().__init__()
        self.prefix, self.share = prefix, share

    def kept(self, patches: int) -> int:
        """How many of so many patches stay: the share, rounded up."""
        # As it is written: the float 0.07 is a hair more, and would round 7 of 100 up to 8.
        return math.ceil(Fraction(str(self.share)) * patches)

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


def keep_tokens(module: nn.Module, wanted: TokenFractions) -> None:
    """Let a plain Vision Transformer drop tokens, in place; its parameters keep their names.

    ``wanted`` has the share of the patches then present that go on into each block named, counted from 0.
    Raises: ModelError for a family without a class token, and for blocks that are not there.
    """
    vit, where = plain_vit(module), "model.keep_tokens"
    if vit is None or vit.cls_token is None:
        found = f"{type(module).__name__} without a class token" if vit else f"{type(module).__name__}"
        raise ModelError(
            "tokens are kept by what the class token attends to, which this model has not",
            where=where,
            found=found,
            fix="leave the key out, or take a Vision Transformer with a class token: --model dinov2-small",
        )
    blocks = vit_blocks(vit)
    if absent := [block for block in wanted if not 0 < block < len(blocks)]:
        raise ModelError(
            "tokens can be dropped between two blocks alone",
            where=where,
            found=f"block {', '.join(map(str, absent))} of blocks 0 to {len(blocks) - 1}",
            fix=f"name blocks from 1 to {len(blocks) - 1}",
        )
    for block, share in wanted.items():
        before = blocks[block - 1]
        if not (isinstance(before, Block) and is_plain(before)):
            found = f"block {block - 1} is a {type(before).__name__} of {type(module).__name__}"
            fix = "leave the key out, or name blocks behind plain ones"
            raise ModelError("this attention is of a kind that ftx cannot ask", where=where, found=found, fix=fix)
        vit.blocks.add_module(str(block - 1), SelectingBlock(before, vit.num_prefix_tokens, share))


def kept_fractions(module: nn.Module) -> dict[int, float]:
    """What ``keep_tokens`` was asked for; nothing where all tokens stay."""
    vit = plain_vit(module)
    blocks = [] if vit is None else vit_blocks(vit)
    return {before + 1: block.choose.share for before, block in enumerate(blocks) if isinstance(block, SelectingBlock)}


def tokens_behind(vit: VisionTransformer, count: int) -> int:
    """How many tokens come out of the first so many blocks."""
    tokens: int = vit.get_parameter("pos_embed").shape[1] + (vit.num_prefix_tokens if vit.no_embed_class else 0)
    for block in vit_blocks(vit)[:count]:
        if isinstance(block, SelectingBlock):
            tokens = vit.num_prefix_tokens + block.choose.kept(tokens - vit.num_prefix_tokens)
    return tokens


def tokens_by_block(module: nn.Module) -> dict[int, int]:
    """How many tokens go into the first block, and into each before which some are dropped; empty where all stay."""
    vit, shares = plain_vit(module), kept_fractions(module)
    return {block: tokens_behind(vit, block) for block in (0, *shares)} if vit is not None and shares else {}


@contextmanager
def recorded_choices(module: nn.Module) -> Iterator[list[Tensor]]:
    """The numbers of the tokens that went on, of each block that drops some, as the model is asked. Shape: [N, K]."""
    chosen: list[Tensor] = []

    def note(_choose: nn.Module, _given: tuple[Tensor], kept_NK: Tensor) -> None:
        chosen.append(kept_NK)

    with _noting(_choosing(module), note):
        yield chosen


class ChoiceMargins:
    """How clearly the patches of each image were chosen, while a model was asked."""

    def __init__(self, choosing: Sequence[ChooseTokens]) -> None:
        self._margins: dict[nn.Module, list[Tensor]] = {choose: [] for choose in choosing}

    def note(self, choose: nn.Module, given: tuple[Tensor], _chosen: Tensor) -> None:
        """Note how far the last patch that stays lies above the first that goes, as a share of its score."""
        assert isinstance(choose, ChooseTokens)
        scores_NP = given[0][:, choose.prefix :].sort(dim=1, descending=True).values
        kept = choose.kept(scores_NP.shape[1])
        if kept < scores_NP.shape[1]:
            first_gone_N, last_kept_N = scores_NP[:, kept], scores_NP[:, kept - 1]
        else:  # so few patches that a share rounded up is all of them
            first_gone_N, last_kept_N = torch.zeros_like(scores_NP[:, 0]), torch.ones_like(scores_NP[:, 0])
        self._margins[choose].append((1 - first_gone_N / last_kept_N).detach().float().cpu())

    def clear(self) -> NDArray[np.bool_] | None:
        """Whether rounding in f32 cannot change which patches of an image stay; None where all tokens stay.

        Shape: [N], in the order asked.
        """
        if not self._margins:
            return None
        margins_MN = torch.stack([torch.cat(margins) for margins in self._margins.values()])
        return (margins_MN > LEAST_MARGIN).all(dim=0).numpy()


@contextmanager
def choice_margins(module: nn.Module) -> Iterator[ChoiceMargins]:
    """Watch the choices of a model until the block ends."""
    choosing = _choosing(module)
    found = ChoiceMargins(choosing)
    with _noting(choosing, found.note):
        yield found


def _choosing(module: nn.Module) -> list[ChooseTokens]:
    return [one for one in module.modules() if isinstance(one, ChooseTokens)]


@contextmanager
def _noting(
    choosing: Sequence[ChooseTokens], note: Callable[[nn.Module, tuple[Tensor], Tensor], None]
) -> Iterator[None]:
    """Call ``note`` with what each takes and what it chose, until the block ends."""
    hooks = [one.register_forward_hook(note) for one in choosing]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
