"""Three words, held to numbers: those of the binomial distribution, and of rows made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ftx.core.statistics import PairedCounts, wilson_interval
from ftx.evaluating.comparison import Comparison, Reference, Subject, compare
from ftx.evaluating.judge import Evidence, judge, verdict_on
from ftx.evaluating.logit_bounds import BOUNDS, Bound
from ftx.runs.artifacts import ARTIFACTS, IR_FP32, IR_INT8
from ftx.runs.compute_precision import F32, ComputePrecision, read_compute
from ftx.runs.views import View
from ftx.tasks.labels import Labels
from ftx.tasks.multiclass import Multiclass
from ftx.tasks.multilabel import Multilabel
from ftx.tasks.thresholds import Thresholds

LABELS = Labels.multiclass(["cat", "dog", "fox"])
AUTO_F32 = ComputePrecision("f32", chosen_by_runtime=True)
FREE = Bound(None, None, reason="asks nothing of logits")


def known(images: int, *, groups: tuple[str, ...] = ()) -> Reference:
    """The trained model is right on the even images and wrong on the odd ones; the classes take turns."""
    truth = np.arange(images) // 2 % 3
    called = np.where(np.arange(images) % 2 == 0, truth, (truth + 1) % 3)
    eye = np.eye(3, dtype=np.float32)
    return Reference(tuple(map(str, range(images))), 4 * eye[called], eye[truth], Multiclass(LABELS), groups)


def answers(reference: Reference, lost: int, gained: int) -> np.ndarray:
    """The trained model's answers, but for so many that turn wrong and so many that turn right."""
    logits = reference.logits.copy()
    logits[np.arange(0, 2 * lost, 2)] = np.roll(logits[np.arange(0, 2 * lost, 2)], 1, axis=1)
    logits[np.arange(1, 2 * gained, 2)] = 4 * reference.targets[np.arange(1, 2 * gained, 2)]
    return logits


def row(
    images: int,
    lost: int = 0,
    gained: int = 0,
    *,
    artifact: str = "openvino/int8",
    view: View = "files",
    compute: str = "auto:f32",
    groups: tuple[str, ...] = (),
) -> Comparison:
    reference = known(images, groups=groups)
    subject = Subject(ARTIFACTS[artifact], view, read_compute(compute), 1.0)
    return compare(reference, answers(reference, lost, gained), subject, bound=FREE)


def test_the_counts_are_those_of_the_images() -> None:
    judged = judge([row(500, lost=18, gained=5)], 0.02)
    (found,) = judged.rows
    assert (found.labelled, found.lost, found.gained, found.unit) == (500, 18, 5, "image")
    assert found.drop == pytest.approx(0.026)
    assert found.changed == pytest.approx(23 / 500)
    assert (found.max_drop, found.confidence) == (0.02, 0.95)


def test_what_lost_more_than_it_may_on_too_few_images_to_tell_is_unproved() -> None:
    judged = judge([row(500, lost=18, gained=5)], 0.02)
    assert judged.verdicts == {"openvino/int8": "unproved"}
    assert judged.rows[0].ok
    assert judged.problems == []


@pytest.mark.parametrize(
    ("images", "lost", "gained", "margin", "verdict"),
    [
        # Without a loss the exact upper end is 1 - 0.05^(1/n): within 0.02 from 149 images on, within 0.005 from 598.
        (148, 0, 0, 0.02, "unproved"),
        (149, 0, 0, 0.02, "proved"),
        (597, 0, 0, 0.005, "unproved"),
        (598, 0, 0, 0.005, "proved"),
        (385, 3, 0, 0.02, "unproved"),
        (386, 3, 0, 0.02, "proved"),
        # 4 lost and 5 gained of 500: the drop is -0.2 points, at most 0.99.
        (500, 4, 5, 0.02, "proved"),
        # 50 of 500 is 10 points, at least 7.9.
        (500, 50, 0, 0.02, "failed"),
        # 15 of 500: 3 points, at least 1.9.
        (500, 15, 0, 0.02, "unproved"),
        (500, 0, 50, 0.02, "proved"),
    ],
)
def test_verdicts_by_numbers(images: int, lost: int, gained: int, margin: float, verdict: str) -> None:
    judged = judge([row(images, lost, gained)], margin)
    assert judged.verdicts == {"openvino/int8": verdict}
    assert judged.rows[0].verdict == verdict
    assert judged.rows[0].ok is (verdict != "failed")
    assert bool(judged.problems) is (verdict == "failed")


