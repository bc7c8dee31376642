"""A search: each trial a run, what is killed goes on, two workers share a study, and another study is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import optuna
import pytest
import torch
from PIL import Image
from tests.conftest import Listener, write_data

from ftx.core.errors import (
    DataError,
    EnvironmentFault,
    FtxError,
    InputError,
    Interrupted,
    RunError,
    Terminated,
    Termination,
)
from ftx.recipe.schema import Recipe
from ftx.runs.artifacts import IR_FP32
from ftx.runs.data_jsonl import entries_digest
from ftx.runs.run import Run
from ftx.runs.run_json import checkpoint_records
from ftx.runs.runs_folder import point_latest_at
from ftx.runs.train_jsonl import Epoch, epoch_lines, read_epochs
from ftx.training.opening import read_images
from ftx.tuning.report import TuneReport
from ftx.tuning.space import read_space
from ftx.tuning.study import IDENTITY, open_study, storage_errors
from ftx.tuning.trial_folders import claim
from ftx.tuning.tune import SearchGoal, tune

RECIPE = """
model: {name: test_vit, weights: none, peft: lora}
adapter: {blocks: all}
data: {path: data, image_size: 32}
train: {epochs: 3, batch_size: 8, precision: f32, augment: light, patch_dropout: 0, head_init: random}
"""
SPACE = "train.lr: {low: 1e-4, high: 1e-2, log: true}\nadapter.targets: [all, [q, v]]\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    write_data(tmp_path / "data", 6)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "space.yaml").write_text(SPACE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def searched(trials: int, *overrides: str, out: str = "study", space: str = "space.yaml", **more: object) -> TuneReport:
    recipe = Recipe.load(Path("recipe.yaml")).with_overrides(overrides)
    return tune(recipe, SearchGoal(trials=trials), Path(out), space=Path(space), **more)  # pyright: ignore[reportArgumentType]


@pytest.mark.representative
def test_each_trial_is_a_run_with_the_keys_that_were_drawn_and_the_best_is_the_best(here: Path) -> None:
    report = searched(3)
    assert [one.state for one in report.trials] == ["complete"] * 3
    for one in report.trials:
        run = Run.open(one.run)
        kept = run.recipe().by_key()
        assert kept["train.lr"] == one.keys["train.lr"]
        assert set(kept["adapter.targets"]) == set(  # pyright: ignore[reportArgumentType]
            ["q", "v"] if one.keys["adapter.targets"] == ["q", "v"] else ["q", "k", "v", "proj", "fc1", "fc2"]
        )
        assert one.metric == max(epoch.metrics["accuracy"] for epoch in read_epochs(run.path))
    (best,) = report.best
    assert report.trials[best].metric == max(one.metric or 0 for one in report.trials)
    assert Recipe.load(Path("study/best.yaml")) == Recipe.load(Path(str(report.trials[best].run), "recipe.yaml"))
    lines = [json.loads(line) for line in Path("study/trials.jsonl").read_text().splitlines()]
    assert [line["keys"] for line in lines] == [one.keys for one in report.trials]
    assert Path("study/trials.svg").read_text().startswith("<?xml")
    # The same call has nothing left to do; asked for more it goes on.
    assert len(searched(3).trials) == 3
    assert len(searched(4).trials) == 4


@pytest.mark.slow
def test_a_study_of_something_else_is_refused(here: Path) -> None:
    searched(1)
    with pytest.raises(RunError, match="--study must be new"):
        searched(2, "train.epochs=2")
    Path("other.yaml").write_text("adapter.rank: [2, 4]")
    with pytest.raises(RunError, match="--study must be new"):
        searched(2, space="other.yaml")
    # Runs are numbered as the trials of their study: another study's would be taken for its own.
    with pytest.raises(RunError, match="the runs of another study"):
        searched(2, study="second", space="other.yaml")
    assert len(searched(2, out="other", space="other.yaml").trials) == 2
    Image.new("RGB", (40, 40), "white").save(next(Path("data").rglob("*.png")))
    with pytest.raises(RunError, match="--study must be new"):
        searched(2)


def test_a_study_is_begun_in_a_folder_of_its_own_or_not_at_all(here: Path) -> None:
    run = Path(str(searched(1).run))
    assert Path("runs/latest").resolve() == run.resolve()
    with pytest.raises(RunError, match="--out must be a new folder"):
        searched(1, out=str(run))
    with pytest.raises(RunError, match="--out must be a folder"):
        searched(1, out="recipe.yaml")
    assert not (run / "study.db").exists()
    with pytest.raises(DataError):
        searched(1, "data.path=nowhere", out="new")
    with pytest.raises(EnvironmentFault):
        searched(1, out="new", storage="sqlite:////nowhere/else/study.db")
    assert not Path("new").exists()


@pytest.mark.slow
def test_the_newest_run_is_the_best_of_a_search(here: Path) -> None:
    report = searched(3)
    (worse, *_) = [one for one in report.trials if one.number not in report.best]
    point_latest_at(Path(str(worse.run)))
    assert Path("runs/latest").resolve() != Path(str(report.run)).resolve()
    searched(3)
    assert Path("runs/latest").resolve() == Path(str(report.run)).resolve()


@pytest.mark.representative
def test_a_trial_that_cannot_be_trained_fails_with_its_reason_and_the_others_go_on(here: Path) -> None:
    # So many ranks that can be trained that chance does not draw the other one five times in a row.
    Path("space.yaml").write_text(f"adapter.rank: {[*range(2, 42), 4000]}")
    searched(1)
    study = optuna.load_study(storage="sqlite:///study/study.db", study_name="ftx")
    study.enqueue_trial({"adapter.rank": "4000"})
    listener = Listener()
    report = searched(2, progress=listener)
    failed = [one for one in report.trials if one.state == "fail"]
    assert len([one for one in report.trials if one.state == "complete"]) == 2
    assert failed
    assert all(one.keys["adapter.rank"] == 4000 and "rank" in (one.reason or "") for one in failed)
    assert all(one.run is None for one in failed)
    Path("none.yaml").write_text("adapter.rank: [3000, 4000]")
    with pytest.raises(InputError, match="the last 5 trials could not be trained"):
        searched(2, out="none", space="none.yaml")


def test_what_has_no_end_is_not_begun(here: Path) -> None:
    with pytest.raises(InputError, match="--trials or --budget must be given"):
        tune(Recipe.load(Path("recipe.yaml")), SearchGoal(), Path("study"))
    assert not Path("study").exists()


@pytest.mark.parametrize(
    ("storage", "kind", "what", "where"),
    [
        (
            "sqlite:////nowhere/else/study.db",
            EnvironmentFault,
            "does not respond",
            "sqlite:////nowhere/else/study.db",
        ),
        ("oracle://me:secret@there/x", EnvironmentFault, "driver", "oracle://me:***@there/x"),
        (
            "oracle://there/x?user=me&password=secret",
            EnvironmentFault,
            "driver",
            "oracle://there/x",
        ),
        ("banana?password=secret", InputError, "must be the address of a database", "--storage"),
        ("banana://there/x?password=secret", InputError, "must be the address of a database", "--storage"),
        ("banana://me:secret@there/x", InputError, "must be the address of a database", "--storage"),
        ("postgresql://me:secret@there:port/x", InputError, "must be the address of a database", "--storage"),
    ],
)
def test_a_storage_that_is_not_there_is_one_error(
    here: Path, storage: str, kind: type[Exception], what: str, where: str
) -> None:
    with pytest.raises(kind, match=what) as error:
        searched(1, storage=storage)
    assert str(error.value.where or "--storage") == where  # pyright: ignore[reportAttributeAccessIssue]
    assert "secret" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("storage", [None, "sqlite:///elsewhere.db"])
def test_a_storage_that_goes_away_in_a_trial_is_one_error_and_its_run_goes_on(here: Path, storage: str | None) -> None:
    file = here / ("study/study.db" if storage is None else "elsewhere.db")

    class GoesAway(Listener):
        def track(self, description: str, total: int | None) -> AbstractContextManager[Listener]:
            if self.descriptions.count(description) == 1 and description == "Training":  # of the second trial
                shutil.copy(file, here / "away.db")
                file.write_bytes(b"no database at all" * 300)
            return super().track(description, total)

    with pytest.raises(RunError if storage is None else EnvironmentFault, match=r"study|--storage"):
        searched(3, storage=storage, progress=GoesAway())
    assert not file.read_bytes().startswith(b"SQLite")
    (here / "away.db").rename(file)
    report = searched(3, storage=storage)
    assert [one.state for one in report.trials].count("complete") == 3


def test_workers_that_begin_a_study_at_the_same_time_share_it(here: Path) -> None:
    recipe = Recipe.load(Path("recipe.yaml"))
    space = read_space(Path("space.yaml"), recipe)

    def opened(worker: int) -> object:
        (here / f"out{worker}").mkdir()
        with storage_errors(here, "sqlite:///shared.db"):
            study = open_study(here / f"out{worker}", "one", "sqlite:///shared.db", recipe, "data", space, 1)
            return study.user_attrs[IDENTITY][1]

    with ThreadPoolExecutor(8) as workers:
        assert len(set(workers.map(opened, range(8)))) == 1


def test_a_worker_waits_for_the_one_that_makes_the_study_at_this_moment(here: Path) -> None:
    recipe = Recipe.load(Path("recipe.yaml"))
    space = read_space(Path("space.yaml"), recipe)
    says = open_study(here, "one", None, recipe, "data", space, 1).user_attrs
    made = optuna.create_study(storage="sqlite:///shared.db", study_name="one", direction="maximize")

    def say() -> None:
        time.sleep(0.8)
        made.set_user_attr(IDENTITY, says[IDENTITY])

    with ThreadPoolExecutor(1) as other:
        saying = other.submit(say)
        assert open_study(here, "one", "sqlite:///shared.db", recipe, "data", space, 1).user_attrs == says
        saying.result()


@pytest.mark.slow
def test_a_study_whose_maker_was_killed_before_it_said_what_of_is_taken_up(here: Path) -> None:
    optuna.create_study(storage="sqlite:///shared.db", study_name="ftx", direction="maximize")
    assert searched(1, storage="sqlite:///shared.db").best == [0]


@pytest.mark.slow
def test_a_study_of_another_program_is_refused(here: Path) -> None:
    optuna.create_study(storage="sqlite:///shared.db", study_name="ftx").optimize(lambda _trial: 1.0, n_trials=1)
    with pytest.raises(RunError, match="--study must be new"):
        searched(2, storage="sqlite:///shared.db")


@pytest.mark.slow
def test_a_trial_that_a_lost_machine_left_behind_ends_no_search(here: Path) -> None:
    url = "sqlite:///shared.db"
    searched(1, storage=url)
    optuna.load_study(storage=url, study_name="ftx").ask()  # its worker was lost before it said where it is
    assert [one.state for one in searched(2, storage=url).trials] == ["complete", "running", "complete"]


@pytest.mark.parametrize("out", ["a {b} folder", "what? x=1"])
def test_a_folder_may_be_called_as_one_likes(out: str, here: Path) -> None:
    assert searched(1, out=out).best == [0]
    assert Path(out, "study.db").is_file()
    assert searched(2, out=out).trials[1].state == "complete"


def test_a_budget_begins_no_trial_after_it(here: Path) -> None:
    recipe = Recipe.load(Path("recipe.yaml"))
    report = tune(recipe, SearchGoal(budget_s=0.1), Path("study"), space=Path("space.yaml"))
    assert len(report.trials) == 1


@pytest.mark.representative
def test_a_hopeless_trial_is_pruned_and_is_a_run_all_the_same(here: Path) -> None:
    """After five trials at rates that learn one comes that does not."""
    Path("space.yaml").write_text("train.lr: {low: 1e-9, high: 2e-2}")
    import optuna

    report = searched(0)
    study = optuna.load_study(study_name="ftx", storage=f"sqlite:///{here}/study/study.db")
    for _ in range(5):
        study.enqueue_trial({"train.lr": 0.01})
    study.enqueue_trial({"train.lr": 1e-9})
    report = searched(6, "train.epochs=3")
    assert [one.state for one in report.trials] == [*["complete"] * 5, "pruned"]
    pruned = report.trials[-1]
    assert pruned.metric == max(epoch.metrics["accuracy"] for epoch in read_epochs(Path(str(pruned.run))))
    assert pruned.epochs == len(read_epochs(Path(str(pruned.run)))) < 3
    assert Run.open(pruned.run).manifest.method == "lora"
    assert not checkpoint_records(Path(str(pruned.run)))


def test_a_pruned_trial_is_listed_with_the_epoch_its_run_is_of(here: Path) -> None:
    searched(1)
    study = optuna.load_study(study_name="ftx", storage="sqlite:///study/study.db")
    pruned = optuna.trial.TrialState.PRUNED  # of which Optuna's own value is the last epoch's
    known: dict[int, float] = {1: 0.8, 2: 0.3}
    study.add_trial(
        optuna.create_trial(state=pruned, value=0.3, intermediate_values=known, user_attrs={"reached": 0.8})
    )
    assert searched(1).trials[1].metric == 0.8


def begun(space: Path, objectives: int = 1) -> tuple[optuna.Study, str]:
    """The study of the folder ``study``, and what that folder is called, as a search makes them."""
    recipe = Recipe.load(Path("recipe.yaml"))
    data = entries_digest(read_images(recipe, None, Listener()).entries)
    Path("study").mkdir()
    made = open_study(Path("study"), "ftx", None, recipe, data, read_space(space, recipe), objectives)
    return made, claim(Path("study"), made)


@pytest.mark.representative
def test_failures_with_a_success_between_them_end_no_search(here: Path) -> None:
    """Five in all: of trials that other workers have begun, some of whose runs are whole."""
    study, own = begun(Path("space.yaml"))
    for good in (False, False, True, False, False, False, True):
        trial = study.ask()
        trial.set_user_attr("owner", own)
        run = Path("study/trials", f"{trial.number:04}")
        if good:
            (run / "reports").mkdir(parents=True)
            (run / "run.json").write_text("{}")
            (run / "recipe.yaml").write_text(RECIPE)
            measured = Epoch(1, 0.5, 0.5, 0.75, {"accuracy": 0.75}, 1e-3, 10.0, 1.0, smoothed=0.75)
            (run / "reports" / "train.jsonl").write_bytes(epoch_lines([measured]))
        else:  # three workers were lost in it
            trial.set_user_attr("lost", ([], 3))
    listener = Listener()
    report = searched(2, progress=listener)
    assert [one.state for one in report.trials] == ["fail", "fail", "complete", "fail", "fail", "fail", "complete"]
    assert [(one.metric, one.epochs) for one in report.trials if one.state == "complete"] == [(0.75, 1)] * 2
    told = "4 workers ended at the same place of this trial, one after the other"
    assert [one.reason for one in report.trials] == [None if one.state == "complete" else told for one in report.trials]
    assert [text for text in listener.said if "failed" in text] == [
        f"trial {number} failed: {told}" for number in (0, 1, 3, 4, 5)
    ]


def test_of_two_objectives_the_run_and_the_recipe_are_of_the_trial_with_the_best_metric(here: Path) -> None:
    study, own = begun(Path("space.yaml"), objectives=2)
    lr = optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True)
    for number, values in enumerate([(0.7, 10.0), (0.9, 30.0), (0.8, 40.0), (0.85, 20.0), None]):
        told = {"owner": own, "reached": values and values[0], "epochs": number + 2, "recipe": f"seed: {number}\n"}
        state = optuna.trial.TrialState.FAIL if values is None else optuna.trial.TrialState.COMPLETE
        if values is None:
            told = {"owner": own, "reason": "no memory"}
        rate = {"train.lr": 1e-3 * (number + 1)}
        study.add_trial(
            optuna.create_trial(
                state=state, values=values, params=rate, distributions={"train.lr": lr}, user_attrs=told
            )
        )
        Path("study/trials", f"{number:04}").mkdir(parents=True)
    recipe, listener = Recipe.load(Path("recipe.yaml")), Listener()
    wanted = SearchGoal(trials=4, objectives=("metric", "latency"))
    report = tune(recipe, wanted, Path("study"), space=Path("space.yaml"), progress=listener)
    assert listener.descriptions[-1] == "Trials"
    assert listener.advances[-1] == 4  # all that were wanted have ended before; the others read images
    assert report.best == [0, 1, 3]  # the third is beaten in both
    assert report.run == "study/trials/0001"
    assert report.best_recipe == "study/best.yaml"
    assert Path("study/best.yaml").read_text() == "seed: 1\n"
    assert Path("runs/latest").resolve() == Path("study/trials/0001").resolve()
    assert (report.metric, report.objectives, report.study) == ("accuracy", ["metric", "latency"], "ftx")
    assert report.storage == "study/study.db"
    assert set(report.searched) == {"train.lr", "adapter.targets"}
    found = [(one.metric, one.latency_ms, one.epochs, one.reason) for one in report.trials]
    assert found == [
        (0.7, 10.0, 2, None), (0.9, 30.0, 3, None), (0.8, 40.0, 4, None), (0.85, 20.0, 5, None),
        (None, None, None, "no memory"),
    ]  # fmt: skip
    assert [one.keys["train.lr"] for one in report.trials] == pytest.approx([1e-3, 2e-3, 3e-3, 4e-3, 5e-3])
    assert [one.run for one in report.trials] == [f"study/trials/{number:04}" for number in range(5)]


def test_a_search_keeps_its_space_and_is_named_after_its_images(here: Path) -> None:
    recipe = Recipe.load(Path("recipe.yaml"))
    tune(recipe, SearchGoal(trials=0), space=Path("space.yaml"))
    kept = Path("runs/data-tuned/space.yaml")
    assert read_space(kept, recipe) == read_space(Path("space.yaml"), recipe)


@pytest.mark.parametrize(("balance", "metric"), [("none", "accuracy"), ("sampling", "macro_f1"), ("loss", "macro_f1")])
def test_trials_are_compared_by_what_their_recipe_chooses_by(balance: str, metric: str, here: Path) -> None:
    report = searched(0, f"train.balance={balance}")
    assert (report.metric, report.trials, report.best, report.run, report.best_recipe) == (metric, [], [], None, None)
    assert f"<!-- {metric.replace('_', ' ')} on validation images, % -->" in Path("study/trials.svg").read_text()


@pytest.mark.parametrize(
    ("raised", "kind", "what", "status"),
    [
        (Terminated("terminated in training"), Terminated, "terminated in a trial", 143),
        (Interrupted("interrupted in training"), Interrupted, "interrupted in a trial", 130),
        (Termination(), Terminated, "terminated in a trial", 143),
        (KeyboardInterrupt(), Interrupted, "interrupted in a trial", 130),
    ],
    ids=["the system, in training", "the user, in training", "the system", "the user"],
)
def test_a_search_that_was_ended_says_by_whom_and_how_it_goes_on(
    raised: BaseException, kind: type[FtxError], what: str, status: int, here: Path
) -> None:
    class Ends(Listener):
        def track(self, description: str, total: int | None) -> AbstractContextManager[Listener]:
            if description == "Trials":
                raise raised
            return super().track(description, total)

    with pytest.raises(kind) as caught:
        searched(1, progress=Ends())
    assert type(caught.value) is kind
    assert (caught.value.what, caught.value.exit_code) == (what, status)
    assert caught.value.found == "study contains the trials so far, and this one can be resumed"
    assert caught.value.fix == "run the same command to resume"


def test_runs_that_are_there_are_not_taken_for_those_of_a_new_study(here: Path) -> None:
    searched(2)
    Path("study/study.db").unlink()
    with pytest.raises(RunError, match="the runs of another study"):
        searched(2)


@pytest.mark.slow
def test_a_study_goes_on_whose_best_run_was_removed_and_without_the_runs_of_other_machines(here: Path) -> None:
    url = f"sqlite:///{here}/shared.db"
    first = searched(2, storage=url)
    (best,) = first.best
    recipe = Path("study/best.yaml").read_text()
    shutil.rmtree(str(first.trials[best].run))
    left = [one.model_copy(update={"run": None}) if one.number == best else one for one in first.trials]
    again = searched(2, storage=url)
    assert (again.trials, again.run) == (left, None)
    elsewhere = searched(3, out="elsewhere", storage=url)
    assert len(elsewhere.trials) == 3
    if elsewhere.best == first.best:
        assert Path("elsewhere/best.yaml").read_text() == recipe


@pytest.mark.slow
def test_a_head_that_is_solved_is_never_pruned(here: Path) -> None:
    Path("space.yaml").write_text("seed: {low: 0, high: 100}")
    listener = Listener()
    report = searched(7, "model.peft=none", "model.freeze_backbone=true", "train.head_init=auto", progress=listener)
    assert [one.state for one in report.trials] == ["complete"] * 7


class PowerCut(RuntimeError):
    """What no worker lives to tell of."""


class CutOff(Listener):
    """A worker that is lost in its training after so many images."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self._images, self._trained = images, list[int]()

    def advance(self, steps: int = 1, **fields: str) -> None:
        super().advance(steps, **fields)
        if self.descriptions[-1] == "Training":
            self._trained.append(steps)
            if sum(self._trained[1:]) > self._images:  # the first are those of before
                raise PowerCut


