"""The training loop: one epoch after the other, the best one kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ftx.adapters.attach import prove_reach
from ftx.core.errors import InputError
from ftx.core.progress import Progress
from ftx.recipe.sections import TrainRecipe
from ftx.tasks.base import Targets, Task
from ftx.tasks.names import LossName
from ftx.tasks.thresholds import Floats, Thresholds
from ftx.training.class_balance import Balance
from ftx.training.feed import EVAL_BATCH, Feed
from ftx.training.optimizer import optimizer, schedule


@dataclass(frozen=True)
class Epoch:
    """One line of train.jsonl; measured on validation images but for ``loss``; ``lr`` is that of its end."""

    epoch: int
    loss: float
    val_loss: float
    accuracy: float
    metrics: dict[str, float]
    lr: float
    images_per_s: float
    seconds: float


@dataclass
class Fit:
    """What the loop made; the model holds the weights of the best epoch by ``metric``."""

    epochs: list[Epoch]
    best: Epoch
    metric: str
    thresholds: Thresholds
    interrupted: bool


def fit(
    module: nn.Module,
    task: Task,
    feeds: tuple[Feed, Feed],
    recipe: TrainRecipe,
    *,
    balance: Balance,
    lr: float,
    bf16: bool,
    rng: np.random.Generator,
    progress: Progress,
    log: Callable[[Epoch], None],
) -> Fit:
    """Train on the first feed, choose by the second, and leave the best epoch's weights in the model.

    Ctrl-C ends training with the best epoch so far; before the first epoch's end there is none and
    KeyboardInterrupt goes on.
    Raises: AdapterError if training does not reach an adapter; InputError if the loss is not finite.
    """
    feed, held_out = feeds
    steps_per_epoch = -(-len(feed) // recipe.batch_size)
    adamw = optimizer(module, lr, recipe.weight_decay, lora_plus=recipe.lora_plus)
    rate = schedule(adamw, steps_per_epoch * recipe.epochs, recipe.warmup_share)
    epochs: list[Epoch] = []
    best: Epoch | None = None
    kept: dict[str, Tensor] = {}
    thresholds = Thresholds()
    interrupted = False
    metric = task.metric if recipe.balance == "none" else task.balanced_metric
    where = next(module.parameters()).device
    weights_2C = None if balance.weights_2C is None else balance.weights_2C.to(where)

    try:
        with progress.track("Training", len(feed) * recipe.epochs) as bar:
            for number in range(1, recipe.epochs + 1):
                started = time.perf_counter()
                total, seen = 0.0, 0
                train_mode(module)
                with closing(feed.batches(balance.order(rng), recipe.batch_size, rng)) as batches:
                    for batch, targets_BC in batches:
                        adamw.zero_grad(set_to_none=True)
                        loss = forward_backward(module, task, feed, batch, targets_BC, recipe, bf16, weights_2C)
                        if not epochs and seen == 0:
                            prove_reach(module)
                        adamw.step()
                        rate.step()
                        total, seen = total + loss * len(batch), seen + len(batch)
                        shown = {} if best is None else {metric: f"{best.metrics[metric]:.3f}"}
                        bar.advance(len(batch), epoch=f"{number}/{recipe.epochs}", loss=f"{total / seen:.3f}", **shown)
                seconds = time.perf_counter() - started
                val_loss, logits_NC, targets_NC = measure(module, task, held_out, loss=recipe.loss, bf16=bf16)
                if not np.isfinite(total + val_loss):
                    raise InputError(
                        "the loss is no longer finite",
                        where=f"epoch {number}",
                        found=f"{total / seen} in training, {val_loss} on validation images",
                        mend=f"a smaller learning rate: --lr {lr / 10:g}",
                    )
                tuned = task.tuned(logits_NC, targets_NC)
                told = task.with_thresholds(tuned)  # as the run will answer, should this epoch be the best
                metrics = told.metrics(logits_NC, targets_NC)
                epoch = Epoch(
                    epoch=number,
                    loss=total / seen,
                    val_loss=val_loss,
                    accuracy=float(told.right(logits_NC, targets_NC).mean()),
                    metrics=metrics,
                    lr=float(rate.get_last_lr()[0]),
                    images_per_s=seen / seconds,
                    seconds=seconds,
                )
                epochs.append(epoch)
                log(epoch)
                # Of equally good epochs the one with the smaller loss is the better.
                if best is None or (metrics[metric], -val_loss) > (best.metrics[metric], -best.val_loss):
                    best, thresholds = epoch, tuned
                    kept = {name: tensor.detach().clone() for name, tensor in _changing(module)}
                reached = f"{metric.replace('_', ' ')} {metrics[metric]:.3f} on validation images"
                progress.note(
                    f"epoch {number}: loss {epoch.loss:.3f}, {reached}, {epoch.images_per_s:.0f} {feed.unit}/s"
                )
                if number - best.epoch >= recipe.patience:
                    progress.note(f"no better epoch in {recipe.patience}: stopped early")
                    break
    except KeyboardInterrupt:
        if best is None:
            raise
        interrupted = True
        progress.note(f"interrupted: keeping epoch {best.epoch}")
    assert best is not None
    with torch.no_grad():
        for name, tensor in _changing(module):
            tensor.copy_(kept[name])
    return Fit(epochs=epochs, best=best, metric=metric, thresholds=thresholds, interrupted=interrupted)


def forward_backward(
    module: nn.Module,
    task: Task,
    feed: Feed,
    batch: Tensor,
    targets_BC: Tensor,
    recipe: TrainRecipe,
    bf16: bool,
    weights_2C: Tensor | None = None,
) -> float:
    """The loss of a batch, its gradients added to the parameters' own."""
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=bf16):
        logits_BC = feed.logits(module, batch)
    loss = task.loss(
        logits_BC.float(),
        targets_BC,
        kind=recipe.loss,
        label_smoothing=recipe.label_smoothing,
        weights_2C=weights_2C,
    )
    loss.backward()
    return loss.item()


def _changing(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What training changes: the parameters that train, and the statistics of batches."""
    yield from ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)
    yield from module.named_buffers()


def train_mode(module: nn.Module) -> None:
    """Let the model train, but for frozen layers that would take statistics of the batches: nothing would keep them."""
    module.train()
    for layer in module.modules():
        statistics = getattr(layer, "running_mean", None)
        if statistics is not None and not any(parameter.requires_grad for parameter in layer.parameters()):
            layer.eval()


@torch.no_grad()
def measure(module: nn.Module, task: Task, feed: Feed, *, loss: LossName, bf16: bool) -> tuple[float, Floats, Targets]:
    """Loss (without smoothing), logits and truth of every image, computed as the training steps are.

    Shape: [N, C] both.
    """
    module.eval()
    losses: list[float] = []
    logits: list[Floats] = []
    targets: list[Targets] = []
    order = np.arange(len(feed))
    with closing(feed.batches(order, EVAL_BATCH, np.random.default_rng(0))) as batches:
        for batch, targets_BC in batches:
            with torch.autocast(batch.device.type, torch.bfloat16, enabled=bf16):
                logits_BC = feed.logits(module, batch).float()
            losses.append(task.loss(logits_BC, targets_BC, kind=loss, label_smoothing=0.0).item() * len(batch))
            logits.append(logits_BC.cpu().numpy())
            targets.append(targets_BC.cpu().numpy())
    return sum(losses) / len(feed), np.concatenate(logits), np.concatenate(targets)
