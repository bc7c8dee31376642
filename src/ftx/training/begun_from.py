"""``ftx train --from RUN``: a training that begins where a finished one ended, on more images or labels.

The adapter is the run's; of its head, the rows of labels that are still there are kept, whatever their order is now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ftx.adapters.pissa import spec_on_file
from ftx.adapters.trainable_model import TrainableModel, adapter_spec, prepare
from ftx.core.errors import RecipeError, listed
from ftx.core.progress import Progress
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import TrainRecipe
from ftx.runs.artifacts import TRAINED
from ftx.runs.run import Run
from ftx.runs.run_json import InitialWeights
from ftx.runs.trained import head_state, load_trained_into, require_base
from ftx.tasks.labels import Labels
from ftx.training.named_data import refuse_address_of, without_untyped_links

NONE = "none"
# What must be as it was for the adapter to fit.
_SAME = ("task", "data.image_size", "model.", "adapter.")
# What hangs on the data and the machine.
_DECIDED_ANEW = ("data.classes", "train.precision", "train.frozen_runtime", "train.compile")


def begun_run(recipe: Recipe) -> Run | None:
    """The run that a training begins with, if it begins with one.

    Raises: RunError if there is no such finished run; RecipeError if its adapter is for another model or task.
    """
    if recipe.model.from_run == NONE:
        return None
    run = Run.open(recipe.model.from_run)
    then, now = _as_plain_adapter(run.recipe()).by_key(), recipe.by_key()
    differing = [
        f"{key}: {now[key]}, the run has {_as_one(then[key])}"
        for key in now
        if key.startswith(_SAME) and key not in ("model.from_run", "model.weights")
        if now[key] != "auto" and _as_one(now[key]) != _as_one(then[key])
    ]
    if differing:
        raise RecipeError(
            "the run that training begins with is of another model, adapter or task",
            where=run.path,
            found=listed(differing),
            fix="leave these keys as the run has them, or train without --from",
        )
    return run


def _as_one(value: object) -> object:
    """What all targets share, of a rank or an alpha that is said for each."""
    each = list(value.values()) if isinstance(value, dict) else []
    return each[0] if each and all(one == each[0] for one in each) else value


def as_the_run_has(recipe: Recipe, run: Run) -> Recipe:
    """The recipe with what it leaves to be decided, of what must be the run's, as the run has it."""
    then, now = _as_plain_adapter(run.recipe()).by_key(), recipe.by_key()
    left = [key for key in now if key.startswith(_SAME) and key != "model.weights" and now[key] == "auto"]
    return recipe.with_overrides((), {key: then[key] for key in left if then[key] != "auto"})


def recipe_from(run: Path, overrides: Sequence[str] = (), flags: Mapping[str, object] | None = None) -> Recipe:
    """The recipe of a run, to begin another training with what it trained, with ``key=value`` and flags laid over it.

    Raises: RunError if there is no such finished run; RecipeError with all that is wrong in the others; DataError if
    the run alone names an address of images.
    """
    opened = Run.open(run)
    before = _as_plain_adapter(opened.recipe())
    anew: dict[str, object] = dict.fromkeys(_DECIDED_ANEW, "auto")
    # What its images and epochs held down is no choice for others; one view is none for images that vary.
    if before.train.augment == "none" or before.train.cache_views == before.train.epochs:
        anew["train.cache_views"] = TrainRecipe().cache_views
    if before.train.batch_size == len(opened.entries("train")):
        anew["train.batch_size"] = max(TrainRecipe().batch_size, before.train.batch_size)
    begun = before.with_overrides((), {**anew, "model.from_run": str(run)}).with_overrides(overrides, flags)
    refuse_address_of(run, begun, overrides, flags, "ftx train --from")
    return without_untyped_links(begun, overrides, flags)


def begin_with(run: Run, prepared: TrainableModel, labels: Labels, progress: Progress) -> InitialWeights:
    """Lay into a fresh model of other ``labels`` what a run trained, and say which rows of the head are new or gone.

    Raises: RunError if ``trained/`` is altered; MergeError if it was made on another base; either, or AdapterError, if
    it does not hold.
    """
    require_base(run, prepared.backbone.digest)
    before = prepare(run.recipe(), len(run.manifest.labels), saved=True)
    load_trained_into(before, run)
    module = prepared.backbone.module
    old_head, state = head_state(before.backbone.module), module.state_dict()
    trained = {name for name, parameter in before.backbone.module.named_parameters() if parameter.requires_grad}
    old_names, names = run.manifest.labels.names, labels.names
    kept = [name for name in names if name in old_names]
    rows, old_rows = [names.index(name) for name in kept], [old_names.index(name) for name in kept]
    with torch.no_grad():
        for name, tensor in before.backbone.module.state_dict().items():
            if name in old_head and len(tensor) == len(old_names):
                state[name][rows] = tensor[old_rows]
            elif name in trained or prepared.method == "full":  # which trains statistics of batches as well
                state[name].copy_(tensor)
    if gone := [name for name in old_names if name not in names]:
        progress.note(f"labels of {run.path} that the data has not, whose rows of the head are gone: {listed(gone)}")
    digest = run.manifest.digest(TRAINED)
    new = tuple(name for name in names if name not in old_names)
    return InitialWeights(trained=digest, labels_kept=len(kept), labels_new=new)


def _as_plain_adapter(recipe: Recipe) -> Recipe:
    """The recipe of the adapter that the run's files hold: of PiSSA one of twice the rank that began at zero."""
    spec = adapter_spec(recipe)
    if spec is None or spec.init == "zero":
        return recipe
    held = spec_on_file(spec)
    if held.layers is not None:
        return recipe.replace(adapter={"init": "zero", "rank": held.rank["layer"], "alpha": held.alpha["layer"]})
    return recipe.replace(adapter={"init": "zero", "rank": dict(held.rank), "alpha": dict(held.alpha)})