def test_what_it_would_take_is_said() -> None:
    judged = judge([row(154, lost=3)], 0.02)
    assert judged.summary["openvino/int8"] == (
        "at most 5.0 points lost (95 % confidence, 154 images): 3 lost, 0 gained; "
        "386 images with no further loss would prove at most 2"
    )
    assert judged.rows[0].needed_images == 386
    # The exact end of 3 of 154 (Clopper and Pearson): scipy.stats.beta.ppf(0.95, 4, 151).
    assert judged.rows[0].drop_high == pytest.approx(0.0495760, abs=1e-6)
    assert judge([row(149)], 0.02).rows[0].needed_images is None


def test_the_figures_are_those_of_the_row_that_proves_least() -> None:
    # 3 of 200 lost is at most 3.83 points (Clopper and Pearson), told as 3.9; 5 lost and 5 gained is none, and less
    # sure by the ten that changed alone.
    rows = [row(200, lost=5, gained=5, view="graph"), row(200, lost=3, view="files")]
    for order in (rows, rows[::-1]):
        summary = judge(order, 0.02).summary["openvino/int8"]
        assert summary.startswith("at most 3.9 points lost (95 % confidence, 200 images): 3 lost, 0 gained;")
    # Where logits are the proof, the furthest of the same pixels; a file's image path has a bound of its own.
    known_20 = known(20)
    subjects: list[tuple[float, View, ComputePrecision]] = [
        (1e-5, "graph", F32),
        (2e-4, "graph", AUTO_F32),
        (0.3, "files", F32),
    ]
    measured = [
        compare(known_20, known_20.logits + np.float32(off), Subject(IR_FP32, view, compute, 1.0), FREE)
        for off, view, compute in subjects
    ]
    for order in (measured, measured[::-1]):
        summary = judge(order, 0.02).summary["openvino/fp32"]
        assert summary == "logits within 2.0e-04 of the trained model's, 0 % of labels changed"


def test_in_f32_the_bound_on_logits_is_the_proof_and_the_interval_stands_beside_it() -> None:
    judged = judge([row(20, artifact="onnx", view="graph", compute="f32")], 0.02)
    assert judged.verdicts == {"onnx": "proved"}
    (found,) = judged.rows
    assert found.drop_high == pytest.approx(1 - 0.05 ** (1 / 20), abs=1e-6)
    assert found.needed_images is None
    # The same rows of an int8 model prove nothing.
    assert judge([row(20)], 0.02).verdicts == {"openvino/int8": "unproved"}
    # What is seen to be lost beyond the margin is not proved by logits, whatever their bound.
    judged = judge([row(100, lost=4, artifact="onnx", compute="f32")], 0.02)
    assert judged.verdicts == {"onnx": "unproved"}
    assert "100 images): 4 lost, 0 gained;" in judged.summary["onnx"]
    # A drop that is certain fails in f32 as well.
    assert judge([row(100, lost=40, artifact="onnx", compute="f32")], 0.02).verdicts == {"onnx": "failed"}


def test_a_bound_on_logits_fails_whatever_labels_say() -> None:
    reference = known(300)
    logits = reference.logits + np.float32(1.5)  # labels stay
    subject = Subject(IR_INT8, "graph", F32, 1.0)
    judged = judge([compare(reference, logits, subject, BOUNDS["int8.graph"])], 0.02)
    assert judged.verdicts == {"openvino/int8": "failed"}
    assert "a logit is off by 1.5, the bound is 1.4" in judged.problems[0]
    assert judged.summary["openvino/int8"].startswith("a logit is off by 1.5")


def test_an_artifact_is_proved_where_all_its_rows_are() -> None:
    rows = [row(149, view="files"), row(148, view="graph"), row(10, artifact="onnx", compute="f32")]
    judged = judge(rows, 0.02)
    assert [found.verdict for found in judged.rows] == ["proved", "unproved", "proved"]
    assert judged.verdicts == {"openvino/int8": "unproved", "onnx": "proved"}


def test_what_no_row_shows_fails_the_artifact() -> None:
    judged = judge([row(200)], 0.02, faults={"openvino/int8": ["openvino/int8: other labels"], "dense": []})
    assert judged.verdicts == {"openvino/int8": "failed"}
    assert judged.problems == ["openvino/int8: other labels"]


def test_a_part_of_the_images_proves_nothing() -> None:
    judged = judge([row(400), row(400, artifact="onnx", compute="f32")], 0.02, partial="400 of 900 were asked")
    assert judged.verdicts == {"openvino/int8": "unproved", "onnx": "unproved"}
    assert judged.summary["openvino/int8"].endswith("400 of 900 were asked")


