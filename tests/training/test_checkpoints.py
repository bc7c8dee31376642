"""When a checkpoint is due, by a clock that is set, and which of them stay."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.conftest import Listener
from tests.training.test_state import moved, same

from ftx.core.errors import RunError
from ftx.recipe.schema import Recipe
from ftx.runs.new_run import NewRun
from ftx.training.checkpoints import MOST_FRACTION, Checkpoints, Origin, newest
from ftx.training.device_placement import Circumstances
from ftx.training.state import TrainingState


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("ftx.training.checkpoints.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def checkpoints(folder: Path, **settings: object) -> Checkpoints:
    circumstances = Circumstances(device="cpu", threads=1, plain_attention=True)
    origin = Origin(
        recipe=Recipe.named({"path": "x", **settings}),
        data_sha256="0" * 64,
        base_digest="1" * 64,
        circumstances=circumstances,
    )
    folder.mkdir(exist_ok=True)
    return Checkpoints(NewRun(folder, folder, shown=True), origin)


def at(step: int) -> TrainingState:
    state = moved()
    state.position.step = step
    return state


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("minutes", [2, 5])
def test_one_is_due_so_many_minutes_after_the_last(minutes: int, clock: list[float], tmp_path: Path) -> None:
    made = checkpoints(tmp_path / "run", checkpoint_minutes=minutes)
    clock[0] += 60 * minutes - 1
    assert not made.is_due()
    clock[0] += 1
    assert made.is_due()
    clock[0] += 30
    made.write(at(2))
    clock[0] += 60 * minutes - 1
    assert not made.is_due()
    clock[0] += 1
    assert made.is_due()


def test_at_the_end_of_an_epoch_one_is_due_where_it_takes_little_of_the_time(
    clock: list[float], tmp_path: Path
) -> None:
    """The first at once, as nobody knows what it takes; writing it takes 2 s, 0.5 % of 400."""
    made = checkpoints(tmp_path / "run", checkpoint_minutes=60)

    def settle() -> None:
        clock[0] += 2

    made.settle_first = settle
    assert made.is_due(epoch_ended=True)
    assert not made.is_due()
    made.write(at(2))
    assert MOST_FRACTION == 0.005
    clock[0] += 390
    assert not made.is_due(epoch_ended=True)
    clock[0] += 11
    assert made.is_due(epoch_ended=True)
    assert not made.is_due()


def test_the_last_two_stay_and_each_step_is_written_once(clock: list[float], tmp_path: Path) -> None:
    made = checkpoints(tmp_path / "run")
    settled: list[float] = []
    made.settle_first = lambda: settled.append(clock[0])
    for step in (3, 7, 7, 12):
        made.write(at(step))
    assert steps(tmp_path / "run") == ["12.json", "12.safetensors", "7.json", "7.safetensors"]
    assert len(settled) == 3
    made.remove()
    assert not made.folder.exists()


def test_the_newest_is_that_of_the_most_steps_and_what_is_damaged_is_told(clock: list[float], tmp_path: Path) -> None:
    """By number: 12 comes after 7, though not as text."""
    made, states = checkpoints(tmp_path / "run"), {step: at(step) for step in (7, 12)}
    for state in states.values():
        made.write(state)
    listener = Listener()
    found = newest(tmp_path / "run", listener)
    assert (found.checkpoint.record.position.step, listener.said) == (12, [])
    assert same(found.tensors, states[12].tensors())
    (tmp_path / "run" / "checkpoints" / "12.safetensors").write_bytes(b"cut")
    found = newest(tmp_path / "run", listener)
    assert found.checkpoint.record.position.step == 7
    (said,) = listener.said
    assert said.startswith("a checkpoint is damaged (12.json: 12.safetensors has changed since ftx wrote it)")
    assert said.endswith("resuming from the one before, 7.json")
    (tmp_path / "run" / "checkpoints" / "7.json").write_text("{")
    with pytest.raises(RunError, match="this run has no complete checkpoint") as error:
        newest(tmp_path / "run", Listener())
    assert error.value.found is not None
    assert {"12.json", "7.json"} == {one.partition(":")[0] for one in error.value.found.split("; ")}


def test_those_that_were_written_before_a_stop_fall_to_the_newer_ones(tmp_path: Path) -> None:
    """The one that a training goes on from stays as the second until there are two new ones."""
    first = checkpoints(tmp_path / "run")
    for step in (3, 7):
        first.write(at(step))
    saved = newest(tmp_path / "run", Listener())
    again = Checkpoints(NewRun(tmp_path / "run", tmp_path / "run", shown=True), saved.checkpoint.origin, saved)
    again.write(at(9))
    assert steps(tmp_path / "run") == ["7.json", "7.safetensors", "9.json", "9.safetensors"]
    again.write(at(12))
    assert steps(tmp_path / "run") == ["12.json", "12.safetensors", "9.json", "9.safetensors"]
