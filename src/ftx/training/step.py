"""One step of a training: the loss of a batch and its gradients, and the same without a backward to measure."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ftx.recipe.sections import TrainRecipe
from ftx.tasks.base import LossChoice, Targets, Task, choosing_metric
from ftx.tasks.task_names import LossName
from ftx.tasks.thresholds import Floats
from ftx.training.class_balance import Balance, Order
from ftx.training.device_placement import EVAL_BATCH
from ftx.training.inputs import Batch, Inputs
from ftx.training.optimizer import optimizer
from ftx.training.ranks import ALONE, Ranks
from ftx.training.state import TrainingState

# Mean loss, logits and truth.
Measured = tuple[float, Floats, Targets]


@dataclass(frozen=True)
class Training:
    """What is trained, on what and how: all that stays the same while it runs.

    ``shard_N`` numbers the shard of each image, where these are so many that their order is to heed them.
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
    ranks: Ranks = ALONE
    shard_N: Order | None = None

    @property
    def steps(self) -> int:
        """Optimizer steps of all epochs."""
        return self.recipe.epochs * -(-len(self.inputs) // self.recipe.batch_size)

    @property
    def loss(self) -> LossChoice:
        """Of a training step; validation smooths and weighs nothing."""
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
    """The loss of a batch, computed in so many parts as the recipe says; gradients are exchanged with the last one."""
    parts = batch.parts(training.recipe.accumulation_steps)
    with training.ranks.exchanging_later(network):
        losses = [forward_backward(network, training, part) for part in parts[:-1]]
    return sum(losses, forward_backward(network, training, parts[-1]))


def forward_backward(network: nn.Module, training: Training, batch: Batch) -> Tensor:
    """What a batch, or this process's part of it, adds to the mean loss; its gradients are added to the parameters'."""
    world = training.ranks.world
    with torch.autocast(batch.input.device.type, torch.bfloat16, enabled=training.bf16):
        logits_BC = network(batch.input)
    loss = training.task.loss(
        at_least_f32(logits_BC),
        batch.targets_BC,
        training.loss,
        None if len(batch.targets_BC) == len(batch.whole_MC) else batch.whole_MC,
    )
    if not batch.counts:
        loss = loss * 0
    (loss * world).backward()  # of several processes the mean of the gradients is taken, and their sum is meant
    return loss.detach()


def at_least_f32(logits_BC: Tensor) -> Tensor:
    """What autocast has left in bf16, in f32; a network in f64 stays there."""
    return logits_BC if logits_BC.dtype == torch.float64 else logits_BC.float()


def train_mode(module: nn.Module) -> None:
    """Let the model train, but for frozen layers that would take statistics of the batches: nothing would keep them."""
    module.train()
    for layer in module.modules():
        statistics = getattr(layer, "running_mean", None)
        if statistics is not None and not any(parameter.requires_grad for parameter in layer.parameters()):
            layer.eval()


@torch.no_grad()
def measure(
    module: nn.Module, task: Task, inputs: Inputs, *, loss: LossName, bf16: bool, ranks: Ranks = ALONE
) -> Measured:
    """Loss (without smoothing), logits and truth of every image, computed as the training steps are.

    Shape: [N, C] both; of several processes in the order of these.
    """
    module.eval()
    # All stay where they are computed until the end: to read one waits for the device.
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
    mine: Measured | None = None  # where there are fewer images than processes
    if losses:
        mine = float(sum(losses)), torch.cat(logits).cpu().numpy(), torch.cat(targets).cpu().numpy()
    total, logits_NC, targets_NC = zip(*filter(None, ranks.gathered(mine)), strict=True)
    return sum(total) / len(inputs), np.concatenate(logits_NC), np.concatenate(targets_NC)
