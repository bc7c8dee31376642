"""``ftx train --from RUN``: a training that starts from a finished one, on more images or labels.

The adapter is the run's. Rows of its head are kept for labels that still exist, in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ftx.adapters.pissa import spec_on_file
from ftx.adapters.trainable_model import TrainableModel, adapter_spec, prepare
from ftx.core.addresses import as_typed, data_option, is_elsewhere
from ftx.core.errors import DataError, RecipeError, listed, shell_command, shown
from ftx.core.progress import Progress
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import DataRecipe, TrainRecipe
from ftx.runs.artifacts import TRAINED
from ftx.runs.run import Run
from ftx.runs.run_json import InitialWeights
from ftx.runs.trained import head_state, load_trained_into, require_base
from ftx.tasks.labels import Labels

# Where the images lie has no effect: resuming compares their hashes.
DATA_PATH = "data.path"
FOLLOW_LINKS_KEY = "data.follow_links"


def without_untyped_links(recipe: Recipe, overrides: Sequence[str], flags: Mapping[str, object] | None) -> Recipe:
    """The recipe of a run, which follows links only if ``key=value`` or a flag says so."""
    return recipe.replace(data={"follow_links": _typed(FOLLOW_LINKS_KEY, overrides, flags).follow_links})


def data_path(overrides: Sequence[str], flags: Mapping[str, object] | None) -> Path | None:
    """The path of the images in ``key=value`` and flags; None if they have none."""
    data = _typed(DATA_PATH, overrides, flags)
    return data.path if "path" in data.model_fields_set else None


def _typed(key: str, overrides: Sequence[str], flags: Mapping[str, object] | None) -> DataRecipe:
    """The value of a key that only ``key=value`` or a flag may set, among defaults."""
    typed = [one for one in overrides if one.partition("=")[0].strip() == key]
    return Recipe.build(None, typed, {key: (flags or {}).get(key)}).data


def check_address(
    run: Path, recipe: Recipe, overrides: Sequence[str], flags: Mapping[str, object] | None, command: str
) -> None:
    """Check that images at an address are named by ``key=value`` or a flag, not only by the recipe of a run.

    Raises: DataError with the ``command`` that names it.
    """
    if is_elsewhere(recipe.data.path) and data_path(overrides, flags) is None:
        there = as_typed(recipe.data.path)
        raise DataError(
            "the recipe of a run must not contain a URL for its images",
            where=run / "recipe.yaml",
            found=shown(there),
            fix=f"if you trust this URL, run: {shell_command(command, run)} {data_option(there)}",
        )


NONE = "none"
# Keys that must be the run's for its adapter to fit.
_SAME = ("task", "data.image_size", "model.", "adapter.")
# Keys that depend on the data and the machine.
_DECIDED_AGAIN = ("data.classes", "train.precision", "train.frozen_runtime", "train.compile")


def init_run(recipe: Recipe) -> Run | None:
    """The run that a training starts from, if there is one.

    Raises: RunError if there is no such finished run; RecipeError if its adapter is for another model or task.
    """
    if recipe.model.from_run == NONE:
        return None
    run = Run.open(recipe.model.from_run)
    then, now = _as_plain_adapter(run.recipe()).by_key(), recipe.by_key()
    same = tuple(one for one in _SAME if one != "adapter." or recipe.model.peft != "none")
    differing = [
        f"{key}: {now[key]}, the run has {_as_one(then[key])}"
        for key in now
        if key.startswith(same) and key not in ("model.from_run", "model.weights")
        if now[key] != "auto" and _as_one(now[key]) != _as_one(then[key])
    ]
    if differing:
        raise RecipeError(
            "--from must name a run of the same model, adapter and task",
            where=run.path,
            found=listed(differing),
            fix="use the values of the run for these keys, or train without --from",
        )
    return run


def _as_one(value: object) -> object:
    """The value of a rank or an alpha that is given for each target, if all are equal."""
    each = list(value.values()) if isinstance(value, dict) else []
    return each[0] if each and all(one == each[0] for one in each) else value


def with_keys_of_run(recipe: Recipe, run: Run) -> Recipe:
    """The recipe with the run's value of each key that is ``auto`` and must be the run's."""
    then, now = _as_plain_adapter(run.recipe()).by_key(), recipe.by_key()
    left = [key for key in now if key.startswith(_SAME) and key != "model.weights" and now[key] == "auto"]
    return recipe.with_overrides((), {key: then[key] for key in left if then[key] != "auto"})


def recipe_from(run: Path, overrides: Sequence[str] = (), flags: Mapping[str, object] | None = None) -> Recipe:
    """The recipe of a training that starts from a run: the run's, changed by ``key=value`` and flags.

    Raises: RunError if there is no such finished run; RecipeError with all errors in the others; DataError if
    only the run names an address of images.
    """
    opened = Run.open(run)
    before = _as_plain_adapter(opened.recipe())
    keys: dict[str, object] = {**dict.fromkeys(_DECIDED_AGAIN, "auto"), "model.from_run": str(run)}
    # Limits that come from its images and epochs are no choice for others, nor is one view of unaugmented images.
    # A run's head stays, so no probe starts it again.
    if before.train.head_init == "probe" and before.method != "linear":
        keys["train.head_init"] = "auto"
    if before.train.augment == "none" or before.train.cache_views == before.train.epochs:
        keys["train.cache_views"] = TrainRecipe().cache_views
    if before.train.batch_size == len(opened.entries("train")):
        keys["train.batch_size"] = max(TrainRecipe().batch_size, before.train.batch_size)
    recipe = before.with_overrides((), keys).with_overrides(overrides, flags)
    check_address(run, recipe, overrides, flags, "ftx train --from")
    return without_untyped_links(recipe, overrides, flags)


def load_run_into(run: Run, prepared: TrainableModel, labels: Labels, progress: Progress) -> InitialWeights:
    """Load what a run trained into a fresh model of other ``labels``; returns which rows of the head are new.

    Raises: RunError if ``trained/`` is altered; MergeError if it was made on another base; either, or AdapterError, if
    it is invalid.
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
            elif name in trained or prepared.method == "full":  # which also trains batch statistics
                state[name].copy_(tensor)
    if gone := [name for name in old_names if name not in names]:
        progress.note(f"your data lacks labels of {run.path}, so their rows of the head are dropped: {listed(gone)}")
    new = tuple(name for name in names if name not in old_names)
    return InitialWeights(trained=run.manifest.digest(TRAINED), labels_kept=len(kept), labels_new=new)


def _as_plain_adapter(recipe: Recipe) -> Recipe:
    """The recipe of the adapter in the run's files: PiSSA is saved as an adapter of twice the rank, started at zero."""
    spec = adapter_spec(recipe)
    if spec is None or spec.init == "zero":
        return recipe
    saved = spec_on_file(spec)
    rank, alpha = dict(saved.rank), dict(saved.alpha)
    one_for_all = saved.layers is not None
    values = {"rank": rank["layer"], "alpha": alpha["layer"]} if one_for_all else {"rank": rank, "alpha": alpha}
    return recipe.replace(adapter={"init": "zero", **values})
