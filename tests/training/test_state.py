"""A training's state comes back as it was written, and only into the training that wrote it."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ftx.runs.train_jsonl import Epoch
from ftx.tasks.thresholds import Thresholds
from ftx.training.state import Position, StateRecord, TrainingState, check_consistent

EPOCH = Epoch(
    epoch=1, loss=0.5, val_loss=0.25, accuracy=1.0, metrics={"accuracy": 1.0}, lr=0.1, images_per_s=1.0, seconds=2.0
)


def begun(seed: int) -> TrainingState:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    return TrainingState(module, torch.optim.AdamW(module.parameters(), lr=0.1))


def moved() -> TrainingState:
    """After an epoch that is the best, and a step more."""
    state = begun(0)
    for step in (1, 2):
        state.module(torch.randn(4, 3)).square().sum().backward()
        state.optimizer.step()
        if step == 1:
            state.epochs.append(EPOCH)
            state.keep_best(EPOCH, Thresholds({"a": 0.25}, shared=0.75))
    state.loss += 0.75
    state.position = Position(step=2, epoch=2, batches=1, images=4)
    return state


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_state_comes_back_as_it_was_written() -> None:
    state, record = moved(), moved().record()
    restored = begun(1).restore(StateRecord.model_validate_json(record.model_dump_json()), state.tensors())
    assert same(restored.tensors(), state.tensors())
    assert restored.record().model_copy(update={"position": record.position}) == record
    assert float(restored.loss) == 0.75
    assert restored.position == record.position


def test_epochs_of_an_earlier_version_get_their_means() -> None:
    state = moved()
    state.epochs.append(replace(EPOCH, epoch=EPOCH.epoch + 1, metrics={"accuracy": 0.0}))
    assert state.best is not None
    assert (EPOCH.smoothed, state.best.epoch.smoothed) == (None, None)
    state.note_means("accuracy")
    reached = EPOCH.metrics["accuracy"]
    assert [epoch.smoothed for epoch in state.epochs] == [reached, reached / 2]
    assert state.best.epoch is state.epochs[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": float("nan")},
        {"best": -1},
        {"position": {"step": -1}},
        {"position": {"epoch": 0}},
        {"position": {"steps": 1}},
        {"spare": 1},
    ],
    ids=str,
)
def test_a_record_that_no_training_wrote_is_refused(wrong: dict[str, Any]) -> None:
    document = moved().record().model_dump()
    assert StateRecord.model_validate(document)
    with pytest.raises(ValidationError):
        StateRecord.model_validate(document | wrong)


def test_seconds_are_those_of_all_processes_that_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """70,000 s before a stop, 50,000 s after it and 20,000 s after another; to write a state down changes nothing."""
    later_s = [0.0]
    monkeypatch.setattr("ftx.training.state.time", SimpleNamespace(monotonic=lambda: time.monotonic() + later_s[0]))
    state, total = begun(0), 0.0
    for seconds in (7e4, 5e4, 2e4):
        later_s[0] = seconds
        # This test takes no hour by itself.
        assert state.seconds == pytest.approx(total + seconds, abs=5e3)
        record = state.record()
        assert record.position.seconds_before == pytest.approx(total + seconds, abs=5e3)
        assert state.position.seconds_before == pytest.approx(total, abs=5e3)
        assert state.seconds == pytest.approx(total + seconds, abs=5e3)
        total += seconds
        later_s[0] = 0.0  # what a new process counts from
        state = begun(0).restore(StateRecord.model_validate_json(record.model_dump_json()), state.tensors())
    assert state.seconds == pytest.approx(14e4, abs=5e3)


def test_the_best_epoch_is_laid_whatever_came_after() -> None:
    """Weights and statistics of batches of the first epoch, and its thresholds, after a worse second one."""
    state = moved()
    best = {name: tensor.clone() for name, tensor in (state.best.weights if state.best else {}).items()}
    assert {"1.running_mean", "1.running_var", "1.num_batches_tracked"} < best.keys()
    restored = begun(1).restore(state.record(), state.tensors())
    assert restored.best is not None
    assert (restored.best.epoch, restored.best.thresholds) == (EPOCH, Thresholds({"a": 0.25}, shared=0.75))
    for one in (state, restored):
        assert not all(torch.equal(tensor, best[name]) for name, tensor in one.module.state_dict().items())
        one.load_best()
        assert all(torch.equal(tensor, best[name]) for name, tensor in one.module.state_dict().items())


def test_epochs_with_other_metrics_are_of_no_training() -> None:
    def record(*metrics: str) -> StateRecord:
        epochs = [
            Epoch(number, 0.5, 0.5, 0.5, {metric: 0.5}, 1e-3, 10.0, 1.0) for number, metric in enumerate(metrics, 1)
        ]
        position = Position(epoch=len(epochs) + 1)
        return StateRecord(position=position, loss=0.0, epochs=epochs, best=None, thresholds=Thresholds())

    check_consistent(record("accuracy", "accuracy"), {})
    with pytest.raises(ValueError, match="its epochs have different metrics"):
        check_consistent(record("accuracy", "mean_average_precision"), {})