def test_of_two_models_to_choose_from_the_surer_is_held_to_half_the_error() -> None:
    # Holm: the smaller p-value against 0.025, then the other against 0.05. Without a loss Tango's end at 97.5 % is
    # z^2 / (n + z^2), within 0.02 from 189 images on; the exact one at 95 % from 149 on.
    both = [row(149), row(149, artifact="openvino/fp32", compute="auto:bf16")]
    judged = judge(both, 0.02)
    assert judged.verdicts == {"openvino/int8": "unproved", "openvino/fp32": "unproved"}
    assert {found.confidence for found in judged.rows} == {0.975}
    assert (judged.family.method, judged.family.alpha) == ("holm", 0.05)
    assert judged.family.artifacts == ["openvino/fp32", "openvino/int8"]
    judged = judge([row(149), row(189, artifact="openvino/fp32", compute="auto:bf16")], 0.02)
    assert judged.verdicts == {"openvino/int8": "proved", "openvino/fp32": "proved"}
    # What is proved by its logits is no test, and costs the other nothing.
    judged = judge([row(149), row(20, artifact="openvino/fp32", compute="auto:f32")], 0.02)
    assert judged.verdicts == {"openvino/int8": "proved", "openvino/fp32": "proved"}
    assert judged.family.artifacts == ["openvino/int8"]


def test_the_least_sure_row_of_each_model_counts_in_the_choice() -> None:
    """A surer row of the same model costs the others nothing, and does not make it the surer of the two."""
    # Of int8 the least sure row (149 images: p = 0.0493) comes after fp32's 200 (0.98^200 = 0.0176), whatever its other
    # row is (400: 0.0003): fp32 is tested at 0.025, int8 at 0.05.
    rows = [
        row(149, view="files"),
        row(400, view="graph"),
        row(200, artifact="openvino/fp32", compute="auto:bf16"),
    ]
    for order in (rows, rows[::-1]):
        judged = judge(order, 0.02)
        assert judged.verdicts == {"openvino/int8": "proved", "openvino/fp32": "proved"}
        confidences = {(found.artifact, found.view): found.confidence for found in judged.rows}
        assert confidences == {
            ("openvino/int8", "files"): 0.95,
            ("openvino/int8", "graph"): 0.95,
            ("openvino/fp32", "files"): 0.975,
        }
    # What exceeds a bound on logits is never the surest.
    broken = replace(rows[1], exceeded=("a logit is off",))
    judged = judge([broken, row(149, artifact="openvino/fp32", compute="auto:bf16")], 0.02)
    assert judged.verdicts == {"openvino/int8": "failed", "openvino/fp32": "unproved"}
    assert {found.artifact: found.confidence for found in judged.rows}["openvino/fp32"] == 0.975


def test_how_many_images_would_do_is_said_for_the_level_that_a_model_is_tested_at() -> None:
    # Of two: 0.05 / 2 wants 189 images without a loss (Tango's end), 0.05 wants 149.
    rows = [row(148), row(149, artifact="openvino/fp32", compute="auto:bf16")]
    judged = judge(rows, 0.02)
    assert {found.needed_images for found in judged.rows} == {189}
    assert all(
        text.endswith("; 189 images with no further loss would prove at most 2") for text in judged.summary.values()
    )
    # As many do prove it.
    both = [row(189), row(189, artifact="openvino/fp32", compute="auto:bf16")]
    assert set(judge(both, 0.02).verdicts.values()) == {"proved"}
    few = [row(188), row(188, artifact="openvino/fp32", compute="auto:bf16")]
    assert set(judge(few, 0.02).verdicts.values()) == {"unproved"}


def test_the_figures_of_a_row_are_its_own() -> None:
    """Accuracy of the model that is judged, not of the one before; each with its interval."""
    (found,) = judge([row(200, lost=7, gained=2)], 0.02).rows
    assert found.accuracy == (100 - 7 + 2) / 200
    assert (found.accuracy_low, found.accuracy_high) == wilson_interval(95, 200)
    assert found.drop == 5 / 200
    paired = PairedCounts(7, 2, 200)
    assert (found.drop_low, found.drop_high) == (paired.drop_at_least(0.95), paired.drop_at_most(0.95))
    changed = PairedCounts(9, 0, 200)  # whatever they turned into
    assert (found.changed, found.changed_high) == (9 / 200, changed.drop_at_most(0.95))


