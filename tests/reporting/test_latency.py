"""Bars are of one image at a time; the table has every row; both say where they come from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.evaluating.written_runs import WRITTEN
from tests.runs.test_bench_json import bench_of, row_of

from ftx.reporting.facts import RunFacts, gather
from ftx.reporting.measurements import latency
from ftx.runs.run import Run


@pytest.fixture(scope="module")
def facts() -> RunFacts:
    return gather(Run.open(WRITTEN / "multiclass-dora"))


def with_bench(facts: RunFacts, *rows: dict[str, Any]) -> RunFacts:
    made = [row_of("openvino/fp32", **changed) for changed in rows]
    report = bench_of(made, {}).model_copy(update={"image_size": 48, "processors": 6, "rounds": 5})
    return replace(facts, bench=report)


def test_bars_are_of_requests_of_one_image_one_after_the_other(facts: RunFacts) -> None:
    found = latency(
        with_bench(
            facts,
            {"p50_ms": 4.5, "p90_ms": 5.5, "p99_ms": 6.5, "threads": 2, "images_per_s": 222.0, "peak_bytes": 7_000_000},
            {"p50_ms": 8.5, "streams": 2, "threads": 4},
            {"p50_ms": 30.5, "batch": 8},
        )
    )
    assert found is not None
    assert 'aria-label="Milliseconds an image: openvino/fp32, f32 4.5"' in found.figure
    assert dict(zip(found.heads, found.rows[0], strict=True)) == {
        "artifact": "openvino/fp32",
        "compute": "f32",
        "batch": "1",
        "threads": "2",
        "streams": "1",
        "p50 ms": "4.5",
        "p90 ms": "5.5",
        "p99 ms": "6.5",
        "images/s": "222.0",
        "MB": "7",
    }
    assert [(row[2], row[4], row[5]) for row in found.rows] == [
        ("1", "1", "4.5"),
        ("1", "2", "8.5"),
        ("8", "1", "30.5"),
    ]
    assert "at 48 px on" in found.summary
    assert "with 6 processors (unknown instruction set), 5 processes a row" in found.summary


def test_where_nothing_was_timed_so_all_rows_are_bars(facts: RunFacts) -> None:
    found = latency(with_bench(facts, {"p50_ms": 8.5, "streams": 2}, {"p50_ms": 30.5, "batch": 8}))
    assert found is not None
    assert "openvino/fp32, f32 8.5; openvino/fp32, f32 30.5" in found.figure


def test_the_sets_are_those_that_decided(facts: RunFacts) -> None:
    found = latency(with_bench(facts, {"isa": "avx512"}, {"isa": "avx2"}, {"isa": "avx512"}))
    assert found is not None
    assert "(avx2, avx512)" in found.summary


def test_without_a_bench_it_is_what_validate_saw(facts: RunFacts) -> None:
    found = latency(facts)
    assert facts.parity is not None
    assert found is not None
    rows = [row for row in facts.parity.rows if row.view == "graph" and row.artifact != "trained"]
    assert sorted(found.rows) == sorted((row.artifact, str(row.compute), f"{row.latency_ms:.1f}") for row in rows)
    assert "A short look by ftx validate" in found.summary
    assert latency(replace(facts, parity=None)) is None
    emulated = [row.model_copy(update={"emulated": True}) for row in facts.parity.rows]
    assert latency(replace(facts, parity=facts.parity.model_copy(update={"rows": emulated}))) is None
