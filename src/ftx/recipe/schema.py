"""The recipe: everything that decides a training run, read from YAML, flags and ``--set``.

A recipe is checked when it is read. All its errors are reported at once, one line per key:
``train.lrate: unknown key, did you mean 'lr'?``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, cast

from pydantic import ConfigDict, Field, ValidationError

from ftx.core.errors import LINES, RecipeError, first_lines, listed
from ftx.recipe.error_lines import dotted_keys, error_lines, unknown_key
from ftx.recipe.method_defaults import ADAPTERS, Method
from ftx.recipe.otx import from_otx, is_otx
from ftx.recipe.sections import (
    PRESETS,
    AdapterRecipe,
    DataRecipe,
    ModelRecipe,
    PresetName,
    Section,
    TrainRecipe,
    ValidateRecipe,
    preset_named,
)
from ftx.recipe.strict_yaml import YamlError, dump_yaml, parse_document, parse_yaml, read_document
from ftx.recipe.value_types import Seed
from ftx.tasks.task_names import TaskName


class Recipe(Section):
    """A whole training run, and the bound for what is exported from it; every key has a default."""

    # Pydantic has a method ``validate``, so the section has another name in Python.
    model_config = ConfigDict(serialize_by_alias=True)

    task: TaskName = "multiclass"
    """multiclass (one label per image), multilabel (several), or hierarchical (a label tree)."""
    seed: Seed = 0
    """The seed of all random numbers."""
    data: DataRecipe = DataRecipe()
    model: ModelRecipe = ModelRecipe()
    adapter: AdapterRecipe = AdapterRecipe()
    train: TrainRecipe = TrainRecipe()
    validation: Annotated[ValidateRecipe, Field(alias="validate")] = ValidateRecipe()

    SECTIONS: ClassVar[tuple[str, ...]] = ("data", "model", "adapter", "train", "validate")

    @property
    def method(self) -> Method:
        """How the recipe trains."""
        if self.model.peft != "none":
            return self.model.peft
        return "linear" if self.model.freeze_backbone else "full"

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read a recipe from a YAML file.

        Raises: RecipeError if the file cannot be read, or with all its errors.
        """
        return cls.build(config=path)

    @classmethod
    def loads(cls, text: str) -> Recipe:
        """Read a recipe in ftx's own form from YAML text.

        Raises: RecipeError with all its errors.
        """
        return _checked(parse_document(text), {}, [], None)

    @classmethod
    def build(
        cls,
        config: Path | None = None,
        overrides: Sequence[str] = (),
        flags: Mapping[str, object] | None = None,
        preset: str | None = None,
    ) -> Recipe:
        """Make a recipe from a file (or the defaults), then ``key=value`` overrides, then flags by dotted key.

        A ``preset`` sets the keys that none of them has. Flags with the value None were not given. The file may be in
        OTX's form.
        Raises: RecipeError with all errors of the three; InputError for an unknown preset.
        """
        named = None if preset is None else preset_named(preset)
        document = {} if config is None else read_document(config)
        problems: list[str] = []
        if is_otx(document):
            translated = from_otx(document)
            usual = {} if named else translated.usual
            document, problems = _with_keys({}, {**usual, **translated.ours}), translated.problems
        try:
            return _with_given(_with_preset(document, named), overrides, flags, problems, config)
        except RecipeError as error:
            if named is None:
                raise
            _with_given(document, overrides, flags, problems, config)  # raises what is wrong without the preset
            keys = listed([f"{key}={value}" for key, value in PRESETS[named].items()])
            raise RecipeError(
                error.what,
                where=config,
                found=f"--preset {preset}, which sets {keys}",
                fix=f"run it again without --preset {preset}, or without the keys that contradict it",
            ) from error

    def with_overrides(self, overrides: Sequence[str], flags: Mapping[str, object] | None = None) -> Recipe:
        """This recipe changed by ``train.lr=1e-4`` and the like, then by flags as ``build`` takes them.

        Raises: RecipeError with all their errors.
        """
        return _with_given(self.model_dump(exclude_unset=True), overrides, flags, [], None)

    def by_key(self) -> dict[str, object]:
        """Every key by its dotted name, with its value as in YAML."""
        values = self.model_dump(mode="json", by_alias=True)
        parts = ((key, *key.rpartition(".")[::2]) for key in dotted_keys(type(self)))
        return {key: values[section][leaf] if section else values[leaf] for key, section, leaf in parts}

    def replace(self, **sections: Mapping[str, object]) -> Recipe:
        """This recipe with keys of its sections set to valid values, as ``replace(train={"epochs": 2})``."""
        changed: dict[str, Section] = {}
        for name, values in sections.items():
            section: Section = getattr(self, name)
            assert values.keys() <= type(section).model_fields.keys(), f"{name} has no such keys: {[*values]}"
            changed[name] = section.model_copy(update=values)
        return self.model_copy(update=changed)

    def without_adapter(self) -> Recipe:
        """This recipe with the defaults of all keys of an adapter."""
        plain = self.model_copy(update={"adapter": AdapterRecipe()})
        return plain.replace(train={"lora_plus": TrainRecipe().lora_plus})

    def with_data(self, path: Path) -> Recipe:
        """This recipe for other data, whatever number of labels that has."""
        return self.replace(data={"path": path, "classes": "auto"})

    @classmethod
    def named(cls, settings: Mapping[str, object]) -> Recipe:
        """Make a recipe from keys by their last part, as ``{"epochs": 5, "rank": 16}``; None means the default.

        Raises: RecipeError with all their errors.
        """
        full = {key.rpartition(".")[2]: key for key in dotted_keys(cls)}
        return cls.build(flags={full.get(name, name): value for name, value in settings.items()})

    def dumps(self, *, defaults: bool = True) -> str:
        """The recipe as YAML, in the order of the keys' definition; ``loads`` reads back an equal one.

        Without ``defaults`` only keys that were given.
        """
        idle = {"adapter"} if self.model.peft == "none" and self.adapter == AdapterRecipe() else None
        return dump_yaml(self.model_dump(mode="json", exclude_unset=not defaults, exclude=idle))


