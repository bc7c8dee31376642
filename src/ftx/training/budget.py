"""``ftx train --budget``: as many epochs as fit into a time, by what two steps took."""

from __future__ import annotations

import time
from dataclasses import replace

from ftx.core.errors import InputError
from ftx.core.progress import Progress
from ftx.recipe.schema import Recipe
from ftx.training.device_placement import place
from ftx.training.estimate import Times, rehearse
from ftx.training.ranks import ALONE, Ranks
from ftx.training.resolve import Resolved

# Of the budget, for writing the run and for what the rehearsal did not foresee.
_SPARE = 0.05


def foreseeable(recipe: Recipe) -> Recipe:
    """The recipe for a training with a budget: compiling blocks would take a part of it that nobody foresees."""
    return recipe.replace(train={"compile": "none"}) if recipe.train.compile == "auto" else recipe


def within(found: Resolved, budget_s: float, began: float, progress: Progress, ranks: Ranks = ALONE) -> Resolved:
    """The training with fewer epochs where all would not end ``budget_s`` after ``began`` (``time.perf_counter``).

    Several processes share the work of what each of them rehearses with its part of a batch.

    Raises: InputError if not even one epoch would.
    """
    module, recipe = found.prepared.backbone.module, found.recipe
    mine = replace(found, recipe=recipe.replace(train={"batch_size": ranks.largest_share(recipe.train.batch_size)}))
    place(mine.prepared, mine.recipe.train.batch_size, dropped=found.plan.dropped, ranks=ranks)
    # A step in training mode moves what batches are normalised by.
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    alone = rehearse(mine)
    shared = {"before_s": alone.before_s / ranks.local_world, "view_s": alone.view_s / ranks.local_world}
    times = replace(alone, epoch_s=alone.epoch_s / ranks.world, **shared)
    for name, buffer in module.named_buffers():
        buffer.copy_(before[name])
    # The first decides, by its clock: near the limit another might find that one epoch less fits.
    chosen = fitted(found, times, budget_s, began, progress) if ranks.leads else found
    recipe, planned = ranks.of_first((chosen.recipe, chosen.plan))
    return replace(found, recipe=recipe.replace(data={"path": found.recipe.data.path}), plan=planned)


def fitted(found: Resolved, times: Times, budget_s: float, began: float, progress: Progress) -> Resolved:
    """As ``within``, by what a rehearsal took."""
    left_s = (1 - _SPARE) * budget_s - (time.perf_counter() - began)
    epochs = found.plan.epochs
    fitting = next((fewer for fewer in range(epochs, 0, -1) if times.of(fewer) <= left_s), 0)
    if fitting == epochs:
        return found
    if not fitting:
        needed_s = budget_s - left_s + times.of(1)
        raise InputError(
            "no training fits into the budget",
            where="--budget",
            found=f"{budget_s:.0f} s, one epoch ends after about {needed_s:.1f} s",
            fix="a longer one, a smaller --image-size, or --preset fast",
        )
    progress.note(f"{fitting} of {epochs} epochs fit into the budget: {times.epoch_s:.2g} s each")
    planned = found.plan.within(fitting)
    fewer = {"epochs": planned.epochs, "cache_views": planned.views}
    return replace(found, recipe=found.recipe.replace(train=fewer), plan=planned)
