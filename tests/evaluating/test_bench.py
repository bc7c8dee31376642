"""How fast models are: the rows, what is kept beside a model, and that predicting takes it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.conftest import Listener

from ftx.core.errors import EnvironmentFault, InputError, RunError
from ftx.core.files import check_writable
from ftx.core.processors import Processors, cores
from ftx.core.third_parties import no_telemetry
from ftx.evaluating.bench import (
    BATCHES,
    ROUNDS,
    TRIED_BATCHES,
    BenchOptions,
    _Candidate,
    _candidates,
    _near_the_best,
    _notes,
    _row,
    _save,
    bench,
)
from ftx.evaluating.bench_plot import draw
from ftx.evaluating.bench_process import BenchJob, BenchMeasurement, batches_of, measure
from ftx.exporting import export
from ftx.runs.artifacts import IR_INT8_CHECKED, IRS
from ftx.runs.bench_json import BENCH_FILE, BENCH_PLOT, BenchReport, BenchRow
from ftx.runs.card_json import TUNING_FILE, read_card
from ftx.runs.compute_precision import F32
from ftx.runs.machine import this_machine, this_set
from ftx.runs.tuning_json import OpenvinoSetting, TuningResult, keep_tuned, read_tuning, tuned_here
from ftx.runtimes import load, load_folder
from ftx.runtimes.openvino import OpenVinoPredictor, default_compute

with no_telemetry():
    import openvino

QUICK = 0.06
HERE = Processors(allowed=6, usable=6, cores=6, fast=2)


@pytest.fixture
def folder(colour_model: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(colour_model.folder, tmp_path / "fp32"))


def tuned(**changes: object) -> TuningResult:
    return TuningResult(
        machine=this_machine(),
        processors=cores(),
        latency=OpenvinoSetting(compute="f32", batch=1, threads=1, streams=1),
        p50_ms=1.0,
        throughput=OpenvinoSetting(compute="f32", batch=3, threads=1, streams=1),
        images_per_s=9.0,
    ).model_copy(update=changes)


def test_a_row_sums_up_its_processes() -> None:
    job = BenchJob(
        artifact="onnx",
        folder=Path("f"),
        run=None,
        compute="f32",
        batch=4,
        threads=2,
        streams=1,
        seconds=1,
        cached=True,
    )
    first = BenchMeasurement(
        compute="f32",  # pyright: ignore[reportArgumentType]
        isa="avx2",
        primitives={"gemm": 3},
        threads=1,
        streams=1,
        kernels="batch",
        latencies_ms=[10.00012 * number for number in range(1, 51)],
        images=600,
        seconds=7.0,
        compile_ms=100.04,
        compile_cached_ms=None,
        first_ms=40.0,
        peak_bytes=1000,
    )
    again = {"threads": 2, "latencies_ms": [10.00012 * number for number in range(51, 102)], "seconds": 6.0}
    second = first.model_copy(update=again | {"compile_ms": 200.0, "first_ms": 60.08, "peak_bytes": 2001})
    found = _row(_Candidate(job, [first, second]))
    assert (found.artifact, found.runtime, found.batch, found.threads, found.requests) == ("onnx", "onnx", 4, 2, 101)
    assert (found.p50_ms, found.p90_ms, found.p99_ms) == (510.006, 910.011, 1000.012)
    assert found.images_per_s == 92.86  # the median of 600 / 7 and 100
    assert (found.compile_ms, found.compile_cached_ms, found.first_ms, found.peak_bytes) == (150.0, None, 50.0, 1500)


@pytest.mark.representative
def test_a_row_is_what_its_processes_measured(folder: Path) -> None:
    report = bench(folder, BenchOptions(computes=("f32",), batches=(1, 3), threads=(1,), streams=(1,), seconds=QUICK))
    assert (report.run, report.folder, report.saved) == (None, str(folder), [])
    assert [(row.artifact, str(row.compute), row.batch, row.threads, row.streams) for row in report.rows] == [
        ("openvino/fp32", "f32", 1, 1, 1),
        ("openvino/fp32", "f32", 3, 1, 1),
    ]
    for row in report.rows:
        assert row.requests >= ROUNDS  # each process timed one at least
        assert 0 < row.p50_ms <= row.p90_ms <= row.p99_ms
        # A request after the other: images a second are what the mean latency allows, and that is above no p99.
        assert row.images_per_s >= 0.5 * 1e3 * row.batch / row.p99_ms
        assert row.compile_ms is not None
        assert row.compile_cached_ms is not None
        assert row.first_ms > 0
        assert 20e6 < row.peak_bytes < 2e9  # an interpreter with OpenVINO, and no more than a few of them
    assert not (folder / TUNING_FILE).exists()


@pytest.mark.representative
def test_requests_together_are_as_many_as_asked_for(folder: Path) -> None:
    at_a_time = BenchOptions(computes=("f32",), batches=(1,), threads=(cores(),), streams=(cores(),), seconds=QUICK)
    (row,) = bench(folder, at_a_time).rows
    assert (row.threads, row.streams) == (cores(), cores())  # what OpenVINO says of the compiled model


@pytest.mark.representative
def test_what_is_fastest_is_kept_and_predicting_takes_it(folder: Path) -> None:
    report = bench(folder, BenchOptions(computes=("f32",), batches=(1, 2), seconds=QUICK, save=True))
    (saved,) = report.saved
    kept = tuned_here(folder)
    assert kept is not None
    assert (kept.latency, kept.throughput) == (saved.latency, saved.throughput)
    alone = [row for row in report.rows if (row.batch, row.streams) == (1, 1)]
    assert kept.latency.threads in {row.threads for row in alone}
    assert kept.images_per_s == max(row.images_per_s for row in report.rows)
    assert report.tried >= len(report.rows)
    read_card(folder)  # the hashes hold with the file beside them
    for goal, setting in (("latency", kept.latency), ("throughput", kept.throughput)):
        opened = load_folder(folder, goal=goal)
        assert isinstance(opened, OpenVinoPredictor)
        assert (opened.threads, opened.streams, opened.batch) == (setting.threads, setting.streams, setting.batch)


def test_a_setting_counts_on_its_machine_with_its_processors_for_its_model(folder: Path) -> None:
    keep_tuned(folder, tuned())
    assert tuned_here(folder) == tuned()
    opened = load(folder)
    assert isinstance(opened, OpenVinoPredictor)
    assert (str(opened.compute), opened.batch) == ("f32", 1)
    assert load_folder(folder).compute == default_compute()  # who validates asks for none
    keep_tuned(folder, tuned(processors=cores() + 1, p50_ms=0.5))
    assert tuned_here(folder) == tuned()
    keep_tuned(folder, tuned(p50_ms=2.0))  # in the place of the first
    assert [one.p50_ms for one in read_tuning(folder).tuned] == [0.5, 2.0]
    document = json.loads((folder / TUNING_FILE).read_text())
    for text in (json.dumps(document | {"ir": "another"}), "{", "[]"):
        (folder / TUNING_FILE).write_text(text)
        assert tuned_here(folder) is None


@pytest.mark.slow
def test_a_run_has_its_runtimes_side_by_side_and_keeps_the_report(whole_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole_run, tmp_path / "run", symlinks=True))
    listener = Listener()
    report = bench(run, BenchOptions(computes=("f32",), batches=(1,), streams=(1,), seconds=QUICK), listener)
    runtimes = {row.artifact: row.runtime for row in report.rows}
    assert runtimes.items() >= {("dense", "torch"), ("onnx", "onnx"), ("openvino/fp32", "openvino")}
    for row in report.rows:
        assert (row.compile_ms is None) == (row.runtime != "openvino")
    assert BenchReport.model_validate_json((run / BENCH_FILE).read_text()) == report
    assert listener.steps == ROUNDS * len(report.rows)
    drawn = ElementTree.parse(run / BENCH_PLOT)
    assert drawn.getroot().tag.endswith("svg")


def test_another_set_is_said_and_its_figures_are_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ONEDNN_MAX_CPU_ISA", "OV_CPU_MAX_ISA"):
        monkeypatch.setitem(os.environ, name, "AVX2")
    report = bench(folder, BenchOptions(batches=(1,), threads=(1,), streams=(1,), computes=("f32",), seconds=QUICK))
    assert [row.isa for row in report.rows] == ["avx2"]


def test_a_stale_model_is_refused(whole_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole_run, tmp_path / "run", symlinks=True))
    manifest = json.loads((run / "run.json").read_text())
    manifest["lineage"]["openvino/fp32"]["digest"] = "0" * 64
    (run / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="made from a different"):
        bench(run / "openvino" / "fp32", BenchOptions(seconds=QUICK))
    with pytest.raises(RunError):
        bench(run, BenchOptions(seconds=QUICK))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (BenchOptions(threads=(10_000,)), "10000"),
        (BenchOptions(streams=(10_000,)), "10000"),
        (BenchOptions(seconds=0), "0"),
        (BenchOptions(seconds=float("nan")), "nan"),
        (BenchOptions(precisions=("int8",)), "one precision"),
    ],
)
def test_what_no_machine_could_do_is_refused_before_the_first_process(
    folder: Path, options: BenchOptions, named: str
) -> None:
    with pytest.raises(InputError) as raised:
        bench(folder, options)
    assert named in str(raised.value)


@pytest.mark.slow
def test_int8_checked_is_measured_only_in_the_precision_of_its_bound(whole_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole_run, tmp_path / "run"))
    in_f32 = BenchOptions(computes=("f32",), batches=(1,), threads=(1,), streams=(1,), seconds=QUICK)
    export(run, formats=["openvino"], precisions=["int8-checked"])
    with pytest.raises(InputError, match="precision that OpenVINO chooses"):
        bench(run / "openvino" / "int8-checked", in_f32)
    with pytest.raises(InputError, match="precision that OpenVINO chooses"):
        bench(run, replace(in_f32, precisions=("int8-checked", "fp32")))
    # Of a run, the others are measured, if there are others.
    measured = {row.artifact for row in bench(run, in_f32).rows}
    assert measured >= {"openvino/fp32"}
    assert "openvino/int8-checked" not in measured
    manifest = json.loads((run / "run.json").read_text())
    for part in ("files", "lineage"):
        kept = {name: one for name, one in manifest[part].items() if "openvino" not in name or "int8-checked" in name}
        manifest[part] = kept
    (run / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="precision that OpenVINO chooses"):
        bench(run, in_f32)


def test_keeping_needs_a_row_for_one_image(folder: Path) -> None:
    with pytest.raises(InputError, match="--save needs a measurement with one image"):
        bench(
            folder, BenchOptions(batches=(2,), computes=("f32",), threads=(1,), streams=(1,), seconds=QUICK, save=True)
        )


@pytest.mark.skipif(this_set() != "avx2", reason="int8 of few tokens is computed whole here")
def test_of_int8_one_image_at_a_time_is_kept(whole_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole_run / "openvino" / "int8", tmp_path / "int8"))
    options = BenchOptions(computes=("f32",), batches=(1, 4), threads=(1,), streams=(1,), seconds=QUICK, save=True)
    report = bench(folder, options)
    assert (report.tried, [row.batch for row in report.rows]) == (2, [1])
    (saved,) = report.saved
    assert saved.latency.batch == saved.throughput.batch == 1


def test_settings_are_all_that_a_machine_has_room_for(folder: Path) -> None:
    def tried(options: BenchOptions) -> set[tuple[int, int, int]]:
        found = [one.job for one in _candidates(IRS["fp32"], folder, None, options, HERE)]
        return {(job.batch, job.threads, job.streams) for job in found}

    f32 = BenchOptions(computes=("f32",))
    jobs = [one.job for one in _candidates(IRS["fp32"], folder, None, replace(f32, seconds=6.0), HERE)]
    # The seconds of a row are those of all its processes.
    assert {(job.seconds, job.folder, job.artifact, job.compute) for job in jobs} == {
        (6.0 / ROUNDS, folder, "openvino/fp32", "f32")
    }
    # Latency and throughput, and each of them alone with more images or more streams, never both.
    assert tried(f32) == {(batch, 6, streams) for batch in BATCHES for streams in (1, 6) if 1 in (batch, streams)}
    swept = tried(replace(f32, save=True))
    assert {streams for _, _, streams in swept} == {1, 2, 4, 6}
    assert {threads for _, threads, _ in swept} == {1, 2, 6}
    assert all(streams <= threads for _, threads, streams in swept)
    assert {(batch, 6, 4) for batch in TRIED_BATCHES} <= swept
    assert tried(replace(f32, threads=(2,), streams=(1, 4))) == {(batch, 2, 1) for batch in BATCHES}
    # What is certified is the precision that OpenVINO chooses.
    checked = [one.job for one in _candidates(IR_INT8_CHECKED, folder, None, BenchOptions(), HERE)]
    assert {job.compute for job in checked} == {"auto"}


def row(**changes: object) -> BenchRow:
    return BenchRow(
        artifact="openvino/fp32",
        runtime="openvino",
        compute="auto:bf16",  # pyright: ignore[reportArgumentType]
        isa="avx512_bf16",
        primitives={"brgemm_avx512_bf16": 49},
        batch=1,
        threads=2,
        streams=1,
        requests=9,
        p50_ms=77.0,
        p90_ms=80.0,
        p99_ms=90.0,
        images_per_s=13.0,
        compile_ms=500.0,
        compile_cached_ms=200.0,
        first_ms=100.0,
        peak_bytes=300_000_000,
    ).model_copy(update=changes)


def job_of(**changes: Any) -> BenchJob:
    return BenchJob(
        artifact="openvino/fp32", folder=Path("f"), run=None, compute="f32", batch=1, threads=1, streams=1,
        seconds=0.01, cached=False,
    ).model_copy(update=changes)  # fmt: skip


def measured(ms: float, images_per_s: float = 100.0, *, image_by_image: bool = False) -> BenchMeasurement:
    return BenchMeasurement(
        compute="f32",  # pyright: ignore[reportArgumentType]
        isa=None,
        primitives={},
        threads=1,
        streams=1,
        kernels="single" if image_by_image else "batch",
        latencies_ms=[ms],
        images=100,
        seconds=100 / images_per_s,
        compile_ms=None,
        compile_cached_ms=None,
        first_ms=1.0,
        peak_bytes=1,
    )


def test_opened_from_the_cache_it_is_the_cache_that_is_timed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first opening fills it, the second reads what it holds."""
    real, caches = openvino.Core.compile_model, list[tuple[str, list[str]]]()

    def compile_model(self: openvino.Core, model: Any, device: str, config: Any) -> Any:
        cache = config.get("CACHE_DIR", "")
        caches.append((cache, sorted(path.suffix for path in Path(cache).iterdir()) if cache else []))
        return real(self, model, device, config)

    monkeypatch.setattr(openvino.Core, "compile_model", compile_model)
    found = measure(job_of(folder=folder, cached=True))
    assert found.compile_cached_ms is not None
    (own, first, second) = caches
    assert own == ("", [])  # what is timed as compiling has none
    assert first[0] == second[0] != ""
    assert (first[1], second[1]) == ([], [".blob"])
    assert not Path(first[0]).exists()
    caches.clear()
    again = measure(job_of(folder=folder))
    assert again.compile_cached_ms is None
    assert len(caches) == 1
    # One request follows the other: together they take the time, but for some microseconds between two.
    assert 0.7 * again.seconds < 1e-3 * sum(again.latencies_ms) <= again.seconds
    assert 20e6 < again.peak_bytes < 20e9


