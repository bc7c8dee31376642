"""The four figures at the top of a page, and the words for a model that lost nothing and is not proved."""

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
from ftx.reporting.facts import RunFacts, gather
from ftx.reporting.headline import headline, tiles
from ftx.reporting.held_out import held_out
from ftx.reporting.page_values import page_values
from ftx.reporting.report import TEMPLATE, report
from ftx.runs.artifacts import TRAINED
from ftx.runs.bench_json import BenchReport, BenchRow
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
    artifact = best_ir(facts.run)[0]
    rows = [row.model_copy(update=changed) if row.subject == artifact else row for row in facts.parity.rows]
    verdicts = facts.parity.verdicts | ({artifact.name: changed["verdict"]} if "verdict" in changed else {})
    return replace(facts, parity=facts.parity.model_copy(update={"rows": rows, "verdicts": verdicts}))


def test_of_a_whole_run(facts: RunFacts) -> None:
    predictions = held_out(facts.run, TRAINED, None, SILENT)
    right, images = int(predictions.correct.sum()), len(predictions.correct)
    low, high = wilson_interval(right, images)
    artifact = best_ir(facts.run)[0]
    assert facts.parity is not None
    own = [row for row in facts.parity.own_rows if row.artifact == artifact.name]
    folder = facts.run.folder(artifact)
    size_mb = sum((folder / name).stat().st_size for name in ("model.xml", "model.bin")) / 1e6
    assert [(tile.figure, tile.caption) for tile in tiles(facts, predictions)] == [
        (
            f"{100 * right / images:.0f} %",
            f"of {images} {predictions.split} images correct (95 %: {100 * low:.0f} to {100 * high:.0f})",
        ),
        (
            f"≤ {ceil(1000 * max(row.drop_high or 0 for row in own)) / 10:.1f} points",
            f"lost by export ({artifact}, 95 %)",
        ),
        (f"{min(row.latency_ms for row in latency_rows(own)):.1f} ms", "for one image (ftx validate)"),
        (f"{size_mb:,.1f} MB", f"the model for the device, {artifact}"),
    ]


def test_the_row_that_says_least_counts(facts: RunFacts) -> None:
    assert facts.parity is not None
    artifact = best_ir(facts.run)[0]
    ends = iter([0.0321, 0.0111, 0.0222, *[0.0] * 20])
    rows = [
        row.model_copy(update={"drop_high": next(ends)}) if row.subject == artifact else row
        for row in facts.parity.rows
    ]
    changed = replace(facts, parity=facts.parity.model_copy(update={"rows": rows}))
    assert tiles(changed, None)[1].figure == "≤ 3.3 points"
    assert tiles(with_rows(facts, drop_high=-0.01), None)[1].figure == "≤ 0.0 points"
    without_truth = tiles(with_rows(facts, drop_high=None, changed_high=0.0412), None)[1]
    assert (without_truth.figure, "of labels changed" in without_truth.caption) == ("≤ 4.2 %", True)


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
    assert (timed.figure, timed.caption) == ("7.5 ms", "for one image (ftx bench)")


def test_what_nobody_measured_is_a_dash(whole_run: Path, tmp_path: Path) -> None:
    found = tiles(gather(Run.open(whole_run)), None)
    assert [tile.figure for tile in found][:3] == ["-", "-", "-"]
    assert "is not validated" in found[1].caption
    bare = Path(shutil.copytree(whole_run, tmp_path / "run"))
    shutil.rmtree(bare / "openvino")
    assert [tile.figure for tile in tiles(gather(Run.open(bare)), None)] == ["-"] * 4


@pytest.mark.parametrize(
    ("changed", "word", "said"),
    [
        ({"lost": 0, "needed_images": 148, "labelled": 113}, "No loss seen", "none of 113 images; 35 more images"),
        (
            {"lost": 0, "needed_images": 60, "labelled": 40, "unit": "group"},
            "No loss seen",
            "40 groups; 20 more groups",
        ),
        ({"lost": 1, "needed_images": 236, "labelled": 113}, "Not proved", "keeps this is not proved"),
        ({"lost": 0, "needed_images": None, "labelled": 113}, "Not proved", "keeps this is not proved"),
        ({"lost": 0, "needed_images": 148, "labelled": 0}, "Not proved", "keeps this is not proved"),
    ],
)
def test_nothing_lost_and_not_proved_is_no_reproach(
    facts: RunFacts, changed: dict[str, Any], word: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = said_of(with_rows(facts, verdict="unproved", **changed))
    assert (found.kind, found.word) == ("warn", word)
    assert said in found.sentence


def test_the_page_has_them_and_its_dates(validated_run: Path, tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(validated_run, tmp_path / "run"))
    os.utime(run.path / "reports" / "train.jsonl", (86_400.0, 86_400.0 * 365.25 * 10))
    report(run, out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"trained 1980-01-01, page of {datetime.now(UTC):%Y-%m-%d}<" in page
    for tile in tiles(gather(run), None)[1:]:
        assert f"<dt>{tile.caption}</dt><dd>{tile.figure}</dd>" in page


@pytest.mark.parametrize("split", ["val", "test"])
def test_images_that_chose_the_epoch_are_said_to_flatter(split: str, facts: RunFacts) -> None:
    found = held_out(facts.run, TRAINED, None, SILENT)
    predictions = replace(found, entries=tuple(replace(entry, split=split) for entry in found.entries))
    values, notes = page_values(facts, predictions, [], None, SILENT)
    said = headline(facts, predictions)
    page = render(TEMPLATE, mark="", headline=said, manifest=facts.manifest, notes=notes, **values)
    assert ("These images also chose which epoch was kept" in page) == (split == "val")
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
    assert "every model that was exported for a device failed" in headline(failed, None).sentence
    assert [tile.caption for tile in tiles(failed, None)][1:] == ["every exported model failed"] * 3
