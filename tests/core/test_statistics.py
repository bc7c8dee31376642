from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from scipy.special import xlogy
from scipy.stats import beta, binom, binomtest, fisher_exact, norm
from tests.benchmarks.verdict import chance_of

from ftx.core.statistics import (
    PairedCounts,
    fraction_at_least,
    fraction_at_most,
    holm,
    rise_by_chance,
    wilson_interval,
)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_scipys(counts: tuple[int, int]) -> None:
    hits, trials = counts
    expected = binomtest(hits, trials).proportion_ci(0.95, method="wilson")
    # 1e-6: our quantile is written with six decimals.
    assert wilson_interval(hits, trials) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_no_trial_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert (fraction_at_least(0, 0, 0.95), fraction_at_most(0, 0, 0.95)) == (0.0, 1.0)
    assert (PairedCounts(0, 0, 0).drop_at_least(0.95), PairedCounts(0, 0, 0).drop_at_most(0.95)) == (-1.0, 1.0)
    assert PairedCounts(0, 0, 0).drop == 0.0
    assert PairedCounts(0, 0, 0).chance_within(0.02) == PairedCounts(0, 0, 0).chance_beyond(0.02) == 0.5


def score_end(lost: int, gained: int, images: int, confidence: float) -> float:
    """Tango's upper end, the likeliest share of gained images found by a search and the end by another."""

    def statistic(drop: float) -> float:
        def unlikely(share: float) -> float:
            rest = images - lost - gained
            return -(xlogy(lost, share + drop) + xlogy(gained, share) + xlogy(rest, 1 - 2 * share - drop))

        limits = (max(0.0, -drop), (1 - drop) / 2)
        share = minimize_scalar(unlikely, bounds=limits, method="bounded", options={"xatol": 1e-12}).x
        return (lost - gained - images * drop) / np.sqrt(images * (2 * share + drop * (1 - drop)))

    return brentq(lambda drop: statistic(drop) + norm.ppf(confidence), (lost - gained) / images + 1e-9, 1 - 1e-6)


def exact_end(lost: int, gained: int, images: int, confidence: float) -> float:
    """MOVER with the ends of Clopper and Pearson by scipy's binomial test."""
    most = binomtest(lost, images, alternative="less").proportion_ci(confidence, method="exact").high
    least = binomtest(gained, images, alternative="greater").proportion_ci(confidence, method="exact").low
    return (lost - gained) / images + np.hypot(most - lost / images, gained / images - least)


@pytest.mark.parametrize("confidence", [0.95, 0.975])
@pytest.mark.parametrize(
    ("lost", "gained", "images"), [(1, 0, 150), (3, 0, 154), (18, 5, 500), (4, 5, 500), (60, 55, 600), (2, 9, 80)]
)
def test_the_drop_ends_at_the_wider_of_two_ends_by_scipy(
    lost: int, gained: int, images: int, confidence: float
) -> None:
    expected = max(f(lost, gained, images, confidence) for f in (score_end, exact_end))
    # The search for the likeliest share stops at 1e-12 of it, which the flat likelihood turns into some 1e-7.
    assert PairedCounts(lost, gained, images).drop_at_most(confidence) == pytest.approx(expected, abs=2e-6)
    assert PairedCounts(gained, lost, images).drop_at_least(confidence) == pytest.approx(-expected, abs=2e-6)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(120, 3000), st.sampled_from([0.005, 0.02, 0.1]))
@settings(max_examples=30)
def test_a_p_value_is_where_the_interval_ends_at_the_margin(lost: int, gained: int, images: int, margin: float) -> None:
    units = PairedCounts(lost, gained, images)
    within, beyond = units.chance_within(margin), units.chance_beyond(margin)
    if within < 0.5:
        # 1e-9 of confidence is what the bisection stops at.
        assert units.drop_at_most(1 - within - 1e-6) <= margin
        assert within < 1e-6 or units.drop_at_most(1 - within + 1e-6) > margin
    if beyond < 0.5:
        assert units.drop_at_least(1 - beyond - 1e-6) > margin
    assert max(within, beyond) >= 0.5


def test_shares_end_where_scipys_do() -> None:
    for hits, trials in ((0, 1), (0, 149), (3, 154), (12, 12), (500, 1000), (4999, 5000)):
        high = binomtest(hits, trials, alternative="less").proportion_ci(0.95, method="exact").high
        low = binomtest(hits, trials, alternative="greater").proportion_ci(0.95, method="exact").low
        assert fraction_at_most(hits, trials, 0.95) == pytest.approx(high, abs=2e-9)
        assert fraction_at_least(hits, trials, 0.95) == pytest.approx(low, abs=2e-9)
    # Between whole numbers it is scipy's beta distribution.
    assert fraction_at_most(1 / 3, 200, 0.95) == pytest.approx(beta.ppf(0.95, 4 / 3, 200 - 1 / 3), abs=2e-9)