def test_a_setting_is_tried_further_by_how_its_own_model_is_fastest() -> None:
    """By latency of one image, or by images a second; what another model reaches counts in neither."""

    def tried(ms: float, images_per_s: float, **job: Any) -> _Candidate:
        return _Candidate(job_of(**job), [measured(ms, images_per_s)])

    best = tried(10.0, 50.0, threads=2)
    near = tried(14.0, 40.0, threads=1)  # within 1.4 of the latency, and 0.8 of the throughput
    far = tried(14.1, 50.0, threads=3)
    most = tried(80.0, 100.0, batch=8)
    less = tried(80.0, 72.0, batch=4)
    least = tried(80.0, 71.0, batch=2)
    quick_but_many = tried(1.0, 60.0, streams=2)  # no latency of one image
    slow_model = tried(500.0, 2.0, artifact="openvino/int8")
    every = [best, near, far, most, less, least, quick_but_many, slow_model]
    assert _near_the_best(every, 1.4) == [best, near, most, less, slow_model]


def test_one_that_takes_images_one_by_one_is_not_tried_in_batches() -> None:
    one, four = (_Candidate(job_of(batch=batch), [measured(9.0, image_by_image=True)]) for batch in (1, 4))
    assert _near_the_best([one, four], 1.4) == [one]
    assert _near_the_best([four], 1.4) == [four]


