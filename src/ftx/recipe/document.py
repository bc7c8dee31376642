"""The text of a recipe, read as plain keys and values that nothing has checked yet."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from ftx.core.errors import RecipeError
from ftx.core.untrusted_input import read_file
from ftx.recipe.strict_yaml import YamlError, parse_yaml

# A recipe is a page of text; whatever is larger was not meant to be one.
MAX_RECIPE_BYTES = 1 << 20


def read_document(path: Path, of: str = "recipe") -> dict[str, object]:
    """The keys and values of a recipe's file, or of another one that is written ``of`` its keys.

    Raises: RecipeError if it cannot be read, or holds no plain YAML.
    """
    try:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise RecipeError(
                f"this is no {of}", where=path, found=f"{path.stat().st_size} bytes", fix="give a YAML file of ftx"
            )
        text = read_file(path).decode()
    except OSError as error:
        raise RecipeError(f"the {of} cannot be read", where=path, found=error.strerror, fix="check its path") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"the {of} is not UTF-8 text", where=path, fix="give a YAML file of ftx") from error
    return parse_document(text, path, of)


def parse_document(text: str, where: Path | None = None, of: str = "recipe") -> dict[str, object]:
    """The keys and values of a recipe's text, which stands in the file ``where`` if in any.

    Raises: RecipeError if it is no plain YAML.
    """
    try:
        value = parse_yaml(text)
    except YamlError as fault:
        raise RecipeError(
            f"the {of} is not plain YAML: {fault}", where=where, fix="write plain keys and values, as in recipe.yaml"
        ) from fault
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RecipeError(
            f"a {of} is a mapping of keys", where=where, found=type(value).__name__, fix="write lines as 'seed: 0'"
        )
    return cast("dict[str, object]", value)