@pytest.mark.slow
def test_a_trial_at_which_workers_are_lost_again_and_again_fails_and_the_search_goes_on(here: Path) -> None:
    for _ in range(4):
        with pytest.raises(PowerCut):
            searched(2, progress=CutOff(0))
    report = searched(2)
    assert [one.state for one in report.trials] == ["fail", "complete", "complete"]
    assert report.trials[0].reason == "4 workers ended at the same place of this trial, one after the other"


@pytest.mark.slow
def test_a_trial_that_gets_on_between_losses_does_not_fail(here: Path) -> None:
    long = ("train.epochs=12", "train.patience=12", "train.checkpoint_minutes=0")
    for _ in range(5):
        with pytest.raises(PowerCut):
            searched(1, *long, progress=CutOff(15))
    assert [one.state for one in searched(1, *long).trials] == ["complete"]


def test_a_trial_goes_on_where_the_images_have_been_moved(here: Path) -> None:
    often = ("train.epochs=6", "train.checkpoint_minutes=0")
    with pytest.raises(PowerCut):
        searched(1, *often, progress=CutOff(30))
    assert checkpoint_records(Path("study/trials/0000"))
    (here / "data").rename(here / "elsewhere")
    report = searched(1, *often, "data.path=elsewhere")
    assert [(one.number, one.state) for one in report.trials] == [(0, "complete")]


