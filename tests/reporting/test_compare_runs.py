"""``ftx report A B``: which run is better, by the images that both held out."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.browsing import needs_chromium, visit
from tests.evaluating.written_runs import written_run
from tests.gates.faults import edit_report

from ftx.core.errors import DataError, InputError
from ftx.core.progress import SILENT
from ftx.core.statistics import PairedCounts
from ftx.reporting.compare_runs import (
    ComparedRun,
    RunPair,
    _class_rows,
    _names,
    _pair,
    compare_runs,
    comparison_headline,
)
from ftx.reporting.facts import gather
from ftx.reporting.headline import headline, tiles
from ftx.reporting.held_out import HeldOutPredictions, class_scores_of, held_out
from ftx.runs.artifacts import IR_FP32, TRAINED
from ftx.runs.compute_precision import F32, read_compute
from ftx.runs.kept_logits import keep_logits
from ftx.runs.run import Run
from ftx.tasks.labels import Labels
from ftx.tasks.output_meaning import TASKS
from ftx.tasks.thresholds import Thresholds


@pytest.fixture
def worse(validated_run: Path, tmp_path: Path) -> Run:
    """A run whose trained model is remembered to have answered 12 of the images with the next label."""
    run = Run.open(shutil.copytree(validated_run, tmp_path / "other" / "run", symlinks=True))
    logits_NC = held_out(run, TRAINED, None, SILENT).logits_NC.copy()
    logits_NC[:12] = np.roll(logits_NC[:12], 1, axis=1)
    keep_logits(run, TRAINED, F32, logits_NC)
    return run


def test_the_better_run_is_named_with_its_interval(validated_run: Path, worse: Run, tmp_path: Path) -> None:
    found = compare_runs([validated_run, worse], out=tmp_path / "page.html", artifact="trained")
    paired = PairedCounts(12, 0, 240)
    low, high = -100 * paired.drop_at_most(0.975), -100 * paired.drop_at_least(0.975)
    assert high < 0  # 12 of 240 lost and none gained is no chance
    (said,) = found.pairs
    names = list(found.verdicts)
    assert said == (
        f"{names[1]} compared with {names[0]}: {names[0]} is better by 5.0 points of accuracy "
        f"(95 % interval {-high:.1f} to {-low:.1f})"
    )
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert said in html.replace("<strong>", "").replace("</strong>", "")
    assert f"{names[0]} is better than {names[1]}.</h2>" in html
    # The four figures of each run.
    assert html.count('<dl class="tiles">') == 2
    for tile in tiles(gather(worse), held_out(worse, TRAINED, None, SILENT)):
        assert f"<dt>{tile.caption}</dt><dd>{tile.figure}</dd>" in html


def test_runs_of_one_name_are_told_apart(validated_run: Path, worse: Run, tmp_path: Path) -> None:
    found = compare_runs([validated_run, worse], out=tmp_path / "page.html", artifact="trained")
    assert len(found.verdicts) == 2
    assert "other/run" in found.verdicts


def test_two_that_nothing_tells_apart() -> None:
    same = RunPair("a", "b", "image", 100, 3, 3, -0.05, 0.05)
    assert same.summary == (
        "neither is proved to be better: b has +0.0 points of accuracy (95 % interval -5.0 to +5.0)"
    )
    better = RunPair("a", "b", "image", 100, 1, 9, 0.02, 0.15)
    assert better.summary == "b is better by 8.0 points of accuracy (95 % interval 2.0 to 15.0)"
    strangers = RunPair("a", "b", "image", 0, 0, 0, -1, 1)
    assert "no test or validation image has the same labels in both" in strangers.summary


def test_the_headline_names_the_better_runs() -> None:
    better, worse = RunPair("a", "b", "image", 100, 1, 9, 0.02, 0.15), RunPair("a", "c", "image", 100, 9, 1, -0.2, -0.1)
    same, unrelated = RunPair("a", "d", "image", 100, 3, 3, -0.05, 0.05), RunPair("a", "e", "image", 0, 0, 0, -1, 1)
    assert comparison_headline([worse, better]) == "b is better than a"
    assert comparison_headline([better, better]) == "b, b are better than a"
    assert comparison_headline([worse]) == "a is better than c"
    assert comparison_headline([worse, same]) == "No run is proved to be better than a"
    assert comparison_headline([unrelated, same]) == "No run is proved to be better than a"
    assert comparison_headline([unrelated]) == "The accuracies of these runs cannot be compared"


def test_a_run_beside_itself_is_refused(validated_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="named twice"):
        compare_runs([validated_run, validated_run], out=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_page_of_the_users_own_is_not_replaced(
    validated_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no name is given, either."""
    monkeypatch.chdir(tmp_path)
    other = shutil.copytree(validated_run, tmp_path / "other", symlinks=True)
    Path("comparison.html").write_text("<p>mine</p>")
    with pytest.raises(InputError):
        compare_runs([validated_run, other])
    assert Path("comparison.html").read_text() == "<p>mine</p>"


