"""The four figures at the top of a page, and the words for a model that is not proved."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from tests.gates.faults import edit_report
from tests.reporting.test_headline import said_of

from ftx.core.pages import render
from ftx.core.progress import SILENT
from ftx.core.statistics import wilson_interval
from ftx.reporting import headline as page_top
from ftx.reporting.facts import RunFacts, gather
from ftx.reporting.headline import Tile, _lost, _others, _verified, headline, tiles
from ftx.reporting.held_out import held_out
from ftx.reporting.page_values import page_values
from ftx.reporting.report import TEMPLATE, report
from ftx.runs.artifacts import IR_FP32, IR_INT8, TRAINED
from ftx.runs.bench_json import BenchReport, BenchRow
from ftx.runs.compute_precision import F32
from ftx.runs.machine import this_machine
from ftx.runs.parity_json import latency_rows
from ftx.runs.run import Run
from ftx.runtimes.choose_artifact import best_ir


@pytest.fixture
def facts(validated_run: Path) -> RunFacts:
    return gather(Run.open(validated_run))


def with_rows(facts: RunFacts, **changed: Any) -> RunFacts:
    """The rows of the model that is deployed, changed."""
    assert facts.parity is not None
    artifact = page_top.deployed(facts)
    assert artifact is not None
    rows = [row.model_copy(update=changed) if row.subject == artifact else row for row in facts.parity.rows]
    verdicts = facts.parity.verdicts | ({artifact.name: changed["verdict"]} if "verdict" in changed else {})
    return replace(facts, parity=facts.parity.model_copy(update={"rows": rows, "verdicts": verdicts}))


@pytest.fixture
def int8_deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its proof rests on labels on every CPU; which model is the fastest depends on what else the machine does."""
    monkeypatch.setattr(page_top, "deployed", lambda facts: IR_INT8)


@pytest.mark.usefixtures("int8_deployed")
def test_of_a_whole_run(facts: RunFacts) -> None:
    predictions = held_out(facts.run, TRAINED, None, SILENT)
    right, images = int(predictions.correct.sum()), len(predictions.correct)
    low, high = wilson_interval(right, images)
    artifact = IR_INT8
    assert facts.parity is not None
    own = [row for row in facts.parity.own_rows if row.artifact == artifact.name]
    folder = facts.run.folder(artifact)
    size_mb = sum((folder / name).stat().st_size for name in ("model.xml", "model.bin")) / 1e6
    assert [(tile.figure, tile.caption) for tile in tiles(facts, predictions)] == [
        (
            f"{100 * right / images:.0f} %",
            f"accuracy on {images} test images (95 % interval: {100 * low:.0f} to {100 * high:.0f} %)",
        ),
        (
            f"≤ {ceil(1000 * max(row.drop_high or 0 for row in own)) / 10:.1f} points",
            f"accuracy lost by export to {artifact.variant} (95 % confidence)",
        ),
        (f"{min(row.latency_ms for row in latency_rows(own)):.1f} ms", "time per image (ftx validate)"),
        (f"{size_mb:,.1f} MB", f"size of the {artifact.variant} model"),
    ]


@pytest.mark.usefixtures("int8_deployed")
def test_the_row_that_says_least_counts(facts: RunFacts) -> None:
    assert facts.parity is not None
    ends = iter([0.0321, 0.0111, 0.0222, *[0.0] * 20])
    rows = [
        row.model_copy(update={"drop_high": next(ends)}) if row.subject == IR_INT8 else row for row in facts.parity.rows
    ]
    changed = replace(facts, parity=facts.parity.model_copy(update={"rows": rows}))
    assert tiles(changed, None)[1].figure == "≤ 3.3 points"
    assert headline(changed, None).evidence.startswith("At most 3.3 points of accuracy lost (95 % confidence, ")
    # Where an fp32 model computes in fp32 its logits are the proof, and the interval of these rows is none.
    pinned = [
        row.model_copy(update={"drop_high": 0.5 if row.compute.dtype == "f32" else 0.0321})
        if row.subject == IR_FP32
        else row
        for row in facts.parity.rows
    ]
    lost = _lost(replace(facts, parity=facts.parity.model_copy(update={"rows": pinned})), IR_FP32)
    assert "50" not in lost.figure
    assert tiles(with_rows(facts, drop_high=-0.01), None)[1].figure == "≤ 0.0 points"
    without_truth = tiles(with_rows(facts, drop_high=None, changed_high=0.0412), None)[1]
    assert without_truth.figure == "≤ 4.2 %"
    assert without_truth.caption.startswith("predictions changed by export to ")
    said = said_of(with_rows(facts, drop_high=None, changed_high=0.0412)).evidence
    assert said.startswith("At most 4.2 % of its labels changed (95 % confidence, ")


