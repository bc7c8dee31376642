"""Margins and movements of decisions: if a margin is larger than the movement, both models predict the same."""

from __future__ import annotations

import numpy as np
import pytest

from ftx.tasks.base import Task
from ftx.tasks.decisions import margins, movements
from ftx.tasks.hierarchical import Hierarchical
from ftx.tasks.labels import Labels
from ftx.tasks.multiclass import Multiclass
from ftx.tasks.multilabel import Multilabel
from ftx.tasks.thresholds import Floats, Thresholds

# Below a: a1 or a2, and t below a2. The independent label s has no parent.
TREE = Labels(
    names=("a", "b", "a1", "a2", "s", "t"),
    groups=(("a", "b"), ("a1", "a2")),
    singles=("s", "t"),
    parents={"a1": "a", "a2": "a", "t": "a2"},
)
CLASSES = Multiclass(Labels.multiclass("abc"))
SEVERAL = Multilabel(Labels(tuple("abc"), singles=tuple("abc")), Thresholds({"a": 0.25, "b": 0.75, "c": 1.0}))
PATHS = Hierarchical(TREE, Thresholds({"s": 0.2, "t": 0.7}))


def row(*logits: float) -> Floats:
    return np.array([logits], np.float32)


def logit(score: float) -> float:
    return float(np.log(score / (1 - score)))


def test_a_class_is_as_clear_as_its_distance_to_the_second_and_moves_towards_any_other() -> None:
    assert margins(CLASSES, row(1, 3, 2.25)) == pytest.approx(0.75)
    # From b to a: (3 - 1) - (2.5 - 2) = 1.5; from b to c: (3 - 2.25) - (2.5 - 1.5) < 0.
    assert movements(CLASSES, row(1, 3, 2.25), row(2, 2.5, 1.5)) == pytest.approx(1.5)
    # The other way round: (2.5 - 2) - (3 - 1) < 0, and (2.5 - 1.5) - (3 - 2.25) = 0.25.
    assert movements(CLASSES, row(2, 2.5, 1.5), row(1, 3, 2.25)) == pytest.approx(0.25)


def test_an_independent_label_is_as_clear_as_its_distance_to_its_own_threshold() -> None:
    a, b = logit(0.25), logit(0.75)
    assert margins(SEVERAL, row(a + 0.5, b - 0.75, 9)) == pytest.approx(0.5)
    assert margins(SEVERAL, row(a + 0.5, b - 0.25, 9)) == pytest.approx(0.25)
    # Above its threshold a label moves down, below it up. A threshold of 1 is never exceeded.
    assert movements(SEVERAL, row(0, 0, 0), row(-0.5, 0.25, 9)) == pytest.approx(0.5)
    assert movements(SEVERAL, row(0, 0, 0), row(0.5, 0.75, 9)) == pytest.approx(0.75)


def test_below_a_label_that_is_not_predicted_nothing_is_decided() -> None:
    s, t = logit(0.2), logit(0.7)
    # a, a2 and t: t is the least clear; and s, which is far below its threshold.
    assert margins(PATHS, row(2, 0, 1, 2.5, s - 5, t + 0.5)) == pytest.approx(0.5)
    # a1 instead of a2: t does not count.
    assert margins(PATHS, row(2, 0, 2.5, 1, s - 5, t + 0.5)) == pytest.approx(1.5)
    # b: only a or b is decided, and s.
    assert margins(PATHS, row(0, 3, 1, 1, s - 5, t)) == pytest.approx(3)
    assert movements(PATHS, row(0, 3, 1, 1, s - 5, t), row(1, 3, 9, 1, s - 5, t + 9)) == pytest.approx(1)


@pytest.mark.parametrize("task", [CLASSES, SEVERAL, PATHS], ids=["multiclass", "multilabel", "tree"])
def test_a_margin_above_the_movement_keeps_the_prediction(task: Task) -> None:
    rng = np.random.default_rng(0)
    shape = (50_000, len(task.labels))
    logits_NC = rng.normal(0, 2, shape).astype(np.float32)
    other_NC = (logits_NC + rng.normal(0, 0.5, shape)).astype(np.float32)
    clear_N = margins(task, logits_NC) > movements(task, logits_NC, other_NC)
    same_N = (task.predicted(logits_NC) == task.predicted(other_NC)).all(axis=1)
    assert same_N[clear_N].all()
    assert 0.3 < clear_N.mean() < 0.99
    # Of the others many change: a bound that is always infinite would pass the first line.
    assert same_N[~clear_N].mean() < 0.9
