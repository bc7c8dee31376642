"""``ftx tune``: search for the best recipe; each trial is a training of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from optuna import Study, Trial
from optuna.trial import FrozenTrial, TrialState

from ftx.core.errors import (
    DataError,
    EnvironmentFault,
    FtxError,
    GateFailed,
    InputError,
    Interrupted,
    Terminated,
    Termination,
    stopped,
)
from ftx.core.files import write_atomic
from ftx.core.progress import SILENT, Progress, ProgressTask
from ftx.core.rank_zero_output import check_one_process
from ftx.data.shards.paths import images_root
from ftx.recipe.schema import Recipe
from ftx.runs.data_jsonl import entries_digest
from ftx.runs.runs_folder import RUNS, name_latest
from ftx.tasks.base import choosing_metric
from ftx.tasks.output_meaning import TASKS
from ftx.training.init_from import init_run
from ftx.training.opening import read_images
from ftx.tuning.report import TriedTrial, TuneReport, draw_trials
from ftx.tuning.space import Space, default_space, read_space
from ftx.tuning.study import check_folder, open_study, printable, storage_errors
from ftx.tuning.trial import Objective, run_trial
from ftx.tuning.trial_folders import TrialAssignment, TrialFolders, claim

BEST_FILE, SPACE_FILE, TRIALS_FILE, PLOT_FILE = "best.yaml", "space.yaml", "trials.jsonl", "trials.svg"
OBJECTIVES: tuple[Objective, ...] = ("metric", "latency")
# User attributes of a trial.
REASON, EPOCHS, REACHED, RECIPE = "reason", "epochs", "reached", "recipe"
# Failures in a row of one worker, before it ends: few are a corner of the space, all are a full disk.
_MOST_IN_A_ROW = 5
# Workers lost in a trial at the same place, before it fails: the machine may not have the memory for it.
_MOST_LOST = 3


@dataclass(frozen=True)
class SearchGoal:
    """What to optimise, and how long: until the study has this many trials, or for this many seconds."""

    trials: int | None = None
    budget_s: float | None = None
    objectives: tuple[Objective, ...] = ("metric",)


def tune(
    recipe: Recipe,
    goal: SearchGoal,
    out: Path | None = None,
    *,
    space: Path | None = None,
    study: str = "ftx",
    storage: str | None = None,
    progress: Progress = SILENT,
) -> TuneReport:
    """Search for the best recipe, and keep each trial's run, ``best.yaml`` and ``trials.jsonl`` in ``out``.

    The same call resumes the study, also while other workers run it, and first resumes trials whose worker was killed.
    A trial that its recipe or the machine does not allow counts as failed, with the reason.
    Raises: InputError if there is no end to it; RecipeError for an invalid space; RunError for a study of something
    else; DataError if the data cannot be read; EnvironmentFault if the storage does not respond; Interrupted if a
    signal ended it.
    """
    check_one_process("ftx tune")
    if goal.trials is None and goal.budget_s is None:
        raise InputError("--trials or --budget must be given", fix="add --trials N, --budget TIME, or both")
    searched = default_space(recipe) if space is None else read_space(space, recipe)
    metric = choosing_metric(TASKS[recipe.task], balanced=recipe.train.balance != "none")
    out = out or RUNS / f"{images_root(recipe.data.path).resolve().stem}-tuned"
    check_folder(out)
    # Before there is a study: invalid images are no trial's fault.
    data = entries_digest(read_images(recipe, init_run(recipe), progress).entries)
    out.mkdir(parents=True, exist_ok=True)
    with storage_errors(out, storage), _resumable(out):
        opened = open_study(out, study, storage, recipe, data, searched, len(goal.objectives))
        folders = TrialFolders(out, claim(out, opened))
        write_atomic(out / SPACE_FILE, searched.dumps().encode())
        search = _Search(opened, recipe, searched, metric, goal, folders, printable(out, storage), progress)
        with progress.track("Trials", goal.trials) as bar:
            bar.advance(len(search.ended()))
            while search.is_due() and (done := search.one()) is not None:
                bar.advance(1, **done)
        return search.report()


@contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """Turn a signal, wherever in a trial it came, into an error that shows how to resume the search."""
    try:
        yield
    except (KeyboardInterrupt, Interrupted, Terminated) as error:
        signal = Termination() if isinstance(error, Termination | Terminated) else KeyboardInterrupt()
        found = f"{out} contains the trials so far, and this one can be resumed"
        raise stopped(signal, doing="in a trial", found=found, fix="run the same command to resume") from None


@dataclass(frozen=True)
class _Bars:
    """The progress of a trial, without its notes: they would be the same for each trial."""

    progress: Progress

    def track(self, description: str, total: int | None) -> AbstractContextManager[ProgressTask]:
        return self.progress.track(description, total)

    def note(self, text: str) -> None:
        pass


@dataclass(frozen=True)
class _Search:
    study: Study
    recipe: Recipe
    space: Space
    metric: str
    goal: SearchGoal
    folders: TrialFolders
    storage: str
    progress: Progress
    began: float = field(default_factory=time.monotonic)
    failed_in_a_row: list[int] = field(default_factory=list[int])

    def ended(self) -> list[FrozenTrial]:
        """Trials that are complete or pruned."""
        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))

    def most(self) -> int | None:
        """How many more trials there may be."""
        return None if self.goal.trials is None else self.goal.trials - len(self.ended())

    def is_due(self) -> bool:
        """Whether the budgets of time and trials allow another trial."""
        most, budget_s = self.most(), self.goal.budget_s
        return (budget_s is None or time.monotonic() - self.began < budget_s) and (most is None or most > 0)

    def one(self) -> dict[str, str] | None:
        """Run one trial, or resume one whose worker was killed; return what to show next to the bar.

        None if other workers of this folder have the last trials. Those on other machines may have ended, so they do
        not count.
        Raises: InputError or EnvironmentFault, as the last trial did, if none of the last few could be trained.
        """
        with self.folders.assigned(self.study, most=self.most()) as assignment:
            if assignment is None:
                return None
            try:
                self.run(assignment)
            except (InputError, EnvironmentFault, GateFailed) as fault:
                assignment.trial.set_user_attr(REASON, fault.what)
                self.study.tell(assignment.trial, state=TrialState.FAIL)
                if isinstance(fault, DataError):  # of all trials
                    raise
                self.count_failure(assignment.trial, fault)
                return {"failed": str(assignment.trial.number)}
        report = self.report()
        best = max((one.metric or 0.0 for one in report.trials if one.number in report.best), default=0.0)
        return {self.metric: f"{best:.3f}"}

    def run(self, assignment: TrialAssignment) -> None:
        """Train a trial, and record its result in the study. Raises: what the training raises."""
        trial = assignment.trial
        if assignment.resumed:
            self.progress.note(f"trial {trial.number} was interrupted, and is resumed")
        if assignment.lost > _MOST_LOST:
            what = f"{assignment.lost} workers ended at the same place of this trial, one after the other"
            raise EnvironmentFault(
                what, where=assignment.run, fix="look for the reason in the log of the system: dmesg"
            )
        recipe = self.recipe.with_overrides([], self.space.suggested(trial))
        result = run_trial(assignment, recipe, self.metric, self.goal.objectives, _Bars(self.progress))
        self.failed_in_a_row.clear()
        trial.set_user_attr(EPOCHS, result.epochs)
        trial.set_user_attr(REACHED, result.metric)
        trial.set_user_attr(RECIPE, Recipe.load(assignment.run / "recipe.yaml").dumps())
        if result.pruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, list(result.values))

    def count_failure(self, trial: Trial, fault: FtxError) -> None:
        """Raise the error of the last trial if none of the last few could be trained."""
        self.progress.note(f"trial {trial.number} failed: {fault.what}")
        self.failed_in_a_row.append(trial.number)
        self.report()
        if len(self.failed_in_a_row) >= _MOST_IN_A_ROW:
            kind = EnvironmentFault if isinstance(fault, EnvironmentFault) else InputError
            raise kind(
                f"the last {_MOST_IN_A_ROW} trials could not be trained",
                where=self.folders.out,
                found=fault.what,
                fix=fault.fix or "read the reason of each in trials.jsonl",
            ) from fault

    def best(self) -> list[FrozenTrial]:
        """The best trial, or for two objectives the Pareto front."""
        if not any(trial.state.name == "COMPLETE" for trial in self.ended()):
            return []
        return list(self.study.best_trials) if len(self.goal.objectives) > 1 else [self.study.best_trial]

    def tried(self, trial: FrozenTrial) -> TriedTrial:
        """A trial as the report lists it."""
        values: Sequence[float | None] = trial.values or (None,) * len(self.goal.objectives)
        # The value of a pruned trial is that of its last epoch; its run has the best one. A trial that runs, or failed,
        # has the values of its epochs until then.
        metric = trial.user_attrs.get(REACHED, max(trial.intermediate_values.values(), default=None))
        return TriedTrial(
            number=trial.number,
            state=trial.state.name.lower(),
            keys=self.space.values(trial.params),
            metric=metric,
            latency_ms=dict(zip(self.goal.objectives, values, strict=True)).get("latency"),
            epochs=trial.user_attrs.get(EPOCHS),
            run=self.folders.location(trial),
            reason=trial.user_attrs.get(REASON),
        )

    def report(self) -> TuneReport:
        """Write what is known now (all trials, the best recipe, the plot), and report it."""
        trials = [self.tried(trial) for trial in self.study.get_trials(deepcopy=False)]
        lines = "".join(json.dumps(one.model_dump(mode="json")) + "\n" for one in trials)
        write_atomic(self.folders.out / TRIALS_FILE, lines.encode())
        best = self.best()
        numbers = [trial.number for trial in best]
        first = max(best, key=lambda trial: cast("float", self.tried(trial).metric), default=None)
        if first is not None:
            write_atomic(self.folders.out / BEST_FILE, str(first.user_attrs[RECIPE]).encode())
            if (run := self.folders.here(first)) is not None:
                name_latest(run, self.progress)
        draw_trials(trials, numbers, self.metric, self.folders.out / PLOT_FILE)
        return TuneReport(
            run=None if first is None else self.folders.location(first),
            study=self.study.study_name,
            storage=self.storage,
            metric=self.metric,
            objectives=list(self.goal.objectives),
            searched={key: str(value) for key, value in self.space.keys.items()},
            trials=trials,
            best=numbers,
            best_recipe=None if first is None else str(self.folders.out / BEST_FILE),
            seconds=round(time.monotonic() - self.began, 1),
        )