def test_what_is_kept_is_the_best_of_each_kind_beside_its_own_model(tmp_path: Path) -> None:
    def folder_of(name: str) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text(name)
        return tmp_path / name

    def tried(artifact: str, ms: float, images_per_s: float, **job: Any) -> _Candidate:
        return _Candidate(job_of(artifact=artifact, **job), [measured(ms, images_per_s)])

    candidates = [
        tried("openvino/fp32", 9.0, 10.0, threads=1),
        tried("openvino/fp32", 7.0, 20.0, threads=2),
        tried("openvino/fp32", 30.0, 80.0, batch=8, threads=2, streams=2, compute="auto"),
        tried("openvino/fp32", 2.0, 70.0, streams=2, threads=2),  # of two at a time
        tried("openvino/int8", 4.0, 90.0, threads=1, compute="auto"),
    ]
    folders = {IRS["fp32"]: folder_of("fp32"), IRS["int8"]: folder_of("int8")}
    fp32, int8 = (_save(candidates, artifact, folder) for artifact, folder in folders.items())
    assert (fp32.p50_ms, fp32.images_per_s) == (7.0, 80.0)
    assert fp32.latency == OpenvinoSetting(compute="f32", batch=1, threads=2, streams=1)
    assert fp32.throughput == OpenvinoSetting(compute="auto", batch=8, threads=2, streams=2)
    assert int8.latency == int8.throughput == OpenvinoSetting(compute="auto", batch=1, threads=1, streams=1)
    for artifact, saved in zip(folders, (fp32, int8), strict=True):
        kept = tuned_here(folders[artifact])
        assert kept is not None
        assert (kept.latency, kept.throughput, kept.p50_ms) == (saved.latency, saved.throughput, saved.p50_ms)
        assert (saved.artifact, saved.path) == (artifact.name, str(folders[artifact]))


