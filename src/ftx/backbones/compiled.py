"""Blocks that train, compiled by torch: what lies between two products is computed in one pass over memory.

Compiled code is kept in the user's cache, so that a later training of the same shapes finds it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ftx.backbones.class_token import reads_only_class_token
from ftx.backbones.layer_roles import depth, plain_vit
from ftx.backbones.trained_blocks import Forward, computing_by, trained_blocks
from ftx.core.third_parties import quiet_third_parties
from ftx.core.user_cache import cache_folder

_KIND = "compiled"
_FOLDER = "TORCHINDUCTOR_CACHE_DIR"
# Each kind of block is compiled once, and again where its input needs no gradient or has fewer tokens.
_KINDS_OF_BLOCKS = 64


def blocks_to_compile(module: nn.Module) -> list[nn.Module]:
    """The blocks that train, but for a last one that is computed for the class token alone; none in other families."""
    vit, blocks = plain_vit(module), trained_blocks(module)
    one_token = vit is not None and depth(vit) > 1 and reads_only_class_token(vit)
    return blocks[:-1] if one_token else blocks


@contextmanager
def compiled_blocks(module: nn.Module, images: int) -> Iterator[None]:
    """Let the blocks that train compute so many images by compiled code, until the block of code ends.

    All else is computed as before: another number of images, as of an epoch's last batch, would be compiled anew for
    less than that takes.
    """
    with compiling(), computing_by(blocks_to_compile(module), lambda forward: compiled(forward, images)):
        try:
            yield
        finally:
            torch.compiler.reset()  # a later training of the process begins as the first did


def compiled(forward: Forward, images: int) -> Forward:
    """A block's forward that computes so many images in training by compiled code."""
    # Masks of dropout are drawn as they are without, by the seed of the step.
    fast = torch.compile(forward, dynamic=False, options={"fallback_random": True})

    def either(tokens_NTD: Tensor) -> Tensor:
        if not torch.is_grad_enabled() or len(tokens_NTD) != images:
            return forward(tokens_NTD)
        with quiet_third_parties():  # torch warns of what it does itself while it compiles
            return fast(tokens_NTD)

    return either


@contextmanager
def compiling() -> Iterator[Path | None]:
    """Keep compiled code in the user's cache; the folder, where there is one."""
    with quiet_third_parties():  # takes seconds
        import torch._dynamo
        import torch._inductor.compile_fx  # pyright: ignore[reportUnusedImport]

    folder = cache_folder(_KIND, f"torch-{torch.__version__}")
    before = os.environ.get(_FOLDER)  # torch's own default, where nobody set it
    if folder is not None:
        os.environ[_FOLDER] = str(folder)
    try:
        with torch._dynamo.config.patch(recompile_limit=_KINDS_OF_BLOCKS):
            yield folder
    finally:
        if before is None:
            os.environ.pop(_FOLDER, None)
        else:
            os.environ[_FOLDER] = before
