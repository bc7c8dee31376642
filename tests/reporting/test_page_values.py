"""What a page is filled with: counts of all, the worst of many, and the epoch that training kept."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.evaluating.written_runs import written_run
from tests.reporting.test_held_out import held

from ftx.core.errors import DataError
from ftx.core.progress import SILENT
from ftx.data.dataset import Split
from ftx.evaluating.evaluate import ClassScore
from ftx.reporting import page_values as pages
from ftx.reporting.facts import RunFacts, gather
from ftx.reporting.held_out import HeldOutPredictions, class_scores_of, held_out
from ftx.reporting.page_values import page_values
from ftx.reporting.pictures import PictureBudget
from ftx.reporting.report import report
from ftx.runs.artifacts import IR_FP32, TRAINED
from ftx.runs.compute_precision import F32
from ftx.runs.kept_logits import keep_logits
from ftx.runs.run import Run
from ftx.runs.train_jsonl import Epoch
from ftx.tasks.labels import Labels


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Its fp32 is remembered to have answered five of the eight held-out images wrongly."""
    run = Run.open(written_run("multiclass-dora", tmp_path / "here").path)
    monkeypatch.chdir(tmp_path / "here")
    names = run.manifest.labels.names
    truth = np.array([names.index(entry.labels[0]) for entry in run.report_entries()])
    called = np.where(np.arange(8) < 5, (truth + 1) % 3, truth)
    # The further down the list, the surer.
    keep_logits(run, IR_FP32, F32, np.eye(3, dtype=np.float32)[called] * np.arange(1, 9, dtype=np.float32)[:, None])
    return run


def predictions_of(run: Run) -> HeldOutPredictions:
    return held_out(run, IR_FP32, None, SILENT)


def filled(
    facts: RunFacts, predictions: HeldOutPredictions | None, data: Path | None = None
) -> tuple[dict[str, Any], list[str]]:
    values, notes = page_values(facts, predictions, ["a note of before"], data, SILENT)
    assert notes[0] == "a note of before"
    return values, notes[1:]


def test_all_mistakes_are_counted_and_the_surest_of_them_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "CASES", 2)
    values, notes = filled(gather(run), predictions_of(run))
    assert (values["mistakes"], values["worst"], values["unsure"]) == (5, [4, 3], [0, 1])
    paths = [run.report_entries()[row].path for row in (4, 3, 0, 1)]
    assert list(values["cases"]) == paths
    assert notes == []
    for path in paths:  # the map of the label that was called, and of the one that was missed
        (entry,) = [entry for entry in run.report_entries() if entry.path == path]
        labels = [label for label, _ in values["cases"][path].maps]
        names = run.manifest.labels.names
        assert labels == [names[(names.index(entry.labels[0]) + 1) % 3], entry.labels[0]]
    monkeypatch.setattr(pages, "CASES", 1)
    report(run, out=Path("page.html"), artifact="openvino/fp32")
    html = Path("page.html").read_text(encoding="utf-8")
    assert "<p>5 images are predicted wrongly. These are" in html


def test_a_page_without_answers_counts_no_mistake(run: Run) -> None:
    values, _ = filled(gather(run), None)
    assert (values["mistakes"], values["worst"], values["cases"], values["scores"]) == (0, [], {}, [])


def test_pictures_beyond_the_budget_and_those_that_are_gone_are_told_apart(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "CASES", 2)  # rows 4 and 3, 0 and 1
    monkeypatch.setattr(pages, "PictureBudget", lambda: PictureBudget(left=0))
    values, notes = filled(gather(run), predictions_of(run))
    assert (values["cases"], values["samples"]) == ({}, {})
    # Four, and six samples of each label.
    assert notes == ["22 images are not shown, to keep this file small."]
    for row in (1, 3, 4):
        Path(run.report_entries()[row].path).unlink()
    values, notes = filled(gather(run), predictions_of(run))
    assert notes == [
        "3 of 4 images are not shown: they are missing, or changed since training.",
        "19 images are not shown, to keep this file small.",
    ]
    # Near-duplicates are looked for once a run.
    assert values["pairs"] == []
    (run.path / "reports" / "near_duplicates.json").unlink()
    values, notes = filled(gather(run), None)
    assert notes[0].startswith("Near-duplicates were not searched: ")
    assert values["pairs"] is None


