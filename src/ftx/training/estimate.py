"""What a training would take, before it starts: memory by counting, time by rehearsing two steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch

from ftx.adapters.attach import adapter_layers, prove_reach
from ftx.adapters.trainable_model import TrainableModel
from ftx.backbones.kept_tokens import tokens_by_block
from ftx.backbones.layer_roles import depth, plain_vit, token_shape
from ftx.backbones.split_network import attentions_with_backward, frozen_blocks, only_head_trains
from ftx.backbones.trained_blocks import joined_attention, recomputing, trained_blocks
from ftx.core.errors import InputError
from ftx.core.memory import available_bytes, memory_faults
from ftx.core.progress import SILENT, Progress
from ftx.data.open_dataset import class_counts
from ftx.data.pixel_store import PixelStore
from ftx.recipe.schema import Recipe
from ftx.training.assembly import build_training, frozen_of, inputs_for, pixels_of
from ftx.training.class_balance import Balance
from ftx.training.device_placement import EVAL_BATCH, device, place, within_quota
from ftx.training.head_start import bytes_to_fit
from ftx.training.inputs import Inputs, Order
from ftx.training.opening import ResolvedTraining, open_training
from ftx.training.optimizer import optimizer
from ftx.training.plan import Plan
from ftx.training.ranks import ONE_PROCESS, Ranks
from ftx.training.report import DryRunReport, PlannedLayer
from ftx.training.step import Training, in_parts, measure, train_mode

# For steps as short as this the work around them matters: threads that start, and an epoch's line, 14 ms until it is on
# disk.
_SHORT_S, _ENDS_S = 0.25, 0.015


@dataclass(frozen=True)
class Times:
    """Seconds before the first epoch, and in each.

    Of those before, ``view_s`` are for each of the ``views`` of the training images, one per epoch.
    """

    before_s: float
    epoch_s: float
    view_s: float = 0.0
    views: int = 1

    def of(self, epochs: int) -> float:
        """Seconds of a training of ``epochs`` epochs."""
        return self.before(epochs) + self.epoch_s * epochs

    def before(self, epochs: int) -> float:
        """Seconds before the first of ``epochs`` epochs."""
        return self.before_s - self.view_s * (self.views - min(self.views, epochs))


def rehearse(found: ResolvedTraining) -> Times:
    """Time what training does, on images for two steps, where ``place`` put the model; it keeps its weights.

    Raises: AdapterError if training would not reach an adapter; ImageError for an image that cannot be read.
    """
    with pixels_of(found, SILENT) as pixels:
        return _rehearsed(found, pixels)


def _rehearsed(found: ResolvedTraining, pixels: PixelStore) -> Times:
    module, recipe = found.prepared.backbone.module, found.recipe
    where = next(module.parameters()).device
    train, val = found.dataset.split("train"), found.dataset.split("val")
    batch_size = min(recipe.train.batch_size, len(train))
    some = train[:: max(len(train) // (2 * batch_size), 1)][: 2 * batch_size]
    with frozen_of(found, SILENT) as frozen:  # earlier trainings may have kept features of it
        whole = build_training(found, pixels, frozen)
        train_views, val_views = whole.inputs.to_prepare(), whole.held_out.to_prepare()
    with (
        torch.random.fork_rng(devices=[] if where.type == "cpu" else [where]),
        frozen_of(found, SILENT, for_others=False) as frozen,
    ):
        inputs, held_out = (inputs_for(found, pixels, frozen, some, trains=trains) for trains in (True, False))
        order = np.resize(np.arange(len(some)), 2 * batch_size)  # of the same images where there are too few
        one_s, planned = _seconds_to_prepare_one(inputs, order), found.plan
        _seconds_to_prepare_one(held_out, order)
        training = replace(whole, inputs=inputs, held_out=held_out, balance=Balance(len(some)), shard_N=None)
        train_mode(module)
        steps = optimizer(module, 0.0, recipe.train.weight_decay)  # of no size, so weights stay
        again = recomputing(module) if recipe.train.activation_checkpointing else nullcontext()
        with joined_attention(trained_blocks(module)), again:
            _, step_s = _epoch_of_two(training, steps, order)
            around_s = 0.0
            if step_s < _SHORT_S:
                whole_s, step_s = _epoch_of_two(training, steps, order)
                around_s = max(whole_s - 2 * step_s, 0.0) + _ENDS_S
        prove_reach(module)
        module.zero_grad(set_to_none=True)
        started = time.perf_counter()
        measure(module, training.task, held_out, loss=recipe.train.loss, bf16=training.bf16)
        measured_s = (time.perf_counter() - started) / len(some)
    epoch_s = around_s + step_s / batch_size * len(train) + measured_s * len(val)
    before_s = one_s * (train_views + val_views)
    # The fit reads the features of each image. Its solver takes a few seconds, of what the budget spares.
    if planned.fits_head and not planned.solves_all:
        before_s += measured_s * (len(train) + len(val))
    return Times(before_s, epoch_s, one_s * train_views / max(planned.kept_views, 1), max(planned.views, 1))


def _epoch_of_two(training: Training, steps: torch.optim.Optimizer, order: Order) -> tuple[float, float]:
    """Seconds of two steps with the work around them, and of only the second, as the first is a warm-up."""
    step_s, began = 0.0, time.perf_counter()
    started = began
    for batch in training.inputs.batches(order, len(order) // 2, epoch=1):
        steps.zero_grad(set_to_none=True)
        in_parts(training.inputs.network, training, batch)
        steps.step()
        step_s, started = time.perf_counter() - started, time.perf_counter()
    return time.perf_counter() - began, step_s


def _seconds_to_prepare_one(inputs: Inputs, order: Order) -> float:
    """Seconds of decoding an image, or of its features; they are prepared afterwards."""
    started = time.perf_counter()
    for _ in inputs.batches(order, EVAL_BATCH, epoch=1):
        pass
    return (time.perf_counter() - started) / len(np.unique(order))


def adapted_layers(module: torch.nn.Module) -> list[PlannedLayer]:
    """Each layer that has an adapter, in the order of the model."""
    return [
        PlannedLayer(
            name=name,
            targets=[part.target for part in layer.parts],
            inputs=layer.in_features,
            outputs=layer.out_features,
            rank=layer.rank,
            parameters=layer.trainable_parameters,
        )
        for name, layer in adapter_layers(module)
    ]


def memory_mb(prepared: TrainableModel, recipe: Recipe, planned: Plan, images: int) -> int:
    """A rough estimate: weights, gradients, AdamW's two moments, what each layer keeps for its backward, the probe."""
    module = prepared.backbone.module
    weights = 4 * sum(parameter.numel() for parameter in module.parameters())
    # An adapted layer keeps the weight that it computes with.
    merged = 4 * sum(layer.in_features * layer.out_features for _, layer in adapter_layers(module))
    states = 12 * prepared.trainable
    width_bytes = 2 if recipe.train.precision == "bf16" else 4
    part = recipe.train.at_once(min(recipe.train.batch_size, images))
    again = recipe.train.activation_checkpointing
    kept = _kept_numbers(prepared, planned, again=again) * part * width_bytes
    classes = planned.recipe.data.classes
    assert classes != "auto"
    solved = bytes_to_fit(module, images, classes) if planned.fits_head else 0
    # torch, timm and the images: measured as the least that a training of a small model takes.
    torch_itself = 480_000_000
    return round((weights + merged + states + kept + solved + torch_itself) / 1e6)


