from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from ftx.statistics import paired_drop_allowance, wilson_interval


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_scipys(counts: tuple[int, int]) -> None:
    hits, trials = counts
    expected = binomtest(hits, trials).proportion_ci(0.95, method="wilson")
    # 1e-6: our quantile is written with six decimals.
    assert wilson_interval(hits, trials) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_no_trial_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert paired_drop_allowance(0, 0, 0) == 1.0


def test_the_allowance_covers_what_sampling_does() -> None:
    # A true drop of 4 points: 6 % of all images turn wrong and 2 % turn right. One-sided 95 %: the drop
    # measured on 500 images lies above the true one by more than the allowance in about 5 % of the draws.
    generator = np.random.default_rng(0)
    draws = generator.multinomial(500, [0.06, 0.02, 0.92], size=4000)
    beyond = [
        (lost - gained) / 500 > 0.04 + paired_drop_allowance(int(lost), int(gained), 500) for lost, gained, _ in draws
    ]
    # 4,000 draws of a share of 0.05 lie within 0.011 with three sigma; the normal approximation adds as much.
    assert np.mean(beyond) == pytest.approx(0.05, abs=0.02)
