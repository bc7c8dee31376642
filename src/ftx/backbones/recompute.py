"""Activation checkpointing: a block that trains keeps its input alone, and computes the rest in the backward again.

Memory for about a third more time. Source: arXiv:1604.06174, section 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from ftx.backbones.layer_roles import plain_vit
from ftx.backbones.trained_blocks import Forward, computing_by, trained_blocks
from ftx.core.errors import ModelError


@contextmanager
def recomputing(module: nn.Module) -> Iterator[None]:
    """Let the blocks of a model do so until the block of code ends.

    Raises: ModelError for a family of timm that cannot.
    """
    if plain_vit(module) is not None:
        with computing_by(trained_blocks(module), _checkpointed):
            yield
        return
    switch = getattr(module, "set_grad_checkpointing", None)
    try:
        if switch is None:
            raise AssertionError
        switch(True)
    except AssertionError:  # timm asserts that it is not asked
        raise ModelError(
            "this model cannot compute its activations again",
            where="train.activation_checkpointing",
            found=type(module).__name__,
            fix="leave the key out; train.accumulation_steps takes less memory too",
        ) from None
    try:
        yield
    finally:
        switch(False)


def _checkpointed(forward: Forward) -> Forward:
    return partial(checkpoint, forward, use_reentrant=False)
