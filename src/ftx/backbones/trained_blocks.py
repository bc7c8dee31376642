"""The blocks of a plain Vision Transformer that train, and another way for them to compute the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from ftx.backbones.layer_roles import plain_vit
from ftx.backbones.split_network import vit_blocks

Forward = Callable[..., Tensor]


def trained_blocks(module: nn.Module) -> list[nn.Module]:
    """Those with a parameter that trains, in order; none in other families."""
    vit = plain_vit(module)
    blocks = [] if vit is None else vit_blocks(vit)
    return [block for block in blocks if any(one.requires_grad for one in block.parameters())]


@contextmanager
def computing_by(blocks: Sequence[nn.Module], way: Callable[[Forward], Forward]) -> Iterator[None]:
    """Let each block compute by what ``way`` makes of its forward, until the block of code ends."""
    before = [block.__dict__.get("forward") for block in blocks]
    for block in blocks:
        block.forward = way(block.forward)
    try:
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            del block.forward  # its class has one
            if forward is not None:
                block.forward = forward
