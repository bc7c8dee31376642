"""Where a command says that its images lie: a run does not name an address for one, nor follow links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ftx.core.addresses import as_typed, data_option, is_elsewhere
from ftx.core.errors import DataError, shell_command, shown
from ftx.recipe.schema import Recipe

# Where the images lie decides nothing: that they are the same is asked of themselves.
DATA_PATH = "data.path"


FOLLOW_LINKS_KEY = "data.follow_links"


def without_untyped_links(recipe: Recipe, overrides: Sequence[str], flags: Mapping[str, object] | None) -> Recipe:
    """The recipe of a run, which follows links only where ``key=value`` or a flag says so."""
    said = [one for one in overrides if one.partition("=")[0].strip() == FOLLOW_LINKS_KEY]
    typed = Recipe.build(None, said, {FOLLOW_LINKS_KEY: (flags or {}).get(FOLLOW_LINKS_KEY)}).data.follow_links
    return recipe.replace(data={"follow_links": typed})


def data_path(overrides: Sequence[str], flags: Mapping[str, object] | None) -> Path | None:
    """Where ``key=value`` and flags say that the images lie; None where they do not."""
    said = [one for one in overrides if one.partition("=")[0].strip() == DATA_PATH]
    data = Recipe.build(None, said, {DATA_PATH: (flags or {}).get(DATA_PATH)}).data
    return data.path if "path" in data.model_fields_set else None


def refuse_address_of(
    run: Path, recipe: Recipe, overrides: Sequence[str], flags: Mapping[str, object] | None, command: str
) -> None:
    """Refuse images at an address that the recipe of a run names, and neither ``key=value`` nor a flag.

    Raises: DataError with the ``command`` that says it.
    """
    if is_elsewhere(recipe.data.path) and data_path(overrides, flags) is None:
        there = as_typed(recipe.data.path)
        raise DataError(
            "the images of this training lie at an address, which a run must not name",
            where=run / "recipe.yaml",
            found=shown(there),
            fix=f"name where they lie, if you trust it: {shell_command(command, run)} {data_option(there)}",
        )