def what_would_fit(
    prepared: TrainableModel, recipe: Recipe, planned: Plan, images: int, free_bytes: int, ranks: Ranks = ONE_PROCESS
) -> str:
    """How to train in ``free_bytes`` of memory, too little for a batch of this size: the largest that fits by estimate.

    ``free_bytes`` is for one process, which computes its part of a batch.
    """

    def needed_mb(batch: int) -> int:
        smaller = recipe.replace(train={"batch_size": ranks.largest_part(batch)})
        return memory_mb(prepared, smaller, planned, images)

    batch = min(recipe.train.batch_size, images) // 2
    while batch and needed_mb(batch) * 1e6 > free_bytes:
        batch //= 2
    if batch:
        of = f"{round(free_bytes / 1e6):,} MB" + (" in each process" if ranks.world > 1 else "")
        return f"use --batch-size {batch}, which takes about {needed_mb(batch):,} MB of {of}"
    one, unfitted = recipe.replace(train={"batch_size": 1}), replace(planned, fits_head=planned.solves_all)
    if unfitted != planned and memory_mb(prepared, one, unfitted, images) * 1e6 <= free_bytes:
        return (
            "use --set train.head_init=random, which keeps no features in memory, or a smaller --image-size or --model"
        )
    return "use a smaller --image-size or --model, or --method linear: one image at a time is too much"


