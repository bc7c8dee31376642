"""Confident learning: the paper's equations by hand, and labels that were made wrong on purpose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from ftx.curating.confident_learning import (
    calibrated,
    confident_joint,
    confident_label,
    self_confidence,
    suspects,
    usual_confidence,
)

# Six images of two labels. Label 0 is given to the first four, one of which looks like label 1.
GIVEN = np.array([0, 0, 0, 0, 1, 1])
PROBABILITY = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.2, 0.8], [0.3, 0.7], [0.1, 0.9]])


def test_the_threshold_is_the_mean_confidence_in_a_label_of_its_images() -> None:
    # (0.9 + 0.8 + 0.7 + 0.2) / 4 and (0.7 + 0.9) / 2; of a label without images nothing is as sure
    assert_allclose(usual_confidence(PROBABILITY, GIVEN), [0.65, 0.8], rtol=1e-12)
    assert_allclose(usual_confidence(PROBABILITY, np.zeros(6, dtype=np.intp))[1], np.inf)


def test_the_confident_label_is_the_likeliest_above_its_threshold() -> None:
    confident = confident_label(PROBABILITY, np.array([0.65, 0.8]))
    assert_array_equal(confident, [0, 0, 0, 1, -1, 1])  # 0.7 is below what label 1 usually has
    both = confident_label(np.array([[0.5, 0.4, 0.1]]), np.array([0.45, 0.3, 0.05]))
    assert_array_equal(both, [0])  # all three are above theirs


def test_the_joint_counts_given_against_confident() -> None:
    joint = confident_joint(GIVEN, np.array([0, 0, 0, 1, -1, 1]), 2)
    assert_array_equal(joint, [[3, 1], [0, 1]])


def test_the_calibrated_joint_has_as_many_of_each_given_label() -> None:
    # Row 0: 3 : 1 of four of six images; row 1: all of two of six.
    assert_allclose(calibrated(np.array([[3, 1], [0, 1]]), GIVEN), [[3 / 6, 1 / 6], [0, 2 / 6]], rtol=1e-12)
    assert_allclose(calibrated(np.array([[4, 0], [0, 0]]), GIVEN), [[4 / 6, 0], [0, 2 / 6]], rtol=1e-12)


def test_as_many_are_pruned_as_the_joint_says_those_of_the_largest_margin() -> None:
    found = suspects(PROBABILITY, GIVEN)
    assert_array_equal(found.wrong_N, [False, False, False, True, False, False])
    assert_array_equal(found.other_N, [0, 0, 0, 1, 1, 1])
    assert_allclose(self_confidence(PROBABILITY, GIVEN), [0.9, 0.8, 0.7, 0.2, 0.7, 0.9])


def test_of_two_counts_that_an_image_stands_in_the_larger_margin_names_its_label() -> None:
    """Of label 0 one image is to be taken by label 1 and one by label 2: the same, which looks most like 2."""
    probability = np.array(
        [[0.8, 0.1, 0.1], [0.34, 0.33, 0.33], [0.05, 0.45, 0.5], [0.4, 0.55, 0.05]] + [[0.3, 0.4, 0.3], [0.3, 0.3, 0.4]]
    )
    found = suspects(probability, np.array([0, 0, 0, 0, 1, 2]))
    # Thresholds 0.3975, 0.4, 0.4; confident: 0, none, 2, 1 (0.55 > 0.4), 1, 2; row 0 of the joint 1 : 1 : 1 of four.
    # Both take image 2, whose margins are 0.4 and 0.45.
    assert_array_equal(found.wrong_N, [False, False, True, False, False, False])
    assert found.other_N[2] == 2
    # The same with the other two labels exchanged: it is not the last one that counts.
    found = suspects(probability[:, [0, 2, 1]], np.array([0, 0, 0, 0, 2, 1]))
    assert_array_equal(found.wrong_N, [False, False, True, False, False, False])
    assert found.other_N[2] == 1


def test_a_probe_that_is_sure_and_right_suspects_nothing() -> None:
    given_N = np.arange(30) % 3
    assert not suspects(np.eye(3)[given_N] * 0.97 + 0.01, given_N).wrong_N.any()


@given(st.integers(2, 6), st.integers(1, 60), st.integers(0, 1000))
def test_whatever_the_probabilities_a_suspect_has_another_label_and_the_joint_is_one(k: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    probability, given_N = rng.dirichlet(np.ones(k), n), rng.integers(0, k, n)
    found = suspects(probability, given_N)
    assert_array_equal(found.other_N != given_N, found.wrong_N)
    joint = calibrated(
        confident_joint(given_N, confident_label(probability, usual_confidence(probability, given_N)), k), given_N
    )
    assert_allclose(joint.sum(), 1, rtol=1e-12)
    assert_allclose(joint.sum(axis=1), np.bincount(given_N, minlength=k) / n, rtol=1e-12)


@pytest.mark.parametrize("share", [0.05, 0.1])
def test_planted_wrong_labels_are_found(share: float) -> None:
    """Three classes of known densities, with means 2.5 standard deviations apart: Bayes errs in a fifth."""
    rng = np.random.default_rng(0)
    true_N = rng.integers(0, 3, 3000)
    means = 2.5 * np.array([[0, 0], [1, 0], [0.5, 0.866]])
    points = means[true_N] + rng.normal(0, 1, (3000, 2))
    density = np.exp(-((points[:, None] - means) ** 2).sum(axis=2) / 2)
    wrong_N = np.zeros(3000, dtype=bool)
    wrong_N[rng.choice(3000, round(3000 * share), replace=False)] = True
    given_N = np.where(wrong_N, (true_N + rng.integers(1, 3, 3000)) % 3, true_N)
    probability = density / density.sum(axis=1, keepdims=True)
    found = suspects(probability, given_N)
    # At random a list is right as often as labels are wrong.
    assert wrong_N[found.wrong_N].mean() > 4 * share
    assert found.wrong_N[wrong_N].mean() > 0.7
    surest = np.argsort(self_confidence(probability, given_N))[: wrong_N.sum() // 2]
    assert wrong_N[surest].mean() > 0.7
