"""From what a recipe was resolved to, to what the loop trains: inputs, the frozen trunk, the training."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from ftx.backbones.dropped_patches import ALL_PATCHES
from ftx.core.progress import Progress
from ftx.data.dataset import Entry
from ftx.data.pixel_store import PixelStore, pixel_store
from ftx.data.shards.shard_wise import shard_numbers
from ftx.training.class_balance import balance_of
from ftx.training.frozen_part import FrozenPart, FrozenTrunk, frozen_part
from ftx.training.inputs import FeatureInputs, Inputs, inputs_of, training_images
from ftx.training.opening import ResolvedTraining
from ftx.training.ranks import ONE_PROCESS, Ranks
from ftx.training.step import Training


def frozen_of(
    found: ResolvedTraining, progress: Progress, *, for_others: bool = True, ranks: Ranks = ONE_PROCESS
) -> AbstractContextManager[FrozenPart | None]:
    """The frozen trunk that is computed once, if there is one; kept for this training only, or ``for_others`` too."""
    recipe, backbone = found.recipe, found.prepared.backbone
    if found.plan.kept_blocks is None:
        return nullcontext()
    runtime = "openvino" if recipe.train.frozen_runtime == "openvino" else "torch"
    part = FrozenTrunk(backbone, found.plan.kept_blocks, recipe.train.precision == "bf16", runtime)
    return frozen_part(part, recipe.train.cache_gb * 1e9, for_others=for_others, ranks=ranks, progress=progress)


def pixels_of(found: ResolvedTraining, progress: Progress) -> AbstractContextManager[PixelStore]:
    """The images of a training as they were decoded when its data was read."""
    images = sum(found.images.values())
    return pixel_store(found.recipe.data, images, found.prepared.backbone.preprocess, found.recipe.train, progress)


def inputs_for(
    found: ResolvedTraining, pixels: PixelStore, frozen: FrozenPart | None, entries: Sequence[Entry], *, trains: bool
) -> Inputs:
    """The inputs of entries of the data set: as the plan ``trains`` on them, or unaugmented with all patches."""
    planned, backbone = found.plan, found.prepared.backbone
    images = training_images(
        backbone.preprocess,
        found.dataset.root,
        entries,
        found.task,
        augment=planned.augment if trains else "none",
        seed=found.recipe.seed,
        pixels=pixels,
    )
    dropped = planned.dropped if trains else ALL_PATCHES
    return inputs_of(
        backbone.module, images, frozen, views=planned.views, unaugmented=planned.fits_head, dropped=dropped
    )


def build_training(
    found: ResolvedTraining, pixels: PixelStore, frozen: FrozenPart | None, ranks: Ranks = ONE_PROCESS
) -> Training:
    """Join the model, its inputs and the settings of the recipe."""
    recipe, dataset, task = found.recipe, found.dataset, found.task
    entries, module = dataset.split("train"), found.prepared.backbone.module
    balance = balance_of(recipe.train.balance, task.labels, task.targets([entry.labels for entry in entries]))
    return Training(
        module=module,
        task=task,
        inputs=inputs_for(found, pixels, frozen, entries, trains=True),
        held_out=inputs_for(found, pixels, frozen, dataset.split("val"), trains=False),
        recipe=recipe.train,
        balance=balance.on(next(module.parameters()).device),
        lr=float(recipe.train.lr),
        bf16=recipe.train.precision == "bf16",
        seed=recipe.seed,
        ranks=ranks,
        shard_N=shard_numbers([entry.path for entry in entries]),
    )


def fill_together(training: Training, frozen: FrozenPart | None, progress: Progress) -> None:
    """Divide the work of the frozen trunk among several processes, before each needs all of it."""
    ranks = training.ranks
    if ranks.world == 1 or frozen is None:
        return
    for inputs in (training.inputs, training.held_out):
        assert isinstance(inputs, FeatureInputs)
        inputs.fill(ranks, progress)
    ranks.wait()
    frozen.find_others()
