"""The training loop: one epoch after the other, the best one kept, and a state from which it resumes exactly."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ftx.adapters.attach import prove_reach
from ftx.backbones.trained_blocks import compiled_blocks, joined_attention, recomputing, trained_blocks
from ftx.core.errors import InputError
from ftx.core.progress import Progress, ProgressTask
from ftx.data.random_draws import order_generator, step_seed
from ftx.data.shards.shard_wise import shard_wise
from ftx.runs.best_epoch import best_epoch, best_smoothed, with_means
from ftx.runs.train_jsonl import Epoch
from ftx.tasks.thresholds import Thresholds
from ftx.training.checkpoints import Checkpoints
from ftx.training.optimizer import lr_multiplier, set_lr_multiplier
from ftx.training.ranks import StopRequest
from ftx.training.signals import Stop
from ftx.training.state import EpochEnd, Position, StateRecord, TrainingState
from ftx.training.step import Order, Training, in_parts, measure, train_mode

# How often the loss is shown: reading it waits for the device.
_SHOWN_EVERY_S = 0.2


class Diverged(InputError):
    """The loss is no longer finite: resuming from any state before would end in the same error."""


@dataclass
class Fit:
    """The result of the loop; the model has the weights of the best epoch by ``metric``."""

    epochs: list[Epoch]
    best: Epoch
    metric: str
    thresholds: Thresholds
    interrupted: bool


def fit(
    training: Training,
    state: TrainingState,
    *,
    progress: Progress,
    on_epoch: Callable[[EpochEnd], None],
    checkpoints: Checkpoints | None = None,
    stop: Stop | None = None,
) -> Fit | None:
    """Train from a state to the end, and leave the best epoch's weights in the model.

    If ``stop`` requests it, training ends after the current step, with the state in a checkpoint, and the best epoch
    so far is kept. Returns None if it was stopped before there was one.
    Raises: AdapterError if training does not reach an adapter; Diverged if the loss is not finite.
    """
    stop = Stop() if stop is None else stop
    interrupted, requested, ranks = False, None, training.ranks
    if training.recipe.compile == "blocks":
        progress.note("the first step takes longer: it compiles the blocks")
    where = next(training.module.parameters()).device
    with (
        progress.track("Training", len(training.inputs) * training.epochs) as bar,
        torch.random.fork_rng(devices=[] if where.type == "cpu" else [where]),
    ):
        bar.advance((state.position.epoch - 1) * len(training.inputs) + state.position.images)
        try:
            network = ranks.together(training.inputs.network)
            with stop.between_steps(), _faster_blocks(training):
                while not ((requested := ranks.agreed(stop.requested)[0]) or _has_ended(training, state)):
                    complete, requested = _train_epoch(training, network, state, checkpoints, stop, bar)
                    if not complete:
                        break
                    end = _finish_epoch(training, state)
                    if checkpoints is not None and checkpoints.is_due(epoch_ended=True):
                        checkpoints.write(state)
                    on_epoch(end)
        except KeyboardInterrupt as signal:  # in the middle of a step: the state is not one to resume from
            if state.best is None or isinstance(signal.__context__, Exception):  # an error was on its way
                raise
            interrupted, requested = True, stop.requested
    stop.requested = requested
    if requested and not interrupted and not _has_ended(training, state):
        interrupted = True
        if state.best is None or requested == "terminate":
            _check_finite(training, state)
        if checkpoints is not None and np.isfinite(float(state.loss)):
            checkpoints.write(state)
    if state.best is None or (interrupted and requested == "terminate"):
        return None
    if interrupted:
        kept = state.best.epoch.epoch
        progress.note(f"interrupted: epoch {kept}, the best so far, is kept; resume to look for a better one")
    elif len(state.epochs) < training.epochs:
        progress.note(f"stopped early: no better epoch in the last {training.patience}")
    state.load_best()
    return Fit(state.epochs, state.best.epoch, training.metric, state.best.thresholds, interrupted)


@contextmanager
def _faster_blocks(training: Training) -> Iterator[None]:
    """Compile the blocks if the recipe says so, else use the faster attention; recompute them if the recipe says so."""
    recipe, module = training.recipe, training.module
    images = recipe.at_once(training.ranks.largest_part(recipe.batch_size))
    # torch's compiler plans attention by itself.
    compiles = recipe.compile == "blocks"
    faster = compiled_blocks(module, images) if compiles else joined_attention(trained_blocks(module))
    with faster, recomputing(module) if recipe.activation_checkpointing else nullcontext():
        yield


def solved(training: Training, state: TrainingState, seconds: float, on_epoch: Callable[[EpochEnd], None]) -> Fit:
    """The result of a head that was solved, in ``seconds``: one epoch without a step.

    Raises: Diverged if the loss is not finite.
    """
    recipe, ranks = training.recipe, training.ranks
    loss, _, _ = measure(
        training.module, training.task, training.inputs, loss=recipe.loss, bf16=training.bf16, ranks=ranks
    )
    state.position.images, state.position.seconds = len(training.inputs), seconds
    if ranks.leads:  # it is already the sum over the images of all processes
        state.loss += loss * len(training.inputs)
    end = replace(_finish_epoch(training, state), epochs=1)
    on_epoch(end)
    assert state.best is not None
    return Fit(state.epochs, end.best, training.metric, state.best.thresholds, interrupted=False)


def _has_ended(training: Training, state: TrainingState) -> bool:
    """Whether all epochs are done, or none was better for too long."""
    if state.best is None:
        return False
    last, best = state.epochs[-1].epoch, best_smoothed(state.epochs, training.metric).epoch
    return last == training.epochs or last - best >= training.patience


def epoch_order(training: Training, epoch: int) -> Order:
    """The images of an epoch, by their index, in the order of its batches. Shape: [N]."""
    rng = order_generator(training.seed, epoch)
    order = training.balance.order(rng)
    if training.shard_N is None:
        return order
    return shard_wise(order, training.shard_N, training.recipe.batch_size, rng)


def check_position(training: Training, record: StateRecord) -> None:
    """Raise ValueError if a record is at a position that this training never has."""
    position = record.position
    images = len(epoch_order(training, position.epoch))
    each = -(-images // training.recipe.batch_size)
    done = (position.epoch - 1) * each + position.batches
    if position.epoch > training.epochs + 1 or position.batches > each or position.step != done:
        raise ValueError(f"step {position.step} is not batch {position.batches} of epoch {position.epoch}")
    if position.images != min(position.batches * training.recipe.batch_size, images):
        raise ValueError(f"{position.images} images are not {position.batches} batches")
    if any(training.metric not in epoch.metrics for epoch in record.epochs):
        raise ValueError(f"an epoch without {training.metric}")


def _train_epoch(
    training: Training,
    network: nn.Module,
    state: TrainingState,
    checkpoints: Checkpoints | None,
    stop: Stop,
    bar: ProgressTask,
) -> tuple[bool, StopRequest]:
    """Compute the remaining steps of the current epoch; returns whether it is complete, and the stop request."""
    recipe, position, optimizer, ranks = training.recipe, state.position, state.optimizer, training.ranks
    order = epoch_order(training, position.epoch)
    train_mode(training.module)
    began, shown_at = time.perf_counter() - position.seconds, 0.0
    waited_before_s = position.waited_s - training.inputs.waited_s
    batches = training.inputs.batches(
        order, recipe.batch_size, epoch=position.epoch, skipped=position.batches, ranks=ranks
    )
    with closing(batches):
        for batch in batches:
            torch.manual_seed(step_seed(training.seed, position.step, ranks.rank))
            set_lr_multiplier(optimizer, lr_multiplier(position.step, training.steps, recipe.warmup_share))
            optimizer.zero_grad(set_to_none=True)
            loss = in_parts(network, training, batch)
            if position.step == 0:
                prove_reach(training.module)
            optimizer.step()
            images = len(batch.whole_MC)
            state.loss += loss.double() * images
            position.step += 1
            position.batches += 1
            position.images += images
            position.seconds = time.perf_counter() - began
            position.waited_s = waited_before_s + training.inputs.waited_s
            shown: dict[str, str] = {}
            if position.seconds - shown_at >= _SHOWN_EVERY_S or position.batches == 1:
                shown_at = position.seconds
                shown = _figures(training, state, loss)
            bar.advance(images, **shown)
            due = position.images < len(order) and checkpoints is not None and checkpoints.is_due()
            requested, due = ranks.agreed(stop.requested, due)
            if due or requested:
                ranks.sum_to_first(state.loss)
            if due and checkpoints is not None:
                _check_finite(training, state)
                checkpoints.write(state)
            if requested:
                return position.images == len(order) and requested != "terminate", requested
    return True, None


def _figures(training: Training, state: TrainingState, loss: Tensor) -> dict[str, str]:
    """What the progress bar shows: the epoch's mean loss, or with several processes that of this one's last batch."""
    position, world = state.position, training.ranks.world
    mean = float(state.loss) / position.images if world == 1 else float(loss) * world
    found = {"epoch": f"{position.epoch}/{training.epochs}", "loss": f"{mean:.3f}"}
    if state.best is not None:
        found[training.metric] = f"{state.best.epoch.metrics[training.metric]:.3f}"
    return found


def _finish_epoch(training: Training, state: TrainingState) -> EpochEnd:
    """Measure the model on validation images, and keep its weights if no epoch was better."""
    recipe, task, position, ranks = training.recipe, training.task, state.position, training.ranks
    ranks.sum_to_first(state.loss)
    state.loss.fill_(ranks.of_first(float(state.loss)))
    ranks.broadcast_buffers(training.module)
    val_loss, logits_NC, targets_NC = measure(
        training.module, task, training.held_out, loss=recipe.loss, bf16=training.bf16, ranks=ranks
    )
    _check_finite(training, state, val_loss)
    tuned = task.tuned_thresholds(logits_NC, targets_NC)
    deciding = task.with_thresholds(tuned)  # the run's own task, if this epoch is the best
    epoch = Epoch(
        epoch=position.epoch,
        loss=float(state.loss) / position.images,
        val_loss=val_loss,
        accuracy=float(deciding.correct(logits_NC, targets_NC).mean()),
        metrics=deciding.metrics(logits_NC, targets_NC),
        lr=training.lr * lr_multiplier(position.step, training.steps, recipe.warmup_share),
        images_per_s=position.images / position.seconds,
        seconds=position.seconds,
        waiting_share=position.waited_s / position.seconds,
    )
    # Which epoch is the best must be the same in all processes, to the last bit.
    epoch, tuned = ranks.of_first((epoch, tuned))
    epoch = with_means([*state.epochs, epoch], training.metric)[-1]
    state.epochs.append(epoch)
    best = epoch if state.best is None else best_epoch([state.best.epoch, epoch], training.metric)
    if best is epoch:
        state.keep_best(epoch, tuned)
    state.position = Position(step=position.step, epoch=position.epoch + 1, seconds_before=position.seconds_before)
    state.loss.zero_()
    return EpochEnd(epoch, training.epochs, training.metric, best, training.inputs.unit)


def _check_finite(training: Training, state: TrainingState, val_loss: float | None = None) -> None:
    """Raise Diverged if a loss is not finite: training cannot recover from that."""
    loss, position = float(state.loss), state.position
    if not np.isfinite(loss + (val_loss or 0.0)):
        measured = "" if val_loss is None else f", {val_loss} on validation images"
        raise Diverged(
            "the loss must stay finite",
            where=f"epoch {position.epoch}",
            found=f"{loss / position.images} in training{measured}",
            fix=f"train with a smaller learning rate: --lr {training.lr / 10:g}",
        )
