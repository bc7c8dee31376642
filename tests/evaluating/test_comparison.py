from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from ftx.core.statistics import wilson_interval
from ftx.evaluating.comparison import Reference, Subject, _with_bound, compare, dice
from ftx.evaluating.judge import judge
from ftx.evaluating.logit_bounds import BOUNDS, Bound
from ftx.runs.artifacts import IR_FP32, IR_INT8, Artifact
from ftx.runs.compute_precision import F32
from ftx.runs.parity_json import ParityRow
from ftx.tasks.labels import Labels
from ftx.tasks.multiclass import Multiclass
from ftx.tasks.thresholds import Floats

SUBJECT = Subject(IR_FP32, "graph", F32, 1.0)
FREE = Bound(None, None, reason="asks nothing")


def multiclass(labels: int) -> Multiclass:
    return Multiclass(Labels.multiclass("abcdefghij"[:labels]))


def reference(count: int = 64, labels: int = 5, seed: int = 0) -> Reference:
    generator = np.random.default_rng(seed)
    truth = generator.integers(labels, size=count)
    targets = np.eye(labels, dtype=np.float32)[truth]
    # The true label leads by 4 among noise of 1: nearly all are right, as with a trained model.
    logits = (4 * targets + generator.standard_normal((count, labels))).astype(np.float32)
    return Reference(tuple(f"image-{index}.png" for index in range(count)), logits, targets, multiclass(labels))


def row_of(logits: Floats, bound: Bound, known: Reference | None = None) -> tuple[ParityRow, list[str]]:
    judged = judge([compare(known or reference(), logits, SUBJECT, bound)], 0.02)
    return judged.rows[0], judged.problems


def test_the_same_answers_pass_every_bound() -> None:
    for bound in BOUNDS.values():
        row, faults = row_of(reference().logits, bound)
        assert (row.ok, row.verdict, faults) == (True, "proved", [])
        assert (row.max_abs, row.mean_abs, row.agreement) == (0.0, 0.0, 1.0)
        assert row.cosine == pytest.approx(1.0, abs=1e-12)  # a sum of five products in f64


def test_the_measures_are_their_formulas() -> None:
    known = reference()
    answers = known.logits.copy()
    answers[3, 1] += 0.5
    row, _ = row_of(answers, FREE, known)
    a, b = answers[3].astype(np.float64), known.logits[3].astype(np.float64)
    assert row.max_abs == pytest.approx(0.5, abs=1e-6)  # 0.5 was added in f32
    assert row.mean_abs == pytest.approx(0.5 / known.logits.size, rel=1e-5)
    assert row.cosine == pytest.approx((63 + a @ b / np.linalg.norm(a) / np.linalg.norm(b)) / 64, abs=1e-12)
    assert row.worst[0] == "image-3.png"


def test_the_graph_bound_fails_just_above_and_passes_just_below() -> None:
    known = reference()
    limit = 1e-4 * float(np.abs(known.logits).max())
    for factor, passes in ((0.98, True), (1.02, False)):
        answers = known.logits.copy()
        answers[0, 0] += np.float32(factor * limit)
        row, faults = row_of(answers, BOUNDS["fp32.graph"], known)
        assert row.ok is passes
        assert bool(faults) is not passes
        assert row.bound.max_abs == pytest.approx(limit)


def test_a_bound_may_be_reached() -> None:
    # So a bound of 0 asks for the same numbers, and for no more than that.
    known = reference()
    exact = Bound(None, None, reason="the same numbers", max_abs=0.0)
    assert row_of(known.logits, exact, known)[0].ok
    answers = known.logits.copy()
    answers[0, 0] = np.nextafter(answers[0, 0], np.float32(np.inf))
    assert not row_of(answers, exact, known)[0].ok


@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_permuted_labels_pass_no_bound(name: str) -> None:
    known = reference()
    row, faults = row_of(np.roll(known.logits, 1, axis=1), BOUNDS[name], known)
    assert not row.ok
    assert faults


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_fails_and_stays_out_of_the_json(value: float) -> None:
    known = reference()
    answers = known.logits.copy()
    answers[9, 2] = value
    for bound in (*BOUNDS.values(), FREE):
        row, faults = row_of(answers, bound, known)
        assert not row.ok
        assert "logits of 1 images contain NaN or infinity" in faults[0]
        assert row.worst[0] == "image-9.png"
        json.loads(row.model_dump_json(), parse_constant=pytest.fail)


def test_a_reference_that_is_not_finite_proves_nothing() -> None:
    known = reference()
    known.logits[0, 0] = np.nan
    row, _ = row_of(known.logits, BOUNDS["fp32.graph"], known)
    assert not row.ok


def test_images_without_truth_count_in_differences_alone() -> None:
    whole = reference()
    partly = Reference(whole.names, whole.logits, whole.targets[:60], whole.task)
    answers = whole.logits.copy()
    answers[63] += 1
    row, _ = row_of(answers, BOUNDS["fp32.graph"], partly)
    expected = (whole.logits[:60].argmax(1) == whole.targets[:60].argmax(1)).mean()
    assert row.images == 60
    assert row.accuracy == expected
    assert row.max_abs == pytest.approx(1.0, abs=1e-6)
    assert not row.ok


