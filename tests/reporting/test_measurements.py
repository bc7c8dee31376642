"""A step of the chain has the figures of its own row: what was measured beside what was allowed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.evaluating.written_runs import WRITTEN
from tests.runs.test_bench_json import bench_of, row_of
from tests.runs.test_certificate_json import certificate

from ftx.reporting.facts import RunFacts, gather
from ftx.reporting.measurements import (
    VerdictMatrix,
    certificate_rows,
    chain,
    latency,
    set_rows,
    shown_precision,
    verdict_matrix,
)
from ftx.runs.compute_precision import read_compute
from ftx.runs.parity_json import ReleaseVerdict, RowBound, SetVerdict
from ftx.runs.run import Run


@pytest.fixture(scope="module")
def facts() -> RunFacts:
    return gather(Run.open(WRITTEN / "multiclass-dora"))


def with_rows(facts: RunFacts, artifact: str, compute: str, **changed: Any) -> RunFacts:
    assert facts.parity is not None
    rows = [
        row.model_copy(update=changed) if (row.artifact, str(row.compute)) == (artifact, compute) else row
        for row in facts.parity.rows
    ]
    return replace(facts, parity=facts.parity.model_copy(update={"rows": rows}))


def figures(facts: RunFacts, artifact: str, compute: str) -> dict[str, str]:
    shown = shown_precision(read_compute(compute))
    (hop,) = [hop for hop in chain(facts) if (hop.name, hop.compute) == (artifact, shown)]
    return dict(hop.figures)


def test_each_model_stands_there_in_each_precision_in_the_order_of_the_pipeline(facts: RunFacts) -> None:
    assert facts.parity is not None
    shown = {"f32": "fp32", "auto:bf16": "bf16 (chosen by OpenVINO)"}
    irs = [(f"openvino/{name}", compute) for name in ("fp32", "fp16", "int8") for compute in shown]
    found = [(hop.name, hop.compute, hop.state) for hop in chain(facts)]
    assert found[:3] == [("trained", "fp32", "reference"), ("dense", "fp32", "proved"), ("onnx", "fp32", "proved")]
    assert [(name, compute) for name, compute, _ in found[3:]] == [(name, shown[compute]) for name, compute in irs]
    # The least of its rows, of the same pixels and of files.
    order = ("failed", "unproved", "proved")
    for (name, compute), (_, _, state) in zip(irs, found[3:], strict=True):
        rows = [row for row in facts.parity.rows if (row.artifact, str(row.compute)) == (name, compute)]
        assert state == min((row.verdict for row in rows), key=order.index)
    assert {hop.state for hop in chain(replace(facts, parity=None))} == {"reference", "not validated"}


def test_figures_are_told_with_what_was_allowed(facts: RunFacts) -> None:
    changed = with_rows(
        facts, "openvino/int8", "auto:bf16", max_abs=0.75, agreement=0.9375, images=16, labelled=9, drop=0.125,
        drop_high=0.25, max_drop=0.5, latency_ms=7.5, isa="avx2", bound=RowBound(max_abs=1.5, cosine=None, reason=""),
    )  # fmt: skip
    assert figures(changed, "openvino/int8", "auto:bf16") == {
        "largest difference of a logit (same pixels)": "0.75 (limit 1.5)",
        "same predictions": "93.75 % of 16 images",
        "accuracy": "12.50 points lost, at most 25.00 lost (limit 50)",
        "instruction set": "avx2",
        "time per image": "7.5 ms",
    }
    gained = with_rows(changed, "openvino/int8", "auto:bf16", drop=-0.125)
    shown = figures(gained, "openvino/int8", "auto:bf16")["accuracy"]
    assert shown == "12.50 points gained, at most 25.00 lost (limit 50)"
    free = with_rows(changed, "openvino/int8", "auto:bf16", bound=RowBound(max_abs=None, cosine=None, reason=""))
    assert figures(free, "openvino/int8", "auto:bf16")["largest difference of a logit (same pixels)"] == "0.75"
    none = with_rows(changed, "openvino/int8", "auto:bf16", max_abs=None)
    assert "not a number" in figures(none, "openvino/int8", "auto:bf16").values()
    # Where logits are the proof no interval is told.
    assert "accuracy" not in figures(facts, "onnx", "f32")
    assert "instruction set" not in figures(facts, "onnx", "f32")


def test_the_row_that_says_least_is_shown_with_its_view(facts: RunFacts) -> None:
    assert facts.parity is not None
    for view, said in (("files", "each with its own preprocessing"), ("graph", "same pixels")):
        rows = [
            row.model_copy(update={"verdict": "failed", "max_abs": 9.0})
            if (row.artifact, str(row.compute), row.view) == ("openvino/fp16", "f32", view)
            else row
            for row in facts.parity.rows
        ]
        found = figures(replace(facts, parity=facts.parity.model_copy(update={"rows": rows})), "openvino/fp16", "f32")
        assert found[f"largest difference of a logit ({said})"].startswith("9 (limit ")


def test_what_was_found_in_other_sets_stands_beside_with_how_it_was_found(facts: RunFacts) -> None:
    assert facts.parity is not None
    sets = [
        SetVerdict(artifact="openvino/fp32", isa="avx2", emulated=True, verdict="proved", summary="as here"),
        SetVerdict(artifact="openvino/int8", isa="avx2", emulated=True, verdict="failed", summary="too far"),
        SetVerdict(artifact="openvino/int8", isa="amx", emulated=False, verdict="not_run", summary="this CPU lacks it"),
    ]
    assert set_rows(replace(facts, parity=facts.parity.model_copy(update={"sets": sets}))) == [
        ("openvino/fp32", "avx2", "proved (emulated)", "as here"),
        ("openvino/int8", "avx2", "failed", "too far"),
        ("openvino/int8", "amx", "not_run", "this CPU lacks it"),
    ]
    assert set_rows(replace(facts, parity=None)) == []
    assert verdict_matrix(facts) is None
    assert facts.parity.machine is not None
    here = facts.parity.machine.openvino
    fp32 = {"artifact": "openvino/fp32", "summary": "as here"}
    releases = [
        ReleaseVerdict(**fp32, isa="amx", emulated=False, verdict="proved", openvino="2025.4.1"),
        ReleaseVerdict(**fp32, isa="avx2", emulated=True, verdict="failed", openvino="2025.4.1"),
        ReleaseVerdict(**fp32, isa="avx2", emulated=True, verdict="unproved", openvino=here),
        ReleaseVerdict(**fp32, isa="amx", emulated=False, verdict="unproved", openvino=here, device="AUTO:CPU"),
    ]
    known = facts.parity.model_copy(update={"sets": sets, "releases": releases})
    assert verdict_matrix(replace(facts, parity=known)) == VerdictMatrix(
        ["avx2", "amx"],
        [
            ("openvino/fp32", here, ["proved", ""]),
            ("openvino/fp32", "2025.4.1", ["failed", "proved"]),
            ("openvino/fp32", f"{here}, AUTO:CPU", ["", "unproved"]),
            ("openvino/int8", here, ["failed", ""]),
        ],
    )
    # Without --isa, this version's verdicts are those of the models on this machine.
    rows = [row.model_copy(update={"isa": "amx"}) for row in facts.parity.own_rows if row.artifact == "openvino/fp32"]
    alone = known.model_copy(update={"sets": [], "releases": releases[:1], "rows": rows})
    assert verdict_matrix(replace(facts, parity=alone)) == VerdictMatrix(
        ["amx"],
        [
            ("openvino/fp32", here, [facts.parity.verdicts["openvino/fp32"]]),
            ("openvino/fp32", "2025.4.1", ["proved"]),
        ],
    )
    two = [certificate(), certificate(quick="bf16", kernels="single", changed=0)]
    assert certificate_rows(replace(facts, parity=facts.parity.model_copy(update={"certificates": two}))) == [
        ("avx512_vnni", "int8", "batch", two[0].summary, two[0].cost),
        ("avx512_vnni", "bf16", "single", two[1].summary, two[1].cost),
    ]
    assert certificate_rows(facts) == []
    # Their rows are none of this machine's.
    emulated = with_rows(facts, "openvino/fp32", "f32", emulated=True, max_abs=99.0)
    assert "99" not in str(chain(emulated))


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
    assert 'aria-label="Milliseconds per image: openvino/fp32, fp32 4.5"' in found.figure
    assert dict(zip(found.heads, found.rows[0], strict=True)) == {
        "model": "openvino/fp32",
        "precision": "fp32",
        "batch": "1",
        "threads": "2",
        "streams": "1",
        "median ms": "4.5",
        "p90 ms": "5.5",
        "p99 ms": "6.5",
        "images/s": "222.0",
        "peak MB": "7",
    }
    assert [(row[2], row[4], row[5]) for row in found.rows] == [
        ("1", "1", "4.5"),
        ("1", "2", "8.5"),
        ("8", "1", "30.5"),
    ]
    assert "with images of 48 px on" in found.summary
    assert "with 6 processors (unknown instruction set). A row is the median of 5 processes." in found.summary


def test_where_nothing_was_timed_so_all_rows_are_bars(facts: RunFacts) -> None:
    found = latency(with_bench(facts, {"p50_ms": 8.5, "streams": 2}, {"p50_ms": 30.5, "batch": 8}))
    assert found is not None
    assert "openvino/fp32, fp32 8.5; openvino/fp32, fp32 30.5" in found.figure


def test_the_sets_are_those_that_decided(facts: RunFacts) -> None:
    found = latency(with_bench(facts, {"isa": "avx512"}, {"isa": "avx2"}, {"isa": "avx512"}))
    assert found is not None
    assert "(avx2, avx512)" in found.summary


def test_without_a_bench_it_is_what_validate_saw(facts: RunFacts) -> None:
    found = latency(facts)
    assert facts.parity is not None
    assert found is not None
    rows = [row for row in facts.parity.rows if row.view == "graph" and row.artifact != "trained"]
    assert sorted(found.rows) == sorted(
        (row.artifact, shown_precision(row.compute), f"{row.latency_ms:.1f}") for row in rows
    )
    assert "Measured briefly by ftx validate" in found.summary
    assert latency(replace(facts, parity=None)) is None
    emulated = [row.model_copy(update={"emulated": True}) for row in facts.parity.rows]
    assert latency(replace(facts, parity=facts.parity.model_copy(update={"rows": emulated}))) is None
