"""From what a recipe was resolved to, to what the loop trains: inputs, what is frozen, rates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from ftx.backbones.dropped_patches import ALL_PATCHES
from ftx.core.progress import Progress
from ftx.data.dataset import Entry
from ftx.data.pixel_store import PixelStore, pixel_store
from ftx.data.shards.shard_wise import shard_numbers
from ftx.training.class_balance import balance_of
from ftx.training.frozen_part import Frozen, FrozenPart, frozen_part
from ftx.training.inputs import FeatureInputs, Inputs, inputs_of
from ftx.training.optimizer import peak_lr
from ftx.training.ranks import ALONE, Ranks
from ftx.training.resolve import Resolved
from ftx.training.step import Training


@contextmanager
def frozen_of(
    found: Resolved, progress: Progress, *, for_others: bool = True, ranks: Ranks = ALONE
) -> Iterator[FrozenPart | None]:
    """What of the network is computed once, where anything is; kept for this training alone, or ``for_others`` too."""
    recipe, backbone = found.recipe, found.prepared.backbone
    if found.plan.kept_blocks is None:
        yield None
        return
    runtime = "openvino" if recipe.train.frozen_runtime == "openvino" else "torch"
    part = Frozen(backbone, found.plan.kept_blocks, recipe.train.precision == "bf16", runtime)
    limit_bytes = recipe.train.cache_gb * 1e9
    with frozen_part(part, limit_bytes, for_others=for_others, ranks=ranks, progress=progress) as frozen:
        yield frozen


def make_room_for(found: Resolved, frozen: FrozenPart | None, progress: Progress) -> None:
    """Let what a training computes once be kept, in place of what others kept: it is about to begin."""
    if frozen is not None:
        dataset = found.dataset
        frozen.make_room(found.plan.views_of(len(dataset.split("train")), len(dataset.split("val"))), progress)


def pixels_of(found: Resolved, progress: Progress) -> AbstractContextManager[PixelStore]:
    """The images of a training as they were decoded when its data was read."""
    images = sum(found.images.values())
    return pixel_store(found.recipe.data, images, found.prepared.backbone.preprocess, found.recipe.train, progress)


def inputs_for(
    found: Resolved, pixels: PixelStore, frozen: FrozenPart | None, entries: Sequence[Entry], *, varied: bool
) -> Inputs:
    """The inputs of entries of the data set: ``varied`` as the recipe trains on them, or as they are."""
    planned = found.plan
    return inputs_of(
        found.prepared.backbone,
        found.dataset.root,
        entries,
        found.task,
        frozen=frozen,
        augment=planned.augment if varied else "none",
        views=planned.views,
        as_they_are=planned.fits_head,
        dropped=planned.dropped if varied else ALL_PATCHES,
        seed=found.recipe.seed,
        pixels=pixels,
    )


def training_of(found: Resolved, pixels: PixelStore, frozen: FrozenPart | None, ranks: Ranks = ALONE) -> Training:
    """What is trained on what."""
    recipe, dataset, task = found.recipe, found.dataset, found.task
    training, module = dataset.split("train"), found.prepared.backbone.module
    balance = balance_of(recipe.train.balance, task.labels, task.targets([entry.labels for entry in training]))
    return Training(
        module=module,
        task=task,
        inputs=inputs_for(found, pixels, frozen, training, varied=True),
        held_out=inputs_for(found, pixels, frozen, dataset.split("val"), varied=False),
        recipe=recipe.train,
        balance=balance.on(next(module.parameters()).device),
        lr=peak_lr(recipe.train, recipe.method),
        bf16=recipe.train.precision == "bf16",
        seed=recipe.seed,
        ranks=ranks,
        shard_N=shard_numbers([entry.path for entry in training]),
    )


def fill_together(training: Training, frozen: FrozenPart | None, progress: Progress) -> None:
    """Let several processes share the work of the frozen part, before each asks for all of it."""
    ranks = training.ranks
    if ranks.world == 1 or frozen is None:
        return
    for inputs in (training.inputs, training.held_out):
        assert isinstance(inputs, FeatureInputs)
        inputs.fill(ranks, progress)
    ranks.wait()
    frozen.find_others()