def test_rows_of_zeros_are_alike_and_differ_from_others() -> None:
    zeros = np.zeros((2, 3), dtype=np.float32)
    known = Reference(("a", "b"), zeros, np.eye(3, dtype=np.float32)[:2], multiclass(3))
    assert row_of(zeros, FREE, known)[0].cosine == 1.0
    ones = np.array([[1, 1, 1], [0, 0, 0]], dtype=np.float32)
    assert row_of(ones, FREE, known)[0].cosine == 0.5


def test_sets_of_labels_agree_by_the_share_that_is_in_both() -> None:
    one = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]], dtype=bool)
    other = np.array([[1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 1, 0, 0]], dtype=bool)
    np.testing.assert_allclose(dice(one, other), [4 / 5, np.nan, 0, 0, 1])


def test_images_held_to_no_bound_are_counted_once_and_named_last() -> None:
    """Of eight images that have labels and four tinted ones behind them, one each whose last patch ties."""
    whole = reference(12)
    clear = np.ones(12, bool)
    clear[[2, 9]] = False
    known = replace(whole, targets=whole.targets[:8], clear=clear)
    answers = whole.logits.copy()
    answers[2] += 100 * np.arange(5, dtype=np.float32)
    answers[5, 0] += 0.01
    row, _ = row_of(answers, FREE, known)
    assert (row.images, row.tied) == (8, 1)
    assert row.max_abs == pytest.approx(0.01, abs=1e-6)
    assert row.worst[0] == "image-5.png"


def test_the_accuracy_is_that_of_the_answers_that_are_compared() -> None:
    known = reference()
    was = int((known.logits.argmax(1) == known.targets.argmax(1)).sum())
    answers = known.logits.copy()
    right = np.flatnonzero(known.logits.argmax(1) == known.targets.argmax(1))
    answers[right[:9]] = np.roll(answers[right[:9]], 1, axis=1)
    row, _ = row_of(answers, FREE, known)
    assert (row.lost, row.gained, row.labelled) == (9, 0, 64)
    assert row.accuracy == (was - 9) / 64
    assert (row.accuracy_low, row.accuracy_high) == wilson_interval(was - 9, 64)
    assert row.agreement == (64 - 9) / 64


def test_some_images_of_a_reference_keep_what_belongs_to_each() -> None:
    """Also where the truth of the last is not known."""
    whole = reference(8, labels=3)
    groups = tuple(f"group {index // 2}" for index in range(8))
    known = replace(whole, targets=whole.targets[:5], groups=groups, clear=np.arange(8) % 3 != 0)
    some = known.take([6, 1, 4, 5])
    assert some.names == ("image-6.png", "image-1.png", "image-4.png", "image-5.png")
    np.testing.assert_array_equal(some.logits, whole.logits[[6, 1, 4, 5]])
    np.testing.assert_array_equal(some.targets, whole.targets[[1, 4]])
    assert some.groups == ("group 3", "group 0", "group 2", "group 2")
    assert some.clear is not None
    assert some.clear.tolist() == [False, True, True, True]


def test_what_changed_its_label_is_named_before_what_is_further_off() -> None:
    known = reference(12)
    answers = known.logits.copy()
    answers[[1, 4, 7]] += np.array([[3.0], [9.0], [5.0]], np.float32)  # the same for all labels: none changes
    answers[10] = np.roll(answers[10], 1)
    row, _ = row_of(answers, FREE, known)
    assert row.worst[:4] == ["image-10.png", "image-4.png", "image-7.png", "image-1.png"]
    assert row.max_abs == pytest.approx(9.0, abs=1e-5)  # 9 was added in f32


@pytest.mark.parametrize("first", [None, [True, False]])
@pytest.mark.parametrize("more", [None, [False]])
def test_images_after_others_keep_what_is_known_of_both(first: list[bool] | None, more: list[bool] | None) -> None:
    def of(count: int, clear: list[bool] | None) -> Reference:
        logits = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
        flags = None if clear is None else np.array(clear)
        return Reference(tuple("abc"[:count]), logits, logits[:0], multiclass(3), tuple("xyz"[:count]), flags)

    both = of(2, first).followed_by(of(1, more))
    assert (both.names, both.groups, both.labelled) == (("a", "b", "a"), ("x", "y", "x"), 0)
    assert both.logits[:, 0].tolist() == [0, 3, 0]
    if first is None or more is None:  # nothing is known of some
        assert both.clear is None
    else:
        assert both.clear is not None
        assert both.clear.tolist() == [*first, *more]


@pytest.mark.parametrize(
    ("clear", "precision", "expected"),
    [
        (None, IR_FP32, [True, True]),
        ([True, False], IR_FP32, [True, False]),
        ([True, False], IR_INT8, [True, True]),  # a coarser rounding keeps other patches of most images
        ([False, False], IR_FP32, [True, True]),  # without one there would be no bound at all
    ],
)
def test_images_with_a_bound_are_those_of_which_both_models_see_the_same(
    clear: list[bool] | None, precision: Artifact, expected: list[bool]
) -> None:
    known = replace(reference(2, labels=3), clear=None if clear is None else np.array(clear))
    assert _with_bound(known, Subject(precision, "graph", F32, 1.0)).tolist() == expected