def test_names_are_as_long_as_it_takes() -> None:
    assert _names([Path("/a/runs/one"), Path("/b/runs/two")]) == ["one", "two"]
    assert _names([Path("/a/runs/one"), Path("/b/runs/one")]) == ["a/runs/one", "b/runs/one"]
    assert _names([Path("/one"), Path("/b/one")]) == ["/one", "b/one"]


def test_images_of_a_group_and_copies_are_no_evidence_each(validated_run: Path) -> None:
    """Thirty photographs of one patient, and the same bytes twice, count once."""
    run = Run.open(validated_run)
    right = held_out(run, TRAINED, None, SILENT)
    entries = list(right.entries)
    wrong = replace(right, logits_NC=np.roll(right.logits_NC, 1, axis=1))
    grouped = [replace(entry, group="one patient" if row < 100 else f"{row}") for row, entry in enumerate(entries)]
    found = _pair(
        of(run, "a", replace(right, entries=tuple(grouped))), of(run, "b", replace(wrong, entries=tuple(grouped)))
    )
    assert (found.unit, found.units, found.lost, found.gained) == ("group", 141, 141, 0)
    entries[1] = replace(entries[0])
    copied = _pair(
        of(run, "a", replace(right, entries=tuple(entries))), of(run, "b", replace(wrong, entries=tuple(entries)))
    )
    assert (copied.unit, copied.units) == ("image", 239)


