"""From a recipe to what will be trained: the data, the model, and the recipe with every ``auto`` decided."""

from __future__ import annotations

from collections.abc import Mapping
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
from ftx.recipe.adapter_targets import Role
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import TrainRecipe
from ftx.runs.data_jsonl import entries_digest
from ftx.runs.run import Run
from ftx.runs.run_json import InitialWeights
from ftx.tasks.base import Task
from ftx.tasks.output_meaning import TASKS
from ftx.tasks.thresholds import Thresholds
from ftx.training.compiling import chosen
from ftx.training.device_placement import resolve_precision
from ftx.training.epoch_log import require_tensorboard
from ftx.training.frozen_part import FrozenTrunk, faster_runtime
from ftx.training.init_from import DATA_PATH, init_run, load_run_into, with_keys_of_run
from ftx.training.optimizer import peak_lr
from ftx.training.plan import Plan, plan, without_effect
from ftx.training.ranks import Ranks

# Keys that have no effect without steps.
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
class ResolvedTraining:
    """What will be trained, before anything is written."""

    dataset: Dataset
    prepared: TrainableModel
    recipe: Recipe
    plan: Plan
    init_from: InitialWeights | None = None

    @property
    def task(self) -> Task:
        """The task of its labels, with no thresholds tuned."""
        return TASKS[self.recipe.task](self.dataset.labels, Thresholds())

    @property
    def images(self) -> dict[str, int]:
        """The number of images in each split that has any."""
        counts = {str(split): len(self.dataset.split(split)) for split in SPLITS}
        return {split: count for split, count in counts.items() if count}

    @property
    def views(self) -> int:
        """Views of training and validation images that the frozen trunk computes once."""
        return self.plan.views_of(len(self.dataset.split("train")), len(self.dataset.split("val")))

    @property
    def unreadable(self) -> list[str]:
        """The images that are left out, and why."""
        return [f"{image.path}: {image.reason}" for image in self.dataset.unreadable]


def resolve(recipe: Recipe, strict: bool, progress: Progress) -> ResolvedTraining:
    """Read the data, build the model, and decide every ``auto``.

    Raises: DataError, ModelError or AdapterError for wrong input; RecipeError if ``strict`` and the data has another
    number of labels than the recipe; EnvironmentFault if memory runs out.
    """
    if recipe.train.tensorboard:
        require_tensorboard()
    run = init_run(recipe)
    if run is not None:
        recipe = with_keys_of_run(recipe, run)
    dataset = read_images(recipe, run, progress)
    _check_classes(recipe, len(dataset.labels), strict, progress)
    if recipe.model.weights == "auto":  # before the model is built: its files name what they were made from
        recipe = recipe.replace(model={"name": tagged(recipe.model.name)})
    with memory_faults(lambda: SMALLER):
        prepared = prepare(recipe, len(dataset.labels))
        init_from = None if run is None else load_run_into(run, prepared, dataset.labels, progress)
    planned = plan(prepared.backbone.module, recipe)
    if planned.dropped and planned.kept_blocks is None:  # kept features are dropped when they are read
        planned.dropped.put_into(prepared.backbone.module)
    found = _decided(ResolvedTraining(dataset, prepared, recipe, planned, init_from), progress)
    for note in without_effect(prepared.backbone.module, recipe.train, planned):
        progress.note(note)
    if planned.solves_all and (unused := _set_for_steps(recipe.train, run)):
        progress.note(
            f"{', '.join(unused)}: not used, as the head is solved in one go; train.head_init=random takes steps"
        )
    return found


def _set_for_steps(train: TrainRecipe, run: Run | None) -> list[str]:
    """The keys of steps that differ from the defaults, and from the run that training starts from."""
    known = [TrainRecipe(), *([run.recipe().train] if run is not None else [])]
    keys = [key for key in _STEPS if all(getattr(train, key) != getattr(one, key) for one in known)]
    augments = run is None and train.augment == "light"
    return [f"train.{key}" for key in (*keys, *(["augment"] if augments else []))]


