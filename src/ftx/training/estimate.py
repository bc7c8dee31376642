"""What a training would take, before it is begun: memory by counting, time by rehearsing two steps."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from ftx.adapters.attach import adapter_layers, owned_entries, prove_reach
from ftx.backbones.families import depth, plain_vit
from ftx.backbones.stages import choose_attention, frozen_lead, head_alone, token_shape
from ftx.data.dataset import Dataset
from ftx.data.loader import available_bytes
from ftx.progress import SILENT
from ftx.recipe import Recipe
from ftx.tasks import Task
from ftx.training.feed import feed_of, plan
from ftx.training.loop import forward_backward, measure, train_mode
from ftx.training.prepare import Prepared
from ftx.training.report import AdaptedLayer


@dataclass(frozen=True)
class Times:
    """Seconds before the first epoch, and in each."""

    before_s: float
    epoch_s: float


def rehearse(prepared: Prepared, dataset: Dataset, recipe: Recipe, task: Task) -> Times:
    """Time what training does, on images for two steps; the model keeps its weights.

    Raises: AdapterError if training would not reach an adapter; ImageError for an image that cannot be read.
    """
    module, batch_size = prepared.backbone.module, recipe.train.batch_size
    train, val = dataset.split("train"), dataset.split("val")
    choose_attention(module, batch_size=batch_size, memory_bytes=available_bytes() // 4)
    bf16 = recipe.train.precision == "bf16"
    planned = plan(module, recipe, len(train) + len(val), SILENT)
    some = train[:: max(len(train) // (2 * batch_size), 1)][: 2 * batch_size]
    started = time.perf_counter()
    feed = feed_of(
        module, prepared.backbone.preprocess, dataset.root, some, task, planned, varied=True, progress=SILENT
    )
    before_s = (time.perf_counter() - started) / len(some) * (len(train) + len(val))

    steps_s: list[float] = []
    train_mode(module)
    started = time.perf_counter()
    # The first step is a warm-up, unless there is no other.
    for batch, targets_BC in feed.batches(np.arange(len(some)), min(batch_size, len(some)), np.random.default_rng(0)):
        forward_backward(module, task, feed, batch, targets_BC, recipe.train, bf16)
        steps_s.append((time.perf_counter() - started) / len(batch))
        started = time.perf_counter()
    prove_reach(module)
    module.zero_grad(set_to_none=True)
    started = time.perf_counter()
    measure(module, task, feed, loss=recipe.train.loss, bf16=bf16)
    measured_s = (time.perf_counter() - started) / len(some)
    return Times(before_s, steps_s[-1] * len(train) + measured_s * len(val))


def adapted_layers(module: torch.nn.Module) -> list[AdaptedLayer]:
    """Each layer that has an adapter, in the order of the model."""
    return [
        AdaptedLayer(
            name=name,
            targets=[part.target for part in layer.parts],
            inputs=layer.in_features,
            outputs=layer.out_features,
            rank=len(layer.lora_A),
            parameters=layer.lora_A.numel() + owned_entries(layer) + _magnitudes(layer),
        )
        for name, layer in adapter_layers(module)
    ]


def _magnitudes(layer: torch.nn.Module) -> int:
    magnitude = getattr(layer, "lora_magnitude_vector", None)
    return 0 if magnitude is None else magnitude.numel()


def memory_mb(prepared: Prepared, recipe: Recipe, images: int) -> int:
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
