"""The sections of a recipe: every key, its type, its default, and what it contradicts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from ftx.recipe.adapter_methods import AdapterName
from ftx.recipe.adapter_targets import TARGETS, Alphas, BlockChoice, Ranks, Target, TargetNames
from ftx.recipe.token_fractions import KeepTokens
from ftx.recipe.value_types import (
    Count,
    CountOrAuto,
    FolderPath,
    LayerExpression,
    Number,
    RateOrAuto,
    ShareOrAuto,
    SizeOrAuto,
    Switch,
    Text,
)
from ftx.tasks.task_names import LossName

PeftMethod = Literal[AdapterName, "none"]
TrainPrecision = Literal["auto", "f32", "bf16"]
# light: random resized crop and horizontal flip. none: the image path of evaluation.
Augment = Literal["light", "none"]
BalanceName = Literal["none", "sampling", "loss"]
AdapterInit = Literal["zero", "pissa"]
FrozenRuntime = Literal["torch", "openvino"]
Compile = Literal["auto", "blocks", "none"]
HeadInit = Literal["auto", "random", "probe"]

# The share of images that an artifact may lose: two points, as a user would notice more.
MAX_DROP = 0.02


class Section(BaseModel):
    """Keys that belong together; others are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class DataRecipe(Section):
    """What is trained on.

    ``format`` auto knows folders, tables, COCO, Datumaro's JSON and shards by themselves; any other of Datumaro's
    formats is named (voc, imagenet_txt, ...) and needs the extra ``datumaro``.
    ``follow_links``: images and folders may be links that lead out of the data folder.
    ``val_fraction`` is the share of training images to choose by, where the data has no val of its own.
    ``classes`` is how many labels the recipe was written for; the data decides, and training says where they differ.
    ``image_size`` is the side of a square, or HEIGHTxWIDTH as in ``224x160``; auto is the model's pretrained size, and
    224 for dinov2, whose own 518 is too slow for this use.
    """

    path: FolderPath = Path("data")
    format: Text = "auto"
    follow_links: Switch = False
    image_size: SizeOrAuto = "auto"
    val_fraction: Annotated[Number, Field(gt=0, le=0.5)] = 0.2
    classes: CountOrAuto = "auto"