def read_images(recipe: Recipe, run: Run | None, progress: Progress) -> Dataset:
    """The images that a recipe names, in their splits, decoded as its model needs them.

    ``run`` is the run that training starts from: its training images stay training images.
    Raises: DataError if the data is invalid; ModelError for an unknown model, before any image is read.
    """
    pre, data, train = preprocess_before(recipe.model.name, recipe.data.image_size), recipe.data, recipe.train
    if train.augment == "auto" and (recipe.method == "full" or recipe.adapter.blocks == "all"):
        # What the plan will decide if no block is frozen. Here it only decides in which form pixels are kept.
        train = train.model_copy(update={"augment": "light"})
    with pixel_store(data, 0, pre, train, SILENT) as pixels:  # training prints if it is too small
        return survey(
            typed(data.path),
            recipe.task,
            form=data.format,
            follow_links=data.follow_links,
            val_fraction=data.val_fraction,
            trained_on=set() if run is None else {entry.sha256 for entry in run.entries("train")},
            pixels=pixels,
            progress=progress,
        ).dataset


def resolve_together(recipe: Recipe, strict: bool, progress: Progress, ranks: Ranks) -> ResolvedTraining:
    """As ``resolve``, in each of the processes of a training, with the decisions of the first.

    Raises: as ``resolve``; InputError if they have different versions, recipes, data or bases.
    """
    ranks.agree_on("versions", {"ftx": __version__, "torch": torch.__version__}, "install the same on each machine")
    keys = {key: value for key, value in recipe.by_key().items() if key != DATA_PATH}  # it may be mounted elsewhere
    ranks.agree_on("recipes", keys, "give all of them the same command line")
    with ranks.first_of_machine_first():
        found = resolve(recipe, strict, progress)
    data, base = entries_digest(found.dataset.entries), found.prepared.backbone.digest
    images = {"images": sum(found.images.values()), "their digest": data}
    ranks.agree_on("images", images, "give each machine the same data")
    ranks.agree_on("weights", {"their digest": base}, "give each machine the same weights")
    return replace(found, recipe=ranks.of_first(found.recipe).replace(data={"path": found.recipe.data.path}))


def _check_classes(recipe: Recipe, found: int, strict: bool, progress: Progress) -> None:
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


def _decided(found: ResolvedTraining, progress: Progress) -> ResolvedTraining:
    """With the recipe as it was decided: every ``auto``, and where the data or the model has less."""
    recipe, planned, prepared = found.recipe, found.plan, found.prepared
    module, images = prepared.backbone.module, len(found.dataset.split("train"))
    precision = resolve_precision(recipe.train.precision)
    runtime = recipe.train.frozen_runtime if planned.kept_blocks is not None else "torch"
    if runtime == "auto" and planned.kept_blocks is not None:
        trunk = FrozenTrunk(prepared.backbone, planned.kept_blocks, bf16=precision == "bf16")
        runtime = faster_runtime(trunk, found.views, progress)
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
    decided = recipe.replace(
        data={"image_size": prepared.backbone.preprocess.image_size, "classes": len(found.dataset.labels)},
        train={
            "precision": precision,
            "lr": peak_lr(recipe.train, recipe.method),
            "frozen_runtime": runtime,
            "compile": compiling,
            "batch_size": bounded.batch_size,
            **planned.keys,
        },
    )
    if prepared.spec is None:
        decided = decided.without_adapter()
    else:
        keys: dict[str, object] = {"blocks": decided_blocks(recipe.adapter, module)}
        reached: set[Role] = {part.target for _, layer in adapter_layers(module) for part in layer.parts}
        if "layer" not in reached:  # for the targets that the model has
            keys["targets"] = tuple(target for target in recipe.adapter.targets if target in reached)
            for key, each in (("rank", recipe.adapter.rank), ("alpha", recipe.adapter.alpha)):
                if isinstance(each, Mapping):
                    keys[key] = {target: value for target, value in each.items() if target in reached}
        decided = decided.replace(adapter=keys)
    return replace(found, recipe=decided)
