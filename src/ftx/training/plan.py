"""What recipe and model decide together: how the head begins, what is computed once, how images are varied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from ftx.backbones.split_network import frozen_blocks, head_alone
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import Augment
from ftx.training.head_start import linear_heads


@dataclass(frozen=True)
class Plan:
    """How the head begins, and what is computed once for all.

    ``kept_blocks`` leading blocks are computed once for each of ``views`` of an image, with 0 blocks whatever the head
    reads; with None nothing is. ``fits_head``: the head is fitted before the first step, to images as they are.
    ``solves_all``: it is all that there is to train, and needs no steps; ``epochs`` is then one. ``patch_dropout`` is
    the share of the patches that a step leaves out.
    """

    head_init: Literal["random", "probe"]
    fits_head: bool
    solves_all: bool
    augment: Augment
    patch_dropout: float
    kept_blocks: int | None
    views: int
    epochs: int

    @property
    def kept_views(self) -> int:
        """Views of each training image that are kept: of the epochs and, where they vary, one to fit the head to."""
        return self.views + (self.fits_head and self.augment != "none" and self.views > 0)

    def views_of(self, train: int, val: int) -> int:
        """How many are kept of so many training images, and validation images, which are seen as they are alone."""
        return train * self.kept_views + val


# What train.patch_dropout auto comes to where blocks are kept; docs/decisions/0018.
_LEFT_OUT = 0.6


def plan(module: nn.Module, recipe: Recipe) -> Plan:
    """What a recipe means for a model that its method trains."""
    train, linear = recipe.train, recipe.method == "linear"
    head_init = train.head_init
    if head_init == "auto":
        head_init = "probe" if linear and train.balance == "none" and linear_heads(module) else "random"
    fits_head = head_init == "probe" and bool(linear_heads(module))
    solves_all = linear and fits_head
    fits_head = fits_head and (solves_all or recipe.model.from_run == "none")  # a run's head goes on as it is
    epochs = 1 if solves_all else train.epochs
    kept_blocks = 0 if head_alone(module) else frozen_blocks(module) or None
    keeps = kept_blocks is not None and train.cache_views > 0
    as_they_are = solves_all or train.augment == "none" or (train.augment == "auto" and keeps)
    augment: Augment = "none" if as_they_are else "light"
    dropped = train.patch_dropout
    if dropped == "auto":
        dropped = _LEFT_OUT if keeps else 0.0
    if kept_blocks == 0:  # the head reads what the backbone makes of all patches
        dropped = 0.0
    if not keeps:
        return Plan(head_init, fits_head, solves_all, augment, dropped, None, 0, epochs)
    views = 1 if augment == "none" else min(train.cache_views, train.epochs)
    return Plan(head_init, fits_head, solves_all, augment, dropped, kept_blocks, views, epochs)
