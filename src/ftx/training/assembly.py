"""From what a recipe was resolved to, to what the loop trains: inputs, what is frozen, rates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ftx.core.progress import Progress
from ftx.data.dataset import Entry
from ftx.training.class_balance import balance_of
from ftx.training.frozen_part import Frozen, FrozenPart, frozen_part
from ftx.training.inputs import Inputs, inputs_of
from ftx.training.loop import Training
from ftx.training.optimizer import peak_lr
from ftx.training.plan import plan
from ftx.training.resolve import Resolved


@contextmanager
def frozen_of(found: Resolved, progress: Progress, *, for_others: bool = True) -> Iterator[FrozenPart | None]:
    """What of the network is computed once, where anything is; kept for this training alone, or ``for_others`` too."""
    recipe, dataset, backbone = found.recipe, found.dataset, found.prepared.backbone
    planned = plan(backbone.module, recipe)
    if planned.kept_blocks is None:
        yield None
        return
    runtime = "openvino" if recipe.train.frozen_runtime == "openvino" else "torch"
    part = Frozen(backbone, planned.kept_blocks, recipe.train.precision == "bf16", runtime)
    with frozen_part(part, recipe.train.cache_gb * 1e9, for_others=for_others, progress=progress) as frozen:
        frozen.make_room(len(dataset.split("train")) * planned.views + len(dataset.split("val")), progress)
        yield frozen


def inputs_for(
    found: Resolved, frozen: FrozenPart | None, entries: Sequence[Entry], progress: Progress, *, varied: bool
) -> Inputs:
    """The inputs of entries of the data set: ``varied`` as the recipe trains on them, or as they are."""
    planned = plan(found.prepared.backbone.module, found.recipe)
    return inputs_of(
        found.prepared.backbone,
        found.dataset.root,
        entries,
        found.task,
        frozen=frozen,
        augment=planned.augment if varied else "none",
        views=planned.views,
        seed=found.recipe.seed,
        progress=progress,
    )


def training_of(found: Resolved, frozen: FrozenPart | None, progress: Progress) -> Training:
    """What is trained on what."""
    recipe, dataset, task = found.recipe, found.dataset, found.task
    training = dataset.split("train")
    return Training(
        module=found.prepared.backbone.module,
        task=task,
        inputs=inputs_for(found, frozen, training, progress, varied=True),
        held_out=inputs_for(found, frozen, dataset.split("val"), progress, varied=False),
        recipe=recipe.train,
        balance=balance_of(recipe.train.balance, task.labels, task.targets([entry.labels for entry in training])),
        lr=peak_lr(recipe.train, recipe.method),
        bf16=recipe.train.precision == "bf16",
        seed=recipe.seed,
    )
