"""``ftx train --dry-run``: what a training would do, before it is begun."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from ftx.backbones.kept_tokens import tokens_by_block
from ftx.core.memory import available_bytes, memory_faults
from ftx.core.progress import SILENT, Progress
from ftx.data.open_dataset import class_counts
from ftx.recipe.schema import Recipe
from ftx.training.budget import fitted, foreseeable
from ftx.training.device_placement import device, place, within_quota
from ftx.training.estimate import Times, adapted_layers, memory_mb, rehearse, what_would_fit
from ftx.training.ranks import ALONE, Ranks
from ftx.training.report import DryRunReport
from ftx.training.resolve import Resolved, resolve


def dry_run(
    recipe: Recipe, *, strict: bool = False, budget_s: float | None = None, progress: Progress = SILENT
) -> DryRunReport:
    """Say what was understood of data and model, time two steps and train nothing; raises as ``train`` does."""
    began = time.perf_counter()
    within_quota()
    found = resolve(recipe if budget_s is None else foreseeable(recipe), strict, progress)
    prepared, resolved = found.prepared, found.recipe
    total = sum(parameter.numel() for parameter in prepared.backbone.module.parameters())
    place(prepared, resolved.train.batch_size, progress, dropped=found.plan.dropped)
    needed_mb = memory_mb(prepared, resolved, found.plan, found.images["train"])
    free_mb = round(available_bytes() / 1e6)
    times: Times | None = None
    if needed_mb <= free_mb or budget_s is not None:  # what fits into a time is told by two steps alone
        with memory_faults(advice(found)):
            times = rehearse(found)
        if budget_s is not None:
            found = fitted(found, times, budget_s, began, progress)
    counts = class_counts(found.dataset)
    epochs = found.plan.epochs
    return DryRunReport(
        method=prepared.method,
        model=resolved.model.name,
        precision=resolved.train.precision,
        image_size=prepared.backbone.preprocess.image_size,
        tokens=tokens_by_block(prepared.backbone.module),
        augment=found.plan.augment,
        patch_dropout=found.plan.dropped.fraction,
        counts={name: {str(split): n for split, n in splits.items()} for name, splits in counts.items()},
        images=found.images,
        unreadable=found.unreadable,
        layers=adapted_layers(prepared.backbone.module),
        trainable_parameters=prepared.trainable,
        trainable_share=prepared.trainable / total,
        memory_mb=needed_mb,
        free_mb=free_mb,
        epochs=epochs,
        seconds_before=times and round(times.before(epochs), 1),
        seconds_per_epoch=times and round(times.epoch_s, 1),
        seconds=times and round(times.of(epochs), 1),
    )


def advice(found: Resolved, ranks: Ranks = ALONE) -> Callable[[], str]:
    """What says how to train in the memory that is free now: when it has run out, it is the training's own.

    Of several processes each has its share of a machine's memory, or a GPU's of its own.
    """
    where, images = device(), found.images["train"]
    cpu = where.type == "cpu"
    free_bytes = available_bytes() // ranks.local_world if cpu else torch.cuda.mem_get_info(where)[0]
    return lambda: what_would_fit(found.prepared, found.recipe, found.plan, images, free_bytes, ranks)
