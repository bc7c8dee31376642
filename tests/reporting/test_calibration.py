"""Calibration: bins and error, against a table worked out by hand and against torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_calibration_error

from ftx.reporting.calibration import calibration


def test_by_hand() -> None:
    # Two bins of half each: (0, 0.5] holds 0.2 and 0.5, of which one is right; (0.5, 1] holds 0.9 and 1.0, both right.
    scores, right = np.array([0.2, 0.5, 0.9, 1.0], np.float32), np.array([False, True, True, True])
    found = calibration(scores, right, bins=2)
    assert found is not None
    low, high = found.bins
    assert (low.predictions, low.correct, high.predictions, high.correct) == (2, 0.5, 2, 1.0)
    assert low.score == pytest.approx(0.35)
    assert found.ece == pytest.approx((2 * abs(0.5 - 0.35) + 2 * abs(1.0 - 0.95)) / 4)
    assert not found.overconfident
    assert low.correct_low < 0.5 < low.correct_high


def test_a_model_that_is_surer_than_right_is_said_to_be() -> None:
    found = calibration(np.full(10, 0.9, np.float32), np.arange(10) < 5)
    assert found is not None
    assert found.overconfident
    assert found.ece == pytest.approx(0.4)


def test_what_counts_is_how_many_answers_are_too_sure_and_not_in_how_many_bins() -> None:
    """Nine predictions at 0.9 that are all right, and one each at 0.3 and 0.5 that are wrong."""
    scores = np.array([0.9] * 9 + [0.3, 0.5], np.float32)
    found = calibration(scores, np.arange(11) < 9)
    assert found is not None
    assert len(found.bins) == 3
    assert not found.overconfident  # 9 x 0.1 against 0.8


def test_without_answers_there_is_none() -> None:
    assert calibration(np.zeros(0, np.float32), np.zeros(0, bool)) is None


@given(st.lists(st.tuples(st.floats(0.001, 0.999), st.booleans()), min_size=1, max_size=60))
def test_the_error_is_that_of_torchmetrics(predictions: list[tuple[float, bool]]) -> None:
    scores = np.array([score for score, _ in predictions], np.float32)
    # On an edge the two put an answer into different bins.
    scores = np.where(np.abs(scores * 15 - np.rint(scores * 15)) < 1e-4, scores + 0.0005, scores).astype(np.float32)
    right = np.array([one for _, one in predictions])
    found = calibration(scores, right)
    theirs = binary_calibration_error(torch.from_numpy(scores), torch.from_numpy(right.astype(np.int64)), n_bins=15)
    assert found is not None
    assert found.ece == pytest.approx(float(theirs), abs=1e-6)  # theirs adds up in f32
