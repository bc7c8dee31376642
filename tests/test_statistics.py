from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from ftx.statistics import drop_p_value, wilson_interval


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_scipys(counts: tuple[int, int]) -> None:
    hits, trials = counts
    expected = binomtest(hits, trials).proportion_ci(0.95, method="wilson")
    # 1e-6: our quantile is written with six decimals.
    assert wilson_interval(hits, trials) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_no_trial_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert drop_p_value(0, 0, 0, 0.0) == 1.0
    assert drop_p_value(0, 0, 10, 0.005) == 1.0


@given(st.integers(0, 200), st.integers(0, 200))
def test_without_an_allowance_it_is_at_least_scipys_binomial_test(lost: int, gained: int) -> None:
    expected = binomtest(lost, lost + gained, 0.5, alternative="greater").pvalue if lost + gained else 1.0
    # Whole numbers divided once here, a continued fraction there.
    assert drop_p_value(lost, gained, 1000, 0.0) >= expected * (1 - 1e-9)


@given(st.integers(1, 60), st.integers(0, 60), st.sampled_from([0.005, 0.02, 0.1]))
def test_the_share_is_the_likeliest_one(lost: int, gained: int, allowed: float) -> None:
    images = 500
    shares = np.linspace(1e-6, (1 - allowed) / 2 - 1e-6, 200_001)
    rest = images - lost - gained
    likelihood = lost * np.log(shares + allowed) + gained * np.log(shares) + rest * np.log(1 - 2 * shares - allowed)
    share = shares[likelihood.argmax()]
    score = (lost - gained - images * allowed) / np.sqrt(images * (2 * share + allowed * (1 - allowed)))
    expected = max(norm.sf(score), binomtest(lost, lost + gained, 0.5, alternative="greater").pvalue)
    # The grid is 2.5e-6 wide.
    assert drop_p_value(lost, gained, images, allowed) == pytest.approx(expected, rel=5e-3, abs=1e-12)


@pytest.mark.parametrize(
    ("images", "gained"), [(500, 0.0), (500, 0.025), (5000, 0.0), (5000, 0.01), (5000, 0.025), (60, 0.01)]
)
def test_a_drop_as_large_as_allowed_is_rarely_called_more(images: int, gained: float) -> None:
    # A share of all images turns right, and half a point more turns wrong: the allowed drop.
    generator = np.random.default_rng(0)
    draws = generator.multinomial(images, [gained + 0.005, gained, 1 - 2 * gained - 0.005], size=4000)
    called = np.mean([drop_p_value(int(lost), int(won), images, 0.005) < 0.01 for lost, won, _ in draws])
    # 4,000 draws of a share of 0.01 lie within 0.005 with three sigma; where few images differ, whole numbers are
    # coarse.
    assert called < 0.017


def test_a_drop_of_five_points_is_seen() -> None:
    generator = np.random.default_rng(0)
    draws = generator.multinomial(500, [0.07, 0.02, 0.91], size=1000)
    assert np.mean([drop_p_value(int(lost), int(gained), 500, 0.005) < 0.01 for lost, gained, _ in draws]) > 0.8
