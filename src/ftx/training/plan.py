"""The plan of a training: the decisions from recipe and model, made once, before anything is trained.

How the head starts, what is computed once, how images are augmented, which patches a step drops, how many epochs. A
training, its estimate, its budget and its notes read this value; none of them decides it again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from ftx.backbones.dropped_patches import ALL_PATCHES, DroppedPatches
from ftx.backbones.layer_roles import plain_vit
from ftx.backbones.split_network import frozen_blocks, only_head_trains
from ftx.core.errors import ModelError
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import Augment, TrainRecipe
from ftx.training.head_start import linear_heads


@dataclass(frozen=True)
class Plan:
    """How the head starts, what is computed once, and what a step computes.

    ``kept_blocks`` leading blocks are computed once for each of ``views`` of an image, with 0 blocks the input of the
    head; with None nothing is. ``fits_head``: the head is fitted before the first step, to unaugmented images.
    ``solves_all``: only the head trains, and needs no steps; ``epochs`` is then one. ``dropped`` are the patches that a
    step leaves out.
    """

    head_init: Literal["random", "probe"]
    fits_head: bool
    solves_all: bool
    augment: Augment
    dropped: DroppedPatches
    kept_blocks: int | None
    views: int
    epochs: int

    @property
    def kept_views(self) -> int:
        """Views of each training image that are kept: those of the epochs and, if augmented, one to fit the head to."""
        return self.views + (self.fits_head and self.augment != "none" and self.views > 0)

    def views_of(self, train: int, val: int) -> int:
        """Views that are kept of ``train`` training images and ``val`` validation images, which have only one."""
        return train * self.kept_views + val

    @property
    def keys(self) -> dict[str, object]:
        """The decided values of keys of ``train``."""
        return {
            "augment": self.augment,
            "cache_views": self.views,
            "head_init": self.head_init,
            "patch_dropout": self.dropped.fraction,
        }

    def within(self, epochs: int) -> Plan:
        """The same with at most ``epochs`` epochs, and no more views than these."""
        return replace(self, epochs=min(self.epochs, epochs), views=min(self.views, epochs))


# train.patch_dropout auto, if blocks are kept; docs/decisions/0018.
_LEFT_OUT = 0.6


def keepable_blocks(module: nn.Module) -> int | None:
    """Leading blocks whose features may be computed once: those before all that trains; None if there is none."""
    return 0 if only_head_trains(module) else frozen_blocks(module) or None


def without_effect(module: nn.Module, train: TrainRecipe, planned: Plan) -> list[str]:
    """A sentence about each key of the recipe that has no effect here, or less than it seems to."""
    found: list[str] = []
    if not planned.views and keepable_blocks(module) is not None:
        found.append("train.cache_views is 0: the blocks that do not train are computed in each epoch")
    if planned.augment == "light" and planned.views == 1 < train.epochs:
        found.append("train.cache_views is 1: every epoch has the same view of an image, drawn once")
    if train.patch_dropout not in (0, "auto", planned.dropped.fraction):
        found.append("train.patch_dropout: not used, as only the head trains, on features of all patches")
    return found


def plan(module: nn.Module, recipe: Recipe) -> Plan:
    """The decisions for a model that the recipe's method trains.

    Raises: ModelError if patches must be left out of another family, which needs all of them.
    """
    train, linear = recipe.train, recipe.method == "linear"
    head_init = train.head_init
    if head_init == "auto":
        head_init = "probe" if linear and train.balance == "none" and linear_heads(module) else "random"
    fits_head = head_init == "probe" and bool(linear_heads(module))
    solves_all = linear and fits_head
    fits_head = fits_head and (solves_all or recipe.model.from_run == "none")  # a run's head stays
    epochs = 1 if solves_all else train.epochs
    kept_blocks = keepable_blocks(module)
    keeps = kept_blocks is not None and train.cache_views > 0
    unaugmented = solves_all or train.augment == "none" or (train.augment == "auto" and keeps)
    augment: Augment = "none" if unaugmented else "light"
    fraction = train.patch_dropout
    if fraction == "auto":
        fraction = _LEFT_OUT if keeps else 0.0
    # If only the head trains, its features are of all patches.
    dropped = ALL_PATCHES if kept_blocks == 0 else DroppedPatches(fraction)
    if dropped and plain_vit(module) is None:
        raise ModelError(
            "patches can be left out of plain Vision Transformers only",
            where="train.patch_dropout",
            found=type(module).__name__,
            fix="leave the key out, or take a plain Vision Transformer: --model dinov2-small",
        )
    views = 1 if augment == "none" else min(train.cache_views, train.epochs)
    kept = (kept_blocks, views) if keeps else (None, 0)
    return Plan(head_init, fits_head, solves_all, augment, dropped, *kept, epochs)
