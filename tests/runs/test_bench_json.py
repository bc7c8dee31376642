"""What ``ftx bench`` timed counts as long as the run holds the models that were timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.runs.small_run import make, small_run

from ftx.runs.artifacts import ARTIFACTS, DENSE, IR_FP32, IR_INT8, ONNX
from ftx.runs.bench_json import BENCH_FILE, BenchReport, BenchRow, read_bench
from ftx.runs.machine import this_machine
from ftx.runs.run import Run


def row_of(artifact: str, **changed: Any) -> BenchRow:
    known = BenchRow(
        artifact=artifact, runtime=ARTIFACTS[artifact].runtime, compute="f32", isa=None, primitives={}, batch=1,
        threads=1, streams=1, requests=3, p50_ms=1.25, p90_ms=2, p99_ms=3, images_per_s=800, compile_ms=1,
        compile_cached_ms=1, first_ms=1, peak_bytes=1,
    )  # fmt: skip
    return known.model_copy(update=changed)


def bench_of(rows: list[BenchRow], digests: dict[str, str]) -> BenchReport:
    return BenchReport(
        machine=this_machine(), processors=2, image_size=32, seconds=1, rounds=3, tried=len(rows), rows=rows, saved=[],
        notes=[], digests=digests,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return small_run(tmp_path / "run", (DENSE, ONNX, IR_FP32, IR_INT8))


def read_names(run: Run) -> list[str]:
    found = read_bench(run, run.manifest)
    return [row.artifact for row in found.rows] if found else []


def test_rows_of_models_that_were_exported_again_are_left_out(run: Run) -> None:
    timed = (ONNX, IR_FP32, IR_INT8)
    rows = [row_of(artifact.name) for artifact in timed]
    run.write_report("bench", bench_of(rows, {artifact.name: run.manifest.digest(artifact) for artifact in timed}))
    assert read_names(run) == ["onnx", "openvino/fp32", "openvino/int8"]
    make(run, IR_FP32, "another")
    assert read_names(run) == ["onnx", "openvino/int8"]
    make(run, ONNX, "another")
    make(run, IR_INT8, "another")
    assert read_bench(run, run.manifest) is None


def test_a_model_that_the_run_no_longer_holds_has_no_row(run: Run) -> None:
    digests = {artifact.name: run.manifest.digest(artifact) for artifact in (IR_FP32, IR_INT8)}
    run.write_report("bench", bench_of([row_of("openvino/fp32"), row_of("openvino/int8")], digests))
    manifest = run.manifest
    left = {name: digest for name, digest in manifest.files.items() if not IR_INT8.holds(name)}
    (run.path / "run.json").write_text(manifest.model_copy(update={"files": left}).model_dump_json())
    assert read_names(run) == ["openvino/fp32"]


def test_a_report_without_digests_is_read_as_it_is(run: Run) -> None:
    run.write_report("bench", bench_of([row_of("openvino/fp32"), row_of("openvino/int8")], {}))
    make(run, IR_FP32, "another")
    assert read_names(run) == ["openvino/fp32", "openvino/int8"]
    (run.path / BENCH_FILE).write_text("{}")
    assert read_bench(run, run.manifest) is None
