from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from ftx.statistics import drop_p_value, wilson_interval


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_scipys(counts: tuple[int, int]) -> None:
    hits, trials = counts
    expected = binomtest(hits, trials).proportion_ci(0.95, method="wilson")
    # 1e-6: our quantile is written with six decimals.
    assert wilson_interval(hits, trials) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_no_trial_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert drop_p_value(0, 0, 0) == 1.0


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 50))
def test_the_p_value_is_scipys_binomial_test(lost: int, gained: int, allowed: int) -> None:
    counted = max(0, lost - allowed)
    trials = counted + gained
    expected = binomtest(counted, trials, 0.5, alternative="greater").pvalue if trials else 1.0
    # Whole numbers divided once here, a continued fraction there.
    assert drop_p_value(lost, gained, allowed) == pytest.approx(expected, rel=1e-9)


def test_a_drop_as_large_as_allowed_is_rarely_called_more() -> None:
    # 3.0 % of all images turn wrong and 2.5 % right: the drop is the allowed half point.
    generator = np.random.default_rng(0)
    draws = generator.multinomial(500, [0.03, 0.025, 0.945], size=4000)
    called = np.mean([drop_p_value(int(lost), int(gained), 3) < 0.01 for lost, gained, _ in draws])
    # The exact test stays below its level; 4,000 draws of a share of 0.01 lie within 0.005 with three sigma.
    assert called < 0.015


def test_a_drop_of_five_points_is_seen() -> None:
    generator = np.random.default_rng(0)
    draws = generator.multinomial(500, [0.07, 0.02, 0.91], size=1000)
    assert np.mean([drop_p_value(int(lost), int(gained), 3) < 0.01 for lost, gained, _ in draws]) > 0.8
