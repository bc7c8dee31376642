"""Prediction sets: the threshold against its definition and MAPIE, and both guarantees under resampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapie.classification import SplitConformalClassifier
from pydantic import ValidationError

from ftx.runs.calibration import (
    Calibration,
    SetScores,
    coverage_at_least,
    images_needed,
    set_scores,
)
from ftx.runs.compute_precision import F32
from ftx.runs.machine import Machine
from ftx.tasks.base import Task
from ftx.tasks.hierarchical import Hierarchical
from ftx.tasks.labels import Labels
from ftx.tasks.multiclass import Multiclass
from ftx.tasks.multilabel import Multilabel
from ftx.tasks.thresholds import Floats, Thresholds

NAMES = ("a", "b", "c", "d")
CLASSES = Multiclass(Labels.multiclass(NAMES))
SHEETS = Multilabel(Labels(NAMES, singles=NAMES), Thresholds({"a": 0.3, "b": 0.6}))
TREE = Hierarchical(
    Labels(
        ("shoe", "top", "boot", "sandal", "coat", "shirt", "wet"),
        groups=(("shoe", "top"), ("boot", "sandal"), ("coat", "shirt")),
        singles=("wet",),
        parents={"boot": "shoe", "sandal": "shoe", "coat": "top", "shirt": "top"},
    )
)
MACHINE = Machine(cpu="some", instructions=(), openvino="2026.4.1")


def calibration(sets: list[SetScores]) -> Calibration:
    return Calibration(machine=MACHINE, isa=None, compute=F32, kernels="batch", source="val", sets=sets)


def images(task: Task, count: int, seed: int) -> tuple[Floats, Floats]:
    """Logits that are right more often than not, and the truth. Shape: [N, C] each."""
    random = np.random.default_rng(seed)
    if task is TREE:
        leaf = random.integers(2, 6, count)
        targets_NC = np.zeros((count, 7), np.float32)
        targets_NC[np.arange(count), leaf] = targets_NC[np.arange(count), (leaf - 2) // 2] = 1
        targets_NC[:, 6] = random.random(count) < 0.5
    elif task is SHEETS:
        targets_NC = (random.random((count, 4)) < 0.4).astype(np.float32)
    else:
        targets_NC = np.eye(4, dtype=np.float32)[random.choice(4, count, p=[0.4, 0.3, 0.2, 0.1])]
    noise_NC = random.normal(size=targets_NC.shape) * np.linspace(0.7, 2.0, targets_NC.shape[1])
    return (0.6 * (2 * targets_NC - 1) + noise_NC).astype(np.float32), targets_NC


def losses(task: Task, logits_NC: Floats, targets_NC: Floats, thresholds_C: Floats) -> Floats:
    """What each set misses, counted from the sets themselves. Shape: [N]."""
    sets_NC, true_NC = task.prediction_set(logits_NC, thresholds_C), targets_NC > 0
    if task is TREE:
        lost_N = (sets_NC & ~true_NC & task.known(targets_NC)).any(axis=1)
    else:
        lost_N = (true_NC & ~sets_NC).sum(axis=1) / np.maximum(true_NC.sum(axis=1), 1)
    np.testing.assert_array_equal(task.missed(sets_NC, targets_NC), lost_N)
    return lost_N


@given(st.lists(st.floats(0, 1, width=16), min_size=1, max_size=80), st.sampled_from([0.5, 0.8, 0.9, 0.95]))
def test_of_one_label_each_the_threshold_is_the_score_of_its_rank(found: list[float], coverage: float) -> None:
    scores = SetScores(label=None, images=len(found), scores=sorted(score for score in found if score > 0))
    rank = math.ceil((len(found) + 1) * coverage - 1e-9)
    expected = math.inf if rank > len(found) else sorted(found)[rank - 1]
    assert scores.threshold(coverage) == expected
    assert math.isinf(expected) == (len(found) < images_needed(coverage))


@pytest.mark.parametrize("task", [CLASSES, SHEETS, TREE], ids=["classes", "sheets", "tree"])
@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_the_threshold_is_the_smallest_that_controls_the_risk(task: Task, coverage: float) -> None:
    """Conformal risk control, eq. 4, counted from the sets: (sum of losses + 1) / (n + 1) is at most 1 - coverage."""
    logits_NC, targets_NC = images(task, 200, seed=3)
    found = calibration(set_scores(task, logits_NC, targets_NC)).pooled

    def risk(threshold: float) -> float:
        lost_N = losses(task, logits_NC, targets_NC, np.full(targets_NC.shape[1], threshold, np.float32))
        return (float(lost_N.sum()) + 1) / (len(lost_N) + 1)

    threshold = found.threshold(coverage)
    assert threshold > 0
    assert risk(threshold) <= 1 - coverage
    below = max((one for one in found.scores if one < threshold), default=0.0)
    assert risk(below) > 1 - coverage


class Scored:
    """A classifier as MAPIE asks for one: its input are the scores."""

    classes_ = np.arange(4)

    def fit(self, scores_NC: Floats, _: object) -> Scored:
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict_proba(self, scores_NC: Floats) -> Floats:
        return scores_NC

    def predict(self, scores_NC: Floats) -> Floats:
        return scores_NC.argmax(axis=1)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_sets_are_no_larger_than_those_of_mapie(coverage: float) -> None:
    """MAPIE's LAC on the same scores: the same rule for a threshold, but its sets may lack the predicted label."""
    (logits_NC, targets_NC), (others_NC, truth_NC) = images(CLASSES, 1000, seed=1), images(CLASSES, 9000, seed=2)
    scores_NC, other_NC = (CLASSES.scores(one).astype(np.float64) for one in (logits_NC, others_NC))
    oracle = SplitConformalClassifier(Scored(), confidence_level=coverage, conformity_score="lac", prefit=True)
    oracle.conformalize(scores_NC, targets_NC.argmax(axis=1))
    theirs_NC = oracle.predict_set(other_NC)[1][:, :, 0]
    # The plain score, 1 - p of the label of the truth.
    plain = sorted(float(1 - one) for one in scores_NC[targets_NC > 0])
    threshold = SetScores(label=None, images=1000, scores=plain).threshold(coverage)
    np.testing.assert_array_equal(other_NC >= 1 - threshold - 1e-12, theirs_NC)
    # With 0 for a predicted label it is at most that, and the sets are as often right.
    own = calibration(set_scores(CLASSES, logits_NC, targets_NC)).pooled.threshold(coverage)
    assert own <= threshold + 1e-6
    ours_NC = CLASSES.prediction_set(others_NC, np.full(4, own, np.float32))
    assert ours_NC.sum() <= theirs_NC.sum()
    # 1,000 images to calibrate: three standard deviations of Beta(800, 200) are 0.04, of Beta(950, 50) 0.02.
    assert 1 - CLASSES.missed(ours_NC, truth_NC).mean() == pytest.approx(coverage, abs=0.04)
    assert (ours_NC.sum(axis=1) >= 1).all()