class ModelRecipe(Section):
    """What is trained, and by which method.

    lora, dora and lokr train an adapter and the head; ``none`` trains everything, or with ``freeze_backbone``
    the head alone (linear probing). ``weights`` is auto, none (seeded random) or a safetensors file; one made on grey
    images answers in RGB as it did on the grey of an image, 0.299 R + 0.587 G + 0.114 B.
    ``keep_tokens`` is all, or by block (counted from 0) the share of the patches then present, rounded up, that go on
    into it: those that the class token attends to most in the block before. Fewer tokens are less work, in training and
    on the device.
    ``from_run`` is a finished run whose adapter and head training begins with, rows of the head by the names of their
    labels; model, adapter, task and image size must be that run's.
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


class AdapterRecipe(Section):
    """The adapter: scaling is alpha / rank, alpha / sqrt(rank) with ``rslora``.

    ``targets`` are q, k, v, proj, fc1, fc2, or attn, mlp, all; ``rank`` and ``alpha`` are one number, or one for each
    target (``{attn: 4, mlp: 16}``). ``blocks`` is all, N for the last N, ``first:N``, or a list counted from 0;
    auto is the last two fifths of a plain Vision Transformer's, rounded up, where the others are then computed once,
    and all elsewhere. ``layers`` names linear layers by a regular expression of their whole name, for families that ftx
    does not know; targets and blocks then say nothing. ``init`` pissa starts from the principal singular vectors of
    each weight (arXiv:2404.02948), zero from B = 0, which changes nothing at first.
    """

    rank: Ranks = 8
    alpha: Alphas = 16.0
    targets: TargetNames = TARGETS
    blocks: BlockChoice = "all"
    layers: LayerExpression = "auto"
    init: AdapterInit = "zero"
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    rslora: Switch = False

    @field_validator("targets")
    @classmethod
    def _each_has_its_rank(cls, targets: tuple[Target, ...], info: ValidationInfo) -> tuple[Target, ...]:
        for key in ("rank", "alpha"):
            each: object = info.data.get(key)
            if isinstance(each, dict) and each.keys() != set(targets):
                context = {"key": key, "each": ", ".join(cast("dict[str, float]", each)), "targets": ", ".join(targets)}
                form = "are {targets}, and {key} for {each} alone: give one number, or one for each"
                raise PydanticCustomError("ftx", form, context)
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
            for key, unsaid in (("targets", (TARGETS,)), ("blocks", ("all", "auto"))):
                if info.data.get(key, unsaid[0]) not in unsaid:
                    raise PydanticCustomError("ftx", "contradicts adapter.{key}: it names the layers", {"key": key})
            if any(isinstance(info.data.get(key), dict) for key in ("rank", "alpha")):
                raise PydanticCustomError("ftx", "takes one rank and one alpha for all layers")
        return layers


class TrainRecipe(Section):
    """How it is trained: AdamW, a linear warm-up and a cosine down to zero.

    ``lr`` auto is what suits the method: 1e-3 for lora and dora, 5e-3 for lokr and linear probing, 2e-5 for full
    fine-tuning.
    ``augment`` light varies the images anew in each epoch; where leading blocks do not train, in ``cache_views`` views
    of each image, which these blocks compute once: kept on disk for all epochs and for later trainings, ``cache_gb`` at
    most, beyond which they are computed again; as much at most is kept of images, decoded. With 0 views no features
    are kept. auto is none where such blocks are kept, whose work other views would multiply, and light elsewhere.
    ``patch_dropout`` is the share of an image's patches that a step leaves out, drawn anew each time (PatchDropout,
    arXiv:2208.07220): behind blocks that are kept, else before the first one. Less work, and no image twice the same;
    whoever asks the model later gives it all patches. auto is 0.6 where such blocks are kept, 0 elsewhere.
    ``frozen_runtime`` is what computes them; auto is OpenVINO where that is faster than torch by enough to be
    converted for, and as near to f32. ``compile`` blocks lets torch compile those that train: the same step but for
    rounding; auto measures one of them, and compiles where that takes less time than the whole training saves by it.
    ``batch_size`` is there at most the number of training images; of several processes (torchrun) it is that of all
    together. A step computes it in ``accumulation_steps`` parts, one after the other; with ``activation_checkpointing``
    blocks compute their activations again in the backward: the same step, in less memory.
    ``lora_plus`` is how many times the rate of A that of B is (LoRA+, arXiv:2402.12354, which finds 16 good).
    ``loss`` is that of labels that decide by themselves, ``label_smoothing`` that of labels that exclude each other.
    ``balance`` helps rare labels: sampling draws their images more often, loss weighs them by 1 / frequency.
    ``warmup_share`` is the share of all steps that warm up; ``patience`` the epochs without a better metric after which
    training stops, which is never where it is no less than ``epochs``. It is a mean over three epochs; the best one is
    kept by the lower of its metric and that mean. ``checkpoint_minutes`` is how much time is lost at most where
    training is cut off (``--resume`` goes on); the state is also written at an epoch's end, where that takes under half
    a percent of the time.
    ``head_init`` probe begins with a head that fits the frozen features (LP-FT, arXiv:2202.10054); linear probing is
    then that fit of the images as they are, and takes no epochs. random draws it. auto is probe for linear
    probing without ``balance``.
    ``tensorboard`` writes its curves to reports/tensorboard (extra ``tensorboard``).
    """

    epochs: Count = 10
    batch_size: Count = 16
    accumulation_steps: Count = 1
    activation_checkpointing: Switch = False
    lr: RateOrAuto = "auto"
    lora_plus: Annotated[Number, Field(gt=0)] = 1.0
    weight_decay: Annotated[Number, Field(ge=0)] = 0.05
    precision: TrainPrecision = "auto"
    warmup_share: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    loss: LossName = "asymmetric"
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    balance: BalanceName = "none"
    augment: Literal["auto"] | Augment = "light"
    patch_dropout: ShareOrAuto = 0.0
    cache_views: Annotated[int, Field(ge=0)] = 4
    cache_gb: Annotated[Number, Field(ge=0)] = 10.0
    frozen_runtime: Literal["auto"] | FrozenRuntime = "auto"
    compile: Compile = "auto"
    patience: Count = 5
    head_init: HeadInit = "auto"
    checkpoint_minutes: Annotated[Number, Field(ge=0)] = 5.0
    tensorboard: Switch = False

    def at_once(self, images: int) -> int:
        """How many of the images of a step are computed at once: a step computes them in parts."""
        return -(-images // self.accumulation_steps)


class ValidateRecipe(Section):
    """What ``ftx validate`` asks of each artifact: ``max_drop`` is the share of images that may be lost, net of those
    won.

    ``--max-drop`` sets another one.
    """

    max_drop: Annotated[Number, Field(gt=0, lt=1)] = MAX_DROP
