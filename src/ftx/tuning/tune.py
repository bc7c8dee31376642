"""``ftx tune``: recipes that are searched for, each tried in a training of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ftx.core.errors import (
    DataError,
    EnvironmentFault,
    FtxError,
    GateFailed,
    InputError,
    Interrupted,
    Terminated,
    stopped,
)
from ftx.core.files import write_atomic
from ftx.core.progress import SILENT, Progress, ProgressTask
from ftx.core.rank_zero_output import check_one_process
from ftx.data.shards.paths import images_root
from ftx.recipe.schema import Recipe
from ftx.runs.data_jsonl import entries_digest
from ftx.runs.latest import RUNS, name_latest
from ftx.tasks.base import choosing_metric
from ftx.tasks.output_meaning import TASKS
from ftx.training.begun_from import begun_run
from ftx.training.resolve import read_images
from ftx.tuning.pareto import draw_trials
from ftx.tuning.report import TriedTrial, TuneReport
from ftx.tuning.space import Space, default_space, read_space
from ftx.tuning.study import open_study, refuse_other_things, shown, within_reach
from ftx.tuning.trial import Objective, attempt
from ftx.tuning.trial_folders import Taken, TrialFolders, claim

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

BEST_FILE, SPACE_FILE, TRIALS_FILE, PLOT_FILE = "best.yaml", "space.yaml", "trials.jsonl", "trials.svg"
OBJECTIVES: tuple[Objective, ...] = ("metric", "latency")
# What a trial carries beside its values.
REASON, EPOCHS, REACHED, RECIPE = "reason", "epochs", "reached", "recipe"
# Failures in a row of one worker: of a space whose corner cannot be trained few, of a full disk all.
_MOST_IN_A_ROW = 5
# Workers that the same trial may end at the same place, as one whose memory the machine has not: then it fails.
_MOST_LOST = 3
_AGAIN = "the same command line goes on"


@dataclass(frozen=True)
class Wanted:
    """How long to search: until the study has so many trials, or for so many seconds."""

    trials: int | None = None
    budget_s: float | None = None
    objectives: tuple[Objective, ...] = ("metric",)


def tune(
    recipe: Recipe,
    wanted: Wanted,
    out: Path | None = None,
    *,
    space: Path | None = None,
    study: str = "ftx",
    storage: str | None = None,
    progress: Progress = SILENT,
) -> TuneReport:
    """Search for a recipe, and keep each trial's run, ``best.yaml`` and ``trials.jsonl`` in ``out``.

    Called again, or at the same time by another worker, it goes on with the study; a trial whose worker was killed
    goes on where it was. A trial that its recipe or the machine does not allow counts as failed, with the reason.
    Raises: InputError if there is no end to it; RecipeError for a space that does not hold; RunError for a study of
    something else; DataError if the data cannot be read; EnvironmentFault where the storage does not answer;
    Interrupted where a signal ended it.
    """
    check_one_process("ftx tune")
    if wanted.trials is None and wanted.budget_s is None:
        raise InputError("nothing says when to end", fix="--trials N, --budget TIME, or both")
    found = default_space(recipe) if space is None else read_space(space, recipe)
    metric = choosing_metric(TASKS[recipe.task], balanced=recipe.train.balance != "none")
    out = out or RUNS / f"{images_root(recipe.data.path).resolve().stem}-tuned"
    refuse_other_things(out)
    # Before there is a study: images that do not hold are no trial's fault.
    data = entries_digest(read_images(recipe, begun_run(recipe), progress).entries)
    out.mkdir(parents=True, exist_ok=True)
    with within_reach(out, storage), _stopped_with_what_to_do(out):
        opened = open_study(out, study, storage, recipe, data, found, len(wanted.objectives))
        folders = TrialFolders(out, claim(out, opened))
        write_atomic(out / SPACE_FILE, found.dumps().encode())
        began = time.monotonic()
        search = _Search(opened, recipe, found, metric, wanted, folders, progress)
        with progress.track("Trials", wanted.trials) as bar:
            bar.advance(len(search.ended()))
            while search.goes_on(began) and (done := search.one()) is not None:
                bar.advance(1, **done)
        return search.report(study, shown(out, storage), time.monotonic() - began)


@contextmanager
def _stopped_with_what_to_do(out: Path) -> Iterator[None]:
    """Say of a signal, wherever in a trial it came, how to go on with the search rather than with a training."""
    found = f"{out} holds the trials so far, and can go on with this one"
    try:
        yield
    except KeyboardInterrupt as signal:
        raise stopped(signal, doing="in a trial", found=found, fix=_AGAIN) from None
    except (Interrupted, Terminated) as error:
        what = "terminated in a trial" if isinstance(error, Terminated) else "interrupted in a trial"
        raise type(error)(what, found=found, fix=_AGAIN) from None


@dataclass(frozen=True)
class _Bars:
    """How long a trial's work moves on; what it has to say would be said in each of them."""

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
    wanted: Wanted
    folders: TrialFolders
    progress: Progress
    in_a_row: list[int] = field(default_factory=list[int])

    def ended(self) -> list[FrozenTrial]:
        """Trials that were tried to an end of their own, be it pruning."""
        from optuna.trial import TrialState

        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))

    def most(self) -> int | None:
        """How many trials more there may be."""
        return None if self.wanted.trials is None else self.wanted.trials - len(self.ended())

    def goes_on(self, began: float) -> bool:
        """Whether there is time for another trial, and one is wanted."""
        most, budget_s = self.most(), self.wanted.budget_s
        return (budget_s is None or time.monotonic() - began < budget_s) and (most is None or most > 0)

    def failed(self, trial: Trial, fault: FtxError) -> None:
        """Keep why a trial failed.

        Raises: InputError or EnvironmentFault, as the last one was, where none of the last few could be trained.
        """
        from optuna.trial import TrialState

        trial.set_user_attr(REASON, fault.what)
        self.study.tell(trial, state=TrialState.FAIL)
        self.progress.note(f"trial {trial.number} failed: {fault.what}")
        self.in_a_row.append(trial.number)
        self.write()
        if len(self.in_a_row) >= _MOST_IN_A_ROW:
            kind = EnvironmentFault if isinstance(fault, EnvironmentFault) else InputError
            raise kind(
                f"the last {_MOST_IN_A_ROW} trials could not be trained",
                where=self.folders.out,
                found=fault.what,
                fix=fault.fix or "what each lacked stands in trials.jsonl",
            ) from fault

    def one(self) -> dict[str, str] | None:
        """Try once more, or go on with a trial whose worker was killed; what is shown beside the bar.

        None where other workers of this folder are at the last ones already: of those of other machines nobody knows
        whether they still are.
        """
        with self.folders.taken(self.study, most=self.most()) as taken:
            if taken is None:
                return None
            if not self.attempted(taken):
                return {"failed": str(taken.trial.number)}
        self.write()
        best = self.best()
        shown = max((self.tried(one).metric or 0.0 for one in best), default=0.0)
        return {self.metric: f"{shown:.3f}"}

    def attempted(self, taken: Taken) -> bool:
        """Train a trial, and tell the study what came of it; False if it failed, which is told too."""
        from optuna.trial import TrialState

        trial = taken.trial
        if taken.begun:
            self.progress.note(f"trial {trial.number} was cut off: it goes on")
        if taken.lost > _MOST_LOST:
            what = f"{taken.lost} workers were lost in it, one after the other, at the same place"
            self.failed(trial, EnvironmentFault(what, where=taken.run, fix="see what the system says of them"))
            return False
        try:
            tried = self.recipe.with_overrides([], self.space.suggested(trial))
            done = attempt(taken, tried, self.metric, self.wanted.objectives, _Bars(self.progress))
        except DataError as fault:  # of all trials
            trial.set_user_attr(REASON, fault.what)
            self.study.tell(trial, state=TrialState.FAIL)
            raise
        except (InputError, EnvironmentFault, GateFailed) as fault:
            self.failed(trial, fault)
            return False
        self.in_a_row.clear()
        trial.set_user_attr(EPOCHS, done.epochs)
        trial.set_user_attr(REACHED, done.reached)
        trial.set_user_attr(RECIPE, Recipe.load(taken.run / "recipe.yaml").dumps())
        if done.pruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, list(done.values))
        return True

    def best(self) -> list[FrozenTrial]:
        """The best trial, or of two objectives those that no other beats in both."""
        if not any(trial.state.name == "COMPLETE" for trial in self.ended()):
            return []
        return list(self.study.best_trials) if len(self.wanted.objectives) > 1 else [self.study.best_trial]

    def first(self, best: Sequence[FrozenTrial]) -> FrozenTrial:
        """Of the best ones that with the best metric."""
        return max(best, key=lambda trial: cast("float", self.tried(trial).metric))

    def tried(self, trial: FrozenTrial) -> TriedTrial:
        """A trial as it is listed."""
        values: Sequence[float | None] = trial.values or (None,) * len(self.wanted.objectives)
        of = dict(zip(self.wanted.objectives, values, strict=True))
        # Of one that was pruned Optuna has the last epoch's; its run is of the best. One that goes on, or failed, has
        # what its best epoch counts for until then.
        metric = trial.user_attrs.get(REACHED, max(trial.intermediate_values.values(), default=None))
        return TriedTrial(
            number=trial.number,
            state=trial.state.name.lower(),
            keys=self.space.values(trial.params),
            metric=metric,
            latency_ms=of.get("latency"),
            epochs=trial.user_attrs.get(EPOCHS),
            run=self.folders.where_it_lies(trial),
            reason=trial.user_attrs.get(REASON),
        )

    def write(self) -> None:
        """Write what is known now: all trials, the best recipe, and the picture."""
        trials = [self.tried(trial) for trial in self.study.get_trials(deepcopy=False)]
        lines = "".join(json.dumps(one.model_dump(mode="json")) + "\n" for one in trials)
        write_atomic(self.folders.out / TRIALS_FILE, lines.encode())
        best = self.best()
        if best:
            first = self.first(best)
            write_atomic(self.folders.out / BEST_FILE, str(first.user_attrs[RECIPE]).encode())
            if (run := self.folders.here(first)) is not None:
                name_latest(run, self.progress)
        draw_trials(trials, [one.number for one in best], self.metric, self.folders.out / PLOT_FILE)

    def report(self, study: str, storage: str, seconds: float) -> TuneReport:
        """All of it."""
        self.write()
        best = self.best()
        return TuneReport(
            run=self.folders.where_it_lies(self.first(best)) if best else None,
            study=study,
            storage=storage,
            metric=self.metric,
            objectives=list(self.wanted.objectives),
            searched={key: str(value) for key, value in self.space.keys.items()},
            trials=[self.tried(trial) for trial in self.study.get_trials(deepcopy=False)],
            best=[trial.number for trial in best],
            best_recipe=str(self.folders.out / BEST_FILE) if best else None,
            seconds=round(seconds, 1),
        )