def test_each_label_has_its_threshold_if_each_has_enough_images() -> None:
    logits_NC, targets_NC = images(CLASSES, 800, seed=1)
    known = calibration(set_scores(CLASSES, logits_NC, targets_NC))
    assert [one.label for one in known.sets] == list(NAMES)
    counts = targets_NC.sum(axis=0).astype(int)
    assert [one.images for one in known.sets] == counts.tolist()
    assert counts.min() >= images_needed(0.95, 0.95) == 59
    thresholds_C = known.thresholds(CLASSES, 0.95)
    assert len({*thresholds_C.tolist()}) == 4  # the noise of each label is another
    for row in range(4):
        own_N = targets_NC[:, row] > 0
        missed = losses(CLASSES, logits_NC[own_N], targets_NC[own_N], thresholds_C).sum()
        assert (missed + 1) / (own_N.sum() + 1) <= 0.05
    # A rarer label: one threshold for all.
    few_N = (targets_NC[:, 3] == 0) | (np.cumsum(targets_NC[:, 3]) <= 58)
    pooled = calibration(set_scores(CLASSES, logits_NC[few_N], targets_NC[few_N]))
    assert not pooled.by_label(CLASSES, 0.95)
    assert not pooled.by_label(CLASSES, 0.9)  # with so few, thresholds of their own make large sets
    assert len({*pooled.thresholds(CLASSES, 0.95).tolist()}) == 1
    assert pooled.thresholds(CLASSES, 0.95)[0] == np.float32(pooled.pooled.threshold(0.95))


