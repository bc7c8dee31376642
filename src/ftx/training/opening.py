"""From a recipe to what will be trained: the images are read, the model is built, and the training is planned."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ftx.adapters.trainable_model import TrainableModel, decided_blocks, prepare
from ftx.backbones.build import preprocess_before, tagged
from ftx.core.addresses import typed
from ftx.core.errors import RecipeError
from ftx.core.memory import SMALLER, available_bytes, memory_faults
from ftx.core.progress import SILENT, Progress
from ftx.core.version import __version__
from ftx.data.dataset import SPLITS, Dataset
from ftx.data.open_dataset import survey
from ftx.data.pixel_store import pixel_store
from ftx.recipe.schema import Recipe
from ftx.runs.data_jsonl import entries_digest
from ftx.runs.run import Run
from ftx.runs.run_json import InitialWeights
from ftx.tasks.base import Task
from ftx.tasks.output_meaning import TASKS
from ftx.tasks.thresholds import Thresholds
from ftx.training.compiling import try_to_compile
from ftx.training.device_placement import computes_bf16, device
from ftx.training.epoch_log import require_tensorboard
from ftx.training.init_from import DATA_PATH, init_run, load_run_into, with_keys_of_run
from ftx.training.machine_timer import MachineTimer
from ftx.training.plan import Facts, Plan, resolve
from ftx.training.ranks import ONE_PROCESS, Ranks


@dataclass(frozen=True)
class ResolvedTraining:
    """What will be trained, before anything is written."""

    dataset: Dataset
    prepared: TrainableModel
    plan: Plan
    init_from: InitialWeights | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe of the plan: every ``auto`` is decided."""
        return self.plan.recipe

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


def open_training(
    recipe: Recipe,
    strict: bool,
    progress: Progress,
    ranks: Ranks = ONE_PROCESS,
    plain_attention: bool | None = None,
) -> ResolvedTraining:
    """Read the data, build the model, time what no rule decides, and plan the training.

    ``plain_attention`` is how a training that is resumed computed attention.
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
        before = None if run is None else run.recipe().train
        timer = MachineTimer(prepared, progress)
        weights_bytes = sum(tensor.nbytes for tensor in prepared.backbone.module.state_dict().values())
        facts = machine_facts(dataset, ranks, weights_bytes, plain_attention)
        planned = resolve(recipe, prepared, facts, timer, before)
        if recipe.train.compile == "blocks":
            try_to_compile(prepared.backbone.module, planned.steps, progress)
    for note in planned.notes:
        progress.note(note)
    return ResolvedTraining(dataset, prepared, planned, init_from)


def machine_facts(dataset: Dataset, ranks: Ranks, weights_bytes: int, plain_attention: bool | None) -> Facts:
    """The facts of a data set on this machine, for each of several processes.

    The first of a machine plans before the others have built the model, which takes ``weights_bytes`` in each.
    """
    free_bytes = available_bytes() - (ranks.local_world - 1) * weights_bytes
    return Facts(
        train_images=len(dataset.split("train")),
        val_images=len(dataset.split("val")),
        classes=len(dataset.labels),
        device=device().type,
        computes_bf16=computes_bf16(),
        free_bytes=max(free_bytes, 0) // ranks.local_world,
        ranks=ranks,
        plain_attention=plain_attention,
    )


def read_images(recipe: Recipe, run: Run | None, progress: Progress) -> Dataset:
    """The images that a recipe names, in their splits, decoded as its model needs them.

    ``run`` is the run that training starts from: its training images stay training images.
    Raises: DataError if the data is invalid; ModelError for an unknown model, before any image is read.
    """
    pre, data, train = preprocess_before(recipe.model.name, recipe.data.image_size), recipe.data, recipe.train
    all_blocks = recipe.model.peft != "none" and decided_blocks(recipe) == "all"
    if train.augment == "auto" and (all_blocks or recipe.method == "full"):
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


def open_together(
    recipe: Recipe, strict: bool, progress: Progress, ranks: Ranks, plain_attention: bool | None = None
) -> ResolvedTraining:
    """As ``open_training``, in each of the processes of a training, with the decisions of the first.

    Raises: as ``open_training``; InputError if they have different versions, recipes, data or bases.
    """
    ranks.agree_on("versions", {"ftx": __version__, "torch": torch.__version__}, "install the same on each machine")
    keys = {key: value for key, value in recipe.by_key().items() if key != DATA_PATH}  # it may be mounted elsewhere
    ranks.agree_on("recipes", keys, "start each process with the same command line")
    with ranks.first_of_machine_first():
        found = open_training(recipe, strict, progress, ranks, plain_attention)
    data, base = entries_digest(found.dataset.entries), found.prepared.backbone.digest
    images = {"images": sum(found.images.values()), "their digest": data}
    ranks.agree_on("images", images, "copy the same images to each machine")
    ranks.agree_on("weights", {"their digest": base}, "copy the same weights to each machine")
    return replace(found, plan=ranks.of_first(found.plan).for_data_at(found.recipe.data.path))


def _check_classes(recipe: Recipe, found: int, strict: bool, progress: Progress) -> None:
    expected = recipe.data.classes
    if expected in ("auto", found):
        return
    if strict:
        raise RecipeError(
            f"data.classes must be {found}, the number of labels in the data",
            where=recipe.data.path,
            found=str(expected),
            fix=f"set it with --set data.classes={found}, or train without --strict",
        )
    progress.note(f"data.classes is {expected} in the recipe, but the data has {found} labels: training uses {found}")