def test_of_ten_rows_one_fails_at_a_tenth_of_the_error() -> None:
    # 17 of 500 lost: by binomial tail P(X >= 17 | 500, 0.02) = 0.0270; 22: 0.00080.
    sound = [row(500, artifact="onnx", compute="f32")] * 9
    assert judge([row(500, lost=17)], 0.02).verdicts["openvino/int8"] == "failed"
    assert judge([row(500, lost=17), *sound], 0.02).verdicts["openvino/int8"] == "unproved"
    assert judge([row(500, lost=22), *sound], 0.02).verdicts["openvino/int8"] == "failed"


def test_the_images_of_a_patient_are_one() -> None:
    # 200 patients of three images each; of one patient an image is lost: a third of one of 200.
    groups = tuple(f"patient {index // 3}" for index in range(600))
    (found,) = judge([row(600, lost=1, groups=groups)], 0.02).rows
    assert (found.unit, found.labelled, found.images) == ("group", 200, 600)
    assert found.lost == pytest.approx(1 / 3)
    assert found.drop == pytest.approx(1 / 600)
    # 100 patients of six images prove no more than 100 images would.
    few = tuple(f"patient {index // 6}" for index in range(600))
    judged = judge([row(600, groups=few)], 0.02)
    assert judged.rows[0].drop_high == pytest.approx(1 - 0.05 ** (1 / 100), abs=1e-6)
    assert judged.verdicts == {"openvino/int8": "unproved"}
    assert judged.summary["openvino/int8"].endswith(
        "100 groups): 0 lost, 0 gained; 149 groups with no further loss would prove at most 2"
    )


def test_without_truth_the_share_of_changed_labels_stands_for_the_drop() -> None:
    reference = known(300)
    blind = replace(reference, targets=reference.targets[:0])
    for changed, verdict in ((0, "proved"), (6, "unproved"), (60, "failed")):
        logits = reference.logits.copy()
        logits[:changed] = np.roll(logits[:changed], 1, axis=1)
        subject = Subject(IR_INT8, "graph", F32, 1.0)
        judged = judge([compare(blind, logits, subject, FREE)], 0.02)
        (found,) = judged.rows
        assert found.verdict == verdict
        assert (found.labelled, found.drop, found.drop_high, found.accuracy) == (0, None, None, None)
        assert found.changed == pytest.approx(changed / 300)
        assert found.worst_class is None


def test_the_class_that_lost_most_is_named_with_its_interval() -> None:
    # Of the 40 images of each class the model is right on 20; the rare loss is all in one class.
    reference = known(120)
    logits = reference.logits.copy()
    of_fox = [index for index in range(0, 120, 2) if reference.targets[index, 2] == 1]
    logits[of_fox[:5]] = np.roll(logits[of_fox[:5]], 1, axis=1)
    subject = Subject(IR_INT8, "files", AUTO_F32, 1.0)
    worst = judge([compare(reference, logits, subject, FREE)], 0.02).rows[0].worst_class
    assert worst is not None
    assert (worst.name, worst.labelled, worst.lost, worst.gained, worst.drop) == ("fox", 40, 5, 0, 0.125)
    # Clopper and Pearson, 5 of 40: scipy.stats.beta.ppf(0.95, 6, 35).
    assert worst.drop_high == pytest.approx(0.2450, abs=5e-4)
    assert worst.drop_low < 0.125


def test_a_label_among_several_is_lost_by_itself() -> None:
    labels = Labels(names=("a", "b"), groups=(), singles=("a", "b"))
    task = Multilabel(labels, Thresholds({"a": 0.5, "b": 0.5}))
    targets = np.array([[1, 1]] * 10 + [[0, 1]] * 10, dtype=np.float32)
    logits = np.where(targets > 0, 5, -5).astype(np.float32)
    other = logits.copy()
    other[:4, 0] = -5
    subject = Subject(IR_INT8, "files", AUTO_F32, 1.0)
    reference = Reference(tuple(map(str, range(20))), logits, targets, task)
    (found,) = judge([compare(reference, other, subject, FREE)], 0.02).rows
    assert (found.lost, found.labelled) == (4, 20)
    assert found.worst_class is not None
    assert (found.worst_class.name, found.worst_class.lost, found.worst_class.labelled) == ("a", 4, 10)


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        ({}, "proved"),
        ({"same": "unproved"}, "proved"),
        ({"other": "unproved"}, "proved"),
        ({"same": "failed"}, "failed"),
        ({"other": "failed"}, "failed"),
        ({"faults": ["off"]}, "failed"),
    ],
)
def test_a_certificate_mends_nothing_that_failed(given: dict[str, Any], verdict: str) -> None:
    assert verdict_on(Evidence(certified="at most 1 %", **given))[0] == verdict