def test_where_logits_are_the_proof_no_interval_is_shown(facts: RunFacts) -> None:
    """An fp32 model on a CPU that computes in fp32: few images prove it, and their interval would be too wide."""
    assert facts.parity is not None
    parity = facts.parity.model_copy(update={"verdicts": facts.parity.verdicts | {"openvino/fp32": "proved"}})
    rows = [
        row.model_copy(update={"compute": F32, "drop_high": 0.4, "changed": 0.0125, "verdict": "proved"})
        for row in parity.rows
        if row.artifact == "openvino/fp32"
    ]
    only_fp32 = replace(facts, parity=parity.model_copy(update={"rows": rows}))
    lost = _lost(only_fp32, IR_FP32)
    assert (lost.caption, lost.figure) == ("predictions changed by export to fp32", "1.2 %")
    said = _verified(only_fp32, parity, IR_FP32)
    assert said == f"It computes the outputs of the trained model, up to rounding ({rows[0].images} images)."


def test_other_models_that_are_not_proved_are_named(facts: RunFacts) -> None:
    assert facts.parity is not None
    best = best_ir(facts.run)[0]
    (other,) = [ir for ir in (IR_FP32, IR_INT8) if ir != best and facts.run.has(ir)][:1]
    for verdict, words in (("failed", "failed: do not use it."), ("unproved", "is not proved."), ("proved", "")):
        verdicts = facts.parity.verdicts | {other.name: verdict}
        changed = replace(facts, parity=facts.parity.model_copy(update={"verdicts": verdicts}))
        assert _others(changed, best).startswith(f"{other.variant} {words}" if words else "")
        assert (f"{other.variant} " in _others(changed, best)) == bool(words)


def test_the_bench_is_believed_before_the_look_of_validate(facts: RunFacts) -> None:
    def row(**changed: Any) -> BenchRow:
        given: dict[str, Any] = {
            "artifact": best_ir(facts.run)[0].name,
            "runtime": "openvino",
            "compute": "f32",
            "batch": 1,
            "threads": 1,
            "streams": 1,
            "p50_ms": 7.5,
            "p90_ms": 8.0,
            "p99_ms": 9.0,
            "images_per_s": 100.0,
            "peak_bytes": 1,
            "isa": None,
        }
        return BenchRow.model_construct(**(given | changed))

    bench = BenchReport.model_construct(
        machine=this_machine(),
        rows=[row(batch=8, p50_ms=1.0), row(p50_ms=9.25), row(), row(artifact="onnx", p50_ms=2.0)],
    )
    timed = tiles(replace(facts, bench=bench), None)[2]
    assert (timed.figure, timed.caption) == ("7.5 ms", "time per image (ftx bench)")


def test_what_nobody_measured_is_a_dash(whole_run: Path, tmp_path: Path) -> None:
    found = tiles(gather(Run.open(whole_run)), None)
    assert [tile.figure for tile in found][:3] == ["-", "-", "-"]
    assert "is not validated" in found[1].caption
    bare = Path(shutil.copytree(whole_run, tmp_path / "run"))
    shutil.rmtree(bare / "openvino")
    assert [tile.figure for tile in tiles(gather(Run.open(bare)), None)] == ["-"] * 4


