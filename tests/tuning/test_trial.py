"""What came of a trial: by the epoch that its run keeps, whether it was pruned, and without its checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from optuna.trial import FixedTrial
from tests.conftest import Listener

from ftx.recipe.schema import Recipe
from ftx.runs.run_json import CHECKPOINTS, MANIFEST_FILE
from ftx.runs.train_jsonl import EPOCHS_FILE, Epoch, epoch_lines
from ftx.training.state import EpochEnd
from ftx.tuning.trial import TrialResult, run_trial
from ftx.tuning.trial_folders import TrialAssignment


def epoch(number: int, accuracy: float, balanced: float, smoothed: float) -> Epoch:
    metrics = {"accuracy": accuracy, "balanced_accuracy": balanced}
    return Epoch(number, 0.5, 0.5, accuracy, metrics, 1e-3, 10.0, 1.0, smoothed=smoothed)


# By what each counts for, the lower one of what it reached and its mean, the second is the best in accuracy, though the
# third reached more by luck, and the first in balanced accuracy.
EPOCHS = [
    epoch(1, 0.50, 0.90, 0.50),
    epoch(2, 0.80, 0.30, 0.75),
    epoch(3, 0.95, 0.20, 0.70),
    epoch(4, 0.60, 0.10, 0.65),
]


def ended(folder: Path, *, pruned: bool = False) -> TrialAssignment:
    """A trial whose worker was killed after its run was whole, and before it told so."""
    run = folder / "0003"
    (run / EPOCHS_FILE).parent.mkdir(parents=True)
    (run / EPOCHS_FILE).write_bytes(epoch_lines(EPOCHS))
    (run / MANIFEST_FILE).write_text("{}")
    (run / CHECKPOINTS).mkdir()
    (run / CHECKPOINTS / "left").write_text("half of one")
    trial = FixedTrial({})
    if pruned:
        trial.set_user_attr("pruned", True)
    return TrialAssignment(trial, run, resumed=True)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("metric", "reached"), [("accuracy", 0.80), ("balanced_accuracy", 0.90)])
def test_a_trial_is_ranked_by_the_epoch_that_its_run_keeps(metric: str, reached: float, tmp_path: Path) -> None:
    assigned = ended(tmp_path)
    done = run_trial(assigned, Recipe(), metric, ("metric",), Listener())
    assert done == TrialResult(reached, (reached,), 4, pruned=False)
    assert not (assigned.run / CHECKPOINTS).exists()
    assert "pruned" not in assigned.trial.user_attrs


def test_a_trial_that_was_pruned_stays_so_and_leaves_no_checkpoints(tmp_path: Path) -> None:
    assigned = ended(tmp_path, pruned=True)
    done = run_trial(assigned, Recipe(), "accuracy", ("metric",), Listener())
    assert done == TrialResult(0.80, (), 4, pruned=True)
    assert not (assigned.run / CHECKPOINTS).exists()
    assert assigned.trial.user_attrs["pruned"] is True


@pytest.mark.parametrize("follow", [True, False])
def test_a_trial_that_goes_on_reads_images_as_this_command_says(
    follow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they lie, and whether links are followed: the recipe of its run does not decide that."""
    assigned = ended(tmp_path)
    (assigned.run / MANIFEST_FILE).unlink()
    (assigned.run / CHECKPOINTS / "7.json").write_text("{}")
    flags: list[object] = []

    def resume(run: Path, **given: object) -> NoReturn:
        flags.append(given["flags"])
        raise KeyboardInterrupt

    monkeypatch.setattr("ftx.tuning.trial.resume", resume)
    recipe = Recipe.named({"path": Path("images"), "follow_links": follow})
    with pytest.raises(KeyboardInterrupt):
        run_trial(assigned, recipe, "accuracy", ("metric",), Listener())
    assert flags == [{"data.path": "images", "data.follow_links": follow}]


class Hopeless(FixedTrial):
    """A trial that is below the others' median at every epoch."""

    def should_prune(self) -> bool:
        return True


@pytest.mark.parametrize(("epoch", "pruned"), [(3, True), (4, False)])
def test_who_has_reached_the_last_epoch_is_not_pruned(
    epoch: int, pruned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing would be saved by it."""
    assigned = replace(ended(tmp_path), trial=Hopeless({}), resumed=False)

    def train(_recipe: Recipe, _run: Path, **given: Any) -> SimpleNamespace:
        try:
            given["on_epoch"](EpochEnd(EPOCHS[epoch - 1], 4, "accuracy", EPOCHS[1], "images"))
        except KeyboardInterrupt:
            return SimpleNamespace(interrupted=True)
        return SimpleNamespace(interrupted=False)

    monkeypatch.setattr("ftx.tuning.trial.train", train)
    assert run_trial(assigned, Recipe(), "accuracy", ("metric",), Listener()).pruned is pruned
