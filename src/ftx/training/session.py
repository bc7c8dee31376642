"""``ftx train``: from a recipe to a run folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np
import torch

from ftx.adapters.attach import adapter_layers
from ftx.adapters.prepare import Prepared, prepare
from ftx.backbones.build import resolve as resolve_model
from ftx.backbones.build import tagged
from ftx.core.errors import EnvironmentFault, RecipeError
from ftx.core.files import check_space, write_atomic
from ftx.core.memory import SMALLER, available_bytes, memory_faults
from ftx.core.progress import SILENT, Progress
from ftx.data.dataset import SPLITS, Dataset
from ftx.data.survey import class_counts, read_dataset
from ftx.recipe.adapter_targets import Role, Target
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import AdapterRecipe
from ftx.runs.latest import fresh_out, point_latest_at
from ftx.runs.manifest import Manifest
from ftx.runs.model_cards import KeptEpoch, write_trained_card
from ftx.runs.new_run import new_run, refuse_existing, seal
from ftx.runs.trained import save_trained
from ftx.tasks.base import Task
from ftx.tasks.meaning import TASKS
from ftx.tasks.thresholds import Thresholds
from ftx.training.class_balance import balance_of
from ftx.training.epoch_log import logging, require_tensorboard
from ftx.training.estimate import Times, adapted_layers, memory_mb, rehearse, what_would_fit
from ftx.training.feed import augmentation, feed_of, plan
from ftx.training.loop import Epoch, Fit, fit
from ftx.training.optimizer import peak_lr
from ftx.training.placement import device, place, resolve
from ftx.training.report import DryRunReport, TrainReport


def train(recipe: Recipe, out: Path | None = None, *, strict: bool = False, progress: Progress = SILENT) -> TrainReport:
    """Train as the recipe says and write a run folder, by default a new one below ``runs/``.

    Raises: RunError if ``out`` exists; DataError, ModelError or AdapterError for wrong input, before
    anything is written; RecipeError if ``strict`` and the data has another number of labels than the recipe says.
    """
    started = time.monotonic()
    if out is not None:
        refuse_existing(out)
    dataset, prepared, resolved = _understood(recipe, strict, progress)
    out = out or fresh_out(f"{recipe.data.path.resolve().stem}-{prepared.method}")
    trainable = prepared.trainable
    check_space(out, 8 * trainable)
    task = TASKS[recipe.task](dataset.labels, Thresholds())
    with new_run(out) as new:
        if recipe.train.tensorboard:
            progress.note(f"curves: tensorboard --logdir {new.folder / 'reports' / 'tensorboard'}")
        with (
            logging(new.folder / "reports", tensorboard=recipe.train.tensorboard) as log,
            memory_faults(_what_would_fit(prepared, resolved, dataset)),
        ):
            made = _fit(prepared, dataset, resolved, task, progress, log)
        prepared.backbone.module.cpu()
        save_trained(prepared, new.folder / "trained")
        write_trained_card(new.folder / "trained", resolved, prepared, dataset, _kept(made))
        write_atomic(new.folder / "recipe.yaml", resolved.dumps().encode())
        seal(new.folder, _manifest(resolved, prepared, dataset, made.thresholds), dataset.entries)
    if new.path != out:
        progress.note(f"{out} was taken by another training meanwhile: this run is {new.path}")
    try:
        point_latest_at(new.path)
    except (EnvironmentFault, OSError) as fault:
        progress.note(f"runs/latest cannot name this run, so name it to the next verb: {fault}")
    return TrainReport(
        run=str(new.path),
        method=prepared.method,
        model=resolved.model.name,
        precision=resolved.train.precision,
        classes=len(dataset.labels),
        images=_images(dataset),
        unreadable=[f"{image.path}: {image.reason}" for image in dataset.unreadable],
        trainable_parameters=trainable,
        epochs=len(made.epochs),
        best_epoch=made.best.epoch,
        accuracy=made.best.accuracy,
        metric=made.metric,
        metrics=made.best.metrics,
        loss=made.best.val_loss,
        images_per_s=round(float(np.median([epoch.images_per_s for epoch in made.epochs])), 1),
        seconds=round(time.monotonic() - started, 1),
        interrupted=made.interrupted,
    )


def dry_run(recipe: Recipe, *, strict: bool = False, progress: Progress = SILENT) -> DryRunReport:
    """Say what was understood of data and model, time two steps and train nothing; raises as ``train`` does."""
    dataset, prepared, resolved = _understood(recipe, strict, progress)
    total = sum(parameter.numel() for parameter in prepared.backbone.module.parameters())
    place(prepared, resolved.train.batch_size, progress)
    needed_mb, free_mb = memory_mb(prepared, resolved, len(dataset.split("train"))), round(available_bytes() / 1e6)
    times: Times | None = None
    if needed_mb <= free_mb:
        with memory_faults(_what_would_fit(prepared, resolved, dataset)):
            times = rehearse(prepared, dataset, resolved, TASKS[recipe.task](dataset.labels, Thresholds()))
    return DryRunReport(
        method=prepared.method,
        model=resolved.model.name,
        precision=resolved.train.precision,
        image_size=prepared.backbone.preprocess.image_size,
        counts={name: {str(side): n for side, n in sides.items()} for name, sides in class_counts(dataset).items()},
        images=_images(dataset),
        unreadable=[f"{image.path}: {image.reason}" for image in dataset.unreadable],
        layers=adapted_layers(prepared.backbone.module),
        trainable_parameters=prepared.trainable,
        trainable_share=prepared.trainable / total,
        memory_mb=needed_mb,
        free_mb=free_mb,
        epochs=resolved.train.epochs,
        seconds_before=times and round(times.before_s, 1),
        seconds_per_epoch=times and round(times.epoch_s, 1),
        seconds=times and round(times.before_s + resolved.train.epochs * times.epoch_s, 1),
    )


def _what_would_fit(prepared: Prepared, recipe: Recipe, dataset: Dataset) -> Callable[[], str]:
    """What gives the advice, of the memory that is free now: when it has run out, it is the training's own."""
    where, images = device(), len(dataset.split("train"))
    free_bytes = available_bytes() if where.type == "cpu" else torch.cuda.mem_get_info(where)[0]
    return lambda: what_would_fit(prepared, recipe, images, free_bytes)


