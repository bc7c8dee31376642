"""Which predictions are shown: mistakes by how far off they are, predictions by how little would turn them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.evaluating.written_runs import written_run

from ftx.core.errors import DataError
from ftx.core.progress import SILENT
from ftx.data.dataset import Entry
from ftx.reporting import confusion
from ftx.reporting.confusion import CELLS, confusions, label_errors
from ftx.reporting.held_out import HeldOutPredictions, held_out
from ftx.runs.artifacts import IR_FP32, TRAINED
from ftx.runs.compute_precision import F32
from ftx.runs.machine import this_machine
from ftx.runtimes.openvino import default_compute
from ftx.tasks.labels import Labels
from ftx.tasks.output_meaning import TASKS
from ftx.tasks.task_names import TaskName
from ftx.tasks.thresholds import Thresholds


def held(
    task_name: TaskName, labels: Labels, scores: list[list[float]], truth: list[tuple[str, ...]]
) -> HeldOutPredictions:
    """Answers whose logits give these scores: log of a share of a group, log-odds of a single."""
    scores_NC = np.array(scores, np.float64)
    grouped = np.isin(labels.names, [name for group in labels.groups for name in group])
    logits = np.where(grouped, np.log(scores_NC), np.log(scores_NC) - np.log1p(-scores_NC)).astype(np.float32)
    task = TASKS[task_name](labels, Thresholds({"tall": 0.3}))
    entries = tuple(Entry(f"{row}.png", f"{row:064x}", names, "test") for row, names in enumerate(truth))
    return HeldOutPredictions(TRAINED, F32, this_machine(), task_name, task, entries, logits, task.targets(truth))


def test_multiclass() -> None:
    labels = Labels.multiclass(("a", "b", "c"))
    scores = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.4, 0.35, 0.25], [0.05, 0.05, 0.9]]
    found = held("multiclass", labels, scores, [("a",), ("a",), ("b",), ("a",)])
    assert found.mistakes.max(axis=1) == pytest.approx([0, 0.8, 0.4, 0.9], abs=1e-6)  # of the label called
    assert found.margin() == pytest.approx([0.5, 0.7, 0.05, 0.85], abs=1e-6)
    assert found.worst(5) == [3, 1, 2]  # the right answer is none
    assert found.worst(1) == [3]
    assert found.least_certain(2) == [2, 0]
    scores_K, right_K = found.confidences()  # that of the label called, alone
    assert scores_K == pytest.approx([0.7, 0.8, 0.4, 0.9], abs=1e-6)
    assert right_K.tolist() == [True, False, False, False]
    (matrix,) = confusions(found)
    assert matrix.counts == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert matrix.fractions[0] == pytest.approx([1 / 3] * 3)
    assert [(one.truth, one.prediction, one.images) for one in matrix.mistakes] == [
        ("a", "b", 1),
        ("a", "c", 1),
        ("b", "a", 1),
    ]
    assert not label_errors(found)


def test_multilabel() -> None:
    labels = Labels(("tall", "wet"), singles=("tall", "wet"))
    found = held("multilabel", labels, [[0.35, 0.9], [0.1, 0.45], [0.8, 0.2]], [("wet",), (), ("tall", "wet")])
    assert found.predicted.tolist() == [[True, True], [False, False], [True, False]]
    assert found.mistakes[0] == pytest.approx([0.05 / 0.7, 0], abs=1e-6)  # wet was rightly called
    assert found.mistakes[1:] == pytest.approx(np.array([[0, 0], [0, 0.3 / 0.5]]), abs=1e-6)
    assert found.margin() == pytest.approx([0.05, 0.05, 0.3], abs=1e-6)
    assert found.worst(9) == [2, 0]
    scores_K, right_K = found.confidences()  # of each label: the chance that it holds
    assert scores_K.tolist() == pytest.approx([0.35, 0.9, 0.1, 0.45, 0.8, 0.2], abs=1e-6)
    assert right_K.tolist() == [False, True, False, False, True, True]
    assert confusions(found) == []
    tall, wet = label_errors(found)
    assert (tall.hits, tall.missed, tall.false_alarms, tall.correct_rejections) == (1, 0, 1, 1)
    assert (wet.hits, wet.missed, wet.false_alarms, wet.correct_rejections) == (1, 1, 0, 1)
    assert tall.threshold == pytest.approx(0.3)


def test_hierarchical_asks_a_group_only_where_the_label_above_it_was_called() -> None:
    labels = Labels(
        ("animal", "plant", "cat", "dog"),
        groups=(("animal", "plant"), ("cat", "dog")),
        parents={"cat": "animal", "dog": "animal"},
    )
    scores = [[0.9, 0.1, 0.55, 0.45], [0.2, 0.8, 0.5, 0.5], [0.3, 0.7, 0.6, 0.4]]
    found = held("hierarchical", labels, scores, [("dog",), ("plant",), ("cat",)])
    # A plant is no more or less sure for what the group of cats and dogs says of it.
    assert found.margin() == pytest.approx([0.1, 0.6, 0.4], abs=1e-6)
    assert found.mistakes == pytest.approx(np.array([[0, 0, 0.55, 0], [0, 0, 0, 0], [0, 0.7, 0, 0]]), abs=1e-6)
    assert found.worst(9) == [2, 0]
    top, below = confusions(found)
    assert (top.parent, below.parent) == (None, "animal")
    assert top.counts == [[1, 1], [0, 1]]
    assert below.predictions == ["cat", "dog", "none of them"]
    assert below.counts == [[0, 0, 1], [1, 0, 0]]


def test_what_is_said_below_a_label_that_nobody_spoke_of_is_no_mistake() -> None:
    """Rose or fern is what was asked; how sure the model would be of cats and dogs, if it were an animal, is not."""
    labels = Labels(
        ("animal", "plant", "cat", "dog", "fern", "rose"),
        groups=(("animal", "plant"), ("cat", "dog"), ("fern", "rose")),
        parents={"cat": "animal", "dog": "animal", "fern": "plant", "rose": "plant"},
    )
    scores = [[0.1, 0.9, 0.97, 0.03, 0.49, 0.51], [0.1, 0.9, 0.5, 0.5, 0.2, 0.8]]
    found = held("hierarchical", labels, scores, [("fern",), ("fern",)])
    assert found.mistakes.max(axis=1) == pytest.approx([0.51, 0.8], abs=1e-6)
    assert found.worst(2) == [1, 0]


def test_a_single_below_a_label_is_asked_where_that_was_called() -> None:
    labels = Labels(
        ("animal", "plant", "tall"), groups=(("animal", "plant"),), singles=("tall",), parents={"tall": "plant"}
    )
    scores = [[0.9, 0.1, 0.8], [0.2, 0.8, 0.7]]
    found = held("hierarchical", labels, scores, [("animal",), ("tall",)])
    scores_K, right_K = found.confidences()
    assert scores_K == pytest.approx([0.9, 0.8, 0.7], abs=1e-6)  # not the 0.8 of an animal's height
    assert right_K.tolist() == [True, True, True]
    assert found.margin() == pytest.approx([0.8, 0.4], abs=1e-6)


def test_a_single_of_a_tree_is_as_sure_as_it_is_beyond_its_own_threshold() -> None:
    """Before it in the logits stand labels of groups, which have none."""
    labels = Labels(
        ("animal", "plant", "tall", "wet"),
        groups=(("animal", "plant"),),
        singles=("tall", "wet"),
        parents={"tall": "plant"},
    )
    # tall's threshold is 0.3, wet's 0.5.
    scores = [[0.1, 0.9, 0.65, 0.1], [0.2, 0.8, 0.15, 0.7], [0.1, 0.9, 0.44, 0.25]]
    found = held("hierarchical", labels, scores, [("plant",), ("tall",), ("plant", "wet")])
    assert found.mistakes == pytest.approx(
        np.array([[0, 0, 0.35 / 0.7, 0], [0, 0, 0.15 / 0.3, 0.2 / 0.5], [0, 0, 0.14 / 0.7, 0.25 / 0.5]]), abs=1e-6
    )
    assert found.margin() == pytest.approx([0.35, 0.15, 0.14], abs=1e-6)
    assert found.least_certain(2) == [2, 1]
    tall, wet = label_errors(found)
    assert (tall.threshold, wet.threshold) == (pytest.approx(0.3), pytest.approx(0.5))
    assert (tall.hits, tall.missed, tall.false_alarms, tall.correct_rejections) == (0, 1, 2, 0)
    assert (wet.hits, wet.missed, wet.false_alarms, wet.correct_rejections) == (0, 1, 1, 1)


def test_a_group_too_large_for_the_page_takes_no_room_from_those_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = (2, 7, 3, 4, 2)  # of 6, 56, 12, 20 and 6 cells
    groups = tuple(tuple(f"{number}{letter}" for letter in "abcdefg"[:size]) for number, size in enumerate(sizes))
    labels = Labels(tuple(name for group in groups for name in group), groups=groups)
    scores = [[score for size in sizes for score in (0.1, 0.9, *[1e-6] * (size - 2))]]
    predictions = held("hierarchical", labels, scores, [tuple(group[0] for group in groups)])
    shown: dict[int, list[bool]] = {}
    for cells in (1000, 50, 37, 17):
        monkeypatch.setattr(confusion, "CELLS", cells)
        found = confusions(predictions)
        shown[cells] = [bool(one.counts) for one in found]
        assert [bool(one.fractions) for one in found] == shown[cells]
        assert all(one.mistakes for one in found)
    assert shown == {
        1000: [True] * 5,
        50: [True, False, True, True, True],  # 6 + 12 + 20 + 6 of 50
        37: [True, False, True, False, True],
        17: [True, False, False, False, True],
    }


def test_of_more_labels_than_a_table_holds_the_matrix_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confusion, "TABLE_MOST", 2)
    monkeypatch.setattr(confusion, "MISTAKES", 2)
    labels = Labels.multiclass(("a", "b", "c"))
    scores = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.6, 0.2, 0.2], [0.1, 0.8, 0.1]]
    (found,) = confusions(held("multiclass", labels, scores, [("a",), ("a",), ("a",), ("b",), ("c",)]))
    assert (found.counts, found.fractions) == ([], [])
    assert found.drawn is not None
    assert "Confusion matrix of 3 labels" in found.drawn
    assert [(one.truth, one.prediction, one.images) for one in found.mistakes] == [("a", "b", 2), ("b", "a", 1)]
    assert [one.fraction for one in found.mistakes] == pytest.approx([2 / 3, 1])


def test_a_model_that_nobody_has_asked_is_asked_about_the_images_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = written_run("multiclass-dora", tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    Path("images").rename(tmp_path / "images")
    with pytest.raises(DataError):
        held_out(run, IR_FP32, None, SILENT)
    found = held_out(run, IR_FP32, tmp_path, SILENT)
    assert (found.artifact, found.compute, len(found.entries)) == (IR_FP32, default_compute(), 8)
    # What it answered is kept: nobody needs the images again.
    (tmp_path / "images").rename(tmp_path / "gone")
    np.testing.assert_array_equal(held_out(run, IR_FP32, None, SILENT).logits_NC, found.logits_NC)


def test_many_groups_are_shown_by_their_mistakes_alone() -> None:
    groups = tuple(tuple(f"{letter}{number}" for letter in "ab") for number in range(1500))
    names = tuple(name for group in groups for name in group)
    labels = Labels(names, groups=groups)
    scores = [[0.4, 0.6] * len(groups)]
    found = confusions(held("hierarchical", labels, scores, [tuple(group[0] for group in groups)]))
    assert len(found) == len(groups)
    shown = [one for one in found if one.counts]
    assert sum(len(one.names) * (len(one.names) + 1) for one in shown) <= CELLS
    assert len(shown) == CELLS // 6
    assert all(one.mistakes for one in found)