def _kept_numbers(prepared: TrainableModel, planned: Plan, *, again: bool) -> int:
    """Activations that the backward needs of one image; ``again``: of one block, and the inputs of the others."""
    module, pre = prepared.backbone.module, prepared.backbone.preprocess
    if only_head_trains(module):
        return 0
    vit = plain_vit(module)
    if vit is not None:
        _, width = token_shape(vit)
        blocks = frozen_blocks(vit)
        tokens = planned.dropped.step_tokens(vit, blocks)
        attentions = attentions_with_backward(vit) if planned.plain_attention else []
        heads = max((int(str(getattr(layer, "num_heads", 0))) for layer in attentions), default=0)
        # About 16 activations of the token width a block: norms, qkv, proj, and the four times wider MLP twice; if
        # attention is computed as plain products, the scores and their softmax as well.
        trained, of_one = depth(vit) - blocks, tokens * width * 16 + 2 * heads * tokens**2
        return trained * tokens * width + of_one if again else trained * of_one
    counted = [0]

    def count(_layer: object, _inputs: object, output: object) -> None:
        counted[0] += output.numel() if isinstance(output, torch.Tensor) else 0

    hooks = [layer.register_forward_hook(count) for layer in module.modules() if not list(layer.children())]
    with torch.inference_mode():
        module(torch.zeros(1, 3, pre.height, pre.width, device=next(module.parameters()).device))
    for hook in hooks:
        hook.remove()
    return counted[0]


# Fraction of the budget for writing the run and for what the rehearsal did not foresee.
_SPARE = 0.05


def foreseeable(recipe: Recipe) -> Recipe:
    """The recipe for a training with a budget: without compiling blocks, whose time cannot be foreseen."""
    return recipe.replace(train={"compile": "none"}) if recipe.train.compile == "auto" else recipe


def within(
    found: ResolvedTraining, budget_s: float, began: float, progress: Progress, ranks: Ranks = ONE_PROCESS
) -> ResolvedTraining:
    """The training with fewer epochs if all would not end ``budget_s`` after ``began`` (``time.perf_counter``).

    Each of several processes rehearses its part of a batch, and their work before the epochs is divided.

    Raises: InputError if not even one epoch would.
    """
    module, recipe = found.prepared.backbone.module, found.recipe
    part = recipe.replace(train={"batch_size": ranks.largest_part(recipe.train.batch_size)})
    mine = replace(found, plan=replace(found.plan, recipe=part))
    place(mine.prepared, plain_attention=found.plan.plain_attention)
    # A step in training mode changes batch statistics.
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    single = rehearse(mine)
    divided = {"before_s": single.before_s / ranks.local_world, "view_s": single.view_s / ranks.local_world}
    times = replace(single, epoch_s=single.epoch_s / ranks.world, **divided)
    for name, buffer in module.named_buffers():
        buffer.copy_(before[name])
    # The first decides by its clock: near the limit another might compute one epoch less.
    chosen = fitted(found, times, budget_s, began, progress) if ranks.leads else found
    return replace(found, plan=ranks.of_first(chosen.plan).for_data_at(recipe.data.path))


