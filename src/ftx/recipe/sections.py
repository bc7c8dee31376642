"""The sections of a recipe: every key, its type, its default, and what it contradicts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, cast, get_args

from pydantic import ConfigDict, Field, field_validator, model_validator
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
    """Keys that belong together; other keys are errors. The docstring below a key describes it in the JSON schema."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class DataRecipe(Section):
    """The images to train on."""

    path: FolderPath = Path("data")
    """A folder, a table, an annotation file, or shards."""
    format: Text = "auto"
    """auto recognises folders, tables, COCO, Datumaro's JSON, and shards. Any other name is a format of Datumaro (voc,
    imagenet_txt, ...), and needs the extra `datumaro`.
    """
    follow_links: Switch = False
    """true reads images and folders through links that lead out of the data folder."""
    image_size: SizeOrAuto = "auto"
    """The side of a square, or HEIGHTxWIDTH as in `224x160`. auto is the size that the model was pretrained with, and
    224 for dinov2, because its own 518 is too slow.
    """
    val_fraction: Annotated[FiniteFloat, Field(gt=0, le=0.5)] = 0.2
    """The fraction of the training images used for validation, if the data has no `val` of its own."""
    classes: LabelsOrAuto = "auto"
    """The number of labels that the recipe was written for. If the data has another number, training uses that of the
    data and prints a line; with `--strict` it is an error.
    """


