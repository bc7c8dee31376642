"""The space that a study searches: keys of the recipe, each with its choices or its range.

train.lr: {low: 1e-4, high: 3e-3, log: true}
adapter.rank: [4, 8, 16]
adapter.blocks: [2, 4, all]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ftx.backbones.architecture_table import SupportedModel, read_architectures
from ftx.core.errors import InputError, RecipeError, first_error, nearest
from ftx.recipe.document import read_document
from ftx.recipe.schema import Recipe
from ftx.recipe.strict_yaml import dump_yaml
from ftx.training.optimizer import peak_lr

if TYPE_CHECKING:
    from optuna import Trial

# What suits the method at hand, from a fifth of it to five times.
_AROUND = 5.0
# Of patches in three blocks, so that half the work and less is left behind the last: docs/pages/numbers.md.
_FEWER = {3: 0.7, 6: 0.7, 9: 0.7}
# What decides which images a trial is judged by: of other images it is no better or worse.
_SAME_FOR_ALL = ("task", "data.path", "data.format", "data.val_fraction", "data.classes", "model.from_run")
# Of the image size that the recipe says.
_SIDES = (0.5, 0.75, 1.0)


class Range(BaseModel):
    """Numbers from ``low`` to ``high``, both included; whole ones where both are; ``log``: each factor as likely."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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

    @property
    def ends(self) -> tuple[object, object]:
        """Both ends, which the recipe must take."""
        return self.low, self.high


Choices = tuple[object, ...]


class Space(BaseModel):
    """What a trial draws of each key."""

    model_config = ConfigDict(frozen=True)

    keys: dict[str, Range | Choices]

    def suggested(self, trial: Trial) -> dict[str, object]:
        """The values of the keys that the study's sampler takes for a trial."""
        return {key: _suggested(trial, key, values) for key, values in self.keys.items()}

    def values(self, kept: Mapping[str, object]) -> dict[str, object]:
        """The values of the keys, from what a study has kept of a trial."""
        return {
            key: _by_name(values).get(str(kept[key]), kept[key]) for key, values in self.keys.items() if key in kept
        }

    def dumps(self) -> str:
        """As the file has it."""
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
    """Choices by what they are called: one may be a list or a mapping, which no storage keeps."""
    return {} if isinstance(values, Range) else {str(value): value for value in values}


def read_space(path: Path, recipe: Recipe) -> Space:
    """The space of a file, each of whose values the recipe takes.

    Raises: RecipeError with all that is wrong in it.
    """
    document = read_document(path, of="space")
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
            said = first_error(error) if isinstance(error, ValidationError) else error.what
            problems.append(f"{key}: {said}")
            continue
        problems += _refused(recipe, key, found[key])
    if not document:
        problems.append("no key is to be searched")
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


def _refused(recipe: Recipe, key: str, values: Range | Choices) -> list[str]:
    """What the recipe says against each value, alone."""
    said: list[str] = []
    for value in values.ends if isinstance(values, Range) else values:
        try:
            recipe.with_overrides([], {key: value})
        except RecipeError as error:
            said += [line.strip() for line in error.what.splitlines() if line.strip().startswith(f"{key}:")] or [
                f"{key}: {value}: {error.what.splitlines()[-1].strip()}"
            ]
    return said


def default_space(recipe: Recipe) -> Space:
    """What matters for the model and the method: rate, rank, blocks, tokens and image size, where there are some."""
    found: dict[str, Range | Choices] = {}
    if recipe.method != "linear":
        rate = peak_lr(recipe.train, recipe.method)
        found["train.lr"] = Range(low=rate / _AROUND, high=rate * _AROUND, log=True)
    model = _model(recipe.model.name)
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
        found["data.image_size"] = tuple(dict.fromkeys([round(side * share / patch) * patch for share in _SIDES]))
    if not found:
        raise InputError(
            "nothing of this recipe is searched by itself",
            found=recipe.method,
            fix="say what is to be searched: --space FILE",
        )
    return Space(keys=found)


def _model(name: str) -> SupportedModel | None:
    return next((one for one in read_architectures().matching(None) if one.name == name), None)
