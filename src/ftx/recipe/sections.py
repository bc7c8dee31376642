"""The sections of a recipe: every key, its type, its default, and what it contradicts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, cast, get_args

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from ftx.core.closed_model import ClosedModel
from ftx.core.errors import check_known
from ftx.recipe.adapter_targets import TARGETS, AlphaPerTarget, BlockChoice, RankPerTarget, Target, TargetNames
from ftx.recipe.method_defaults import AdapterName
from ftx.recipe.value_types import (
    Count,
    CountOrAuto,
    CountOrNone,
    FiniteFloat,
    FolderPath,
    FractionOrAuto,
    KeepTokens,
    LabelsOrAuto,
    LayerExpression,
    PositiveOrAuto,
    SizeOrAuto,
    Switch,
    Text,
    TrainPrecision,
)
from ftx.tasks.task_names import LossName

PeftMethod = Literal[AdapterName, "none"]
# light: random resized crop and horizontal flip. none: the preprocessing of evaluation.
Augment = Literal["light", "none"]
BalanceName = Literal["none", "sampling", "loss"]
AdapterInit = Literal["zero", "pissa"]
FrozenRuntime = Literal["torch", "openvino"]
Compile = Literal["auto", "blocks", "none"]
HeadInit = Literal["auto", "random", "probe"]

# The fraction of images that an artifact may lose: two points, as a user would notice more.
MAX_DROP = 0.02


# The keys of ``train`` in the recipe of a run, whichever ftx wrote it.
_IN_EVERY_RUN = {
    *("epochs", "batch_size", "lr", "lora_plus", "weight_decay", "precision", "warmup_share"),
    *("loss", "label_smoothing", "balance", "augment", "patience", "tensorboard"),
}


class Section(ClosedModel):
    """Keys that belong together; other keys are errors."""


class DataRecipe(Section):
    """The images to train on.

    ``format`` auto recognises folders, tables, COCO, Datumaro's JSON and shards; name any other of Datumaro's formats
    (voc, imagenet_txt, ...), which needs the extra ``datumaro``.
    ``follow_links``: images and folders may be links that lead out of the data folder.
    ``val_fraction`` is the fraction of training images used for validation, if the data has no val of its own.
    ``classes`` is how many labels the recipe was written for; the data decides, and training prints a difference.
    ``image_size`` is the side of a square, or HEIGHTxWIDTH as in ``224x160``; auto is the model's pretrained size, and
    224 for dinov2, whose own 518 is too slow for this use.
    """

    path: FolderPath = Path("data")
    format: Text = "auto"
    follow_links: Switch = False
    image_size: SizeOrAuto = "auto"
    val_fraction: Annotated[FiniteFloat, Field(gt=0, le=0.5)] = 0.2
    classes: LabelsOrAuto = "auto"


class ModelRecipe(Section):
    """The model, and the method that trains it.

    lora, dora and lokr train an adapter and the head; ``none`` trains everything, or with ``freeze_backbone`` only
    the head (linear probing). ``weights`` is auto, none (seeded random) or a safetensors file; one made on grey
    images computes the same in RGB as on the grey of an image, 0.299 R + 0.587 G + 0.114 B.
    ``keep_tokens`` is all, or by block (counted from 0) the fraction of the patches present there, rounded up, that
    this block computes: those that the class token attends to most in the block before. Fewer tokens are less work, in
    training and on the device.
    ``from_run`` is a finished run whose adapter and head training starts from, with rows of the head matched by label
    name; model, adapter, task and image size must be that run's.
    """

    name: Text = "dinov2-small"
    weights: Text = "auto"
    peft: PeftMethod = "dora"
    freeze_backbone: Switch = False
    keep_tokens: KeepTokens = "all"
    from_run: Text = "none"

    @property
    def token_fractions(self) -> dict[int, float]:
        """``keep_tokens`` by block; nothing where all stay."""
        return {} if self.keep_tokens == "all" else self.keep_tokens

    @model_validator(mode="before")
    @classmethod
    def _probing_needs_no_adapter(cls, given: object) -> object:
        # The default of peft is dora, but a frozen backbone without a peft key means linear probing.
        if isinstance(given, dict) and "peft" not in given and given.get("freeze_backbone") in (True, "true"):
            return {**cast("dict[str, object]", given), "peft": "none"}
        return cast("object", given)

    @field_validator("freeze_backbone")
    @classmethod
    def _adapter_or_frozen(cls, frozen: bool, info: ValidationInfo) -> bool:
        peft: object = info.data.get("peft", "none")
        if frozen and peft != "none":
            raise PydanticCustomError(
                "ftx",
                "must be false with model.peft {peft}: linear probing trains no adapter (set model.peft=none)",
                {"peft": peft},
            )
        return frozen


class AdapterRecipe(Section):
    """The adapter: scaling is alpha / rank, alpha / sqrt(rank) with ``rslora``.

    ``targets`` are q, k, v, proj, fc1, fc2, or attn, mlp, all; ``rank`` and ``alpha`` are one number, or one for each
    target (``{attn: 4, mlp: 16}``). ``blocks`` is all, N for the last N, ``first:N``, or a list counted from 0;
    auto is all. Blocks of a plain Vision Transformer that come before all adapters are computed only once. ``layers``
    selects linear layers by a regular expression of their whole name, for families that ftx does not support; targets
    and blocks then have no effect. ``init`` pissa starts from principal singular vectors of each weight
    (arXiv:2404.02948), zero from B = 0, which changes nothing at first.
    """

    rank: RankPerTarget = 8
    alpha: AlphaPerTarget = 16.0
    targets: TargetNames = TARGETS
    blocks: BlockChoice = "auto"
    layers: LayerExpression = "auto"
    init: AdapterInit = "zero"
    dropout: Annotated[FiniteFloat, Field(ge=0, lt=1)] = 0.0
    rslora: Switch = False

    @field_validator("targets")
    @classmethod
    def _each_has_its_rank(cls, targets: tuple[Target, ...], info: ValidationInfo) -> tuple[Target, ...]:
        for key in ("rank", "alpha"):
            each: object = info.data.get(key)
            if isinstance(each, dict) and each.keys() != set(targets):
                context = {"key": key, "each": ", ".join(cast("dict[str, float]", each))}
                form = "must be the same targets as in {key} ({each}): give one number, or one for each target"
                raise PydanticCustomError("ftx", form, context)
        return targets

    @field_validator("dropout")
    @classmethod
    def _no_dropout_on_pissa(cls, dropout: float, info: ValidationInfo) -> float:
        # PiSSA's factors hold the principal part of the weight: dropout on their input would drop what was pretrained.
        if dropout > 0 and info.data.get("init") == "pissa":
            raise PydanticCustomError(
                "ftx", "must be 0 with adapter.init pissa, whose factors are a part of the weight"
            )
        return dropout

    @field_validator("layers")
    @classmethod
    def _instead_of_targets(cls, layers: str, info: ValidationInfo) -> str:
        if layers != "auto":
            for key, neutral in (("targets", (TARGETS,)), ("blocks", ("all", "auto"))):
                if info.data.get(key, neutral[0]) not in neutral:
                    raise PydanticCustomError(
                        "ftx", "must be auto with this adapter.{key}, as both choose the layers", {"key": key}
                    )
            if any(isinstance(info.data.get(key), dict) for key in ("rank", "alpha")):
                raise PydanticCustomError("ftx", "must be auto if adapter.rank or adapter.alpha differs by target")
        return layers


class TrainRecipe(Section):
    """How the model is trained: AdamW, a linear warm-up and a cosine down to zero.

    ``epochs`` auto is 16 for an adapter in all blocks (``adapter.blocks`` auto or all), otherwise 10.
    ``lr`` auto is the default of the method: 1e-3 for lora and dora, 5e-3 for lokr and linear probing, 2e-5 for full
    fine-tuning. ``lora_plus`` is the learning rate of B divided by that of A (LoRA+, arXiv:2402.12354, which
    recommends 16). ``warmup_share`` is the fraction of all steps that warm up.
    ``batch_size`` is at most the number of training images; with several processes (torchrun) it is that of all
    together. A step computes it in ``accumulation_steps`` parts, one after the other. With ``activation_checkpointing``
    blocks compute their activations again in the backward: the same step, in less memory.
    ``augment`` light augments the images, differently in each epoch. If leading blocks are frozen, each image has
    ``cache_views`` views, which these blocks compute once; they are kept on disk for all epochs and for later
    trainings. auto is none if such blocks are kept, because more views would multiply their work, and light otherwise.
    ``cache_gb`` limits the features that are kept, and the decoded images as well; the rest is computed again. With 0
    views no features are kept.
    ``patch_dropout`` is the fraction of an image's patches that a step leaves out, drawn again each time (PatchDropout,
    arXiv:2208.07220): behind blocks that are kept, else before the first one. It is less work, and no image is seen
    twice in the same way; a trained model gets all patches. auto is 0.6 if such blocks are kept; 0.5 for an adapter in
    all blocks of a plain Vision Transformer, for multiclass data; otherwise 0.
    ``frozen_runtime`` computes these blocks; auto is OpenVINO if it is as close to f32 as torch, and faster by enough
    to pay for the conversion. With ``compile`` blocks, torch compiles those that train: the same step but for rounding;
    auto measures one block, and compiles if the whole training saves more time than compiling takes.
    ``loss`` is that of independent labels, ``label_smoothing`` that of mutually exclusive classes. ``balance`` helps
    rare labels: sampling draws their images more often, loss multiplies their loss by 1 / frequency.
    ``patience`` is the number of epochs without a better metric after which training stops early; none is never. It
    uses a mean over three epochs; the best epoch is chosen by the lower of its metric and that mean.
    ``checkpoint_minutes`` is the most time that is lost if training is interrupted (``--resume``); the state is also
    written at an epoch's end if that takes less than half a percent of the time.
    ``head_init`` probe starts with a head fitted to the frozen features (LP-FT, arXiv:2202.10054). Linear probing is
    then only this fit to unaugmented images, without epochs. random draws the head. auto is probe for linear probing,
    and for an adapter in all blocks for multiclass data; with ``balance`` it is random.
    ``tensorboard`` writes curves to reports/tensorboard (extra ``tensorboard``).
    """

    epochs: CountOrAuto = "auto"
    batch_size: Count = 16
    accumulation_steps: Count = 1
    activation_checkpointing: Switch = False
    lr: PositiveOrAuto = "auto"
    lora_plus: Annotated[FiniteFloat, Field(gt=0)] = 1.0
    weight_decay: Annotated[FiniteFloat, Field(ge=0)] = 0.05
    precision: TrainPrecision = "auto"
    warmup_share: Annotated[FiniteFloat, Field(ge=0, lt=1)] = 0.1
    loss: LossName = "asymmetric"
    label_smoothing: Annotated[FiniteFloat, Field(ge=0, lt=1)] = 0.1
    balance: BalanceName = "none"
    augment: Literal["auto", Augment] = "auto"
    patch_dropout: FractionOrAuto = "auto"
    cache_views: Annotated[int, Field(ge=0)] = 4
    cache_gb: Annotated[FiniteFloat, Field(ge=0)] = 10.0
    frozen_runtime: Literal["auto", FrozenRuntime] = "auto"
    compile: Compile = "auto"
    patience: CountOrNone = "none"
    head_init: HeadInit = "auto"
    checkpoint_minutes: Annotated[FiniteFloat, Field(ge=0)] = 5.0
    tensorboard: Switch = False

    @model_validator(mode="before")
    @classmethod
    def _of_an_older_run(cls, given: object) -> object:
        # A run's recipe has every key that its ftx had; one without these keys was trained on all patches, from a
        # random head.
        if isinstance(given, dict) and given.keys() >= _IN_EVERY_RUN:
            return {"patch_dropout": 0.0, "head_init": "random", **cast("dict[str, object]", given)}
        return cast("object", given)

    def at_once(self, images: int) -> int:
        """How many images of a step are computed at once: a step computes them in parts."""
        return -(-images // self.accumulation_steps)


class ValidateRecipe(Section):
    """The bound of ``ftx validate`` for each artifact.

    ``max_drop`` is the fraction of images that it may lose, minus those that it gains; ``--max-drop`` overrides it.
    """

    max_drop: Annotated[FiniteFloat, Field(gt=0, lt=1)] = MAX_DROP


PresetName = Literal["auto", "fast"]
PRESET_NAMES: tuple[PresetName, ...] = get_args(PresetName)

PRESETS: Mapping[PresetName, Mapping[str, object]] = {
    # The defaults: the plan decides by the task and the model.
    "auto": {},
    # Only the head, solved on frozen features: one pass over the images.
    "fast": {"model.peft": "none", "model.freeze_backbone": True, "train.augment": "none"},
}
# What a preset was called before.
RENAMED_PRESETS: Mapping[str, PresetName] = {"balanced": "auto", "best": "auto"}


def preset_named(name: str) -> PresetName:
    """The preset of that name, or of a name that it had before.

    Raises: InputError if there is none.
    """
    name = RENAMED_PRESETS.get(name, name)
    check_known("--preset", [name], PRESET_NAMES)
    return cast("PresetName", name)
