"""Folds: subjects whole, labels even, and in any order the same."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from ftx.curating.probes import FOLDS, stratified_folds


def alone(count: int) -> list[str]:
    return [f"s{number}" for number in range(count)]


def test_each_label_is_spread_evenly() -> None:
    labels = [("common",)] * 50 + [("rare",)] * 7 + [("two",)] * 2
    fold_N = stratified_folds(labels, alone(59))
    assert sorted(Counter(fold_N[:50].tolist()).values()) == [10] * 5
    assert sorted(Counter(fold_N[50:57].tolist()).values()) == [1, 1, 1, 2, 2]
    assert len(set(fold_N[57:].tolist())) == 2  # learnt from one, the other judged
    assert max(Counter(fold_N.tolist()).values()) - min(Counter(fold_N.tolist()).values()) <= 1


@given(st.lists(st.tuples(st.integers(0, 12), st.sets(st.sampled_from("pqr"))), min_size=1, max_size=40), st.randoms())
def test_a_subject_is_in_one_fold_whatever_the_order(rows: list[tuple[int, set[str]]], random: object) -> None:
    subjects = [f"s{number}" for number, _ in rows]
    labels = [tuple(sorted(names)) for _, names in rows]
    fold_N = stratified_folds(labels, subjects)
    assert fold_N.max() < min(FOLDS, len(set(subjects)))
    for subject in set(subjects):
        assert len({fold for fold, one in zip(fold_N.tolist(), subjects, strict=True) if one == subject}) == 1
    order = list(range(len(rows)))
    random.shuffle(order)  # pyright: ignore[reportAttributeAccessIssue]
    assert_array_equal(stratified_folds([labels[i] for i in order], [subjects[i] for i in order]), fold_N[order])


def test_no_label_at_all() -> None:
    assert len(set(stratified_folds([()] * 10, alone(10)).tolist())) == FOLDS
    assert_array_equal(stratified_folds([("a",)], ["one"]), np.zeros(1))


@pytest.mark.parametrize("rare", [0, 7])
def test_folds_are_of_one_size_though_subjects_are_not(rare: int) -> None:
    """What is small evens out what is large: 6 + 5 + 5 + 4 + 4 and six of one image are five folds of six."""
    subjects = [f"large {number}" for number, size in enumerate((6, 5, 5, 4, 4)) for _ in range(size)] + alone(6)
    labels = [("common",)] * 30
    # A rarer label, of which each subject has one image, is spread first and by itself.
    fold_N = stratified_folds([*labels, *[("rare",)] * rare], subjects + [f"r{number}" for number in range(rare)])
    assert sorted(Counter(fold_N[:30].tolist()).values()) == [6] * 5
    assert max(Counter(fold_N.tolist()).values()) - min(Counter(fold_N.tolist()).values()) <= 1