def test_images_are_looked_for_where_data_says(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "CASES", 1)
    Path("images").rename(tmp_path / "images")
    predictions = predictions_of(run)
    values, notes = filled(gather(run), predictions, tmp_path)
    assert (len(values["cases"]), values["pairs"], notes) == (2, [], [])
    assert {name: len(each) for name, each in values["samples"].items()} == dict.fromkeys(("blue", "green", "red"), 6)
    with pytest.raises(DataError):
        filled(gather(run), predictions, tmp_path / "nowhere")


def epochs() -> list[Epoch]:
    """The second is the best by macro F1, the third by accuracy."""
    each = ((0.5, 0.25, 8.0, 0.75), (0.625, 0.875, 2.0, 0.0), (0.75, 0.5, 6.0, 0.5))
    return [
        Epoch(number, 1.0, 1.0, accuracy, {"accuracy": accuracy, "macro_f1": f1}, 1e-3, 10.0, seconds, waiting)
        for number, (accuracy, f1, seconds, waiting) in enumerate(each, 1)
    ]


@pytest.mark.parametrize(("balance", "kept", "metric"), [("none", 3, "accuracy"), ("loss", 2, "macro f1")])
def test_the_figure_is_of_the_metric_that_chose_the_epoch(balance: str, kept: int, metric: str, run: Run) -> None:
    facts = gather(run)
    assert facts.recipe is not None
    recipe = facts.recipe.replace(train={"balance": balance})
    values, _ = filled(replace(facts, recipe=recipe, epochs=epochs()), None)
    assert values["kept"].epoch == kept
    loss, chosen = values["curves"]
    assert "Loss of 3 epochs" in loss
    assert f'aria-label="{metric} of 3 epochs, at best' in chosen
    # The share of all seconds, not the mean of the shares.
    assert values["waiting"] == pytest.approx((6 + 0 + 3) / 16)


def test_a_run_without_its_recipe_or_its_epochs_is_shown_all_the_same(run: Run) -> None:
    facts = gather(run)
    assert filled(replace(facts, recipe=None, epochs=epochs()), None)[0]["kept"].epoch == 3
    values, _ = filled(replace(facts, epochs=()), None)
    assert (values["curves"], values["kept"], values["waiting"]) == ([], None, 0.0)


