"""The state of a training: what trains, the optimizer, the position, and the best epoch so far.

The learning rate and random draws depend on the step and the epoch only (``ftx.training.optimizer``,
``ftx.data.random_draws``), so neither has a state of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ftx.runs.best_epoch import SMOOTHED, with_means
from ftx.runs.train_jsonl import Epoch
from ftx.tasks.thresholds import Thresholds

_Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class EpochEnd:
    """The argument of ``on_epoch``: an epoch's figures, the number of epochs, and the best so far by ``metric``.

    ``unit`` is what a batch contains: images, or features of them that were computed once.
    """

    epoch: Epoch
    epochs: int
    metric: str
    best: Epoch
    unit: str

    def __str__(self) -> str:
        one, reached = self.epoch, self.epoch.metrics[self.metric]
        # The lower of the two decides whether an epoch is kept.
        mean = "" if one.smoothed in (None, reached) else f" (mean of {min(one.epoch, SMOOTHED)}: {one.smoothed:.3f})"
        measured = f"validation {self.metric.replace('_', ' ')} {reached:.3f}{mean}"
        return f"epoch {one.epoch}: loss {one.loss:.3f}, {measured}, {one.images_per_s:.0f} {self.unit}/s"


@dataclass(frozen=True)
class Best:
    """The epoch that is kept: its figures, the thresholds that were tuned in it, and its weights."""

    epoch: Epoch
    thresholds: Thresholds
    weights: Mapping[str, Tensor]


class Position(BaseModel):
    """The position of a training: all optimizer steps done, and the batches and images of the current epoch.

    ``seconds`` is the time of the steps of this epoch, of which ``waited_s`` were spent waiting for images;
    ``seconds_before`` is the time of the whole training before it was resumed.
    """

    model_config = ConfigDict(extra="forbid")

    step: _Count = 0
    epoch: Annotated[int, Field(ge=1)] = 1
    batches: _Count = 0
    images: _Count = 0
    seconds: float = 0.0
    waited_s: float = 0.0
    seconds_before: float = 0.0


class StateRecord(BaseModel):
    """The part of a state that is not a tensor."""

    model_config = ConfigDict(extra="forbid")

    position: Position
    loss: Annotated[float, Field(allow_inf_nan=False)]
    epochs: list[Epoch]
    best: _Count | None  # the number of the epoch
    thresholds: Thresholds


@dataclass
class TrainingState:
    """The state of a training, which the loop changes; ``loss`` is the sum over the images of the current epoch."""

    module: nn.Module
    optimizer: torch.optim.AdamW
    loss: Tensor = field(init=False)
    position: Position = field(default_factory=Position)
    epochs: list[Epoch] = field(default_factory=list[Epoch])
    best: Best | None = None
    _began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long the training took so far, over all its processes."""
        return self.position.seconds_before + time.monotonic() - self._began

    def __post_init__(self) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=next(self.module.parameters()).device)

    def keep_best(self, epoch: Epoch, thresholds: Thresholds) -> None:
        """Keep the current weights as those of the best epoch."""
        self.best = Best(epoch, thresholds, {name: tensor.detach().clone() for name, tensor in changing(self.module)})

    def load_best(self) -> None:
        """Load the weights of the best epoch into the model."""
        assert self.best is not None
        with torch.no_grad():
            for name, tensor in changing(self.module):
                tensor.copy_(self.best.weights[name])

    def note_means(self, metric: str) -> None:
        """Add to epochs that an earlier ftx measured the means by which the best one is chosen."""
        self.epochs = with_means(self.epochs, metric)
        if self.best is not None:
            kept = self.best.epoch.epoch
            self.best = replace(self.best, epoch=next(one for one in self.epochs if one.epoch == kept))

    def record(self) -> StateRecord:
        """The part of it that is not a tensor."""
        best, thresholds = (None, Thresholds()) if self.best is None else (self.best.epoch.epoch, self.best.thresholds)
        position = self.position.model_copy(update={"seconds_before": self.seconds})
        return StateRecord(
            position=position, loss=float(self.loss), epochs=self.epochs, best=best, thresholds=thresholds
        )

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors on the CPU: ``weights.NAME``, ``optimizer.KEY.NAME`` and ``best.NAME``."""
        found = {f"weights.{name}": tensor for name, tensor in changing(self.module)}
        found |= {f"optimizer.{key}.{name}": tensor for name, key, tensor in self._moments()}
        found |= {} if self.best is None else {f"best.{name}": tensor for name, tensor in self.best.weights.items()}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}

    def restore(self, record: StateRecord, tensors: Mapping[str, Tensor]) -> Self:
        """Load a consistent state into the same model and optimizer.

        Raises: ValueError, before anything is changed, if it is of another model.
        """
        own, parameters = dict(changing(self.module)), dict(self.module.named_parameters())
        theirs = {name.removeprefix("weights."): t for name, t in tensors.items() if name.startswith("weights.")}
        if wrong := _differing(own, theirs):
            raise ValueError(f"{wrong} differs from that of this model")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[f"weights.{name}"])
        for full, tensor in tensors.items():
            kind, _, rest = full.partition(".")
            if kind == "optimizer":
                key, _, name = rest.partition(".")
                # AdamW counts its steps on the parameter's device where it is fused.
                self.optimizer.state[parameters[name]][key] = tensor.to(parameters[name].device).clone()
        self.position, self.epochs = record.position, record.epochs
        self.loss.fill_(record.loss)
        if record.best is not None:
            best = next(epoch for epoch in record.epochs if epoch.epoch == record.best)
            weights = {name: tensors[f"best.{name}"].to(tensor.device) for name, tensor in own.items()}
            self.best = Best(best, record.thresholds, weights)
        return self

    def _moments(self) -> Iterator[tuple[str, str, Tensor]]:
        """The optimizer's tensors of each parameter that it has moved, by the parameter's name and their key."""
        for name, parameter in self.module.named_parameters():
            for key, tensor in self.optimizer.state.get(parameter, {}).items():
                yield name, key, tensor


# AdamW's state of each parameter: its step count, and two means of the parameter's shape.
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def check_consistent(record: StateRecord, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError if the parts of a state contradict each other, for any model."""
    numbers = [epoch.epoch for epoch in record.epochs]
    if numbers != [*range(1, len(numbers) + 1)] or record.position.epoch != len(numbers) + 1:
        raise ValueError(f"it is in epoch {record.position.epoch}, after epochs {numbers}")
    if len({frozenset(epoch.metrics) for epoch in record.epochs}) > 1:
        raise ValueError("its epochs have different metrics")
    if record.best is not None and record.best not in numbers:
        raise ValueError(f"its best epoch is {record.best}, of {len(numbers)}")
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "optimizer": {}, "best": {}}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind not in parts:
            raise ValueError(f"{name} is not a tensor of a training")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} contains NaN or infinity")
        parts[kind][rest] = tensor
    weights, moments, best = parts.values()
    if wrong := _differing(best, {} if record.best is None else weights):
        raise ValueError(f"the weights of the best epoch: {wrong}")
    moved = {name.partition(".")[2] for name in moments}
    for name in sorted(moved):
        for key in _MOMENTS:
            found, weight = moments.get(f"{key}.{name}"), weights.get(name)
            if found is None or weight is None:
                raise ValueError(f"the optimizer has no {key} of {name}, or this is no weight")
            shape, types = (weight.shape, (weight.dtype,)) if key != "step" else ((), (torch.float32, torch.float64))
            if found.shape != shape or found.dtype not in types:
                raise ValueError(f"the optimizer's {key} of {name} has another shape or type")
    if len(moments) != len(_MOMENTS) * len(moved):
        raise ValueError("the optimizer has tensors that AdamW does not have")


def _differing(these: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> str:
    """The first name that only one of both has, or whose tensors differ in shape or type; empty if none does."""
    for name in sorted(these.keys() | others.keys()):
        both = [(one[name].shape, one[name].dtype) if name in one else None for one in (these, others)]
        if both[0] != both[1]:
            return name
    return ""


def changing(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors that training changes: the parameters that train, and batch statistics."""
    yield from ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)
    yield from module.named_buffers()
