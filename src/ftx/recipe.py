"""The recipe: everything that decides a training run, read from YAML, flags and ``--set``.

A recipe is checked where it enters, and all that is wrong with it is said at once, one line a key:
``train.lrate: unknown key, did you mean 'lr'?``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from ftx.complaints import complaint_lines, dotted_keys, unknown_key
from ftx.errors import LINES, RecipeError, first_lines
from ftx.otx import from_otx, is_otx
from ftx.reading import read_file
from ftx.strict_yaml import YamlError, dump_yaml, parse_yaml
from ftx.targets import TARGETS, Blocks, Target, alpha_or_alphas, block_choice, rank_or_ranks, target_list
from ftx.values import (
    Count,
    Number,
    Sides,
    Switch,
    Text,
    auto_or_count,
    auto_or_rate,
    auto_or_size,
    expression,
    no_bool,
    plain_path,
)

TaskName = Literal["multiclass", "multilabel", "hierarchical"]
PeftMethod = Literal["lora", "dora", "none"]
Method = Literal["lora", "dora", "linear", "full"]
Precision = Literal["auto", "f32", "bf16"]
Augmentation = Literal["light", "none"]
LossName = Literal["asymmetric", "bce"]
BalanceName = Literal["none", "sampling", "loss"]
AdapterInit = Literal["zero", "pissa"]

# The share of images that an artifact may lose: two points, as a user would notice more.
MAX_DROP = 0.02

# A recipe is a page of text; whatever is larger was not meant to be one.
MAX_RECIPE_BYTES = 1 << 20


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class DataRecipe(_Section):
    """What is trained on.

    ``format`` auto knows folders, tables, COCO and Datumaro's JSON by themselves; any other of Datumaro's formats is
    named (voc, imagenet_txt, ...) and needs the extra ``datumaro``.
    ``val_fraction`` is the share of training images to choose by, where the data has no val of its own.
    ``classes`` is how many labels the recipe was written for; the data decides, and training says where they differ.
    ``image_size`` is the side of a square, or HEIGHTxWIDTH as in ``224x160``; auto is the model's pretrained size, and
    224 for dinov2, whose own 518 is too slow for this use.
    """

    path: Annotated[Path, BeforeValidator(plain_path)] = Path("data")
    format: Text = "auto"
    image_size: Annotated[Literal["auto"] | int | Sides, BeforeValidator(auto_or_size)] = "auto"
    val_fraction: Annotated[Number, Field(gt=0, le=0.5)] = 0.2
    classes: Annotated[Literal["auto"] | int, BeforeValidator(auto_or_count)] = "auto"


class ModelRecipe(_Section):
    """What is trained, and by which of the four methods.

    lora and dora train an adapter and the head; ``none`` trains everything, or with ``freeze_backbone``
    the head alone (linear probing). ``weights`` is auto, none (seeded random) or a safetensors file; one made on grey
    images answers in RGB as it did on the grey of an image, 0.299 R + 0.587 G + 0.114 B.
    """

    name: Text = "dinov2-small"
    weights: Text = "auto"
    peft: PeftMethod = "dora"
    freeze_backbone: Switch = False

    @model_validator(mode="before")
    @classmethod
    def _probing_needs_no_adapter(cls, given: object) -> object:
        # The default of peft is dora; asked for a frozen backbone and nothing else, linear probing is meant.
        if isinstance(given, dict) and "peft" not in given and given.get("freeze_backbone") in (True, "true"):
            return {**cast("dict[str, object]", given), "peft": "none"}
        return cast("object", given)

    @field_validator("freeze_backbone")
    @classmethod
    def _adapter_or_frozen(cls, frozen: bool, info: ValidationInfo) -> bool:
        peft: object = info.data.get("peft", "none")
        if frozen and peft != "none":
            raise PydanticCustomError(
                "ftx", "contradicts model.peft {peft}: linear probing trains no adapter (use peft none)", {"peft": peft}
            )
        return frozen


class AdapterRecipe(_Section):
    """The adapter of LoRA and DoRA: scaling is alpha / rank, alpha / sqrt(rank) with ``rslora``.

    ``targets`` are q, k, v, proj, fc1, fc2, or attn, mlp, all; ``rank`` and ``alpha`` are one number, or one for each
    target (``{attn: 4, mlp: 16}``). ``blocks`` is all, N for the last N, ``first:N``, or a list counted from 0.
    ``layers`` names linear layers by a regular expression of their whole name, for families that ftx does not know;
    targets and blocks then say nothing. ``init`` pissa starts from the principal singular vectors of each weight
    (arXiv:2404.02948), zero from B = 0, which changes nothing at first.
    """

    rank: Annotated[int | dict[Target, int], BeforeValidator(rank_or_ranks)] = 8
    alpha: Annotated[float | dict[Target, float], BeforeValidator(alpha_or_alphas)] = 16.0
    targets: Annotated[tuple[Target, ...], BeforeValidator(target_list), Field(validate_default=True)] = TARGETS
    blocks: Annotated[Blocks, BeforeValidator(block_choice)] = "all"
    layers: Annotated[str, BeforeValidator(expression)] = "auto"
    init: AdapterInit = "zero"
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    rslora: Switch = False

    @field_validator("targets")
    @classmethod
    def _each_has_its_rank(cls, targets: tuple[Target, ...], info: ValidationInfo) -> tuple[Target, ...]:
        for key in ("rank", "alpha"):
            each: object = info.data.get(key)
            if isinstance(each, dict) and each.keys() != set(targets):
                told = {"key": key, "each": ", ".join(cast("dict[str, float]", each)), "targets": ", ".join(targets)}
                form = "are {targets}, and {key} for {each} alone: give one number, or one for each"
                raise PydanticCustomError("ftx", form, told)
        return targets

    @field_validator("dropout")
    @classmethod
    def _on_a_change_alone(cls, dropout: float, info: ValidationInfo) -> float:
        # PiSSA's side path carries the principal part of the weight: dropping its input drops what was pretrained.
        if dropout > 0 and info.data.get("init") == "pissa":
            raise PydanticCustomError("ftx", "contradicts adapter.init pissa, whose factors are a part of the weight")
        return dropout

    @field_validator("layers")
    @classmethod
    def _instead_of_targets(cls, layers: str, info: ValidationInfo) -> str:
        if layers != "auto":
            for key, default in (("targets", TARGETS), ("blocks", "all")):
                if info.data.get(key, default) != default:
                    raise PydanticCustomError("ftx", "contradicts adapter.{key}: it names the layers", {"key": key})
            if any(isinstance(info.data.get(key), dict) for key in ("rank", "alpha")):
                raise PydanticCustomError("ftx", "takes one rank and one alpha for all layers")
        return layers


class TrainRecipe(_Section):
    """How it is trained: AdamW, a linear warm-up and a cosine down to zero.

    ``lr`` auto is what suits the method: 1e-3 for lora and dora, 5e-3 for linear probing, 2e-5 for full fine-tuning.
    ``augment`` applies where the whole network trains: frozen leading blocks see each image once, as it is, and the
    run's recipe then says none. ``batch_size`` is there at most the number of training images.
    ``lora_plus`` is how many times the rate of A that of B is (LoRA+, arXiv:2402.12354, which finds 16 good).
    ``loss`` is that of labels that decide by themselves, ``label_smoothing`` that of labels that exclude each other.
    ``balance`` helps rare labels: sampling draws their images more often, loss weighs them by 1 / frequency.
    ``warmup_share`` is the share of all steps that warm up; ``patience`` the epochs without a better
    metric after which training stops. ``tensorboard`` writes its curves to reports/tensorboard (extra ``tensorboard``).
    """

    epochs: Count = 10
    batch_size: Count = 16
    lr: Annotated[Literal["auto"] | float, BeforeValidator(auto_or_rate)] = "auto"
    lora_plus: Annotated[Number, Field(gt=0)] = 1.0
    weight_decay: Annotated[Number, Field(ge=0)] = 0.05
    precision: Precision = "auto"
    warmup_share: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    loss: LossName = "asymmetric"
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    balance: BalanceName = "none"
    augment: Augmentation = "light"
    patience: Count = 5
    tensorboard: Switch = False


class ValidateRecipe(_Section):
    """What ``ftx validate`` asks of each artifact: ``max_drop`` is the share of images that may be lost, net of those
    won.

    ``--max-drop`` sets another one.
    """

    max_drop: Annotated[Number, Field(gt=0, lt=1)] = MAX_DROP


class Recipe(_Section):
    """A whole training run, and what is asked of what is made from it; every key has a default."""

    # Pydantic has a method ``validate``, so the section of that name is called otherwise in Python.
    model_config = ConfigDict(serialize_by_alias=True)

    task: TaskName = "multiclass"
    seed: Annotated[int, BeforeValidator(no_bool), Field(ge=0, lt=2**63)] = 0
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


# What the same keys are called in peft, transformers and timm.
_SYNONYMS = {
    "learning_rate": "lr",
    "r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "use_rslora": "rslora",
    "target_modules": "targets",
    "num_train_epochs": "epochs",
    "img_size": "image_size",
    "pretrained": "weights",
    "loraplus_lr_ratio": "lora_plus",
    "init_lora_weights": "init",
}


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
    problems += [unknown_key(key, Recipe, _SYNONYMS) for key in unknown[:LINES]]
    count = len(problems) + len(unknown[LINES:])
    tree = _laid_over(base, {key: value for key, value in given.items() if key in known})
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        lines = problems + complaint_lines(error, Recipe, _SYNONYMS)
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
