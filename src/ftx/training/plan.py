"""The plan of a training: every decision, made once, before anything is trained.

How the head starts, what is computed once, how images are augmented, which patches a step drops, how attention is
computed, how many epochs. A training, its dry run, its budget and its notes read this value; none decides it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from torch import nn

from ftx.adapters.attach import adapter_layers
from ftx.adapters.trainable_model import TrainableModel, adapts_all_blocks, decided_blocks
from ftx.backbones.dropped_patches import ALL_PATCHES, DroppedPatches
from ftx.backbones.layer_roles import plain_vit
from ftx.backbones.split_network import frozen_blocks, only_head_trains, plain_attention_bytes
from ftx.core.errors import ModelError
from ftx.recipe.adapter_targets import Role
from ftx.recipe.method_defaults import METHODS
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import Augment, Compile, FrozenRuntime, TrainRecipe
from ftx.tasks.output_meaning import TASKS
from ftx.training.compiling import StepShape, may_compile
from ftx.training.device_placement import EVAL_BATCH
from ftx.training.frozen_part import may_convert
from ftx.training.head_start import bytes_to_fit, linear_heads
from ftx.training.optimizer import peak_lr
from ftx.training.ranks import Ranks

# What auto is: docs/decisions/0018. The fraction of patches that a step leaves out, if blocks are kept and if not; and
# the number of epochs of an adapter in all blocks, and of everything else.
_LEFT_OUT_BEHIND_KEPT, _LEFT_OUT = 0.6, 0.5
_EPOCHS_OF_ALL_BLOCKS, _EPOCHS = 16, 10
# Keys that have no effect without steps.
_OF_STEPS = (
    "epochs",
    "batch_size",
    "lr",
    "weight_decay",
    "warmup_share",
    "loss",
    "label_smoothing",
    "balance",
    "patience",
)


@dataclass(frozen=True)
class Facts:
    """What a plan depends on in addition to the recipe and the model: images, labels, and this machine.

    ``device`` is torch's name of its kind. Each of the ``ranks`` has ``free_bytes`` of memory. ``plain_attention`` is
    how a training that is resumed computed attention; None for a new one.
    """

    train_images: int
    val_images: int
    classes: int
    device: str
    computes_bf16: bool
    free_bytes: int
    ranks: Ranks
    plain_attention: bool | None = None


class Timer(Protocol):
    """Times what no rule can decide. Its results are inputs of a plan, as the draws of a generator are."""

    def frozen_runtime(self, kept_blocks: int, *, bf16: bool) -> FrozenRuntime:
        """What computes the frozen trunk faster."""
        ...

    def compiles(self, images: int, steps: StepShape) -> Compile:
        """Whether compiling the trained blocks pays, for this number of images in all epochs together."""
        ...


@dataclass(frozen=True)
class Plan:
    """The decided recipe, how the head starts, what is computed once, and what a step computes.

    ``recipe`` has no ``auto`` among the keys that training reads. ``kept_blocks`` leading blocks are computed once for
    each of ``views`` of an image, with 0 blocks the input of the head; with None nothing is. ``fits_head``: the head is
    fitted before the first step, to unaugmented images. ``solves_all``: only the head trains, and needs no steps;
    ``epochs`` is then one. ``dropped`` are the patches that a step leaves out. ``plain_attention``: attention that has
    a backward is computed as plain products, else by torch's fused kernel. ``notes`` are for the user.
    """

    recipe: Recipe
    head_init: Literal["random", "probe"]
    fits_head: bool
    solves_all: bool
    augment: Augment
    dropped: DroppedPatches
    kept_blocks: int | None
    views: int
    epochs: int
    plain_attention: bool
    notes: tuple[str, ...] = ()

    @property
    def steps(self) -> StepShape:
        """What decides how long a step takes in one process."""
        train = self.recipe.train
        at_once = train.at_once(train.batch_size)
        return StepShape(at_once, self.dropped, self.plain_attention, train.precision == "bf16")

    @property
    def kept_views(self) -> int:
        """Views of each training image that are kept: those of the epochs and, if augmented, one to fit the head to."""
        return self.views + (self.fits_head and self.augment != "none" and self.views > 0)

    def views_of(self, train: int, val: int) -> int:
        """Views that are kept of ``train`` training images and ``val`` validation images, which have only one."""
        return train * self.kept_views + val

    def within(self, epochs: int) -> Plan:
        """The same with at most ``epochs`` epochs, and no more views than these."""
        views, epochs = min(self.views, epochs), min(self.epochs, epochs)
        recipe = self.recipe.replace(train={"epochs": epochs, "cache_views": views})
        return replace(self, recipe=recipe, epochs=epochs, views=views)

    def for_data_at(self, path: Path) -> Plan:
        """The same for images that this process finds elsewhere."""
        return replace(self, recipe=self.recipe.replace(data={"path": path}))


def keepable_blocks(module: nn.Module) -> int | None:
    """Leading blocks whose features may be computed once: those before all that trains; None if there is none."""
    return 0 if only_head_trains(module) else frozen_blocks(module) or None


def resolve(
    recipe: Recipe, prepared: TrainableModel, facts: Facts, timer: Timer, before: TrainRecipe | None = None
) -> Plan:
    """Decide everything that a training of ``prepared`` by ``recipe`` will do; changes nothing.

    ``before`` are the keys of the run that training starts from.
    Raises: ModelError if patches must be left out of another family, which needs all of them, or if there are no blocks
    to compile.
    """
    module, train, linear = prepared.backbone.module, recipe.train, recipe.method == "linear"
    kept_blocks, from_run = keepable_blocks(module), recipe.model.from_run != "none"
    keeps = kept_blocks is not None and train.cache_views > 0
    adapts_all = adapts_all_blocks(recipe)
    half_patches = adapts_all and TASKS[recipe.task].half_patches_after_probe
    head_init, too_large = train.head_init, False
    if head_init == "auto":
        fitted = train.balance == "none" and bool(linear_heads(module)) and (linear or (half_patches and not from_run))
        too_large = fitted and not linear and not _head_fits(module, facts)
        head_init = "probe" if fitted and not too_large else "random"
    fits_head = head_init == "probe" and bool(linear_heads(module))
    solves_all = linear and fits_head
    fits_head = fits_head and (solves_all or not from_run)  # a run's head stays
    epochs = train.epochs
    if epochs == "auto":
        epochs = _EPOCHS_OF_ALL_BLOCKS if adapts_all else _EPOCHS
    unaugmented = solves_all or train.augment == "none" or (train.augment == "auto" and keeps)
    augment: Augment = "none" if unaugmented else "light"
    # If only the head trains, its features are of all patches.
    drops = half_patches and plain_vit(module) is not None
    left_out = _LEFT_OUT_BEHIND_KEPT if keeps else _LEFT_OUT if drops else 0.0
    dropped = ALL_PATCHES if kept_blocks == 0 else _dropped_patches(module, train, left_out)
    views = 1 if augment == "none" else min(train.cache_views, epochs)
    kept_blocks, views = (kept_blocks, views) if keeps else (None, 0)
    batch_size = min(train.batch_size, facts.train_images)
    plain_attention = facts.plain_attention
    if plain_attention is None:
        part = facts.ranks.largest_part(batch_size)
        matrices_bytes = plain_attention_bytes(module, part, dropped, evaluated=EVAL_BATCH)
        fits = matrices_bytes is not None and matrices_bytes <= facts.free_bytes / 4
        plain_attention = facts.device == "cpu" and fits
    planned = Plan(
        recipe=recipe,
        head_init=head_init,
        fits_head=fits_head,
        solves_all=solves_all,
        augment=augment,
        dropped=dropped,
        kept_blocks=kept_blocks,
        views=views,
        epochs=1 if solves_all else epochs,
        plain_attention=plain_attention,
    )
    notes = _notes(planned, module, facts, before)
    if too_large:
        notes = (*notes, "the head starts at random: the features of a probe would take over a quarter of free memory")
    planned = replace(planned, recipe=_decided(planned, prepared, facts, timer, epochs), notes=notes)
    if planned.recipe.train.compile == "auto":
        compiling = timer.compiles(planned.epochs * facts.train_images, planned.steps)
        planned = replace(planned, recipe=planned.recipe.replace(train={"compile": compiling}))
    return planned


def _head_fits(module: nn.Module, facts: Facts) -> bool:
    """Whether the features of all training images fit into memory, in each process, next to what a training takes."""
    return bytes_to_fit(module, facts.train_images, facts.classes) <= facts.free_bytes / 4


def _dropped_patches(module: nn.Module, train: TrainRecipe, left_out: float) -> DroppedPatches:
    """Those of the recipe; ``left_out`` is what auto means."""
    fraction = left_out if train.patch_dropout == "auto" else train.patch_dropout
    if fraction and plain_vit(module) is None:
        raise ModelError(
            "train.patch_dropout must be 0 unless the model is a plain Vision Transformer",
            found=f"{fraction} with {type(module).__name__}",
            fix="train with --set train.patch_dropout=0, or with a plain Vision Transformer: --model dinov2-small",
        )
    return DroppedPatches(fraction)


def _decided(planned: Plan, prepared: TrainableModel, facts: Facts, timer: Timer, epochs: int) -> Recipe:
    """The recipe with every ``auto`` decided, and changed where the data or the model has less.

    ``epochs`` is for training by steps, which solving a head does not take.
    """
    recipe, module = planned.recipe, prepared.backbone.module
    precision = recipe.train.precision
    if precision == "auto":
        precision = "bf16" if facts.computes_bf16 else "f32"
    bf16 = precision == "bf16"
    runtime = "torch" if planned.kept_blocks is None else recipe.train.frozen_runtime
    if runtime == "auto":
        assert planned.kept_blocks is not None
        views = planned.views_of(facts.train_images, facts.val_images)
        worth = may_convert(views, facts.device)
        runtime = timer.frozen_runtime(planned.kept_blocks, bf16=bf16) if worth else "torch"
    compiling = may_compile(module, recipe.train.compile, facts.device)
    decided = recipe.replace(
        data={"image_size": prepared.backbone.preprocess.image_size, "classes": facts.classes},
        train={
            "epochs": epochs,
            "precision": precision,
            "lr": peak_lr(recipe.train, recipe.method),
            "frozen_runtime": runtime,
            "compile": compiling,
            "batch_size": min(recipe.train.batch_size, facts.train_images),
            "augment": planned.augment,
            "cache_views": planned.views,
            "head_init": planned.head_init,
            "patch_dropout": planned.dropped.fraction,
        },
    )
    if prepared.spec is None:
        return decided.without_adapter()
    keys: dict[str, object] = {"blocks": decided_blocks(recipe)}
    reached: set[Role] = {part.target for _, layer in adapter_layers(module) for part in layer.parts}
    if "layer" not in reached:  # for the targets that the model has
        keys["targets"] = tuple(target for target in recipe.adapter.targets if target in reached)
        for key, each in (("rank", recipe.adapter.rank), ("alpha", recipe.adapter.alpha)):
            if isinstance(each, Mapping):
                keys[key] = {target: value for target, value in each.items() if target in reached}
    return decided.replace(adapter=keys)


def _notes(planned: Plan, module: nn.Module, facts: Facts, before: TrainRecipe | None) -> tuple[str, ...]:
    """A sentence about each key of the recipe that has no effect here, or less than it seems to; and about memory."""
    train, found = planned.recipe.train, list[str]()
    if not planned.views and keepable_blocks(module) is not None:
        found.append("train.cache_views is 0: frozen blocks are computed again in each epoch")
    if planned.augment == "light" and planned.views == 1 < planned.epochs:
        found.append("train.cache_views is 1: every epoch uses the same augmented view of an image")
    if train.patch_dropout not in (0, "auto", planned.dropped.fraction):
        found.append("train.patch_dropout is not used: only the head trains, on features of all patches")
    if planned.solves_all and (unused := _set_for_steps(train, before)):
        found.append(
            f"{', '.join(unused)}: not used, as the head is solved without steps; train.head_init=random takes steps"
        )
    if planned.head_init == "probe" and not planned.fits_head:
        linear = bool(linear_heads(module))
        why = (
            "the head starts from the run's" if linear else "the classifier is not a linear layer, and starts at random"
        )
        found.append(f"train.head_init=probe is not used: {why}")
    fused = facts.device == "cpu" and not planned.plain_attention and plain_vit(module) is not None
    if fused and not only_head_trains(module):
        found.append(
            "attention is computed by torch's fused kernel: as plain products it would take over a quarter of the "
            "free memory"
        )
    return tuple(found)


def _set_for_steps(train: TrainRecipe, before: TrainRecipe | None) -> list[str]:
    """The keys of steps that differ from the defaults, and from the run that training starts from."""
    decided = TrainRecipe(epochs=_EPOCHS, lr=METHODS["linear"].lr)
    known = [TrainRecipe(), decided, *([] if before is None else [before])]
    keys = [key for key in _OF_STEPS if all(getattr(train, key) != getattr(one, key) for one in known)]
    augments = before is None and train.augment == "light"
    return [f"train.{key}" for key in (*keys, *(["augment"] if augments else []))]