def test_images_whose_labels_were_corrected_in_between_are_not_compared(validated_run: Path) -> None:
    """They are the same bytes, and right is something else."""
    run = Run.open(validated_run)
    first = held_out(run, TRAINED, None, SILENT)
    logits_NC = first.logits_NC.copy()
    logits_NC[:20] = np.roll(logits_NC[:20], 1, axis=1)  # 20 wrong, of which 7 are of images that were corrected
    names = run.manifest.labels.names
    assert first.correct[:20].all()
    corrected = [
        replace(entry, labels=(names[(names.index(entry.labels[0]) + 1) % len(names)],)) if row < 7 else entry
        for row, entry in enumerate(first.entries)
    ]
    second = replace(
        first,
        entries=tuple(corrected),
        logits_NC=logits_NC,
        targets_NC=first.task.targets([entry.labels for entry in corrected]),
    )
    found = _pair(of(run, "a", first), of(run, "b", second))
    assert (found.units, found.lost, found.gained) == (len(first.entries) - 7, 13, 0)
    turned = _pair(of(run, "b", second), of(run, "a", first))
    assert (turned.first, turned.second, turned.lost, turned.gained) == ("b", "a", 0, 13)
    assert (turned.gain_low, turned.gain_high) == (-found.gain_high, -found.gain_low)
    # In whatever order the second run has them, and with others among them.
    shuffled = replace(
        second,
        entries=tuple(reversed([*second.entries[:200], replace(second.entries[0], sha256="0" * 64)])),
        logits_NC=np.concatenate([second.logits_NC[:200], second.logits_NC[:1]])[::-1],
        targets_NC=np.concatenate([second.targets_NC[:200], second.targets_NC[:1]])[::-1],
    )
    some = _pair(of(run, "a", first), of(run, "b", shuffled))
    assert (some.units, some.lost, some.gained) == (200 - 7, 13, 0)


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Copies of a run whose fp32 takes 3.5 ms in f32 and 6.5 in the CPU's own precision.

    The first is remembered to have answered in that, the second in f32.
    """
    runs = [written_run("multiclass-dora", tmp_path / name) for name in ("a", "b")]
    monkeypatch.chdir(tmp_path / "a")

    def timed(report: Any) -> None:
        for row in report["rows"]:
            if row["artifact"] == "openvino/fp32":
                own = {"f32": 3.5, "auto:bf16": 6.5}[row["compute"]]
                row["latency_ms"] = own if row["view"] == "graph" else 90.0

    for run, compute in zip(runs, ("auto:bf16", "f32"), strict=True):
        edit_report(run.path, "reports/parity.json", timed)
        keep_logits(run, IR_FP32, read_compute(compute), np.eye(3, dtype=np.float32)[np.arange(8) % 3])
    return [Run.open(run.path) for run in runs]


def rows_of(page: Path) -> list[list[str]]:
    """The table of the runs."""
    html = page.read_text(encoding="utf-8")
    (body,) = re.findall(r"Each run by the model for the device.*?<tbody>(.*?)</tbody>", html, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in body.split("</tr>") if "<t" in row]
    return [[re.sub(r"<[^>]+>", "", cell).strip() for cell in row] for row in cells]


def test_the_latency_is_of_the_precision_that_the_answers_are_in(two: list[Run], tmp_path: Path) -> None:
    compare_runs(two, out=tmp_path / "page.html", artifact="openvino/fp32")
    first, second = rows_of(tmp_path / "page.html")
    assert (first[4], first[8], second[4], second[8]) == ("openvino/fp32", "6.5", "openvino/fp32", "3.5")
    size_bytes = (two[0].path / "openvino/fp32/model.bin").stat().st_size
    assert first[9] == f"{size_bytes / 1e6:.1f}"
    lines = (two[0].path / "reports/train.jsonl").read_text().splitlines()
    assert first[10] == f"{sum(json.loads(line)['seconds'] for line in lines):.0f}"
    # Exported again nobody has timed it.
    edit_report(two[0].path, "reports/parity.json", lambda report: report["digests"].update({"openvino/fp32": "0"}))
    compare_runs(two, out=tmp_path / "page.html", artifact="openvino/fp32")
    assert [row[8] for row in rows_of(tmp_path / "page.html")] == ["-", "3.5"]


def test_a_label_has_its_figure_of_each_run_that_knows_it(validated_run: Path) -> None:
    run = Run.open(validated_run)
    first = held_out(run, TRAINED, None, SILENT)
    wrong = replace(first, logits_NC=np.roll(first.logits_NC, 1, axis=1))
    labels = first.task.labels
    others = Labels.multiclass(tuple("amber" if name == "amber" else f"other {name}" for name in labels.names))
    third = replace(wrong, task=TASKS["multiclass"](others, Thresholds()))
    compared = [of(run, "a", first), of(run, "b", wrong), replace(of(run, "c", first), predictions=third)]
    found = {row[0]: row[1:] for row in _class_rows(compared)}
    assert set(found) == {*labels.names, *others.names}
    scores = {score.name: f"{100 * score.f1:.1f}" for score in class_scores_of(first)}
    assert found["blue"] == [scores["blue"], "0.0", "-"]
    assert found["amber"] == [scores["amber"], "0.0", "0.0"]
    assert found["other blue"] == ["-", "-", "0.0"]


def test_what_is_compared_is_looked_for_where_data_says(two: list[Run], tmp_path: Path) -> None:
    """Of a model that nobody has asked yet."""
    (tmp_path / "a" / "images").rename(tmp_path / "images")
    with pytest.raises(DataError):
        compare_runs(two, out=tmp_path / "page.html", artifact="openvino/fp16")
    found = compare_runs(two, out=tmp_path / "page.html", artifact="openvino/fp16", data=tmp_path)
    (said,) = found.pairs
    assert "neither is proved to be better: " in said


def of(run: Run, name: str, predictions: HeldOutPredictions) -> ComparedRun:
    facts = gather(run)
    return ComparedRun(name, facts, predictions, [], headline(facts, predictions), None, None, None)


@needs_chromium
@pytest.mark.slow
def test_in_a_browser(validated_run: Path, worse: Run, tmp_path: Path) -> None:
    compare_runs([validated_run, worse], out=tmp_path / "page.html", artifact="trained")
    for scheme, width in (("light", 1280), ("dark", 390)):
        with visit((tmp_path / "page.html").as_uri(), scheme=scheme, width=width) as seen:
            assert not seen.errors
            assert not seen.violations()
            assert seen.sideways() == 0
            assert [one for one in seen.requests if not one.startswith(("data:", "file:"))] == []
