"""From a recipe to what is trained: the data, the model, and the recipe with every ``auto`` decided."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch

from ftx.adapters.attach import adapter_layers
from ftx.adapters.trainable_model import TrainableModel, decided_blocks, prepare
from ftx.backbones.build import preprocess_before, tagged
from ftx.core.addresses import typed
from ftx.core.errors import RecipeError
from ftx.core.memory import SMALLER, memory_faults
from ftx.core.progress import SILENT, Progress
from ftx.core.version import __version__
from ftx.data.dataset import SPLITS, Dataset
from ftx.data.open_dataset import survey
from ftx.data.pixel_store import pixel_store
from ftx.recipe.adapter_targets import Role, Target
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import AdapterRecipe, TrainRecipe
from ftx.runs.data_jsonl import entries_digest
from ftx.runs.run import Run
from ftx.runs.run_json import InitialWeights
from ftx.tasks.base import Task
from ftx.tasks.output_meaning import TASKS
from ftx.tasks.thresholds import Thresholds
from ftx.training.begun_from import as_the_run_has, begin_with, begun_run
from ftx.training.compiling import chosen
from ftx.training.device_placement import resolve_precision
from ftx.training.epoch_log import require_tensorboard
from ftx.training.frozen_part import Frozen, faster_runtime
from ftx.training.optimizer import peak_lr
from ftx.training.plan import Plan, plan, without_effect
from ftx.training.ranks import Ranks

# What a recipe says of steps: nothing where none is taken.
_STEPS = (
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
class Resolved:
    """What is to be trained, before anything is written."""

    dataset: Dataset
    prepared: TrainableModel
    recipe: Recipe
    plan: Plan
    begun_from: InitialWeights | None = None

    @property
    def task(self) -> Task:
        """The task of its labels, with no thresholds tuned."""
        return TASKS[self.recipe.task](self.dataset.labels, Thresholds())

    @property
    def images(self) -> dict[str, int]:
        """How many stand in each split that has any."""
        counts = {str(split): len(self.dataset.split(split)) for split in SPLITS}
        return {split: count for split, count in counts.items() if count}

    @property
    def unreadable(self) -> list[str]:
        """The images that are left out, and why."""
        return [f"{image.path}: {image.reason}" for image in self.dataset.unreadable]


def resolve(recipe: Recipe, strict: bool, progress: Progress) -> Resolved:
    """Read the data and build the model.

    Raises: DataError, ModelError or AdapterError for wrong input; RecipeError if ``strict`` and the data has another
    number of labels than the recipe says; EnvironmentFault if memory runs out.
    """
    if recipe.train.tensorboard:
        require_tensorboard()
    begun = begun_run(recipe)
    if begun is not None:
        recipe = as_the_run_has(recipe, begun)
    dataset = read_images(recipe, begun, progress)
    _compare_classes(recipe, len(dataset.labels), strict, progress)
    if recipe.model.weights == "auto":  # before the model is built: its files name what they were made from
        recipe = recipe.replace(model={"name": tagged(recipe.model.name)})
    with memory_faults(lambda: SMALLER):
        prepared = prepare(recipe, len(dataset.labels))
        begun_from = None if begun is None else begin_with(begun, prepared, dataset.labels, progress)
    planned = plan(prepared.backbone.module, recipe)
    if planned.dropped and planned.kept_blocks is None:  # of what is kept they are left out as it is read
        planned.dropped.put_into(prepared.backbone.module)
    resolved = _resolved(recipe, planned, prepared, dataset, progress)
    for note in without_effect(prepared.backbone.module, recipe.train, planned):
        progress.note(note)
    if planned.solves_all:
        unused = _asked_of_steps(recipe.train, begun)
        if unused:
            progress.note(
                f"{', '.join(unused)}: not used, as the head is solved in one go; train.head_init=random takes steps"
            )
    return Resolved(dataset, prepared, resolved, planned, begun_from)


def _asked_of_steps(train: TrainRecipe, begun: Run | None) -> list[str]:
    """The keys of steps that say something else than the defaults, or than the run that training begins with."""
    unsaid = [TrainRecipe(), *([begun.recipe().train] if begun is not None else [])]
    asked = [key for key in _STEPS if all(getattr(train, key) != getattr(one, key) for one in unsaid)]
    # Images that vary are the default, so only who names them has asked for them.
    if begun is None and train.augment == "light" and "augment" in train.model_fields_set:
        asked.append("augment")
    return [f"train.{key}" for key in asked]


def read_images(recipe: Recipe, begun: Run | None, progress: Progress) -> Dataset:
    """The images that a recipe names, in their splits, kept as its model will see them.

    Raises: DataError if they do not hold; ModelError for a model that is not known, before any image is read.
    """
    pre, data = preprocess_before(recipe.model.name, recipe.data.image_size), recipe.data
    with pixel_store(data, 0, pre, recipe.train, SILENT) as pixels:  # training says what there is no room for
        return survey(
            typed(data.path),
            recipe.task,
            form=data.format,
            follow_links=data.follow_links,
            val_fraction=data.val_fraction,
            trained_on=set() if begun is None else {entry.sha256 for entry in begun.entries("train")},
            pixels=pixels,
            progress=progress,
        ).dataset


def resolve_together(recipe: Recipe, strict: bool, progress: Progress, ranks: Ranks) -> Resolved:
    """As ``resolve``, in each of the processes of a training, with the first one's decisions.

    Raises: as ``resolve``; InputError where they have different versions, recipes, data or bases.
    """
    ranks.agree_on("versions", {"ftx": __version__, "torch": torch.__version__}, "install the same on each machine")
    said = {key: value for key, value in recipe.by_key().items() if key != "data.path"}  # it may be mounted elsewhere
    ranks.agree_on("recipes", said, "give all of them the same command line")
    with ranks.first_of_machine_first():
        found = resolve(recipe, strict, progress)
    data, base = entries_digest(found.dataset.entries), found.prepared.backbone.digest
    images = {"images": sum(found.images.values()), "their digest": data}
    ranks.agree_on("images", images, "give each machine the same data")
    ranks.agree_on("weights", {"their digest": base}, "give each machine the same weights")
    return replace(found, recipe=ranks.of_first(found.recipe).replace(data={"path": found.recipe.data.path}))


def _compare_classes(recipe: Recipe, found: int, strict: bool, progress: Progress) -> None:
    expected = recipe.data.classes
    if expected in ("auto", found):
        return
    if strict:
        raise RecipeError(
            f"the recipe is for {expected} labels, the data has {found}",
            where=recipe.data.path,
            fix=f"--set data.classes={found}, or leave --strict out: the data decides",
        )
    progress.note(f"the recipe is for {expected} labels, the data has {found}: the data decides")


def _resolved(recipe: Recipe, planned: Plan, prepared: TrainableModel, dataset: Dataset, progress: Progress) -> Recipe:
    """The recipe with what was decided here written out: every ``auto``, and where the data or the model has less."""
    module = prepared.backbone.module
    precision = resolve_precision(recipe.train.precision)
    frozen_runtime = recipe.train.frozen_runtime if planned.kept_blocks is not None else "torch"
    if frozen_runtime == "auto" and planned.kept_blocks is not None:
        views = planned.views_of(len(dataset.split("train")), len(dataset.split("val")))
        frozen = Frozen(prepared.backbone, planned.kept_blocks, bf16=precision == "bf16")
        frozen_runtime = faster_runtime(frozen, views, progress)
    images = len(dataset.split("train"))
    bounded = recipe.replace(train={"batch_size": min(recipe.train.batch_size, images)}).train
    with memory_faults(lambda: SMALLER):
        compiling = chosen(
            prepared,
            bounded,
            planned.epochs * images,
            dropped=planned.dropped,
            bf16=precision == "bf16",
            progress=progress,
        )
    resolved = recipe.replace(
        data={"image_size": prepared.backbone.preprocess.image_size, "classes": len(dataset.labels)},
        train={
            "precision": precision,
            "lr": peak_lr(recipe.train, recipe.method),
            "frozen_runtime": frozen_runtime,
            "compile": compiling,
            "batch_size": bounded.batch_size,
            **planned.keys,
        },
    )
    if prepared.spec is None:
        return resolved.without_adapter()
    resolved = resolved.replace(adapter={"blocks": decided_blocks(recipe.adapter, module)})
    reached: set[Role] = {part.target for _, layer in adapter_layers(module) for part in layer.parts}
    return resolved if "layer" in reached else resolved.replace(adapter=_of_targets(recipe.adapter, reached))


def _of_targets(adapter: AdapterRecipe, reached: Collection[Role]) -> dict[str, object]:
    """What a recipe says of its targets, for those that the model has."""
    targets: tuple[Target, ...] = tuple(target for target in adapter.targets if target in reached)
    found: dict[str, object] = {"targets": targets}
    for key, each in (("rank", adapter.rank), ("alpha", adapter.alpha)):
        if isinstance(each, Mapping):
            found[key] = {target: each[target] for target in targets}
    return found