def test_a_predicted_label_is_in_the_set_and_a_tree_ends_where_it_is_not_certain() -> None:
    logits_NC, _ = images(CLASSES, 50, seed=5)
    nothing_C = np.zeros(4, np.float32)
    np.testing.assert_array_equal(CLASSES.prediction_set(logits_NC, nothing_C), CLASSES.predicted(logits_NC))
    np.testing.assert_array_equal(SHEETS.prediction_set(logits_NC, nothing_C), SHEETS.predicted(logits_NC))
    # shoe 0.88, boot given shoe 0.73, so boot 0.64; wet 0.62 is below the threshold too.
    logits_1C = np.array([[2, 0, 1, 0, 9, 0, 0.5]], np.float32)
    names = np.array(TREE.labels.names)
    for threshold, expected in ((0.9, []), (0.7, ["shoe"]), (0.63, ["shoe", "boot"]), (0.6, ["shoe", "boot", "wet"])):
        chosen_C = TREE.prediction_set(logits_1C, np.full(7, threshold, np.float32))[0]
        assert names[chosen_C].tolist() == expected


@pytest.mark.parametrize("task", [CLASSES, SHEETS, TREE], ids=["classes", "sheets", "tree"])
def test_both_guarantees_hold_under_resampling(task: Task) -> None:
    """400 calibration sets of 200 images; the tolerances are three standard errors of 400 draws."""
    logits_NC, targets_NC = images(task, 40_000, seed=11)
    random, covered, held = np.random.default_rng(0), list[float](), list[bool]()
    for _ in range(400):
        rows = random.choice(len(logits_NC), 200, replace=False)
        known = calibration(set_scores(task, logits_NC[rows], targets_NC[rows])).pooled
        others = random.choice(len(logits_NC), 5_000)
        thresholds_C = np.full(targets_NC.shape[1], known.threshold(0.9), np.float32)
        covered.append(1 - float(losses(task, logits_NC[others], targets_NC[others], thresholds_C).mean()))
        held.append(covered[-1] >= coverage_at_least(known, 0.9))
    assert np.mean(covered) >= 0.9 - 3 * np.std(covered) / 20
    assert np.mean(covered) <= 0.92
    if task is not SHEETS:  # of independent labels only the average is known
        # 95 % less three standard errors, and the noise of 5,000 images.
        assert np.mean(held) >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 400) - 0.01


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"scores": [0.5, 0.2]}, "ascending"),
        ({"weights": [1.0]}, "its weight"),
        ({"images": 1}, "at most that many"),
        ({"scores": [0.1, float("nan")]}, "less than or equal to 1"),
    ],
)
def test_what_no_calibration_has_is_an_error(changed: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        SetScores.model_validate({"label": None, "images": 3, "scores": [0.1, 0.2]} | changed)


def test_the_guarantee_says_which_of_the_two_holds_and_for_how_many_images() -> None:
    few = calibration([SetScores(label=None, images=18, scores=[0.5])])
    assert few.too_few(0.95) == "18 calibration images, and sets need 19"
    scores = np.linspace(0.001, 1, 1000).round(6).tolist()
    one = calibration([SetScores(label=None, images=1000, scores=scores)])
    assert one.too_few(0.95) is None
    # Beta(951, 50) has its 5 % quantile at 0.9381.
    right = "for 95 % of images on average over calibration sets, and for at least 93.8 % with 95 % confidence"
    assert one.guarantee(TREE, 0.95) == f"prediction sets contain no wrong label {right} (1,000 images)"
    # One label has enough images, the others more; a fourth of 5 % for each of four labels, so Beta(57, 3) at 0.0125.
    each = calibration([SetScores(label=name, images=59 + row, scores=[0.1, 0.5]) for row, name in enumerate(NAMES)])
    said = each.guarantee(CLASSES, 0.95)
    assert said.startswith("prediction sets contain the label for 95 % of images of each label on average")
    assert said.endswith("and for at least 86.9 % with 95 % confidence (59 images of each label)")
    sheets = calibration([SetScores(label=None, images=1000, scores=[0.2, 0.3], weights=[0.5, 1])])
    missed = "prediction sets miss at most 5 % of the labels of an image, on average over calibration sets"
    assert sheets.guarantee(SHEETS, 0.95) == f"{missed} (1,000 images)"
