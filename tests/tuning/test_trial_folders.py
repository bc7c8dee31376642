"""Which trial a worker takes, of whom, and how one finds its run folder."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import optuna
import pytest
from filelock import FileLock
from optuna import Study
from optuna.trial import TrialState

from ftx.core.errors import RunError
from ftx.runs.run_json import CHECKPOINTS
from ftx.tuning.study import IDENTITY
from ftx.tuning.trial_folders import FOLDER, HOST, OWNER, TrialFolders, claim, held

NOT_HERE = f"not-{platform.node()}"


@pytest.fixture(scope="module", autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture
def study() -> Study:
    return optuna.create_study(direction="maximize")


@pytest.fixture
def folders(tmp_path: Path) -> TrialFolders:
    return TrialFolders(tmp_path, "ours")


def left(study: Study, *, owner: str = "ours", reported: tuple[int, ...] = ()) -> int:
    """A trial that a worker has resumed and not ended."""
    trial = study.ask()
    trial.set_user_attr(OWNER, owner)
    for epoch in reported:
        trial.report(0.5, epoch)
    return trial.number


def test_a_trial_that_was_cut_off_is_taken_before_a_new_one(study: Study, folders: TrialFolders) -> None:
    left(study, owner="another folder's")
    left(study, reported=(1, 2))
    left(study)
    with folders.assigned(study, most=None) as assigned:
        assert assigned is not None
        assert (assigned.trial.number, assigned.resumed, assigned.lost) == (1, True, 1)
        assert (assigned.run, assigned.reported) == (folders.out / "trials" / "0001", frozenset({1, 2}))
        with folders.assigned(study, most=None) as other:  # another worker meanwhile
            assert other is not None
            assert (other.trial.number, other.resumed, other.reported) == (2, True, frozenset())
            with folders.assigned(study, most=None) as third:
                assert third is not None
                assert (third.trial.number, third.resumed, third.lost) == (3, False, 0)
                told = third.trial.user_attrs
                assert told == {HOST: platform.node(), FOLDER: str(third.run.absolute()), OWNER: "ours"}
    with held(folders.run_of(study.trials[1])) as free:  # nobody holds it any more
        assert free


def test_no_more_are_begun_than_are_wanted(study: Study, folders: TrialFolders) -> None:
    """Those of this folder at which others are count, and those of other folders do not."""
    left(study, owner="another folder's")
    numbers = [left(study), left(study)]
    with held(folders.run_of(study.trials[numbers[0]])), held(folders.run_of(study.trials[numbers[1]])):
        with folders.assigned(study, most=2) as assigned:
            assert assigned is None
        assert len(study.trials) == 3
        with folders.assigned(study, most=3) as assigned:
            assert assigned is not None
            assert (assigned.trial.number, assigned.resumed) == (3, False)


def test_a_trial_that_another_worker_ends_at_this_moment_is_not_run_again(
    study: Study, folders: TrialFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It let go of the trial after it had ended it, and this one had listed it before."""
    number, really = left(study), FileLock.acquire

    def after_the_other(lock: FileLock, *given: Any, **more: Any) -> Any:
        if lock.lock_file.endswith(".0000.lock"):
            study.tell(number, 0.5)
        return really(lock, *given, **more)

    monkeypatch.setattr(FileLock, "acquire", after_the_other)
    with folders.assigned(study, most=2) as assigned:
        assert assigned is not None
        assert (assigned.trial.number, assigned.resumed) == (1, False)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.RUNNING]


def test_losses_are_counted_from_the_last_checkpoint(study: Study, folders: TrialFolders) -> None:
    number = left(study)
    run = folders.run_of(study.trials[number])

    def losses(times: int) -> list[int]:
        found: list[int] = []
        for _ in range(times):
            with folders.assigned(study, most=None) as assigned:
                assert assigned is not None
                assert assigned.run == run
                found.append(assigned.lost)
        return found

    assert losses(3) == [1, 2, 3]
    (run / CHECKPOINTS).mkdir(parents=True)
    (run / CHECKPOINTS / "8.json").write_text("{}")
    assert losses(2) == [1, 2]
    (run / CHECKPOINTS / "10.json").write_text("{}")
    assert losses(2) == [1, 2]
    (run / CHECKPOINTS / "8.json").unlink()
    assert losses(1) == [3]


def test_a_run_is_named_as_one_finds_it(study: Study, folders: TrialFolders, tmp_path: Path) -> None:
    """Of this folder while it is there; of another one of this machine too; of other machines behind their name."""
    there = tmp_path / "there"
    there.mkdir()
    for told, found in (
        ({OWNER: "ours", HOST: NOT_HERE, FOLDER: "/moved"}, str(tmp_path / "trials" / "0000")),
        ({OWNER: "theirs", HOST: platform.node(), FOLDER: str(there)}, str(there)),
        ({OWNER: "theirs", HOST: platform.node(), FOLDER: str(tmp_path / "gone")}, None),
        ({OWNER: "theirs", HOST: NOT_HERE, FOLDER: "/far/0003"}, f"{NOT_HERE}:/far/0003"),
        ({}, None),
        ({OWNER: "ours", HOST: platform.node(), FOLDER: str(there)}, None),
    ):
        study.add_trial(optuna.create_trial(value=0.5, user_attrs=told))
        trial = study.trials[-1]
        if trial.number == 0:
            folders.run_of(trial).mkdir(parents=True)
        assert folders.location(trial) == found
        assert folders.here(trial) == (folders.run_of(trial) if trial.number == 0 else None)


def test_a_folder_is_of_one_study(tmp_path: Path) -> None:
    """Of its name and of its own: one of the same name that searches the same is another."""

    def made(name: str, searched: str, own: str) -> Study:
        study = optuna.create_study(study_name=name)
        study.set_user_attr(IDENTITY, [searched, own])
        return study

    first = claim(tmp_path / "one", made("a", "same", "1"))
    assert first
    assert claim(tmp_path / "one", made("a", "same", "1")) == first
    assert claim(tmp_path / "two", made("a", "same", "1")) != first  # another machine's, or a second one
    for name, own in (("a", "2"), ("b", "1")):
        with pytest.raises(RunError, match="the runs of another study") as caught:
            claim(tmp_path / "one", made(name, "same", own))
        assert caught.value.found == "a"


def test_a_worker_of_another_folder_finds_the_run_of_a_trial(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that was named from where the first worker was called."""
    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    with TrialFolders(Path("out"), "ours").assigned(study, most=None) as assigned:
        assert assigned is not None
        assigned.run.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    (trial,) = study.trials
    where = TrialFolders(Path("elsewhere"), "theirs").location(trial)
    assert where == str(tmp_path / "one" / "out" / "trials" / "0000")