def notes_on_otx(config: Path) -> list[str] | None:
    """Where ftx differs from OTX, if a file is a recipe in OTX's form; None if it is in ftx's.

    Raises: RecipeError if it cannot be read.
    """
    document = read_document(config)
    return from_otx(document).notes if is_otx(document) else None


def _with_preset(document: Mapping[str, object], preset: PresetName | None) -> Mapping[str, object]:
    """A document with the keys of a preset that it does not have."""
    keys = {f"{section}.{key}" for section, inside in document.items() if isinstance(inside, Mapping) for key in inside}
    missing = {} if preset is None else {key: value for key, value in PRESETS[preset].items() if key not in keys}
    return _with_keys(document, missing)


def _with_given(
    document: Mapping[str, object],
    overrides: Sequence[str],
    flags: Mapping[str, object] | None,
    problems: Sequence[str],
    where: Path | None,
) -> Recipe:
    """The recipe of a document, changed by ``key=value`` texts and by flags.

    Raises: RecipeError with the ``problems`` of the document, and all others.
    """
    given: dict[str, object] = {}
    lines = list(problems)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            lines.append(f"{override}: an override is written key=value, as train.lr=1e-4")
            continue
        try:
            given[key.strip()] = parse_yaml(text)
        except YamlError as fault:
            lines.append(f"{key}: the value is not YAML, {fault}")
    flagged = {key: value for key, value in (flags or {}).items() if value is not None}
    lines += [f"{key}: given both as a flag and with --set" for key in flagged if key in given]
    return _checked(document, given | flagged, lines, where)


def _checked(
    document: Mapping[str, object], given: Mapping[str, object], lines: Sequence[str], where: Path | None
) -> Recipe:
    """The recipe of a document, changed by what was given by dotted key.

    Raises: RecipeError with the ``lines`` of errors found so far, and all others.
    """
    known = set(dotted_keys(Recipe))
    unknown = [key for key in given if key not in known]
    # The nearest known key is only computed for lines that are shown.
    lines = [*lines, *(unknown_key(key, Recipe) for key in unknown[:LINES]), *unknown[LINES:]]
    try:
        recipe = Recipe.model_validate(_with_keys(document, {key: given[key] for key in given if key in known}))
    except ValidationError as error:
        raise _error_of(lines + error_lines(error, Recipe), len(lines) + error.error_count(), where) from error
    if recipe.model.peft == "none":
        of_adapter = [key for key in given if key.startswith("adapter.") or key == "train.lora_plus"]
        lines += [
            f"{key}: contradicts method {recipe.method} (model.peft none), which has no adapter" for key in of_adapter
        ]
    else:
        name, facts = recipe.model.peft, ADAPTERS[recipe.model.peft]
        values, defaults = recipe.by_key(), Recipe().by_key()
        unused = [key for key in facts.unused if values[key] != defaults[key]]
        lines += [
            f"{key}: contradicts method {name} (model.peft {name}): {facts.title} has no such setting" for key in unused
        ]
    if lines:
        raise _error_of(lines, len(lines), where)
    return recipe


def _with_keys(document: Mapping[str, object], given: Mapping[str, object]) -> dict[str, object]:
    # A section left empty in YAML (`train:` and nothing below) reads as None and means its defaults.
    tree = {key: value for key, value in document.items() if not (value is None and key in Recipe.SECTIONS)}
    for key, value in given.items():
        section, _, leaf = key.rpartition(".")
        if not section:
            tree[leaf] = value
            continue
        inside = tree.get(section, {})
        if isinstance(inside, Mapping):  # else the file's own mistake is reported in its place
            tree[section] = {**cast("Mapping[str, object]", inside), leaf: value}
    return tree


def _error_of(lines: Sequence[str], count: int, where: Path | None) -> RecipeError:
    """The error of ``count`` problems, of which ``lines`` are the first."""
    shown = first_lines(lines, count)
    what = shown[0] if count == 1 else "\n  ".join([f"{count:,} errors in the recipe:", *shown])
    return RecipeError(
        what, where=where, fix="correct it; `ftx schema recipe` lists every key, its type and its default"
    )