def test_an_epoch_that_the_study_was_not_told_of_is_told_when_the_trial_goes_on(here: Path) -> None:
    often = ("train.epochs=6", "train.patience=6", "train.checkpoint_minutes=0")
    with pytest.raises(PowerCut):
        searched(1, *often, progress=CutOff(40))
    database = sqlite3.connect("study/study.db")
    with database:
        database.execute("DELETE FROM trial_intermediate_values")
    database.close()
    # It is told what an epoch counts for: no more than the metric, and no more than its mean.
    lucky, bad = ({"accuracy": 0.75, "smoothed": 0.5}, {"accuracy": 0.25, "smoothed": 0.5})
    file = Path("study/trials/0000/reports/train.jsonl")
    first, second, *others = map(json.loads, file.read_text().splitlines())
    for epoch, known in ((first, lucky), (second, bad)):
        epoch["metrics"]["accuracy"], epoch["smoothed"] = known["accuracy"], known["smoothed"]
    file.write_text("".join(json.dumps(epoch) + "\n" for epoch in (first, second, *others)))
    searched(1, *often)
    trial = optuna.load_study(study_name="ftx", storage="sqlite:///study/study.db").trials[0]
    assert sorted(trial.intermediate_values) == [1, 2, 3, 4, 5, 6]
    assert (trial.intermediate_values[1], trial.intermediate_values[2]) == (0.5, 0.25)


