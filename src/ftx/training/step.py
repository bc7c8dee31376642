"""One step of a training: the loss of a batch and its gradients; the same without a backward.

Shapes: N images, C labels.
"""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ftx.backbones.layer_roles import trains
from ftx.recipe.sections import TrainRecipe
from ftx.tasks.base import LossChoice, Targets, Task, choosing_metric
from ftx.tasks.task_names import LossName
from ftx.tasks.thresholds import Floats
from ftx.training.class_balance import Balance
from ftx.training.device_placement import EVAL_BATCH
from ftx.training.inputs import Batch, Inputs, Order
from ftx.training.optimizer import optimizer
from ftx.training.ranks import ONE_PROCESS, Ranks
from ftx.training.state import TrainingState

# Mean loss, logits and truth.
ValidationOutput = tuple[float, Floats, Targets]


@dataclass(frozen=True)
class Training:
    """What is trained, on what and how: everything that stays the same while it runs.

    ``shard_N`` is the number of each image's shard, if the order goes shard by shard, as there are many.
    """

    module: nn.Module
    task: Task
    inputs: Inputs
    held_out: Inputs
    recipe: TrainRecipe
    balance: Balance
    lr: float
    bf16: bool
    seed: int
    ranks: Ranks = ONE_PROCESS
    shard_N: Order | None = None

    @property
    def epochs(self) -> int:
        """How many there are if training by steps does not end earlier; a head that is solved takes none of them."""
        assert self.recipe.epochs != "auto"
        return self.recipe.epochs

    @property
    def patience(self) -> float:
        """Epochs without a better one after which training ends; infinity if it never does."""
        return math.inf if self.recipe.patience == "none" else self.recipe.patience

    @property
    def steps(self) -> int:
        """Optimizer steps of all epochs."""
        return self.epochs * -(-len(self.inputs) // self.recipe.batch_size)

    @property
    def loss(self) -> LossChoice:
        """The loss of a training step; validation has no smoothing and no weights."""
        return LossChoice(self.recipe.loss, self.recipe.label_smoothing, self.balance.weights_2C)

    @property
    def metric(self) -> str:
        """The one that chooses the epoch."""
        return choosing_metric(self.task, balanced=self.recipe.balance != "none")

    def begin(self) -> TrainingState:
        """The state before the first step."""
        recipe = self.recipe
        return TrainingState(
            self.module, optimizer(self.module, self.lr, recipe.weight_decay, lora_plus=recipe.lora_plus)
        )


def in_parts(network: nn.Module, training: Training, batch: Batch) -> Tensor:
    """The loss of a batch, computed in the recipe's number of parts; gradients are exchanged with the last one."""
    parts = batch.parts(training.recipe.accumulation_steps)
    with training.ranks.exchanging_later(network):
        losses = [forward_backward(network, training, part) for part in parts[:-1]]
    return sum(losses, forward_backward(network, training, parts[-1]))


def forward_backward(network: nn.Module, training: Training, batch: Batch) -> Tensor:
    """The part of the mean loss of a batch, or of this process's part of it; adds its gradients."""
    world = training.ranks.world
    with torch.autocast(batch.input.device.type, torch.bfloat16, enabled=training.bf16):
        logits_BC = batch.through(network)
    loss = training.task.loss(
        at_least_f32(logits_BC),
        batch.targets_BC,
        training.loss,
        None if len(batch.targets_BC) == len(batch.whole_MC) else batch.whole_MC,
    )
    if not batch.counts:
        loss = loss * 0
    (loss * world).backward()  # DistributedDataParallel averages gradients, and their sum is needed
    return loss.detach()


def at_least_f32(logits_BC: Tensor) -> Tensor:
    """Logits of autocast in bf16 as f32; those of a network in f64 stay f64."""
    return logits_BC if logits_BC.dtype == torch.float64 else logits_BC.float()


def train_mode(module: nn.Module) -> None:
    """Set the model to training mode, except frozen layers with batch statistics, which must not change."""
    module.train()
    for layer in module.modules():
        statistics = getattr(layer, "running_mean", None)
        if statistics is not None and not trains(layer):
            layer.eval()


def effects_on_batch_statistics(training: Training) -> list[str]:
    """Where a batch in parts, or computed twice, does not train what a whole one would, in a sentence each."""
    layers = [one for one in training.module.modules() if hasattr(one, "running_mean")]
    recipe, found = training.recipe, list[str]()
    if not any(map(trains, layers)):
        return found
    if training.ranks.world > 1 or recipe.accumulation_steps > 1:
        found.append("batch statistics are computed separately for each part of a batch")
    if recipe.activation_checkpointing:
        found.append("batch statistics are updated twice per step, as activation checkpointing computes the step again")
    return found


@torch.no_grad()
def measure(
    module: nn.Module, task: Task, inputs: Inputs, *, loss: LossName, bf16: bool, ranks: Ranks = ONE_PROCESS
) -> ValidationOutput:
    """Loss (without smoothing), logits and targets of every image, computed as in training steps.

    Shape: [N, C] both; with several processes in their order.
    """
    module.eval()
    # All stay on the device until the end: to read one waits for it.
    losses: list[Tensor] = []
    logits: list[Tensor] = []
    targets: list[Tensor] = []
    with closing(inputs.batches(np.arange(len(inputs)), EVAL_BATCH, epoch=0, ranks=ranks)) as batches:
        for batch in batches:
            if not batch.counts:
                continue
            with torch.autocast(batch.input.device.type, torch.bfloat16, enabled=bf16):
                logits_BC = at_least_f32(inputs.network(batch.input))
            lost = task.loss(logits_BC, batch.targets_BC, LossChoice(loss), batch.whole_MC)
            losses.append(lost.double() * len(batch.whole_MC))
            logits.append(logits_BC)
            targets.append(batch.targets_BC)
    mine: ValidationOutput | None = None  # where there are fewer images than processes
    if losses:
        mine = float(sum(losses)), torch.cat(logits).cpu().numpy(), torch.cat(targets).cpu().numpy()
    total, logits_NC, targets_NC = zip(*filter(None, ranks.gathered(mine)), strict=True)
    return sum(total) / len(inputs), np.concatenate(logits_NC), np.concatenate(targets_NC)
