"""One step of a training: the loss of a batch and its gradients; the same without a backward; balance of labels.

Shapes: N images, C labels.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ftx.backbones.layer_roles import trains
from ftx.recipe.sections import BalanceName, TrainRecipe
from ftx.tasks.base import LossChoice, Targets, Task, choosing_metric
from ftx.tasks.labels import Labels
from ftx.tasks.task_names import LossName
from ftx.tasks.thresholds import Floats
from ftx.training.device_placement import EVAL_BATCH
from ftx.training.inputs import Batch, Inputs, Order
from ftx.training.optimizer import optimizer
from ftx.training.ranks import ONE_PROCESS, Ranks
from ftx.training.state import TrainingState


@dataclass(frozen=True)
class Balance:
    """What makes rare labels count as much as frequent ones: drawing their images more often, or a larger loss.

    ``probability_N`` is the probability that each image is drawn; with None each is drawn once an epoch.
    ``weights_2C`` multiply a label's loss if it is present (row 0) and if it is not (row 1).
    """

    images: int
    probability_N: NDArray[np.float64] | None = None
    weights_2C: Tensor | None = None

    def order(self, rng: np.random.Generator) -> Order:
        """The images of one epoch, as many as there are. Shape: [N]."""
        if self.probability_N is None:
            return rng.permutation(self.images)
        return rng.choice(self.images, size=self.images, p=self.probability_N)

    def on(self, device: torch.device) -> Balance:
        """The balance with its weights on a device: to copy them there in each step would wait for it."""
        return self if self.weights_2C is None else replace(self, weights_2C=self.weights_2C.to(device))


def balance_of(kind: BalanceName, labels: Labels, targets_NC: Targets) -> Balance:
    """The balance of a recipe, by the labels of the training images."""
    if kind == "sampling":
        return Balance(len(targets_NC), probability_N=draw_probabilities(targets_NC))
    if kind == "loss":
        return Balance(len(targets_NC), weights_2C=torch.from_numpy(label_weights(labels, targets_NC)))
    return Balance(len(targets_NC))


def draw_probabilities(targets_NC: Targets) -> NDArray[np.float64]:
    """The probability of drawing each image, by its rarest label; no label counts as one label. Shape: [N].

    Source: the repeat factor of LVIS (arXiv:1908.03195, appendix B), the largest over an image's labels, here without
    its root and threshold: mutually exclusive classes are then drawn equally often.
    """
    held_NC = np.concatenate([targets_NC > 0, ~(targets_NC > 0).any(axis=1, keepdims=True)], axis=1)
    repeats_C = 1 / np.maximum(held_NC.sum(axis=0), 1)
    repeats_N = np.where(held_NC, repeats_C, 0).max(axis=1)
    return repeats_N / repeats_N.sum()


def label_weights(labels: Labels, targets_NC: Targets) -> NDArray[np.float32]:
    """Weights by which all labels of a group count the same, and both values of an independent label. Shape: [2, C].

    Their mean over the images is 1, so that the learning rate need not change.
    Source: scikit-learn's class_weight="balanced", n_samples / (n_classes · count); 1 for a label of no image.
    """
    count_C = (targets_NC > 0).sum(axis=0)
    weights_2C = np.ones((2, len(labels)), dtype=np.float32)
    for group in labels.groups:
        rows = [labels.index(name) for name in group]
        counts = count_C[rows]
        present = counts > 0
        weights_2C[0, rows] = np.where(present, counts.sum() / (max(present.sum(), 1) * np.maximum(counts, 1)), 1)
    for name in labels.singles:
        row, images = labels.index(name), len(targets_NC)
        if 0 < count_C[row] < images:
            weights_2C[:, row] = images / (2 * count_C[row]), images / (2 * (images - count_C[row]))
    return weights_2C


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
    def steps(self) -> int:
        """Optimizer steps of all epochs."""
        return self.recipe.epochs * -(-len(self.inputs) // self.recipe.batch_size)

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
        logits_BC = network(batch.input)
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
        found.append("layers with batch statistics compute them for each part of a batch")
    if recipe.activation_checkpointing:
        found.append("layers with batch statistics update them twice a step: it is computed again")
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