def test_what_it_would_take() -> None:
    # 0.05^(1/n): ln 0.05 / ln 0.98 = 148.3, ln 0.05 / ln 0.995 = 597.6.
    assert PairedCounts(0, 0, 10).units_needed(0.02, 0.95) == 149
    assert PairedCounts(0, 0, 10).units_needed(0.005, 0.95) == 598
    # The binomial distribution has 0.0499 of its weight up to 3 of 386, and 0.0501 up to 3 of 385.
    assert binom.cdf(3, 386, 0.02) < 0.05 < binom.cdf(3, 385, 0.02)
    assert PairedCounts(3, 0, 154).units_needed(0.02, 0.95) == 386
    assert PairedCounts(3, 0, 154).units_needed(0.0, 0.95) is None


@pytest.mark.parametrize(("lost", "gained"), [(3, 2), (9, 4), (5, 7)])
def test_what_was_gained_counts_in_what_it_would_take(lost: int, gained: int) -> None:
    """It is the number from which on the interval ends at the margin, whichever way the images were won."""

    def end(images: int) -> float:
        return max(score_end(lost, gained, images, 0.95), exact_end(lost, gained, images, 0.95))

    needed = PairedCounts(lost, gained, 20).units_needed(0.02, 0.95)
    assert needed is not None
    assert needed != PairedCounts(lost, 0, 20).units_needed(0.02, 0.95)
    # By scipy's ends, which are some 1e-7 off (see above); one image more moves the end by over 1e-5.
    assert end(needed) <= 0.02 + 2e-6
    assert end(needed - 1) > 0.02 - 2e-6
    # Where those that are there prove it, it is they.
    assert PairedCounts(lost, gained, needed + 100).units_needed(0.02, 0.95) == needed + 100
    assert PairedCounts(lost, gained, 20).units_needed(0.01, 0.95) > needed


def test_holm_by_his_example() -> None:
    # 0.01 is below 0.05 / 4, 0.015 below 0.05 / 3; 0.03 is above 0.05 / 2, so 0.04 stands though it is below 0.05.
    assert [refused for refused, _ in holm([0.04, 0.01, 0.03, 0.015], 0.05)] == [False, True, False, True]
    levels = [level for _, level in holm([0.04, 0.01, 0.03, 0.015], 0.05)]
    assert levels == pytest.approx([0.025, 0.0125, 0.025, 0.05 / 3])
    assert holm([], 0.05) == []


@pytest.mark.parametrize(
    ("images", "gained"), [(150, 0.0), (300, 0.0), (300, 0.02), (500, 0.01), (500, 0.05), (1000, 0.002)]
)
def test_a_drop_of_the_margin_is_called_proved_in_one_of_twenty_at_most(images: int, gained: float) -> None:
    # 0.0505 is the worst of the table in docs/decisions/0008-verdict.md (2,000 images, a tenth of them gained).
    assert chance_of(images, gained + 0.02, gained, proved=True) <= 0.0505
    assert chance_of(images, gained + 0.02, gained, proved=False) <= 0.0505


def test_a_sound_model_is_proved_on_500_images() -> None:
    # One image in a hundred lost and one gained, which is what int8 does at best.
    assert chance_of(500, 0.01, 0.01, proved=True) > 0.85
    # And one that loses seven of a hundred and gains one is called what it is.
    assert chance_of(500, 0.07, 0.01, proved=False) > 0.95


@pytest.mark.parametrize(
    "counts", [(0, 20, 0, 40), (5, 20, 3, 40), (20, 20, 1, 40), (120, 1000, 80, 1000), (9, 9, 9, 9)]
)
def test_a_rise_is_fishers(counts: tuple[int, int, int, int]) -> None:
    hits, trials, before, of = counts
    expected = fisher_exact([[hits, trials - hits], [before, of - before]], alternative="greater").pvalue
    assert rise_by_chance(*counts) == pytest.approx(expected, rel=1e-9)


def test_an_unchanged_rate_is_called_a_rise_in_one_window_of_a_thousand_at_most() -> None:
    """The levels of the test are exact, so that windows of one rate rarely reach 0.1 %."""
    rng = np.random.default_rng(0)
    known, windows = rng.binomial(200, 0.1, 4000), rng.binomial(100, 0.1, 4000)
    alarms = [
        rise_by_chance(int(one), 100, int(before), 200) < 0.001 for one, before in zip(windows, known, strict=True)
    ]
    assert sum(alarms) <= 8  # more with probability 2 % at the level itself
