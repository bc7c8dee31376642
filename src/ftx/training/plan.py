"""The plan of a training: what recipe and model decide together, once, before anything is built.

How the head begins, what is computed once, how images vary, which patches a step leaves out, how many epochs. What a
training, its estimate, its budget and its notes read is this value; none of them decides it again.
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
    """How the head begins, and what is computed once for all.

    ``kept_blocks`` leading blocks are computed once for each of ``views`` of an image, with 0 blocks whatever the head
    reads; with None nothing is. ``fits_head``: the head is fitted before the first step, to images as they are.
    ``solves_all``: it is all that there is to train, and needs no steps; ``epochs`` is then one. ``dropped`` are
    the patches that a step leaves out.
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
        """Views of each training image that are kept: of the epochs and, where they vary, one to fit the head to."""
        return self.views + (self.fits_head and self.augment != "none" and self.views > 0)

    def views_of(self, train: int, val: int) -> int:
        """How many are kept of so many training images, and validation images, which are seen as they are alone."""
        return train * self.kept_views + val

    @property
    def keys(self) -> dict[str, object]:
        """What the recipe's keys of ``train`` come to."""
        return {
            "augment": self.augment,
            "cache_views": self.views,
            "head_init": self.head_init,
            "patch_dropout": self.dropped.fraction,
        }

    def within(self, epochs: int) -> Plan:
        """The same with at most so many epochs, and no more views than these."""
        return replace(self, epochs=min(self.epochs, epochs), views=min(self.views, epochs))


# What train.patch_dropout auto comes to where blocks are kept; docs/decisions/0018.
_LEFT_OUT = 0.6


def keepable_blocks(module: nn.Module) -> int | None:
    """Leading blocks whose features may be computed once: those in front of all that trains; None if there is none."""
    return 0 if only_head_trains(module) else frozen_blocks(module) or None


def without_effect(module: nn.Module, asked: TrainRecipe, planned: Plan) -> list[str]:
    """What of the recipe does nothing here, or less than it seems to, in a sentence each."""
    found: list[str] = []
    if not planned.views and keepable_blocks(module) is not None:
        found.append("train.cache_views is 0: the blocks that do not train are computed in each epoch")
    if planned.augment == "light" and planned.views == 1 < asked.epochs:
        found.append("train.cache_views is 1: every epoch sees an image in the same view, drawn once")
    if asked.patch_dropout not in (0, "auto", planned.dropped.fraction):
        found.append("train.patch_dropout: not used, as the head alone trains, on what is made of all patches")
    return found


def plan(module: nn.Module, recipe: Recipe) -> Plan:
    """What a recipe means for a model that its method trains.

    Raises: ModelError if patches are to be left out of another family, whose patches are not free to go.
    """
    train, linear = recipe.train, recipe.method == "linear"
    head_init = train.head_init
    if head_init == "auto":
        head_init = "probe" if linear and train.balance == "none" and linear_heads(module) else "random"
    fits_head = head_init == "probe" and bool(linear_heads(module))
    solves_all = linear and fits_head
    fits_head = fits_head and (solves_all or recipe.model.from_run == "none")  # a run's head goes on as it is
    epochs = 1 if solves_all else train.epochs
    kept_blocks = keepable_blocks(module)
    keeps = kept_blocks is not None and train.cache_views > 0
    as_they_are = solves_all or train.augment == "none" or (train.augment == "auto" and keeps)
    augment: Augment = "none" if as_they_are else "light"
    fraction = train.patch_dropout
    if fraction == "auto":
        fraction = _LEFT_OUT if keeps else 0.0
    # The head alone reads what the backbone makes of all patches.
    dropped = ALL_PATCHES if kept_blocks == 0 else DroppedPatches(fraction)
    if dropped and plain_vit(module) is None:
        raise ModelError(
            "patches can be left out of a plain Vision Transformer alone",
            where="train.patch_dropout",
            found=type(module).__name__,
            fix="leave the key out, or take a plain Vision Transformer: --model dinov2-small",
        )
    if not keeps:
        return Plan(head_init, fits_head, solves_all, augment, dropped, None, 0, epochs)
    views = 1 if augment == "none" else min(train.cache_views, train.epochs)
    return Plan(head_init, fits_head, solves_all, augment, dropped, kept_blocks, views, epochs)
