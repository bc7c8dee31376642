"""The space that a study searches: keys of the recipe, each with its choices or its range.

train.lr: {low: 1e-4, high: 3e-3, log: true}
adapter.rank: [4, 8, 16]
adapter.blocks: [2, 4, all]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Self

from optuna import Trial
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ftx.backbones.architecture_table import read_architectures
from ftx.core.closed_model import ClosedModel
from ftx.core.errors import InputError, RecipeError, first_error, nearest
from ftx.recipe.schema import Recipe
from ftx.recipe.strict_yaml import dump_yaml, read_document
from ftx.training.optimizer import peak_lr

# Learning rates from a fifth of the method's own to five times it.
_AROUND = 5.0
# Fraction of tokens that three blocks keep: at most half of the work is left after the last (benchmarks/inference.md).
_FEWER = {3: 0.7, 6: 0.7, 9: 0.7}
# Keys that determine the images which trials are compared on.
_SAME_FOR_ALL = ("task", "data.path", "data.format", "data.val_fraction", "data.classes", "model.from_run")
# Fractions of the recipe's image size.
_SIDES = (0.5, 0.75, 1.0)


class Range(ClosedModel):
    """Numbers from ``low`` to ``high``, both included; integers if both are; ``log``: uniform in the logarithm."""

    low: Annotated[int | float, Field(allow_inf_nan=False)]
    high: Annotated[int | float, Field(allow_inf_nan=False)]
    log: bool = False

    @model_validator(mode="after")
    def _from_low_to_high(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low must be less than high; found {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be more than 0 where log is true; found {self.low}")
        return self


Choices = tuple[object, ...]


class Space(BaseModel):
    """The range or the choices of each key."""

    model_config = ConfigDict(frozen=True)

    keys: dict[str, Range | Choices]

    def suggested(self, trial: Trial) -> dict[str, object]:
        """The values that the study's sampler draws for a trial."""
        return {key: _suggested(trial, key, values) for key, values in self.keys.items()}

    def values(self, kept: Mapping[str, object]) -> dict[str, object]:
        """The values of the keys, from the parameters of a trial in the study."""
        return {
            key: _by_name(values).get(str(kept[key]), kept[key]) for key, values in self.keys.items() if key in kept
        }

    def dumps(self) -> str:
        """The space as YAML, as in a file."""
        return dump_yaml(
            {
                key: values.model_dump() if isinstance(values, Range) else list(values)
                for key, values in self.keys.items()
            }
        )


def _suggested(trial: Trial, key: str, values: Range | Choices) -> object:
    if isinstance(values, Range):
        if isinstance(values.low, int) and isinstance(values.high, int):
            return trial.suggest_int(key, values.low, values.high, log=values.log)
        return trial.suggest_float(key, values.low, values.high, log=values.log)
    by_name = _by_name(values)
    return by_name[trial.suggest_categorical(key, list(by_name))]


def _by_name(values: Range | Choices) -> dict[str, object]:
    """Choices by their text: one may be a list or a mapping, which no storage can contain."""
    return {} if isinstance(values, Range) else {str(value): value for value in values}


def read_space(path: Path, recipe: Recipe) -> Space:
    """The space of a file, whose values are all valid in the recipe.

    Raises: RecipeError with all errors of the file.
    """
    document = read_document(path, document="space")
    found: dict[str, Range | Choices] = {}
    problems: list[str] = []
    for key, given in document.items():
        if key not in recipe.by_key():
            alike = nearest(key, recipe.by_key())  # the whole key, as this file has it, not its last part
            problems.append(f"{key}: unknown key" + (f", did you mean '{alike}'?" if alike else ""))
            continue
        if key in _SAME_FOR_ALL:
            problems.append(f"{key}: is the same for all trials, as they are compared by the same images")
            continue
        try:
            found[key] = _read(given)
        except (ValidationError, InputError) as error:
            what = first_error(error) if isinstance(error, ValidationError) else error.what
            problems.append(f"{key}: {what}")
            continue
        problems += _errors_of(recipe, key, found[key])
    if not document:
        problems.append("must have a key or more")
    if problems:
        raise RecipeError(
            f"{len(problems)} error{'s' * (len(problems) > 1)} in the space:\n"
            + "\n".join(f"  {one}" for one in problems),
            where=path,
            fix="write each key as [a, b] or {low: a, high: b, log: true}; `ftx schema recipe` lists the keys",
        )
    return Space(keys=found)


def _read(given: object) -> Range | Choices:
    if isinstance(given, Mapping):
        return Range.model_validate(given)
    if isinstance(given, Sequence) and not isinstance(given, str) and len(given) > 1:
        return tuple(given)
    raise InputError("must be two choices or more, or a range with low and high")


def _errors_of(recipe: Recipe, key: str, values: Range | Choices) -> list[str]:
    """The errors of each value in the recipe, one value at a time."""
    errors: list[str] = []
    for value in (values.low, values.high) if isinstance(values, Range) else values:
        try:
            recipe.with_overrides([], {key: value})
        except RecipeError as error:
            lines = [line.strip() for line in error.what.splitlines()]
            errors += [line for line in lines if line.startswith(f"{key}:")] or [f"{key}: {value}: {lines[-1]}"]
    return errors


def default_space(recipe: Recipe) -> Space:
    """What matters for the model and the method: learning rate, rank, blocks, tokens and image size, if it has them."""
    found: dict[str, Range | Choices] = {}
    if recipe.method != "linear":
        lr = peak_lr(recipe.train, recipe.method)
        found["train.lr"] = Range(low=lr / _AROUND, high=lr * _AROUND, log=True)
    model = next((one for one in read_architectures().matching(None) if one.name == recipe.model.name), None)
    if recipe.model.peft != "none":
        found["adapter.rank"] = (4, 8, 16)
        if model is not None and model.family == "vision_transformer" and model.blocks >= 8:
            blocks = model.blocks
            found["adapter.blocks"] = tuple(dict.fromkeys([blocks // 6, blocks // 3, 2 * blocks // 3, "all"]))
            if blocks == 12 and recipe.model.keep_tokens == "all":
                found["model.keep_tokens"] = ("all", _FEWER)
    if isinstance(recipe.data.image_size, int) and model is not None and model.any_size:
        side, named = recipe.data.image_size, re.search(r"patch(\d+)", model.architecture)
        patch = int(named[1]) if named else 32
        sides = [round(side * fraction / patch) * patch for fraction in _SIDES]
        found["data.image_size"] = tuple(dict.fromkeys(sides))
    if not found:
        raise InputError(
            "--space must be given for this method",
            found=recipe.method,
            fix="write the keys and values to search into a YAML file, and add --space FILE",
        )
    return Space(keys=found)
