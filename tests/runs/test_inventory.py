"""Runs are listed with what they reached, compared key by key, and removed with nothing left behind."""

from __future__ import annotations

import json
import os
import pty
import shutil
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import write_data
from tests.effects.lab import call
from tests.gates.faults import edit_json
from tests.runs.small_run import make
from tests.runs.test_bench_json import bench_of, row_of

from ftx.cli.app import run
from ftx.core.errors import InputError, RunError
from ftx.core.files import sole_writer
from ftx.recipe.schema import Recipe
from ftx.runs.artifacts import DENSE, IR_FP32, ONNX, TRAINED
from ftx.runs.inventory import LATENCY, Sort, different_keys, list_runs, remove_runs
from ftx.runs.run import Run
from ftx.runs.runs_folder import latest_run, point_latest_at
from ftx.runs.train_jsonl import Epoch, epoch_lines, read_epochs
from ftx.training import train

SETTINGS = {"name": "test_vit", "weights": "none", "image_size": 32, "precision": "f32", "rank": 2, "peft": "lora"}
RUNS = {"first": {"epochs": 1}, "second": {"epochs": 2, "lr": 0.02}, "third": {"epochs": 1, "balance": "loss"}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs; the last was begun from the first."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("three")
    data = write_data(root / "data", 6)
    with chdir(root):
        for number, (name, keys) in enumerate(RUNS.items()):
            begun = {"from_run": Path("runs/first")} if name == "third" else {}
            train(Recipe.named({**SETTINGS, **keys, **begun, "path": data}), out=Path("runs", name))
            os.utime(Path("runs", name, "recipe.yaml"), (1e9 + number, 1e9 + number))
    return root


@pytest.fixture(autouse=True)
def inside(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A copy of them, to change."""
    shutil.copytree(made / "runs", tmp_path / "runs", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return


def left() -> set[str]:
    return {path.name for path in Path("runs").iterdir()}


def evaluated(name: str, accuracy: float) -> None:
    """As ``ftx eval`` keeps it."""
    Run.open(f"runs/{name}").write_file("reports/eval.json", json.dumps({"metrics": {"accuracy": accuracy}}).encode())


def names(found: list[str]) -> list[str]:
    return [Path(one).name for one in found]


def test_the_most_recent_comes_first_with_what_its_kept_epoch_reached() -> None:
    report = list_runs()
    assert names([one.run for one in report.runs]) == ["third", "second", "first"]
    assert report.latest == "runs/third"
    second = report.runs[1]
    lines = [json.loads(line) for line in Path("runs/second/reports/train.jsonl").read_text().splitlines()]
    best = max(lines, key=lambda line: (line["metrics"]["accuracy"], -line["val_loss"]))
    assert (second.epochs, second.of_epochs, second.best_epoch) == (2, 2, best["epoch"])
    assert second.figures == best["metrics"]
    assert second.artifacts == ["trained"]
    assert second.size_bytes == sum(path.stat().st_size for path in Path("runs/second").rglob("*") if path.is_file())
    # Where rare labels count as frequent ones do, another metric has chosen.
    assert [one.metric for one in report.runs] == ["macro_f1", "accuracy", "accuracy"]


def test_a_run_says_what_it_was_begun_from() -> None:
    assert {one.run: one.begun_from for one in list_runs().runs}["runs/third"] == "runs/first"


def test_a_run_has_the_figures_of_the_epoch_that_was_kept_and_the_seconds_of_all() -> None:
    """Of four epochs: the first is the best by accuracy, the second by macro F1, the last by neither."""
    each = ((0.75, 0.25, 8.25), (0.5, 0.875, 2.5), (0.625, 0.5, 6.0), (0.25, 0.125, 1.0))
    epochs = [
        Epoch(number, 1.0, 1.0, accuracy, {"accuracy": accuracy, "macro_f1": f1}, 1e-3, 10.0, seconds)
        for number, (accuracy, f1, seconds) in enumerate(each, 1)
    ]
    for name in RUNS:
        Run.open(f"runs/{name}").write_file("reports/train.jsonl", epoch_lines(epochs))
    found = {one.run: one for one in list_runs().runs}
    for name, best in (("runs/second", 1), ("runs/third", 2)):  # rare labels count as frequent ones in the third
        one = found[name]
        assert (one.epochs, one.best_epoch, one.seconds) == (4, best, 17.8)  # to a tenth
        assert one.figures == epochs[best - 1].metrics
    assert (found["runs/first"].of_epochs, found["runs/second"].of_epochs) == (1, 2)


def test_a_recovered_run_says_which_one_was_trained_on() -> None:
    """Also where that had itself begun from another: that stands in its own line."""
    trained = {name: Run.open(f"runs/{name}").manifest.digest(TRAINED) for name in RUNS}
    assert len(set(trained.values())) == 3

    def recovered_from(name: str) -> Callable[[Any], None]:
        found = {"trained": trained[name], "steps": 3, "lr": 0.01, "error_before": 0.5, "error_after": 0.25}
        return lambda document: document.update(recovered=found)

    edit_json(Path("runs/first/run.json"), recovered_from("second"))
    edit_json(Path("runs/third/run.json"), recovered_from("second"))  # which began from the first
    assert {one.run: one.begun_from for one in list_runs().runs} == {
        "runs/first": "runs/second",
        "runs/second": None,
        "runs/third": "runs/second",
    }
    # Of those that are listed.
    (third,) = list_runs([Path("runs/third")]).runs
    assert third.begun_from is None


@pytest.mark.parametrize("sort", ["name", "metric", "size", "seconds"])
def test_each_order_puts_first_what_one_looks_for(sort: Sort) -> None:
    runs = list_runs(metric="accuracy", sort=sort).runs
    keys = {
        "name": lambda one: one.run,
        "metric": lambda one: -one.figures["accuracy"],
        "size": lambda one: one.size_bytes,
        "seconds": lambda one: one.seconds,
    }
    assert runs == sorted(runs, key=keys[sort])


def test_what_other_verbs_measured_is_a_figure_too_and_less_latency_is_better() -> None:
    for name, accuracy in (("first", 0.25), ("second", 0.75)):
        evaluated(name, accuracy)
    assert [one.run for one in list_runs(metric="eval.accuracy", sort="metric").runs] == [
        "runs/second", "runs/first", "runs/third",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"did you mean 'eval\.accuracy'"):
        list_runs(metric="eval.acuracy")
    with pytest.raises(InputError, match="metric must be one of"):
        list_runs(metric=LATENCY)  # no run has been timed


def test_of_a_bench_the_fastest_model_counts() -> None:
    for name, each_ms in (("first", (9.0, 2.5, 4.0)), ("second", (3.0, 8.0, 5.0)), ("third", (7.0, 6.0, 1.5))):
        rows = [row_of("openvino/fp32", p50_ms=ms, p90_ms=ms / 8) for ms in each_ms]
        Run.open(f"runs/{name}").write_report("bench", bench_of(rows, {}))
    found = list_runs(metric=LATENCY, sort="metric").runs
    assert [(one.run, one.figures[LATENCY]) for one in found] == [
        ("runs/third", 1.5), ("runs/first", 2.5), ("runs/second", 3.0),
    ]  # fmt: skip
    # Beside what training and ftx eval found, which is no less known.
    evaluated("first", 0.375)
    figures = {one.run: one.figures for one in list_runs().runs}
    assert {"accuracy", "macro_f1", LATENCY} == set(figures["runs/third"])
    assert (figures["runs/first"]["eval.accuracy"], figures["runs/first"][LATENCY]) == (0.375, 2.5)
    listed = json.loads(call("runs", "--metric", LATENCY, "--sort", "metric", "--json").out)["runs"]
    assert [one["run"] for one in listed] == ["runs/third", "runs/first", "runs/second"]


def test_a_run_says_which_of_its_models_are_stale() -> None:
    first = Run.open("runs/first")
    for artifact in (DENSE, IR_FP32, ONNX):
        make(first, artifact, "merged")
    make(first, DENSE, "merged again")
    make(first, ONNX, "exported again")
    listed = next(one for one in list_runs().runs if one.run == "runs/first")
    assert (listed.artifacts, listed.stale) == (["trained", "dense", "onnx"], ["openvino/fp32"])


def test_of_recipes_the_keys_are_shown_that_differ() -> None:
    first, second = list_runs([Path("runs/first"), Path("runs/second")], sort="name").runs
    differ = different_keys([first, second])
    assert differ["train.epochs"] == [1, 2]
    assert "model.name" not in differ
    assert differ["train.lr"][1] == 0.02


def test_a_removed_run_leaves_nothing_and_latest_names_the_one_before() -> None:
    report = remove_runs([Path("runs/latest"), Path("runs/first")])
    assert report.removed == ["runs/third", "runs/first"]
    assert left() == {"latest", "second"}
    assert latest_run() == Path("runs/second")
    remove_runs([Path("runs/second")])
    assert left() == set()
    assert list_runs().runs == []


def test_latest_names_no_run_whose_training_has_not_ended() -> None:
    Path("runs/second/run.json").unlink()
    Path("runs/second/checkpoints").mkdir()
    Path("runs/second/checkpoints/4.json").write_text("{}")
    assert remove_runs([Path("runs/third")]).latest == "runs/first"  # the second is younger
    assert latest_run() == Path("runs/first")
    assert remove_runs([Path("runs/first")]).latest is None
    assert left() == {"second"}


def test_latest_names_the_youngest_that_is_left_whatever_its_name() -> None:
    os.utime("runs/first/recipe.yaml", (2e9, 2e9))
    assert remove_runs([Path("runs/third")]).latest == "runs/first"
    assert names([one.run for one in list_runs().runs]) == ["first", "second"]


def test_latest_stays_where_another_run_goes() -> None:
    point_latest_at(Path("runs/first"))
    remove_runs([Path("runs/third")])
    assert latest_run() == Path("runs/first")


def test_none_is_removed_where_one_is_no_run_or_held() -> None:
    Path("runs/else").mkdir()
    for wrong in ("runs/else", "runs/absent"):
        with pytest.raises(RunError):
            remove_runs([Path("runs/first"), Path(wrong)])
    with sole_writer(Path("runs/second"), None), pytest.raises(RunError, match="another ftx is changing"):
        remove_runs([Path("runs/first"), Path("runs/second")])
    assert {"first", "second", "third"} < left()


def test_a_link_to_a_run_is_not_removed_in_its_place(tmp_path: Path) -> None:
    Path("runs/linked").symlink_to("first", target_is_directory=True)
    with pytest.raises(RunError, match="the run must not be a link"):
        remove_runs([Path("runs/linked")])
    assert remove_runs([tmp_path / "runs" / "latest"]).removed == ["runs/third"]  # by whatever path it is named
    assert {"first", "linked", "second"} < left()


def test_to_leave_the_question_is_no(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    person, program = pty.openpty()
    os.write(person, b"\x04")  # Ctrl-D
    with os.fdopen(program, "r") as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        assert run(["runs", "--remove", "runs/first"]) == 0
    os.close(person)
    assert "nothing was removed" in capsys.readouterr().err
    assert Path("runs/first").exists()


def test_a_run_that_cannot_be_read_is_listed_with_what_is_wrong() -> None:
    Path("runs/second/run.json").write_text("{}")
    Path("runs/first/recipe.yaml").write_text("model: 3")
    found = {one.run: one for one in list_runs().runs}
    assert found["runs/second"].state == found["runs/first"].state == "unreadable"
    assert found["runs/second"].problem
    assert found["runs/third"].state == "finished"


@pytest.mark.parametrize("report", ["train.jsonl", "eval.json", "bench.json"])
def test_figures_that_somebody_edited_are_not_shown(report: str) -> None:
    evaluated("first", 0.375)
    Run.open("runs/first").write_report("bench", bench_of([row_of("openvino/fp32")], {}))
    path = Path("runs/first/reports", report)
    path.write_text(path.read_text().replace(":", ": ", 1))
    first = {one.run: one for one in list_runs().runs}["runs/first"]
    assert (first.state, first.figures) == ("unreadable", {})
    assert first.problem == f"a file of the run has changed since ftx wrote it: {report}"


def test_a_pipe_in_the_place_of_a_report_is_not_waited_for() -> None:
    for name in ("train.jsonl", "eval.json"):
        path = Path("runs/second/reports", name)
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    second = {one.run: one for one in list_runs().runs}["runs/second"]
    assert second.state == "unreadable"
    Path("runs/second/run.json").rename("runs/second/aside")
    assert read_epochs(Path("runs/second")) == []


def test_an_unfinished_run_is_listed_and_can_be_removed() -> None:
    Path("runs/second/run.json").unlink()
    Path("runs/second/checkpoints").mkdir()
    Path("runs/second/checkpoints/4.json").write_text("{}")
    second = next(one for one in list_runs().runs if one.run == "runs/second")
    assert (second.state, second.epochs) == ("unfinished", 2)
    with sole_writer(Path("runs/second"), None):
        assert list_runs([Path("runs/second")]).runs[0].state == "training"
    assert remove_runs([Path("runs/second")]).removed == ["runs/second"]


def test_the_table_is_one_line_a_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert run(["runs", "--metric", "accuracy"]) == 0
    printed = capsys.readouterr()
    lines = [line for line in printed.out.splitlines() if line.startswith("runs/")]
    assert [line.split()[0] for line in lines] == ["runs/third", "runs/second", "runs/first"]
    assert "ftx report runs/third runs/second" in printed.err
    assert run(["runs", "runs/first", "runs/second"]) == 0
    assert "train.epochs" in capsys.readouterr().out


def test_nobody_is_asked_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        assert run(["runs", "--remove", "runs/first"]) == 2
    assert "--yes" in capsys.readouterr().err
    assert run(["runs", "--remove"]) == 2
    assert Path("runs/first").is_dir()
    assert run(["runs", "--remove", "runs/first", "--yes"]) == 0
    assert not Path("runs/first").exists()


@pytest.mark.parametrize(("answer", "stays"), [("n", True), ("y", False)])
def test_at_a_terminal_it_asks(
    answer: str, stays: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    person, program = pty.openpty()
    os.write(person, f"{answer}\n".encode())
    with os.fdopen(program, "r") as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        assert run(["runs", "--remove", "runs/first"]) == 0
    os.close(person)
    printed = capsys.readouterr().err
    assert "Remove it for good?" in printed
    assert "these started from it, and stay: runs/third" in printed
    assert Path("runs/first").exists() == stays