def test_before_export_there_are_the_time_of_training_and_the_size_of_the_model(
    whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_top, "deployed", lambda facts: None)
    monkeypatch.setattr(page_top, "is_exported", lambda facts: False)
    facts = gather(Run.open(whole_run))
    seconds = sum(epoch.seconds for epoch in facts.epochs)
    for folder, what in (("dense", "merged model"), ("trained", "trained weights")):
        size_bytes = sum(file.stat().st_size for file in (whole_run / folder).glob("*model.safetensors"))
        found = tiles(facts, None)
        assert [(tile.figure, tile.caption) for tile in found] == [
            ("-", "accuracy: there are no predictions"),
            ("-", "accuracy lost by export: the model is not exported yet"),
            (f"{seconds:,.0f} s", f"training time ({len(facts.epochs)} epochs)"),
            (f"{size_bytes / 1e6:,.1f} MB", f"size of the {what}"),
        ]
        monkeypatch.setattr(Run, "has", lambda run, artifact: False)
    assert tiles(replace(facts, epochs=()), None)[2] == Tile("time per image: not measured")


@pytest.mark.parametrize(
    ("changed", "finding", "said"),
    [
        ({"needed_images": 148, "labelled": 113}, "too few", "The limit is 2 points. 35 more images with no further"),
        (
            {"needed_images": 60, "labelled": 40, "unit": "group"},
            "too few",
            "40 groups). The limit is 2 points. 20 more",
        ),
        ({"needed_images": 1236, "labelled": 113}, "too few", "1,123 more images with no further loss would prove it."),
        ({"needed_images": None, "labelled": 113}, "not verified", "ftx validate reports: "),
        ({"needed_images": 148, "labelled": 0}, "not verified", "ftx validate reports: "),
    ],
)
def test_an_unproved_model_needs_more_images(facts: RunFacts, changed: dict[str, Any], finding: str, said: str) -> None:
    unproved = with_rows(facts, verdict="unproved", **changed)
    found = said_of(unproved)
    assert (found.kind, found.word) == ("warn", "Not proved")
    assert finding in found.finding
    assert said in found.evidence
    # Of some of the images only, more would prove nothing.
    assert unproved.parity is not None
    some = replace(unproved, parity=unproved.parity.model_copy(update={"whole": False}))
    assert said_of(some).evidence.startswith("ftx validate reports: ")


def test_the_page_has_them_and_its_dates(validated_run: Path, tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(validated_run, tmp_path / "run"))
    os.utime(run.path / "reports" / "train.jsonl", (86_400.0, 86_400.0 * 365.25 * 10))
    report(run, out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"trained 1980-01-01, report of {datetime.now(UTC):%Y-%m-%d}<" in page
    for tile in tiles(gather(run), None)[1:]:
        assert f"<dt>{tile.caption}</dt><dd>{tile.figure}</dd>" in page


@pytest.mark.parametrize("split", ["val", "test"])
def test_images_that_chose_the_epoch_are_said_to_flatter(split: str, facts: RunFacts) -> None:
    found = held_out(facts.run, TRAINED, None, SILENT)
    predictions = replace(found, entries=tuple(replace(entry, split=split) for entry in found.entries))
    values, notes = page_values(facts, predictions, [], None, SILENT)
    said = headline(facts, predictions)
    page = render(TEMPLATE, mark="", headline=said, manifest=facts.manifest, notes=notes, **values)
    assert ("These validation images also chose which epoch was kept" in page) == (split == "val")
    colours = set(re.findall(r'<td class="number" style="background: color-mix\(in srgb, var\(--(\w+)\)', page))
    assert colours == {"correct", "wrong"}
    # On its diagonal a matrix is in one colour, beside it in the other.
    names = facts.manifest.labels.names
    rows = re.findall(r"<tr><th scope=\"row\">\w+</th>((?:<td class=\"number\" style.*?</td>)+)</tr>", page)[
        : len(names)
    ]
    for number, row in enumerate(rows):
        own = re.findall(r"var\(--(\w+)\)", row)
        assert [place for place, colour in enumerate(own) if colour == "correct"] == [number]


def test_of_models_that_all_failed_the_tiles_say_what_the_headline_does(validated_run: Path, tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(validated_run, tmp_path / "run", symlinks=True))
    edit_report(run.path, "reports/parity.json", lambda report: report.update(
        verdicts=dict.fromkeys(report["verdicts"], "failed")
    ))  # fmt: skip
    failed = gather(Run.open(run.path))
    assert headline(failed, None).finding == "every exported model failed verification"
    captions = [tile.caption for tile in tiles(failed, None)]
    assert captions[1] == "accuracy lost by export: every exported model failed"
    assert captions[3] == "size of the merged model"