def test_images_are_those_beside_the_model_over_and_over_and_noise_of_its_size_where_none_are(folder: Path) -> None:
    pre = replace(read_card(folder).preprocess, height=16, width=20, resize=(16, 20))
    known = load_file(folder / "reference.safetensors")["images"]
    (found,) = batches_of(folder, pre, 30)
    assert [one.tobytes() for one in found] == [known[number % 12].tobytes() for number in range(30)]
    (folder / "reference.safetensors").unlink()
    (noise,) = batches_of(folder, pre, 9)
    assert (noise.shape, noise.dtype) == ((9, 16, 20, 3), np.uint8)
    assert len({one.tobytes() for one in noise}) == 8


def test_what_is_no_model_is_not_called_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no model here to measure"):
        bench(tmp_path)


def test_where_nothing_can_be_kept_no_setting_is_searched_for() -> None:
    with pytest.raises(EnvironmentFault, match="this path cannot be written to"):
        check_writable(Path("/sys"))


def test_a_chosen_precision_that_is_slower_than_f32_is_said() -> None:
    slow, quick = row(), row(compute=F32, p50_ms=48.0)
    (note,) = _notes([slow, quick], saved=False)
    assert note == (
        "openvino/fp32: bf16, which OpenVINO chooses, is slower than fp32 with 2 threads: 77.0 ms, fp32 48.0 ms; "
        "with --save, ftx predict uses fp32"
    )
    assert _notes([row(p50_ms=20.0), quick], saved=False) == []
    assert _notes([row(p50_ms=48.9), quick], saved=False) == []  # within what chance does
    assert len(_notes([row(p50_ms=100.0), row(compute=F32, p50_ms=95.0)], saved=False)) == 1  # just enough
    assert _notes([slow, quick.model_copy(update={"threads": 1})], saved=False) == []


def test_the_same_figures_are_the_same_picture(tmp_path: Path) -> None:
    report = BenchReport(
        machine=this_machine(),
        processors=2,
        image_size=224,
        seconds=3,
        rounds=ROUNDS,
        tried=2,
        rows=[row(), row(batch=8, p50_ms=400.0)],
        saved=[],
        notes=[],
    )
    for name in ("one.svg", "two.svg"):
        draw(report, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert "machine" not in (tmp_path / "one.svg").read_text()
