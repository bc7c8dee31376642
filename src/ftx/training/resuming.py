"""What must not have changed for a training to be resumed: its recipe, its data, its base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ftx.core.addresses import is_elsewhere
from ftx.core.errors import DataError, RecipeError, RunError, listed
from ftx.core.files import write_atomic
from ftx.data.dataset import Entry
from ftx.data.shards.paths import images_root
from ftx.recipe.schema import Recipe
from ftx.runs.data_jsonl import ENTRIES, entries_digest, read_entries
from ftx.runs.run_json import RESUME
from ftx.training.checkpoints import Origin, train_again_command
from ftx.training.init_from import DATA_PATH, FOLLOW_LINKS_KEY, check_address, without_untyped_links
from ftx.training.opening import ResolvedTraining


def recipe_to_resume(
    run: Path, trained_with: Recipe, overrides: Sequence[str], flags: Mapping[str, object] | None
) -> Recipe:
    """The recipe of a run, changed by ``key=value`` and flags, if it is still the recipe of its training.

    Raises: RecipeError with each key that differs, its value then and now; DataError if its images are gone.
    """
    path = run / "recipe.yaml"
    if not path.exists():  # the checkpoint contains it too
        write_atomic(path, trained_with.dumps().encode())
    now = Recipe.build(path, overrides, flags)
    for where, recipe in ((path, Recipe.load(path)), (None, now)):
        # Keys that are auto are decided later, and compared then (``check_same_inputs``).
        if found := _differences(trained_with, recipe, without="auto"):
            raise RecipeError(
                "the recipe must be the one that the training began with",
                where=where,
                found=listed(found),
                fix="undo these changes to resume, or start a new run with them",
            )
    check_address(run, now, overrides, flags, RESUME)
    if not is_elsewhere(now.data.path) and not images_root(now.data.path).exists():
        raise DataError(
            "the images of this training are not where they were when it began",
            where=now.data.path,
            fix="run the command in the folder where training began, or name the folder of images: --data DIR",
        )
    return without_untyped_links(now, overrides, flags)


def _differences(then: Recipe, now: Recipe, without: str = "") -> list[str]:
    before = then.by_key()
    # How the images are found decides nothing, nor what is written of an adapter if there is none.
    idle = (DATA_PATH, FOLLOW_LINKS_KEY, *(("adapter.",) if then.model.peft == now.model.peft == "none" else ()))
    return [
        f"{key}: {after}, was {before[key]}"
        for key, after in now.by_key().items()
        if not key.startswith(idle) and after not in (before[key], without)
    ]


def check_same_inputs(run: Path, origin: Origin, now: ResolvedTraining) -> None:
    """Check that base and data are those that the training started with.

    Raises: RunError with what differs; RecipeError if the recipe means something else here.
    """
    base_digest, entries = now.prepared.backbone.digest, now.dataset.entries
    if base_digest != origin.base_digest:
        raise RunError(
            "the base must be the one that the training began with",
            where=run,
            found=f"hash {base_digest[:12]}…, was {origin.base_digest[:12]}…",
            fix=f"restore those weights (model.weights in recipe.yaml), or start a new run: {train_again_command(run)}",
        )
    if entries_digest(entries) != origin.data_sha256:
        raise RunError(
            "the images must be those that the training began with",
            where=now.recipe.data.path,
            found=_first_difference(read_entries(run / ENTRIES), entries),
            fix=f"restore them, or start a new run: {train_again_command(run)}",
        )
    if found := _differences(origin.recipe, now.recipe):
        raise RecipeError(
            "the recipe must give the same settings on this machine as where the training began",
            found=listed(found),
            fix=f"resume the training on that machine, or start a new run: {train_again_command(run)}",
        )


def _first_difference(before: Sequence[Entry], now: Sequence[Entry]) -> str:
    was, found = ({entry.path: entry for entry in entries} for entries in (before, now))
    for path in sorted(was.keys() | found.keys()):
        if was.get(path) != found.get(path):
            what = "is new" if path not in was else "is gone" if path not in found else "has changed"
            return f"{path} {what}"
    return "the images are listed in another order"
