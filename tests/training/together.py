"""A training in float64 with plain SGD, by as many processes as torchrun starts: ``together.py TASK OUT [--parts N]``.

``--cut STEP`` ends it after so many steps, with its state in OUT; ``--begun FOLDER`` goes on from there.
``--adamw`` and ``--float32`` are what trainings have. OUT holds the logits of images it has not seen as well.

In such a training nothing but the order of sums hangs on the number of processes, so that weights can be compared to
rounding. 23 images in batches of five: the last batch holds three, fewer than four processes.
"""

from __future__ import annotations

import argparse
from collections.abc import Generator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

from ftx.adapters.attach import adapter_layers
from ftx.adapters.trainable_model import prepare
from ftx.core.progress import SILENT
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import TrainRecipe
from ftx.tasks.base import Task
from ftx.tasks.hierarchical import Hierarchical
from ftx.tasks.labels import Labels
from ftx.tasks.multiclass import Multiclass
from ftx.tasks.multilabel import Multilabel
from ftx.tasks.thresholds import Thresholds
from ftx.training.class_balance import balance_of
from ftx.training.inputs import Batch
from ftx.training.loop import fit
from ftx.training.optimizer import optimizer
from ftx.training.ranks import ONE_PROCESS, Ranks, joined
from ftx.training.signals import Stop
from ftx.training.state import StateRecord, TrainingState
from ftx.training.step import Training

IMAGES, SIDE = 23, 32
# Of SGD and AdamW.
LR, LR_ADAMW = 0.1, 1e-3
TASKS: dict[str, Task] = {
    "multiclass": Multiclass(Labels.multiclass(["a", "b", "c"])),
    "multilabel": Multilabel(Labels(names=("a", "b", "c"), singles=("a", "b", "c")), Thresholds()),
    "hierarchical": Hierarchical(
        Labels(names=("a", "b", "c", "d", "e"), groups=(("a", "b"), ("c", "d")), singles=("e",)), Thresholds()
    ),
}


RECIPE = {"epochs": 1, "batch_size": 5, "label_smoothing": 0.1, "warmup_share": 0.0, "balance": "loss"}


class Noise:
    """Images of noise in float64; of some the second group of a tree is not known."""

    unit = "images"
    waited_s = 0.0

    def __init__(self, network: nn.Module, task: Task, stop: Stop, cut: int | None, dtype: torch.dtype) -> None:
        self.network, self.stop, self.cut = network, stop, cut
        rng = np.random.default_rng(3)
        self.images = torch.from_numpy(rng.normal(size=(IMAGES, 3, SIDE, SIDE))).to(dtype)
        targets_NC = np.zeros((IMAGES, len(task.labels)), np.float32)
        for rows in (list(map(task.labels.index, group)) for group in task.labels.groups):
            targets_NC[np.arange(IMAGES), rng.choice(rows, IMAGES)] = 1
        for single in task.labels.singles:
            targets_NC[:, task.labels.index(single)] = rng.integers(0, 2, IMAGES)
        if len(task.labels.groups) > 1:
            targets_NC[::3, list(map(task.labels.index, task.labels.groups[1]))] = 0
        self.targets_NC = targets_NC

    def __len__(self) -> int:
        return IMAGES

    def batches(
        self, order: NDArray[np.intp], batch_size: int, *, epoch: int, skipped: int = 0, ranks: Ranks = ONE_PROCESS
    ) -> Generator[Batch]:
        for start in range(skipped * batch_size, len(order), batch_size):
            whole = order[start : start + batch_size]
            mine = ranks.part(whole.tolist()) or whole[:1].tolist()
            targets = torch.from_numpy(self.targets_NC)
            if epoch and self.cut == start // batch_size + 1:
                self.stop.requested = "terminate"  # as a signal does while the step is computed
            yield Batch(self.images[mine], targets[mine], targets[whole], int(bool(ranks.part(whole.tolist()))))

    def to_prepare(self) -> int:
        return 0


def network(classes: int, dtype: torch.dtype) -> nn.Module:
    """A Vision Transformer with DoRA, B not zero, whose head trains with its bias."""
    settings = {
        "name": "test_vit",
        "weights": "none",
        "image_size": SIDE,
        "peft": "dora",
        "blocks": "all",
        "rank": 2,
        "path": "none",
    }
    module = prepare(Recipe.named(settings), classes).backbone.module.double()
    torch.manual_seed(1)
    with torch.no_grad():
        for _, layer in adapter_layers(module):
            layer.lora_B.normal_(std=0.02)
    return module.to(dtype)


def optimiser(module: nn.Module, *, adamw: bool) -> torch.optim.Optimizer:
    if adamw:
        return optimizer(module, LR_ADAMW, weight_decay=0.05)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.SGD([{"params": trained, "peak_lr": LR}], lr=LR)


def held_out_logits(module: nn.Module, dtype: torch.dtype) -> torch.Tensor:
    """Of images that are in no step."""
    images = torch.from_numpy(np.random.default_rng(4).normal(size=(16, 3, SIDE, SIDE))).to(dtype)
    with torch.no_grad():
        return module.eval()(images)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--cut", type=int)
    parser.add_argument("--begun", type=Path)
    parser.add_argument("--adamw", action="store_true")
    parser.add_argument("--float32", action="store_true")
    given = parser.parse_args()
    task, dtype = TASKS[given.task], torch.float32 if given.float32 else torch.float64
    with joined() as ranks:
        module = network(len(task.labels), dtype)
        stop = Stop()
        images = Noise(module, task, stop, given.cut, dtype)
        recipe = TrainRecipe.model_validate({**RECIPE, "accumulation_steps": given.parts})
        balance = balance_of("loss", task.labels, images.targets_NC)
        lr = LR_ADAMW if given.adamw else LR
        training = Training(module, task, images, images, recipe, balance, lr=lr, bf16=False, seed=1, ranks=ranks)
        stepping = optimiser(module, adamw=given.adamw)
        state = TrainingState(module, stepping)  # pyright: ignore[reportArgumentType]  it asks nothing that AdamW alone has
        if given.begun is not None:
            record = StateRecord.model_validate_json((given.begun / "record.json").read_text())
            state.restore(record, load_file(given.begun / "state.safetensors"))
            if not ranks.leads:
                state.loss.zero_()
        made = fit(training, state, progress=SILENT, on_epoch=lambda _end: None, stop=stop)
        if made is None:
            if ranks.leads:
                (given.out / "record.json").write_text(state.record().model_dump_json())
                save_file(state.tensors(), given.out / "state.safetensors")
            return
        losses = {"loss": repr(made.best.loss), "val": repr(made.best.val_loss)}
        weights = {name: parameter.detach() for name, parameter in module.named_parameters()}
        made_of_it = {**weights, "logits": held_out_logits(module, dtype)}
        save_file(made_of_it, given.out / f"{ranks.rank}.safetensors", losses)


if __name__ == "__main__":
    main()