class ModelRecipe(Section):
    """The model, and the method that trains it."""

    name: Text = "dinov2-small"
    """The name of a backbone; `ftx models` lists them."""
    weights: Text = "auto"
    """auto are the pretrained weights of timm, none are random weights drawn from the seed. Otherwise a safetensors
    file. Weights for grey images compute the same in RGB as on the grey of an image, 0.299 R + 0.587 G + 0.114 B.
    """
    peft: PeftMethod = "dora"
    """lora, dora and lokr train an adapter and the head. none trains all weights, or only the head with
    `freeze_backbone`.
    """
    freeze_backbone: Switch = False
    """With `peft` none: true trains only the head (linear probing)."""
    keep_tokens: KeepTokens = "all"
    """all, or by block (counted from 0) the fraction of the remaining patches that this block computes, rounded up:
    `{4: 0.5, 8: 0.5}`. These are the patches with the highest attention of the class token in the block before. Fewer
    patches are less work, in training and on the device.
    """
    from_run: Text = "none"
    """A finished run. Training starts with its adapter and its head, whose rows are matched by label name. Model,
    adapter, task and image size must be those of that run.
    """

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
    """The adapter."""

    rank: RankPerTarget = 8
    """One number, or one for each target: `{attn: 4, mlp: 16}`."""
    alpha: AlphaPerTarget = 16.0
    """One number, or one for each target. The scaling is alpha / rank, or alpha / sqrt(rank) with `rslora`."""
    targets: TargetNames = TARGETS
    """The layers that get an adapter: some of q, k, v, proj, fc1 and fc2, or attn, mlp, all."""
    blocks: BlockChoice = "auto"
    """The blocks that get an adapter: all, N for the last N, `first:N`, or a list counted from 0. auto is all. The
    blocks before all adapters are computed only once.
    """
    layers: LayerExpression = "auto"
    """A regular expression that selects linear layers by their whole name, for model families that ftx does not
    support. `targets` and `blocks` then have no effect.
    """
    init: AdapterInit = "zero"
    """zero starts with B = 0, which changes nothing at first. pissa starts from the principal singular vectors of each
    weight (arXiv:2404.02948).
    """
    dropout: Annotated[FiniteFloat, Field(ge=0, lt=1)] = 0.0
    """The fraction of the inputs of an adapter that training drops."""
    rslora: Switch = False
    """true scales by alpha / sqrt(rank) (arXiv:2312.03732)."""

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
    """How the model is trained: AdamW, a linear warm-up, and a cosine down to zero."""

    epochs: CountOrAuto = "auto"
    """The maximum number of epochs. auto is 16 for an adapter in all blocks, otherwise 10. Method linear usually makes
    one pass over the images instead, without epochs.
    """
    batch_size: Count = 16
    """The images in one step, at most the number of training images. With several processes (torchrun) it is the number
    of all together.
    """
    accumulation_steps: Count = 1
    """A step computes its images in this many parts, one after the other: the same step in less memory."""
    activation_checkpointing: Switch = False
    """With true, blocks compute their activations again in the backward pass: the same step in less memory, and about a
    third more time (arXiv:1604.06174).
    """
    lr: PositiveOrAuto = "auto"
    """The highest learning rate. auto is 1e-3 for lora and dora, 5e-3 for lokr and linear probing, 2e-5 for full
    fine-tuning.
    """
    lora_plus: Annotated[FiniteFloat, Field(gt=0)] = 1.0
    """The learning rate of B divided by that of A (LoRA+, arXiv:2402.12354, which recommends 16)."""
    weight_decay: Annotated[FiniteFloat, Field(ge=0)] = 0.05
    """The weight decay of AdamW."""
    precision: TrainPrecision = "auto"
    """fp32 or bf16. auto is bf16 if the CPU (AMX, AVX512-BF16) or the GPU computes in it."""
    warmup_share: Annotated[FiniteFloat, Field(ge=0, lt=1)] = 0.1
    """The fraction of all steps in which the learning rate rises. After that it falls to zero as a cosine."""
    loss: LossName = "asymmetric"
    """The loss of independent labels (multi-label): asymmetric or bce."""
    label_smoothing: Annotated[FiniteFloat, Field(ge=0, lt=1)] = 0.1
    """The label smoothing of mutually exclusive classes."""
    balance: BalanceName = "none"
    """Helps rare labels: sampling draws their images more often, loss multiplies their loss by 1 / frequency."""
    augment: Literal["auto", Augment] = "auto"
    """light uses random resized crops and horizontal flips, different in each epoch. none uses the images as evaluation
    does. auto is none if leading blocks are frozen and their features are kept, and light otherwise.
    """
    patch_dropout: FractionOrAuto = "auto"
    """The fraction of the patches of an image that a step leaves out, drawn again each time (PatchDropout,
    arXiv:2208.07220). This is less work, and augments the images. A trained model gets all patches. auto is 0.6 if the
    features of frozen blocks are kept, 0.5 for an adapter in all blocks of a plain Vision Transformer on multiclass
    data, and otherwise 0.
    """
    cache_views: Annotated[int, Field(ge=0)] = 4
    """How many augmented views of each image the leading frozen blocks compute. They are kept on disk for all epochs
    and for later trainings. With 0 no features are kept, and each epoch has new views.
    """
    cache_gb: Annotated[FiniteFloat, Field(ge=0)] = 10.0
    """The limit on disk, in GB, of the features that are kept, and also of the decoded images. The rest is computed
    again.
    """
    frozen_runtime: Literal["auto", FrozenRuntime] = "auto"
    """What computes the leading frozen blocks: torch or openvino. auto is OpenVINO if it is as close to fp32 as torch,
    and faster by more than the conversion takes.
    """
    compile: Compile = "auto"
    """With blocks, torch compiles the blocks that train: the same step except for rounding. auto measures one block,
    and compiles if the whole training saves more time than compiling takes.
    """
    patience: CountOrNone = "none"
    """The number of epochs without a better metric after which training stops early; none is never. The metric is a
    mean over three epochs. The best epoch is chosen by the lower of its metric and that mean.
    """
    head_init: HeadInit = "auto"
    """probe starts with a head that is fitted to the frozen features (LP-FT, arXiv:2202.10054). Linear probing is then
    only this fit to unaugmented images, without epochs. random draws the head from the seed. auto is probe for linear
    probing, and for an adapter in all blocks on multiclass data; with `balance` it is random.
    """
    checkpoint_minutes: Annotated[FiniteFloat, Field(ge=0)] = 5.0
    """The most time, in minutes, that an interrupted training repeats after `--resume`. The state is also written at
    the end of an epoch, if that takes less than half a percent of the time.
    """
    tensorboard: Switch = False
    """true writes curves to reports/tensorboard, and needs the extra `tensorboard`."""

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
    """The limit of ``ftx validate`` for each exported model."""

    max_drop: Annotated[FiniteFloat, Field(gt=0, lt=1)] = MAX_DROP
    """The fraction of images that a model may lose, minus those that it gains; `--max-drop` overrides it."""


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
