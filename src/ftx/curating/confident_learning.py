"""Confident learning: which given labels are probably wrong, by probabilities of a probe that was not trained on them.

It counts how often a probe gives another label at least the mean probability that it gives that label's own images.

Shapes: N images, K mutually exclusive classes.
Source: Northcutt, Jiang and Chuang, Confident Learning, arXiv:1911.00068, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ftx.data.hamming_join import RowNumbers

Probabilities = NDArray[np.float64]


@dataclass(frozen=True)
class Suspects:
    """``wrong_N`` says which given labels are probably wrong, ``other_N`` which label is the likeliest instead."""

    wrong_N: NDArray[np.bool_]
    other_N: RowNumbers


def usual_confidence(probability_NK: Probabilities, given_N: RowNumbers) -> Probabilities:
    """The mean probability of a label on the images that are given it; infinite if there are none.

    Shape: [K]. Source: eq. 2, the threshold t_j.
    """
    labels = probability_NK.shape[1]
    own_N = probability_NK[np.arange(len(given_N)), given_N]
    counts = np.bincount(given_N, minlength=labels)
    sums = np.bincount(given_N, weights=own_N, minlength=labels)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def confident_label(probability_NK: Probabilities, threshold_K: Probabilities) -> RowNumbers:
    """The most probable of the labels that reach their usual confidence; -1 if none does.

    Shape: [N]. Source: eq. 1.
    """
    confident_NK = probability_NK >= threshold_K
    likeliest_N = np.where(confident_NK, probability_NK, -1).argmax(axis=1)
    return np.where(confident_NK.any(axis=1), likeliest_N, -1)


def confident_joint(given_N: RowNumbers, confident_N: RowNumbers, labels: int) -> NDArray[np.intp]:
    """Images by given label (rows) and confident label (columns). Shape: [K, K]. Source: eq. 1."""
    counted = confident_N >= 0
    pairs = given_N[counted] * labels + confident_N[counted]
    return np.bincount(pairs, minlength=labels * labels).reshape(labels, labels)


def calibrated(counts_KK: NDArray[np.intp], given_N: RowNumbers) -> Probabilities:
    """The joint as fractions, each row with as many images as are given its label.

    A row without a counted image is assumed to be correct. Shape: [K, K]. Source: eq. 3.
    """
    labels = len(counts_KK)
    filled_KK = counts_KK + np.diag((counts_KK.sum(axis=1) == 0).astype(np.intp))
    fraction_KK = filled_KK / filled_KK.sum(axis=1, keepdims=True)
    return fraction_KK * (np.bincount(given_N, minlength=labels) / len(given_N))[:, None]


def suspects(probability_NK: Probabilities, given_N: RowNumbers) -> Suspects:
    """As many images as the joint estimates: of each given label the least confident, of each pair the largest margins.

    Both must apply: the paper's C+NR (section 3.2, method 5). On the sample it is correct more often than the others,
    and misses no more than "prune by noise rate": docs/decisions/0015-labels.md.
    """
    labels = probability_NK.shape[1]
    confident_N = confident_label(probability_NK, usual_confidence(probability_NK, given_N))
    joint_KK = calibrated(confident_joint(given_N, confident_N, labels), given_N)
    count_KK = np.rint(len(given_N) * joint_KK).astype(np.intp)
    np.fill_diagonal(count_KK, 0)
    wrong_N = np.zeros(len(given_N), dtype=bool)
    other_N = given_N.copy()
    best_N = np.full(len(given_N), -np.inf)
    for i, j in np.argwhere(count_KK > 0).tolist():
        own = np.flatnonzero(given_N == i)
        margin = probability_NK[own, j] - probability_NK[own, i]
        chosen = np.argsort(-margin, kind="stable")[: count_KK[i, j]]
        rows, margin = own[chosen], margin[chosen]
        wrong_N[rows] = True
        nearer = margin > best_N[rows]  # an image may stand in two of the counts
        best_N[rows[nearer]] = margin[nearer]
        other_N[rows[nearer]] = j
    wrong_N &= _least_confident(self_confidence(probability_NK, given_N), given_N, count_KK.sum(axis=1))
    return Suspects(wrong_N, np.where(wrong_N, other_N, given_N))


def _least_confident(confidence_N: Probabilities, given_N: RowNumbers, count_K: RowNumbers) -> NDArray[np.bool_]:
    """``count_K`` images of each given label. Shape: [N]. Source: section 3.2, method 3, prune by class."""
    chosen_N = np.zeros(len(given_N), dtype=bool)
    for label in np.flatnonzero(count_K).tolist():
        own = np.flatnonzero(given_N == label)
        chosen_N[own[np.argsort(confidence_N[own], kind="stable")[: count_K[label]]]] = True
    return chosen_N


def self_confidence(probability_NK: Probabilities, given_N: RowNumbers) -> Probabilities:
    """The probability of the given label. Shape: [N]."""
    return probability_NK[np.arange(len(given_N)), given_N]
