"""What a training would take, before it is begun: memory by counting, time by rehearsing two steps."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch

from ftx.adapters.attach import adapter_layers, prove_reach
from ftx.adapters.trainable_model import TrainableModel
from ftx.backbones.dropped_patches import DroppedPatches
from ftx.backbones.layer_roles import depth, plain_vit, token_shape
from ftx.backbones.split_network import frozen_blocks, only_head_trains
from ftx.backbones.trained_blocks import joined_attention, recomputing, trained_blocks
from ftx.core.progress import SILENT
from ftx.data.pixel_store import PixelStore
from ftx.recipe.schema import Recipe
from ftx.training.assembly import frozen_of, inputs_for, pixels_of, training_of
from ftx.training.class_balance import Balance
from ftx.training.device_placement import EVAL_BATCH
from ftx.training.head_start import linear_heads
from ftx.training.inputs import Inputs, Order
from ftx.training.optimizer import optimizer
from ftx.training.plan import Plan
from ftx.training.ranks import ALONE, Ranks
from ftx.training.report import PlannedLayer
from ftx.training.resolve import Resolved
from ftx.training.step import Training, in_parts, measure, train_mode

# Of steps as short as this what lies around them counts: threads that begin, and an epoch's line, 14 ms until a disk
# has it.
_SHORT_S, _ENDS_S = 0.25, 0.015


@dataclass(frozen=True)
class Times:
    """Seconds that are spent before the first epoch, and in each.

    Of those before, ``view_s`` go to each of so many ``views`` that epochs see of the training images, each one.
    """

    before_s: float
    epoch_s: float
    view_s: float = 0.0
    views: int = 1

    def of(self, epochs: int) -> float:
        """Seconds of a training of so many epochs."""
        return self.before(epochs) + self.epoch_s * epochs

    def before(self, epochs: int) -> float:
        """Seconds before the first of so many epochs."""
        return self.before_s - self.view_s * (self.views - min(self.views, epochs))


def rehearse(found: Resolved) -> Times:
    """Time what training does, on images for two steps, where ``place`` put the model; it keeps its weights.

    Raises: AdapterError if training would not reach an adapter; ImageError for an image that cannot be read.
    """
    with pixels_of(found, SILENT) as pixels:
        return _rehearsed(found, pixels)


def _rehearsed(found: Resolved, pixels: PixelStore) -> Times:
    module, recipe = found.prepared.backbone.module, found.recipe
    where = next(module.parameters()).device
    train, val = found.dataset.split("train"), found.dataset.split("val")
    batch_size = min(recipe.train.batch_size, len(train))
    some = train[:: max(len(train) // (2 * batch_size), 1)][: 2 * batch_size]
    with frozen_of(found, SILENT) as frozen:  # of which earlier trainings may have kept what they computed
        whole = training_of(found, pixels, frozen)
        train_views, val_views = whole.inputs.to_prepare(), whole.held_out.to_prepare()
    with (
        torch.random.fork_rng(devices=[] if where.type == "cpu" else [where]),
        frozen_of(found, SILENT, for_others=False) as frozen,
    ):
        inputs, held_out = (inputs_for(found, pixels, frozen, some, varied=varied) for varied in (True, False))
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
    if planned.fits_head and not planned.solves_all:  # which reads what the head does of each image
        before_s += measured_s * (len(train) + len(val))
    return Times(before_s, epoch_s, one_s * train_views / max(planned.kept_views, 1), max(planned.views, 1))


def _epoch_of_two(training: Training, steps: torch.optim.Optimizer, order: Order) -> tuple[float, float]:
    """Seconds of two steps with all that is around them, and of the second alone, as the first is a warm-up."""
    step_s, began = 0.0, time.perf_counter()
    started = began
    for batch in training.inputs.batches(order, len(order) // 2, epoch=1):
        steps.zero_grad(set_to_none=True)
        in_parts(training.inputs.network, training, batch)
        steps.step()
        step_s, started = time.perf_counter() - started, time.perf_counter()
    return time.perf_counter() - began, step_s


def _seconds_to_prepare_one(inputs: Inputs, order: Order) -> float:
    """Of decoding an image, or of what the frozen part makes of it; they are prepared afterwards."""
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
    """A rough estimate: weights, gradients and AdamW's two moments, what each layer keeps for its backward, solving.

    Called after ``place``, which chooses how attention is computed.
    """
    module = prepared.backbone.module
    weights = 4 * sum(parameter.numel() for parameter in module.parameters())
    # An adapted layer keeps the weight that it computed with.
    merged = 4 * sum(layer.in_features * layer.out_features for _, layer in adapter_layers(module))
    states = 12 * prepared.trainable
    width_bytes = 2 if recipe.train.precision == "bf16" else 4
    part = recipe.train.at_once(min(recipe.train.batch_size, images))
    again = recipe.train.activation_checkpointing
    kept = _kept_numbers(prepared, planned.dropped, again=again) * part * width_bytes
    # A head that is solved sees all features at once, in f64: as they are read, side by side, and standardised.
    width = sum(head.in_features for head in linear_heads(module))
    solved = 3 * 8 * images * width if planned.head_init == "probe" else 0
    # torch, timm and the images: measured as the least that a training of a small model takes.
    torch_itself = 480_000_000
    return round((weights + merged + states + kept + solved + torch_itself) / 1e6)


def what_would_fit(
    prepared: TrainableModel, recipe: Recipe, planned: Plan, images: int, free_bytes: int, ranks: Ranks = ALONE
) -> str:
    """How to train in so much memory, of which a batch of this size was too much: the largest that fits by estimate.

    ``free_bytes`` are each process's, which computes its part of a batch.
    """

    def needed_mb(batch: int) -> int:
        return memory_mb(prepared, _of_batch(recipe, ranks.largest_share(batch)), planned, images)

    batch = min(recipe.train.batch_size, images) // 2
    while batch and needed_mb(batch) * 1e6 > free_bytes:
        batch //= 2
    if batch:
        of = f"{round(free_bytes / 1e6):,} MB" + (" in each process" if ranks.world > 1 else "")
        return f"--batch-size {batch}, which takes about {needed_mb(batch):,} MB of {of}"
    return "a smaller --image-size or --model, or --freeze-backbone: one image at a time is too much"


def _of_batch(recipe: Recipe, size: int) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"batch_size": size})})


def _kept_numbers(prepared: TrainableModel, dropped: DroppedPatches, *, again: bool) -> int:
    """Activations that one image leaves for the backward; ``again``: of one block, and of the others their inputs."""
    module, pre = prepared.backbone.module, prepared.backbone.preprocess
    if only_head_trains(module):
        return 0
    vit = plain_vit(module)
    if vit is not None:
        _, width = token_shape(vit)
        blocks = frozen_blocks(vit)
        tokens = dropped.step_tokens(vit, blocks)
        plain = [layer for layer in vit.modules() if getattr(layer, "fused_attn", True) is False]
        heads = int(str(getattr(plain[0], "num_heads", 0))) if plain else 0
        # About 16 activations of the token width a block: norms, qkv, proj, and the four times wider MLP twice; where
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
