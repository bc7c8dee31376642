"""What must not have changed for a training to go on: its recipe, its data, its base."""

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
from ftx.training.checkpoints import Origin
from ftx.training.named_data import DATA_PATH, FOLLOW_LINKS_KEY, refuse_address_of, without_untyped_links
from ftx.training.resolve import Resolved


def recipe_to_go_on_with(
    run: Path, trained_with: Recipe, overrides: Sequence[str], flags: Mapping[str, object] | None
) -> Recipe:
    """The recipe of a run, with ``key=value`` and flags laid over it, if it is the one that its training began with.

    Raises: RecipeError naming each key by which another training would have begun, its value then and now; DataError
    where its images are gone.
    """
    path = run / "recipe.yaml"
    if not path.exists():  # the checkpoint holds it too
        write_atomic(path, trained_with.dumps().encode())
    now = Recipe.build(path, overrides, flags)
    for where, recipe in ((path, Recipe.load(path)), (None, now)):
        # What is auto is decided below, and compared then (``refuse_other``).
        if found := _differences(trained_with, recipe, without="auto"):
            raise RecipeError(
                "the recipe is another one than the training began with",
                where=where,
                found=listed(found),
                fix="leave the keys as they were to go on, or train anew with the changes",
            )
    refuse_address_of(run, now, overrides, flags, RESUME)
    if not is_elsewhere(now.data.path) and not images_root(now.data.path).exists():
        raise DataError(
            "the images of this training are not where they were",
            where=now.data.path,
            fix="run the command from the folder where training began, or name their folder: --data DIR",
        )
    return without_untyped_links(now, overrides, flags)


def _differences(then: Recipe, now: Recipe, without: str = "") -> list[str]:
    before = then.by_key()
    return [
        f"{key}: {after}, was {before[key]}"
        for key, after in now.by_key().items()
        # How the images are found decides nothing.
        if key not in (DATA_PATH, FOLLOW_LINKS_KEY) and after not in (before[key], without)
    ]


def refuse_other(run: Path, origin: Origin, now: Resolved) -> None:
    """Refuse a base or data that are others than those that the training began with.

    Raises: RunError naming what differs; RecipeError where the recipe means something else here.
    """
    base_digest, entries = now.prepared.backbone.digest, now.dataset.entries
    if base_digest != origin.base_digest:
        raise RunError(
            "the base is another one than the training began with",
            where=run,
            found=f"digest {base_digest[:12]}…, was {origin.base_digest[:12]}…",
            fix="restore the weights that it began with (model.weights in recipe.yaml)",
        )
    if entries_digest(entries) != origin.data_sha256:
        raise RunError(
            "the data are others than the training began with",
            where=now.recipe.data.path,
            found=_first_difference(read_entries(run / ENTRIES), entries),
            fix="restore them, or train anew",
        )
    if found := _differences(origin.recipe, now.recipe):
        raise RecipeError("the recipe means something else here than where the training began", found=listed(found))


def _first_difference(before: Sequence[Entry], now: Sequence[Entry]) -> str:
    was, found = ({entry.path: entry for entry in entries} for entries in (before, now))
    for path in sorted(was.keys() | found.keys()):
        if was.get(path) != found.get(path):
            what = "is new" if path not in was else "is gone" if path not in found else "has changed"
            return f"{path} {what}"
    return "the images are listed otherwise"