def fitted(
    found: ResolvedTraining, times: Times, budget_s: float, began: float, progress: Progress
) -> ResolvedTraining:
    """As ``within``, by the times of a rehearsal."""
    left_s = (1 - _SPARE) * budget_s - (time.perf_counter() - began)
    epochs = found.plan.epochs
    fitting = next((fewer for fewer in range(epochs, 0, -1) if times.of(fewer) <= left_s), 0)
    if fitting == epochs:
        return found
    if not fitting:
        needed_s = budget_s - left_s + times.of(1)
        faster = "" if found.recipe.method == "linear" else ", or --preset fast, which trains only the head"
        raise InputError(
            "--budget must be long enough for one epoch",
            found=f"{budget_s:.0f} s; one epoch ends after about {needed_s:.1f} s",
            fix=f"use a longer --budget or a smaller --image-size{faster}",
        )
    progress.note(f"{fitting} of {epochs} epochs fit into the budget: {times.epoch_s:.2g} s each")
    return replace(found, plan=found.plan.within(fitting))


def dry_run(
    recipe: Recipe, *, strict: bool = False, budget_s: float | None = None, progress: Progress = SILENT
) -> DryRunReport:
    """Report how data and model were understood, and time two steps, without training; raises as ``train`` does."""
    began = time.perf_counter()
    within_quota()
    found = open_training(recipe if budget_s is None else foreseeable(recipe), strict, progress)
    prepared, resolved = found.prepared, found.recipe
    total = sum(parameter.numel() for parameter in prepared.backbone.module.parameters())
    place(prepared, plain_attention=found.plan.plain_attention)
    needed_mb = memory_mb(prepared, resolved, found.plan, found.images["train"])
    free_mb = round(available_bytes() / 1e6)
    times: Times | None = None
    if needed_mb <= free_mb or budget_s is not None:  # only two steps show what fits into a time
        with memory_faults(advice(found)):
            times = rehearse(found)
        if budget_s is not None:
            found = fitted(found, times, budget_s, began, progress)
    counts = class_counts(found.dataset)
    epochs = found.plan.epochs
    return DryRunReport(
        method=prepared.method,
        model=resolved.model.name,
        precision=resolved.train.precision,
        image_size=prepared.backbone.preprocess.image_size,
        tokens=tokens_by_block(prepared.backbone.module),
        augment=found.plan.augment,
        patch_dropout=found.plan.dropped.fraction,
        counts={name: {str(split): n for split, n in splits.items()} for name, splits in counts.items()},
        images=found.images,
        unreadable=found.unreadable,
        layers=adapted_layers(prepared.backbone.module),
        trainable_parameters=prepared.trainable,
        trainable_share=prepared.trainable / total,
        memory_mb=needed_mb,
        free_mb=free_mb,
        epochs=epochs,
        seconds_before=times and round(times.before(epochs), 1),
        seconds_per_epoch=times and round(times.epoch_s, 1),
        seconds=times and round(times.of(epochs), 1),
    )


def advice(found: ResolvedTraining, ranks: Ranks = ONE_PROCESS) -> Callable[[], str]:
    """A function that returns how to train in the memory that is free now, before the training itself uses it.

    Each of several processes has its part of a machine's memory, or that of its own GPU.
    """
    where, images = device(), found.images["train"]
    cpu = where.type == "cpu"
    free_bytes = available_bytes() // ranks.local_world if cpu else torch.cuda.mem_get_info(where)[0]
    return lambda: what_would_fit(found.prepared, found.recipe, found.plan, images, free_bytes, ranks)
