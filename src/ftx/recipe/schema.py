"""The recipe: everything that decides a training run, read from YAML, flags and ``--set``.

A recipe is checked where it enters, and all that is wrong with it is said at once, one line a key:
``train.lrate: unknown key, did you mean 'lr'?``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, cast

from pydantic import ConfigDict, Field, ValidationError

from ftx.core.errors import LINES, RecipeError, first_lines
from ftx.core.regular_files import read_file
from ftx.recipe.error_lines import dotted_keys, error_lines, unknown_key
from ftx.recipe.otx import from_otx, is_otx
from ftx.recipe.sections import AdapterRecipe, DataRecipe, Method, ModelRecipe, Section, TrainRecipe, ValidateRecipe
from ftx.recipe.strict_yaml import YamlError, dump_yaml, parse_yaml
from ftx.recipe.value_types import Seed
from ftx.tasks.names import TaskName

# A recipe is a page of text; whatever is larger was not meant to be one.
MAX_RECIPE_BYTES = 1 << 20


class Recipe(Section):
    """A whole training run, and what is asked of what is made from it; every key has a default."""

    # Pydantic has a method ``validate``, so the section of that name is called otherwise in Python.
    model_config = ConfigDict(serialize_by_alias=True)

    task: TaskName = "multiclass"
    seed: Seed = 0
    data: DataRecipe = DataRecipe()
    model: ModelRecipe = ModelRecipe()
    adapter: AdapterRecipe = AdapterRecipe()
    train: TrainRecipe = TrainRecipe()
    validation: Annotated[ValidateRecipe, Field(alias="validate")] = ValidateRecipe()

    SECTIONS: ClassVar[tuple[str, ...]] = ("data", "model", "adapter", "train", "validate")

    @property
    def method(self) -> Method:
        """Which of the four methods it asks for."""
        if self.model.peft != "none":
            return self.model.peft
        return "linear" if self.model.freeze_backbone else "full"

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read a recipe from a YAML file.

        Raises: RecipeError if the file cannot be read, or with all that is wrong in it.
        """
        return cls.build(config=path)

    @classmethod
    def loads(cls, text: str) -> Recipe:
        """Read a recipe of ours from YAML text.

        Raises: RecipeError with all that is wrong in it.
        """
        return _resolve(_mapping(text, None), (), {}, None)

    @classmethod
    def build(
        cls,
        config: Path | None = None,
        overrides: Sequence[str] = (),
        flags: Mapping[str, object] | None = None,
    ) -> Recipe:
        """Make a recipe of a file (or the defaults), then ``key=value`` overrides, then flags by dotted key.

        Flags whose value is None were not given. A file in OTX's form is read as well.
        Raises: RecipeError with all that is wrong in the three.
        """
        base = {} if config is None else _mapping(_read(config), config)
        foreign: list[str] = []
        if is_otx(base):
            translated = from_otx(base)
            base, foreign = translated.ours, translated.problems
        given = {key: value for key, value in (flags or {}).items() if value is not None}
        return _resolve(base, overrides, given, config, foreign)

    def with_overrides(self, overrides: Sequence[str]) -> Recipe:
        """This recipe with ``train.lr=1e-4`` and the like laid over it.

        Raises: RecipeError with all that is wrong in them.
        """
        return _resolve(self.model_dump(mode="json", exclude_unset=True), overrides, {}, None)

    def with_values(self, values: Mapping[str, object]) -> Recipe:
        """This recipe with values by dotted key laid over it.

        Raises: RecipeError with all that is wrong in them.
        """
        return _resolve(self.model_dump(mode="json", exclude_unset=True), (), values, None)

    def without_adapter(self) -> Recipe:
        """This recipe with nothing said of an adapter."""
        train = self.train.model_copy(update={"lora_plus": TrainRecipe().lora_plus})
        return self.model_copy(update={"adapter": AdapterRecipe(), "train": train})

    @classmethod
    def named(cls, settings: Mapping[str, object]) -> Recipe:
        """Make a recipe of keys by their last part, as ``{"epochs": 5, "rank": 16}``; None means the default.

        Raises: RecipeError with all that is wrong in them.
        """
        full = {key.rpartition(".")[2]: key for key in dotted_keys(cls)}
        return cls.build(flags={full.get(name, name): value for name, value in settings.items()})

    def with_data(self, path: Path) -> Recipe:
        """This recipe for other data, whatever number of labels that has."""
        return self.model_copy(update={"data": self.data.model_copy(update={"path": path, "classes": "auto"})})

    def dumps(self, *, defaults: bool = True) -> str:
        """The recipe as YAML, in the order of the keys' definition; ``loads`` reads it back as it was.

        Without ``defaults`` only keys that were given.
        """
        silent = {"adapter"} if self.model.peft == "none" and self.adapter == AdapterRecipe() else None
        return dump_yaml(self.model_dump(mode="json", exclude_unset=not defaults, exclude=silent))


