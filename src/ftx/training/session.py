"""``ftx train``: from a recipe to a run folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ftx.backbones.build import resolve as resolve_model
from ftx.backbones.families import depth, plain_vit
from ftx.backbones.stages import choose_attention, frozen_lead, head_alone, token_shape
from ftx.data.dataset import SPLITS, Dataset, Split
from ftx.data.loader import available_bytes
from ftx.data.survey import class_counts, read_dataset
from ftx.errors import EnvironmentFault, RecipeError
from ftx.files import check_space, write_atomic
from ftx.progress import SILENT, Progress
from ftx.recipe import Augmentation, Recipe
from ftx.run import Manifest, new_run, refuse_existing, seal
from ftx.runs import fresh_out, point_latest_at
from ftx.tasks import TASKS, Task, Thresholds
from ftx.training.balance import balance_of
from ftx.training.feed import FeatureFeed, Feed, ImageFeed, feature_bytes
from ftx.training.log import logging, require_tensorboard
from ftx.training.loop import Epoch, Fit, fit
from ftx.training.optim import peak_lr
from ftx.training.precision import device, resolve
from ftx.training.prepare import Prepared, prepare
from ftx.training.report import DryRunReport, TrainReport
from ftx.training.trained import save_trained


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
        with logging(new.folder / "reports", tensorboard=recipe.train.tensorboard) as log:
            made = _fit(prepared, dataset, resolved, task, progress, log)
        prepared.backbone.module.cpu()
        save_trained(prepared, new.folder / "trained")
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
        model=recipe.model.name,
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
    """Say what was understood of data and model, and train nothing; raises as ``train`` does."""
    dataset, prepared, resolved = _understood(recipe, strict, progress)
    total = sum(parameter.numel() for parameter in prepared.backbone.module.parameters())
    return DryRunReport(
        method=prepared.method,
        model=recipe.model.name,
        precision=resolved.train.precision,
        image_size=prepared.backbone.preprocess.image_size,
        counts={name: {str(side): n for side, n in sides.items()} for name, sides in class_counts(dataset).items()},
        images=_images(dataset),
        unreadable=[f"{image.path}: {image.reason}" for image in dataset.unreadable],
        layers=list(prepared.layers),
        trainable_parameters=prepared.trainable,
        trainable_share=prepared.trainable / total,
        memory_mb=_memory_mb(prepared, resolved, len(dataset.split("train"))),
        free_mb=round(available_bytes() / 1e6),
    )


def _understood(recipe: Recipe, strict: bool, progress: Progress) -> tuple[Dataset, Prepared, Recipe]:
    """The data, the model ready to train, and the recipe with every ``auto`` decided."""
    if recipe.train.tensorboard:
        require_tensorboard()
    resolve_model(recipe.model.name)  # a name mistyped must not cost the reading of all images
    data = recipe.data
    dataset = read_dataset(data.path, recipe.task, form=data.format, val_fraction=data.val_fraction, progress=progress)
    _compare_classes(recipe, len(dataset.labels), strict, progress)
    prepared = prepare(recipe, len(dataset.labels))
    return dataset, prepared, _resolved(recipe, prepared, len(dataset.labels))


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
    where = device()
    module.to(where)
    if where.type == "cpu":
        choose_attention(module, batch_size=recipe.train.batch_size, memory_bytes=available_bytes() // 4)
    lead = frozen_lead(module)
    # Whether features fit into memory must not decide what is trained on: frozen blocks see each image as it is.
    features = lead > 0 or head_alone(module)
    augment = "none" if features else recipe.train.augment
    images = len(dataset.split("train")) + len(dataset.split("val"))
    if features and feature_bytes(module, lead, images) > available_bytes() // 3:
        progress.note("the frozen blocks' features do not fit into memory: they are computed in each epoch")
        features = False
    feeds = tuple(
        _feed(prepared, dataset, task, side, lead if features else None, augment, progress) for side in ("train", "val")
    )
    labels = [entry.labels for entry in dataset.split("train")]
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


def _feed(
    prepared: Prepared,
    dataset: Dataset,
    task: Task,
    side: Split,
    lead: int | None,
    augment: Augmentation,
    progress: Progress,
) -> Feed:
    pre = prepared.backbone.preprocess
    entries = dataset.split(side)
    paths = [dataset.root / entry.path for entry in entries]
    targets_NC = task.targets([entry.labels for entry in entries])
    if lead is not None:
        return FeatureFeed(prepared.backbone.module, lead, paths, targets_NC, pre, device=device(), progress=progress)
    varied = augment if side == "train" else "none"
    return ImageFeed(paths, targets_NC, pre, augment=varied, device=device(), progress=progress)


def _resolved(recipe: Recipe, prepared: Prepared, classes: int) -> Recipe:
    """The recipe with every ``auto`` that was decided here written out."""
    return recipe.with_overrides(
        [
            f"data.image_size={prepared.backbone.preprocess.image_size}",
            f"data.classes={classes}",
            f"train.precision={resolve(recipe.train.precision)}",
            f"train.lr={peak_lr(recipe.train, recipe.method)!r}",
        ]
    )


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


def _images(dataset: Dataset) -> dict[str, int]:
    counts = {str(side): len(dataset.split(side)) for side in SPLITS}
    return {side: count for side, count in counts.items() if count}


def _memory_mb(prepared: Prepared, recipe: Recipe, images: int) -> int:
    """A rough estimate: weights, gradients and AdamW's two moments, and what each layer keeps for its backward."""
    module = prepared.backbone.module
    weights = 4 * sum(parameter.numel() for parameter in module.parameters())
    states = 12 * prepared.trainable
    width_bytes = 2 if recipe.train.precision == "bf16" else 4
    kept = _kept_numbers(prepared) * min(recipe.train.batch_size, images) * width_bytes
    torch_itself = 300_000_000
    return round((weights + states + kept + torch_itself) / 1e6)


def _kept_numbers(prepared: Prepared) -> int:
    """Activations that one image leaves for the backward."""
    module, pre = prepared.backbone.module, prepared.backbone.preprocess
    if head_alone(module):
        return 0
    vit = plain_vit(module)
    if vit is not None:
        tokens, width = token_shape(vit)
        # About 16 activations of the token width a block: norms, qkv, proj, and the four times wider MLP twice.
        return (depth(vit) - frozen_lead(vit)) * tokens * width * 16
    counted = [0]

    def count(_layer: object, _inputs: object, output: object) -> None:
        counted[0] += output.numel() if isinstance(output, torch.Tensor) else 0

    hooks = [layer.register_forward_hook(count) for layer in module.modules() if not list(layer.children())]
    with torch.inference_mode():
        module(torch.zeros(1, 3, pre.height, pre.width))
    for hook in hooks:
        hook.remove()
    return counted[0]