def test_images_are_counted_by_split_and_by_label(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = gather(run)
    assert facts.entries is not None
    values, _ = filled(facts, None)
    assert values["splits"] == [("train", 20), ("val", 4), ("test", 8)]

    def of(name: str, split: Split) -> int:
        return sum(entry.labels == (name,) and entry.split == split for entry in facts.entries or ())

    names = run.manifest.labels.names
    assert values["counts"] == {name: {split: of(name, split) for split in ("train", "val", "test")} for name in names}
    assert len({of(name, "train") for name in names}) > 1
    # Of too many labels those with the fewest images, in the order that they have.
    monkeypatch.setattr(pages, "TABLE_LABELS", 2)
    some = [replace(entry, labels=("green",)) if entry.labels == ("red",) else entry for entry in facts.entries[:20]]
    counts = filled(replace(facts, entries=tuple(some)), None)[0]["counts"]
    assert (list(counts), set(counts["red"].values())) == (["blue", "red"], {0})


def score(name: str, f1: float) -> ClassScore:
    return ClassScore(
        name=name,
        precision=f1,
        recall=f1,
        f1=f1,
        false_positive_rate=0.0,
        average_precision=None,
        support=9,
    )


def test_of_too_many_labels_those_with_the_lowest_f1_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [score(name, f1) for name, f1 in (("a", 0.5), ("b", 0.9), ("c", 0.1), ("d", 0.7))]
    assert pages._lowest(scores) == scores
    monkeypatch.setattr(pages, "TABLE_LABELS", 4)
    assert pages._lowest(scores) == scores
    monkeypatch.setattr(pages, "TABLE_LABELS", 2)
    assert [one.name for one in pages._lowest(scores)] == ["a", "c"]


def test_a_tree_has_each_label_below_its_parent() -> None:
    labels = Labels(
        ("animal", "plant", "cat", "dog", "puppy", "whelp"),
        groups=(("animal", "plant"), ("cat", "dog"), ("puppy", "whelp")),
        parents={"cat": "animal", "dog": "animal", "puppy": "dog", "whelp": "dog"},
    )
    assert pages._tree(labels) == {None: ["animal", "plant"], "animal": ["cat", "dog"], "dog": ["puppy", "whelp"]}
    assert pages._tree(Labels.multiclass(("a", "b"))) == {}


def test_the_page_draws_the_tree_with_the_figures_of_each_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.open(written_run("hierarchical-lora", tmp_path / "here").path)
    monkeypatch.chdir(tmp_path / "here")
    predictions = held_out(run, TRAINED, None, SILENT)
    report(run, out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    shown = re.findall(r'<span class="node">(.*?) <span class="quiet">recall ([\d.]+) %', page)
    recalls = {one.name: f"{100 * one.recall:.1f}" for one in class_scores_of(predictions)}
    assert shown == [(name, recalls[name]) for name in ("cold", "blue", "green", "warm", "pink", "red", "wet")]


def several(singles: tuple[str, ...], scores: list[list[float]], truth: list[tuple[str, ...]]) -> HeldOutPredictions:
    return held("multilabel", Labels(singles, singles=singles), scores, truth)


def test_curves_are_of_the_labels_with_the_lowest_average_precision_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """By F1, which depends on a threshold, they come in another order."""
    # a is ranked right and never called; b has one image before its own, c two of them; nobody has d.
    predictions = several(
        ("a", "b", "c", "d"),
        [[0.4, 0.9, 0.9, 0.1], [0.3, 0.8, 0.8, 0.2], [0.2, 0.7, 0.7, 0.3], [0.1, 0.6, 0.6, 0.4]],
        [("a",), ("a", "b"), ("b", "c"), ("b", "c")],
    )
    scores = class_scores_of(predictions)
    precision = {one.name: one.average_precision for one in scores}
    assert precision["c"] is not None
    assert precision["b"] is not None
    assert precision["c"] < precision["b"] < 1.0 == precision["a"]
    assert precision["d"] is None
    drawn = pages._precision_recall(predictions, scores)
    assert [one.name for one, _ in drawn] == ["c", "b", "a"]
    for one, curve in drawn:
        assert f"Precision against recall of {one.name}; threshold 0.500" in curve
    monkeypatch.setattr(pages, "CURVES", 2)
    assert [one.name for one, _ in pages._precision_recall(predictions, scores)] == ["c", "b"]
    assert pages._precision_recall(None, []) == []


def test_a_single_below_another_label_has_no_curve_over_all_images() -> None:
    labels = Labels(
        ("animal", "plant", "tall", "wet"),
        groups=(("animal", "plant"),),
        singles=("tall", "wet"),
        parents={"tall": "plant"},
    )
    predictions = held(
        "hierarchical", labels, [[0.9, 0.1, 0.8, 0.3], [0.2, 0.8, 0.7, 0.6]], [("animal",), ("plant", "tall", "wet")]
    )
    assert [one.name for one, _ in pages._precision_recall(predictions, class_scores_of(predictions))] == ["wet"]


def test_maps_are_of_the_surest_wrong_label_and_of_the_surest_that_was_missed() -> None:
    predictions = several(
        ("a", "b", "c", "d"),
        [[0.6, 0.9, 0.4, 0.1], [0.9, 0.1, 0.1, 0.1], [0.7, 0.8, 0.1, 0.2], [0.1, 0.1, 0.1, 0.1]],
        [("c", "d"), ("a",), ("a", "b", "d"), ()],
    )
    found = [pages._explained_labels(predictions, row) for row in range(4)]
    # b is further above its threshold than a, d further below than c; of a right answer the last that was called.
    assert found == [["b", "d"], ["a"], ["d"], []]


def test_near_duplicates_of_other_images_are_looked_for_again(run: Run) -> None:
    """What was found is kept for the list of images that it was found in."""
    images = run.manifest.files["data.jsonl"]
    path = run.path / "reports" / "near_duplicates.json"
    pair = '{"held_out": "a", "train": "b", "correlation": 1}'
    for of, pairs in ((images, 1), ("0" * 64, 0)):
        path.write_text(f'{{"schema_version": 2, "images": "{of}", "pairs": [{pair}]}}')
        assert len(filled(gather(run), None)[0]["pairs"]) == pairs
    assert f'"images": "{images}"' in re.sub(r"\s+", " ", path.read_text())  # it is kept in its place