def notes_on_otx(config: Path) -> list[str] | None:
    """What means a little else in ftx, where a file is a recipe in OTX's form; None where it is ours.

    Raises: RecipeError if it cannot be read.
    """
    document = _mapping(_read(config), config)
    return from_otx(document).notes if is_otx(document) else None


def _resolve(
    base: dict[str, object],
    overrides: Sequence[str],
    flags: Mapping[str, object],
    where: Path | None,
    foreign: Sequence[str] = (),
) -> Recipe:
    known = set(dotted_keys(Recipe))
    problems = [*foreign]
    given: dict[str, object] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            problems.append(f"{override}: an override is written key=value, as train.lr=1e-4")
            continue
        try:
            given[key.strip()] = parse_yaml(text)
        except YamlError as fault:
            problems.append(f"{key}: the value is not YAML, {fault}")
    problems += [f"{key}: given both as a flag and with --set" for key in flags if key in given]
    given.update(flags)
    unknown = [key for key in given if key not in known]
    problems += [unknown_key(key, Recipe) for key in unknown[:LINES]]
    count = len(problems) + len(unknown[LINES:])
    tree = _laid_over(base, {key: value for key, value in given.items() if key in known})
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        lines = problems + error_lines(error, Recipe)
        raise _refusal(lines, where, count + error.error_count()) from error
    if recipe.model.peft == "none":
        of_adapter = [key for key in given if key.startswith("adapter.") or key == "train.lora_plus"]
        problems += [f"{key}: contradicts model.peft none, which has no adapter" for key in of_adapter]
        count += len(of_adapter)
    if problems:
        raise _refusal(problems, where, count)
    return recipe


def _laid_over(base: Mapping[str, object], given: Mapping[str, object]) -> dict[str, object]:
    # A section left empty in YAML (`train:` and nothing below) reads as None and means its defaults.
    tree = {key: value for key, value in base.items() if not (value is None and key in Recipe.SECTIONS)}
    for key, value in given.items():
        section, _, leaf = key.rpartition(".")
        if not section:
            tree[leaf] = value
            continue
        inside = tree.get(section, {})
        if isinstance(inside, Mapping):  # else the file's own mistake is reported in its place
            tree[section] = {**cast("Mapping[str, object]", inside), leaf: value}
    return tree


def _refusal(problems: Sequence[str], where: Path | None, count: int) -> RecipeError:
    """The error of ``count`` things that are wrong, of which ``problems`` says the first."""
    lines = first_lines(problems, count)
    what = lines[0] if count == 1 else "\n  ".join([f"{count:,} errors in the recipe:", *lines])
    return RecipeError(what, where=where, mend="`ftx schema recipe` lists every key, its type and its default")


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise RecipeError(
                "this is no recipe", where=path, found=f"{path.stat().st_size} bytes", mend="give a YAML file of ftx"
            )
        return read_file(path).decode()
    except OSError as error:
        raise RecipeError(
            "the recipe cannot be read", where=path, found=error.strerror, mend="check the path given with --config"
        ) from error
    except UnicodeDecodeError as error:
        raise RecipeError("the recipe is not UTF-8 text", where=path, mend="give a YAML file of ftx") from error


def _mapping(text: str, where: Path | None) -> dict[str, object]:
    try:
        value = parse_yaml(text)
    except YamlError as fault:
        raise RecipeError(
            f"the recipe is not plain YAML: {fault}", where=where, mend="write plain keys and values, as in recipe.yaml"
        ) from fault
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RecipeError(
            "a recipe is a mapping of keys", where=where, found=type(value).__name__, mend="write lines as 'seed: 0'"
        )
    return cast("dict[str, object]", value)
