"""Answers in a file: those that the terminal shows, done once, kept while they are not all there, and never half."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image
from pyarrow.parquet import ParquetFile, read_table
from tests.conftest import Listener, calibrate
from tests.effects.lab import call

from ftx.core.addresses import Address
from ftx.core.errors import EnvironmentFault, InputError, Interrupted, RunError
from ftx.core.files import LOCK, sole_writer
from ftx.evaluating.predict import Prediction, predict, predict_arriving
from ftx.runtimes import load
from ftx.scaling import parts as parts_module
from ftx.scaling.parts import JobPart, parts_of
from ftx.scaling.predict_to_file import RayCluster, predict_to_file
from ftx.scaling.resumable_job import JobSpec, open_job, parts_folder


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "FILES", 5)


@pytest.fixture
def mixed(colour_model: Any, tmp_path: Path) -> list[Path]:
    """A folder, shards, one file that is none, and one that is broken."""
    folder = tmp_path / "images"
    shutil.copytree(colour_model.images, folder)
    assert call("data", "shard", str(folder), str(tmp_path / "shards"), "--per-shard", "7").status == 0
    (folder / "broken.png").write_bytes(b"no image")
    return [folder, tmp_path / "shards", tmp_path / "nowhere.png"]


def expected(images: list[Path], model: Path, *, scores: bool = False) -> str:
    return "".join(f"{one.to_line()}\n" for one in predict(images, model, scores=scores))


def test_the_lines_are_those_of_predict(colour_model: Any, mixed: list[Path], tmp_path: Path) -> None:
    report = predict_to_file(mixed, tmp_path / "out.jsonl", colour_model.folder, scores=True)
    assert (tmp_path / "out.jsonl").read_text() == expected(mixed, colour_model.folder, scores=True)
    assert (report.images, report.skipped, report.parts) == (26, 2, 6)  # 13 + 12 + 1: 3, 2 and 1 parts
    assert not parts_folder(tmp_path / "out.jsonl").exists()


def test_sets_have_the_coverage_that_was_asked_for(colour_model: Any, mixed: list[Path], tmp_path: Path) -> None:
    folder = calibrate(Path(shutil.copytree(colour_model.folder, tmp_path / "ir")), [0.5, 0.6, 0.7, 0.8, 0.9, 0.999])
    sizes: list[int] = []
    for coverage in (0.95, 0.99):
        wanted = "".join(f"{one.to_line()}\n" for one in predict(mixed, folder, coverage=coverage))
        predict_to_file(mixed, tmp_path / f"{coverage}.jsonl", folder, coverage=coverage)
        assert (tmp_path / f"{coverage}.jsonl").read_text() == wanted
        predict_to_file(mixed, tmp_path / f"{coverage}.parquet", folder, form="parquet", coverage=coverage)
        rows, lines = read_table(tmp_path / f"{coverage}.parquet").to_pylist(), wanted.splitlines()
        assert [row["set"] for row in rows] == [json.loads(line).get("set") for line in lines]
        sizes.append(sum(len(row["set"] or ()) for row in rows))
    assert 24 == sizes[0] < sizes[1]  # two of the 26 are no images
    # Parts of a job with one coverage are not finished with another.
    asked = JobSpec(images="x", model="y", scores=False, parts=2)
    assert asked.model_copy(update={"coverage": 0.9}) != asked


def test_parquet_holds_what_the_lines_do(colour_model: Any, mixed: list[Path], tmp_path: Path) -> None:
    for scores in (False, True):
        out = tmp_path / f"out-{scores}.parquet"
        predict_to_file(mixed, out, colour_model.folder, scores=scores, form="parquet")
        rows = read_table(out).to_pylist()
        lines = expected(mixed, colour_model.folder, scores=scores).splitlines()
        for row, line in zip(rows, map(json.loads, lines), strict=True):
            assert row["path"] == line["path"]
            assert row["error"] == line.get("error")
            assert row["labels"] == line.get("labels", [])
            assert ("scores" in row) == scores
            assert dict(row.get("scores") or []) == line.get("scores", {})


def test_groups_of_a_table_hold_a_bounded_number_of_scores(
    colour_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the first image has none."""
    monkeypatch.setattr("ftx.scaling.parquet._SCORES", 9)  # of three labels
    images = sorted(colour_model.images.rglob("*.png"))[:7]
    out = tmp_path / "out.parquet"
    predict_to_file([tmp_path / "nowhere.png", *images], out, colour_model.folder, scores=True, form="parquet")
    groups = ParquetFile(out).metadata
    assert [groups.row_group(nth).num_rows for nth in range(groups.num_row_groups)] == [4, 3, 1]