def _understood(recipe: Recipe, strict: bool, progress: Progress) -> tuple[Dataset, Prepared, Recipe]:
    """The data, the model ready to train, and the recipe with every ``auto`` decided."""
    if recipe.train.tensorboard:
        require_tensorboard()
    resolve_model(recipe.model.name)  # a name mistyped must not cost the reading of all images
    data = recipe.data
    dataset = read_dataset(data.path, recipe.task, form=data.format, val_fraction=data.val_fraction, progress=progress)
    _compare_classes(recipe, len(dataset.labels), strict, progress)
    if recipe.model.weights == "auto":  # before the model is built: its files name what they were made from
        recipe = recipe.replace(model={"name": tagged(recipe.model.name)})
    with memory_faults(lambda: SMALLER):
        prepared = prepare(recipe, len(dataset.labels))
    resolved = _resolved(recipe, prepared, dataset)
    if resolved.train.augment != recipe.train.augment and "augment" in recipe.train.model_fields_set:
        progress.note(
            f"train.augment {recipe.train.augment} is not done: the frozen blocks see each image once, as it is"
        )
    return dataset, prepared, resolved


def _compare_classes(recipe: Recipe, found: int, strict: bool, progress: Progress) -> None:
    expected = recipe.data.classes
    if expected in ("auto", found):
        return
    if strict:
        raise RecipeError(
            f"the recipe is for {expected} labels, the data has {found}",
            where=recipe.data.path,
            mend=f"--set data.classes={found}, or leave --strict out: the data decides",
        )
    progress.note(f"the recipe is for {expected} labels, the data has {found}: the data decides")


def _fit(
    prepared: Prepared, dataset: Dataset, recipe: Recipe, task: Task, progress: Progress, log: Callable[[Epoch], None]
) -> Fit:
    module = prepared.backbone.module
    where = place(prepared, recipe.train.batch_size, progress)
    training = dataset.split("train")
    planned = plan(module, recipe, len(training) + len(dataset.split("val")), progress)
    pre = prepared.backbone.preprocess
    feeds = [
        feed_of(module, pre, dataset.root, entries, task, planned, varied=entries is training, progress=progress)
        for entries in (training, dataset.split("val"))
    ]
    labels = [entry.labels for entry in training]
    with torch.random.fork_rng(devices=[] if where.type == "cpu" else [where]):
        torch.manual_seed(recipe.seed)  # what dropout draws from
        return fit(
            module,
            task,
            (feeds[0], feeds[1]),
            recipe.train,
            balance=balance_of(recipe.train.balance, task.labels, task.targets(labels)),
            lr=peak_lr(recipe.train, prepared.method),
            bf16=recipe.train.precision == "bf16",
            rng=np.random.default_rng(recipe.seed),
            progress=progress,
            log=log,
        )


def _resolved(recipe: Recipe, prepared: Prepared, dataset: Dataset) -> Recipe:
    """The recipe with what was decided here written out: every ``auto``, and where the data or the model has less."""
    module = prepared.backbone.module
    resolved = recipe.replace(
        data={"image_size": prepared.backbone.preprocess.image_size, "classes": len(dataset.labels)},
        train={
            "precision": resolve(recipe.train.precision),
            "lr": peak_lr(recipe.train, recipe.method),
            "augment": augmentation(module, recipe),
            "batch_size": min(recipe.train.batch_size, len(dataset.split("train"))),
        },
    )
    if prepared.spec is None:
        return resolved.without_adapter()
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


def _manifest(recipe: Recipe, prepared: Prepared, dataset: Dataset, thresholds: Thresholds) -> Manifest:
    return Manifest(
        task=recipe.task,
        model=recipe.model.name,
        architecture=prepared.backbone.architecture,
        method=prepared.method,
        base_digest=prepared.backbone.digest,
        labels=dataset.labels,
        thresholds=thresholds,
        preprocess=prepared.backbone.preprocess,
        data_root=str(dataset.root),
    )


def _kept(made: Fit) -> KeptEpoch:
    return KeptEpoch(
        number=made.best.epoch,
        epochs=len(made.epochs),
        metric=made.metric,
        metrics=made.best.metrics,
        thresholds=made.thresholds,
        interrupted=made.interrupted,
    )


def _images(dataset: Dataset) -> dict[str, int]:
    counts = {str(side): len(dataset.split(side)) for side in SPLITS}
    return {side: count for side, count in counts.items() if count}