def worker(*more: str) -> subprocess.Popen[str]:
    words = ("tune", "recipe.yaml", "--space", "space.yaml", "--out", "study", *more)
    return subprocess.Popen(
        [sys.executable, "-m", "ftx", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_a_trial_whose_worker_was_killed_goes_on_where_it_was(by: signal.Signals, here: Path) -> None:
    long = ("--set", "train.epochs=60", "--set", "train.patience=60", "--set", "train.checkpoint_minutes=0")
    killed = worker("--trials", "1", *long)
    run = Path("study/trials/0000")
    while len(read_epochs(run)) < 3:
        assert killed.poll() is None, killed.communicate()[1]
        time.sleep(0.02)
    killed.send_signal(by)
    _, said = killed.communicate()
    if by == signal.SIGTERM:
        assert killed.returncode == 143
        assert "terminated in a trial" in said
        assert "run the same command to resume" in said
        assert "--resume" not in said
    before = [epoch.loss for epoch in read_epochs(run)]
    assert not (run / "run.json").exists()
    again = worker("--trials", "1", *long)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert "trial 0 was interrupted, and is resumed" in err
    assert "epoch 1:" not in err
    epochs = read_epochs(run)
    assert [epoch.loss for epoch in epochs[: len(before)]] == before
    assert len(epochs) == 60
    lines = [json.loads(line) for line in Path("study/trials.jsonl").read_text().splitlines()]
    assert [line["state"] for line in lines] == ["complete"]
    assert lines[0]["run"] == "study/trials/0000"
    assert lines[0]["keys"]["train.lr"] == Run.open(run).recipe().train.lr
    assert "study/trials/0000" in out


@pytest.mark.slow
def test_two_workers_share_a_study(here: Path) -> None:
    workers = [worker("--trials", "5") for _ in range(2)]
    for one in workers:
        _, err = one.communicate(timeout=180)
        assert one.returncode == 0, err
    lines = [json.loads(line) for line in Path("study/trials.jsonl").read_text().splitlines()]
    complete = [line for line in lines if line["state"] == "complete"]
    assert 5 <= len(complete) <= 6  # both may have begun one at the same moment
    assert len({line["run"] for line in complete}) == len(complete)
    assert all(Run.open(line["run"]).manifest.task == "multiclass" for line in complete)


@pytest.mark.slow
def test_of_two_objectives_those_are_best_that_none_beats_in_both(here: Path) -> None:
    recipe = Recipe.load(Path("recipe.yaml"))
    Path("space.yaml").write_text("data.image_size: [32, 64]")
    wanted = SearchGoal(trials=3, objectives=("metric", "latency"))
    report = tune(recipe, wanted, Path("study"), space=Path("space.yaml"))
    values = {one.number: (one.metric or 0.0, -(one.latency_ms or 0.0)) for one in report.trials}
    assert all(latency < 0 for _, latency in values.values())
    beaten = {
        number
        for number, mine in values.items()
        if any(all(a >= b for a, b in zip(other, mine, strict=True)) and other != mine for other in values.values())
    }
    assert set(report.best) == set(values) - beaten
    assert all(Run.open(one.run).has(IR_FP32) for one in report.trials)