@pytest.mark.parametrize("scores", [False, True])
def test_groups_of_a_table_hold_a_bounded_number_of_rows(
    scores: bool, colour_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image once, in its order, whether or not the last group is full."""
    monkeypatch.setattr("ftx.scaling.parquet._ROWS", 3)
    images = sorted(colour_model.images.rglob("*.png"))
    for count, expected in ((7, [3, 3, 1]), (6, [3, 3])):
        out = tmp_path / f"{count}.parquet"
        predict_to_file(images[:count], out, colour_model.folder, scores=scores, form="parquet")
        groups = ParquetFile(out).metadata
        assert [groups.row_group(nth).num_rows for nth in range(groups.num_row_groups)] == expected
        assert read_table(out).column("path").to_pylist() == [str(image) for image in images[:count]]


def test_a_file_that_another_program_wrote_meanwhile_stays_and_so_do_the_parts(
    colour_model: Any, mixed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"
    predictions = JobPart.predictions

    def meanwhile(self: JobPart, *given: Any, **more: Any) -> Any:
        out.write_text("another's")
        return predictions(self, *given, **more)

    with monkeypatch.context() as patched:
        patched.setattr(JobPart, "predictions", meanwhile)
        with pytest.raises(InputError, match="--out must not exist yet"):
            predict_to_file(mixed, out, colour_model.folder)
    assert out.read_text() == "another's"
    out.unlink()
    report = predict_to_file(mixed, out, colour_model.folder)
    assert report.kept == report.parts == 6
    assert out.read_text() == expected(mixed, colour_model.folder)


def test_who_waited_for_a_job_that_has_ended_does_not_begin_it_again(
    colour_model: Any, mixed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"

    def held_until_it_ended(folder: Path, fault: Any) -> Any:
        out.write_text("all answers")
        return sole_writer(folder, fault)

    monkeypatch.setattr("ftx.scaling.resumable_job.sole_writer", held_until_it_ended)
    with pytest.raises(InputError, match="--out must not exist yet"):
        predict_to_file(mixed, out, colour_model.folder)
    assert out.read_text() == "all answers"
    assert not parts_folder(out).exists()


def test_what_counts_from_here_is_a_path_that_says_so() -> None:
    """Workers elsewhere need a folder of the same name for such alone."""
    assert JobPart(files=("a.png", "/b.png")).is_relative
    assert JobPart(archive=Path("shards/0000.tar")).is_relative
    assert not JobPart(files=("/b.png", Prediction(path="x", error="none"))).is_relative
    assert not JobPart(archive=Address("s3://bucket/0000.tar")).is_relative
    assert not JobPart(archive=Path("/shards/0000.tar")).is_relative


def test_a_pattern_names_files_of_this_machine_alone(
    colour_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftx.data.shards.fetched._file_system", lambda address: pytest.fail(f"{address} was asked for"))
    there = tmp_path / "http:" / "host"
    there.mkdir(parents=True)
    image = next(colour_model.images.rglob("*.png"))
    for name in ("a.png", "b.png"):
        (there / name).write_bytes(image.read_bytes())
    monkeypatch.chdir(tmp_path)
    (part,) = parts_of([Path("*/*/*.png")])
    assert part.files == ("http:/host/a.png", "http:/host/b.png")


def test_a_part_travels_as_text(tmp_path: Path) -> None:
    (tmp_path / "\udce9 \n.png").write_bytes(b"x")
    for part in parts_of([tmp_path / "\udce9 \n.png", tmp_path / "none.png", tmp_path / "a.tar"]):
        again = JobPart.from_json(part.to_json())
        assert (again.files, again.archive) == (part.files, part.archive)
    for archive in (Address("s3://bucket/0000.tar"), Path("s3:/bucket/0000.tar")):  # what was typed, and what was not
        assert JobPart.from_json(JobPart(archive=archive).to_json()).archive == archive


def test_what_was_done_before_is_not_done_again(
    colour_model: Any, mixed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, asked = tmp_path / "out.jsonl", list[JobPart]()
    predictions = JobPart.predictions

    def failing(self: JobPart, *given: Any, **more: Any) -> Any:
        asked.append(self)
        if len(asked) == 3:
            raise EnvironmentFault("the power is gone")
        return predictions(self, *given, **more)

    monkeypatch.setattr(JobPart, "predictions", failing)
    with pytest.raises(EnvironmentFault, match="the power is gone"):
        predict_to_file(mixed, out, colour_model.folder)
    assert not out.exists()
    assert len(list(parts_folder(out).glob("*.jsonl"))) == 2
    listener = Listener()
    report = predict_to_file(mixed, out, colour_model.folder, progress=listener)
    assert (report.parts, report.kept, len(asked)) == (6, 2, 3 + 4)
    assert (report.images, report.skipped, report.workers) == (26, 2, 1)  # those of before too
    assert listener.said[-1] == "resuming: 2 of 6 parts are already done"
    assert (listener.descriptions, listener.total, listener.steps) == (["Predicting"], 16, 16)
    assert out.read_text() == expected(mixed, colour_model.folder)


def test_where_nothing_was_done_nothing_is_left(
    colour_model: Any, mixed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: JobPart, *given: Any, **more: Any) -> Any:
        raise EnvironmentFault("the power is gone")

    monkeypatch.setattr(JobPart, "predictions", failing)
    with pytest.raises(EnvironmentFault):
        predict_to_file(mixed, tmp_path / "out.jsonl", colour_model.folder)
    assert not list(tmp_path.glob("out*"))


def begun(colour_model: Any, mixed: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One part is done."""
    predictions, calls = JobPart.predictions, list[JobPart]()

    def once(self: JobPart, *given: Any, **more: Any) -> Any:
        calls.append(self)
        if len(calls) > 1:
            raise EnvironmentFault("the power is gone")
        return predictions(self, *given, **more)

    with monkeypatch.context() as patched:
        patched.setattr(JobPart, "predictions", once)
        with pytest.raises(EnvironmentFault):
            predict_to_file(mixed, out, colour_model.folder)


def test_another_job_is_not_mixed_in(
    colour_model: Any, mixed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other images, or those of the same names with other bytes, another model, or other answers asked."""
    out = tmp_path / "out.jsonl"
    begun(colour_model, mixed, out, monkeypatch)
    other = tmp_path / "model"
    shutil.copytree(colour_model.folder, other)
    card = json.loads((other / "card.json").read_text())
    (other / "card.json").write_text(json.dumps(card, indent=7))
    for given, model, scores, differs in (
        (mixed[:2], colour_model.folder, False, "images, parts"),
        (mixed, colour_model.folder, True, "scores"),
        (mixed, other, False, "model"),
    ):
        with pytest.raises(InputError, match="contains another unfinished prediction") as error:
            predict_to_file(given, out, model, scores=scores)
        assert error.value.found == f"different {differs}"
    changed = next((tmp_path / "images").rglob("*.png"))
    before = changed.read_bytes()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(changed)
    with pytest.raises(InputError, match="contains another unfinished prediction"):
        predict_to_file(mixed, out, colour_model.folder)
    changed.write_bytes(before)
    (parts_folder(out) / "job.json").write_text("{")
    with pytest.raises(InputError, match="this folder must contain an unfinished prediction"):
        predict_to_file(mixed, out, colour_model.folder)


def test_a_job_is_known_by_its_model_and_its_images_and_not_by_where_the_model_lies(
    colour_model: Any, mixed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, model = tmp_path / "out.jsonl", tmp_path / "model"
    shutil.copytree(colour_model.folder, model)
    begun(colour_model, mixed, out, monkeypatch)
    card = (model / "card.json").read_text()
    (model / "card.json").write_text(json.dumps(json.loads(card), indent=5))  # exported again, in its place
    with pytest.raises(InputError) as caught:
        predict_to_file(mixed, out, model)
    assert caught.value.found == "different model"
    (model / "card.json").write_text(card)
    image = next((tmp_path / "images").rglob("0.png"))
    image.rename(image.with_name("00.png"))  # the same bytes, of the same time
    with pytest.raises(InputError) as caught:
        predict_to_file(mixed, out, model)
    assert caught.value.found == "different images"
    image.with_name("00.png").rename(image)
    assert predict_to_file(mixed, out, model).kept == 1


def test_an_image_or_archive_of_the_same_size_is_another_one(tmp_path: Path) -> None:
    """By the time at which it was written; one that is gone is another as well."""
    image, archive = tmp_path / "a.png", tmp_path / "0000.tar"

    def states(second: int) -> tuple[str, ...]:
        for file in (image, archive):
            os.utime(file, (1e9 + second, 1e9 + second))
        return tuple(part.state for part in parts_of([image, archive]))

    for file in (image, archive):
        file.write_bytes(b"one")
    before = states(0)
    assert len(set(before)) == 2
    assert states(0) == before
    later = states(1)
    for file in (image, archive):
        file.write_bytes(b"more")
    larger = states(1)
    archive.rename(tmp_path / "0001.tar")
    image.rename(tmp_path / "b.png")
    gone = tuple(part.state for part in parts_of([image, tmp_path / "b.png", archive]))
    assert all(len({one[row] for one in (before, later, larger)}) == 3 for row in (0, 1))
    assert gone[1] not in (before[1], later[1], larger[1])


def test_a_part_that_could_not_be_saved_whole_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power goes before the disk has all of it."""
    asked = JobSpec(images="x", model="y", scores=False, parts=2)
    with open_job(tmp_path / "out.jsonl", asked) as job:
        job.keep(0, "first\n")
        assert job.left() == [1]
        with monkeypatch.context() as patched:

            def gone(_number: int) -> None:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

            patched.setattr(os, "fsync", gone)
            with pytest.raises((EnvironmentFault, OSError)):
                job.keep(1, "second\n")
        assert job.left() == [1]
        job.keep(1, "second, whole\n")
        job.keep(0, "first again\n")  # what is there stays
        assert list(job.lines()) == [b"first\n", b"second, whole\n"]


def test_a_model_is_opened_for_many_images(colour_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, predictions = list[Any](), JobPart.predictions

    def noted(self: JobPart, predictor: Any, **more: Any) -> Any:
        asked.append(predictor)
        return predictions(self, predictor, **more)

    monkeypatch.setattr(JobPart, "predictions", noted)
    predict_to_file([colour_model.images], tmp_path / "out.jsonl", colour_model.folder)
    many, one = (load(colour_model.folder, goal=goal) for goal in ("throughput", "latency"))
    assert many.batch != one.batch  # pyright: ignore[reportAttributeAccessIssue]
    assert {model.batch for model in asked} == {many.batch}  # pyright: ignore[reportAttributeAccessIssue]


def test_two_jobs_do_not_write_one_file(
    colour_model: Any, mixed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"
    begun(colour_model, mixed, out, monkeypatch)
    monkeypatch.setattr("ftx.core.files._NOTED_AFTER_S", 0.05)
    with FileLock(parts_folder(out) / LOCK), pytest.raises(RunError, match="another ftx is using"):
        predict_to_file(mixed, out, colour_model.folder)
    predict_to_file(mixed, out, colour_model.folder)
    kept = out.read_bytes()
    with pytest.raises(InputError, match="--out must not exist yet"):
        predict_to_file(mixed, out, colour_model.folder)
    assert out.read_bytes() == kept


@pytest.mark.representative
def test_a_killed_process_is_gone_on_for(colour_model: Any, tmp_path: Path) -> None:
    images = tmp_path / "many"
    images.mkdir()
    source = sorted(colour_model.images.rglob("*.png"))
    for number in range(3000):
        os.link(source[number % len(source)], images / f"{number:04d}.png")
    out = tmp_path / "out.jsonl"
    model = str(colour_model.folder)
    words = [sys.executable, "-m", "ftx", "predict", str(images), "--artifact", model, "--out", str(out)]
    kills = 0
    while kills < 3:
        done = len(list(parts_folder(out).glob("*.jsonl")))
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(list(parts_folder(out).glob("*.jsonl"))) <= done:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists()
        kills += 1
    ended = subprocess.run([*words, "--json"], capture_output=True, text=True, check=True)
    report = json.loads(ended.stdout)
    assert report["kept"] >= 3
    assert report["images"] == 3000
    assert out.read_text() == expected([images], colour_model.folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many", "out.jsonl"]


def test_what_a_signal_leaves_is_told(colour_model: Any, mixed: list[Path], tmp_path: Path) -> None:
    class Stops(Listener):
        def advance(self, steps: int = 1, **fields: str) -> None:
            super().advance(steps, **fields)
            raise KeyboardInterrupt

    out = tmp_path / "out.jsonl"
    with pytest.raises(Interrupted) as stopped:
        predict_to_file(mixed, out, colour_model.folder, progress=Stops())
    assert stopped.value.found == f"1 of 6 parts are done, and kept in {parts_folder(out)}"
    assert stopped.value.fix == "run the same command to resume"
    assert predict_to_file(mixed, out, colour_model.folder).kept == 1


def test_an_ending_that_names_no_format_is_refused(colour_model: Any, mixed: list[Path], tmp_path: Path) -> None:
    words = ("predict", str(mixed[0]), "--artifact", str(colour_model.folder), "--out")
    said = call(*words, str(tmp_path / "out.csv"))
    assert said.status == 2
    assert "--format jsonl or parquet" in said.err
    assert call(*words, str(tmp_path / "out.csv"), "--format", "jsonl").status == 4  # of an image that is none


def test_flags_of_a_file_are_refused_without_one(colour_model: Any, tmp_path: Path) -> None:
    images, model = str(colour_model.images), str(colour_model.folder)
    for flag, value in (("--format", "jsonl"), ("--engine", "ray"), ("--address", "a:1"), ("--workers", "2")):
        said = call("predict", images, "--artifact", model, flag, value)
        assert said.status == 2
        assert f"{flag} is only for a file of predictions" in said.err
    out = str(tmp_path / "x.jsonl")
    for words, text in (
        (("--format", "parque"), "did you mean 'parquet'?"),
        (("--engine", "rays"), "did you mean 'ray'?"),
        (("--workers", "2"), "are only for --engine ray"),
        (("--engine", "ray", "--address", "127.0.0.1:9"), "Ray does not respond"),
    ):
        said = call("predict", images, "--artifact", model, "--out", out, *words)
        assert said.status in (2, 3)
        assert text in said.err
    assert not list(tmp_path.iterdir())


def test_patterns_stand_for_shards_too(colour_model: Any, mixed: list[Path], tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    mixed[1].rename(tmp_path / "sets" / "one")
    given = [tmp_path / "sets" / "*"]
    report = predict_to_file(given, tmp_path / "out.jsonl", colour_model.folder)
    assert (report.images, report.skipped) == (12, 0)
    assert (tmp_path / "out.jsonl").read_text() == expected(given, colour_model.folder)


def test_a_job_that_was_cut_off_at_its_beginning_begins(colour_model: Any, tmp_path: Path) -> None:
    parts_folder(tmp_path / "out.jsonl").mkdir()
    report = predict_to_file([colour_model.images], tmp_path / "out.jsonl", colour_model.folder)
    assert report.images == 12


def test_images_at_which_workers_are_lost_are_told_and_the_rest_go_on(mixed: list[Path], tmp_path: Path) -> None:
    for part in parts_of(mixed):
        failed = part.failed("5 workers were lost")
        assert len(failed) == (part.images or 0)
        assert all(one.error for one in failed)
    assert failed[-1].error == "there is no such file"


def test_a_line_of_standard_input_that_names_no_shards_is_one_answer(colour_model: Any) -> None:
    for line in ("x{0..9}{.tar", "https://127.0.0.1:9/cat.jpg", "http://127.0.0.1:9/x.tar?signed=1"):
        (answer,) = predict_arriving([[line]], colour_model.folder)
        assert answer.error


def test_paths_come_on_standard_input(colour_model: Any, tmp_path: Path) -> None:
    paths = sorted(colour_model.images.rglob("*.png"))
    said = subprocess.run(
        [sys.executable, "-m", "ftx", "predict", "-", "--artifact", str(colour_model.folder), "--out", "out.jsonl"],
        cwd=tmp_path,
        input="".join(f"{path}\n" for path in paths),
        text=True,
        capture_output=True,
        check=True,
    )
    assert "12 images" in said.stdout
    assert (tmp_path / "out.jsonl").read_text() == expected(paths, colour_model.folder)


def test_a_model_in_torch_writes_no_file(tmp_path: Path, colour_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class InTorch:
        name = "torch"

    monkeypatch.setattr("ftx.scaling.predict_to_file.load", lambda *given, **more: InTorch())
    with pytest.raises(InputError, match="--out needs an exported IR"):
        predict_to_file([colour_model.images], tmp_path / "out.jsonl")


def test_a_package_that_is_missing_is_told_before_any_work(
    colour_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftx.core.packages.find_spec", lambda name: None)
    images, out = str(colour_model.images), str(tmp_path / "out")
    predicted = ("predict", images, "--artifact", str(colour_model.folder), "--out", out)
    for words, extra in (
        ((*predicted, "--format", "parquet"), "parquet"),
        ((*predicted, "--engine", "ray"), "ray"),
        (("data", "shard", images, out), "shards"),
    ):
        said = call(*words)
        assert said.status == 3
        assert f"[{extra}]'" in said.err
    assert not list(tmp_path.iterdir())


def test_files_of_one_stem_have_parts_of_their_own() -> None:
    names = ("answers.jsonl", "answers.parquet", "answers.of.jsonl", "answers")
    assert len({parts_folder(Path("out", name)) for name in names}) == len(names)


def test_files_of_which_none_is_an_image_leave_no_file(colour_model: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(InputError):
        predict_to_file([tmp_path / "gone.png", tmp_path / "too.png"], out, colour_model.folder)
    assert list(tmp_path.iterdir()) == []


def test_what_is_all_answered_needs_no_ray_to_be_written(
    colour_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was full when the parts became a file; by then the cluster may be gone."""
    images, out = sorted(colour_model.images.rglob("*.png")), tmp_path / "out.jsonl"

    def full(*_given: object, **_more: object) -> object:
        raise EnvironmentFault("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("ftx.scaling.predict_to_file._write", full)
        with pytest.raises(EnvironmentFault):
            predict_to_file(images, out, colour_model.folder)
    monkeypatch.setattr("ftx.scaling.predict_to_file.ray_workers", full)
    report = predict_to_file(images, out, colour_model.folder, ray=RayCluster())
    assert (report.kept, len(out.read_text().splitlines())) == (report.parts, len(images))
