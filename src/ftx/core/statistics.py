"""Confidence intervals of a fraction, or of a difference of two fractions, measured on a number of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

# The two-sided 95 % quantile of the normal distribution.
Z_TWO_SIDED = 1.959964
# Bisections end at this width: far below the precision that intervals are printed with.
_EXACT = 1e-9
# A search for a number of images ends here: nobody labels more to prove one model.
_MOST_UNITS = 100_000_000


def points_up(fraction: float) -> str:
    """The upper end of a loss in points, rounded up, and at least 0: 148 images without a loss prove less than two."""
    return f"{max(math.ceil(1000 * fraction - 1e-9), 0) / 10:.1f}"


def wilson_interval(hits: float, trials: int) -> tuple[float, float]:
    """The 95 % interval of a fraction; (0, 1) without trials.

    Unlike the normal interval it stays inside [0, 1] and does not collapse at 0 and 1.
    Source: E. B. Wilson, JASA 22 (1927) 209-212.
    """
    if trials == 0:
        return 0.0, 1.0
    fraction, z2 = hits / trials, Z_TWO_SIDED**2
    centre = fraction + z2 / (2 * trials)
    half = Z_TWO_SIDED * math.sqrt(fraction * (1 - fraction) / trials + z2 / (4 * trials**2))
    scale = 1 + z2 / trials
    # At hits 0 and hits == trials one end is exactly 0 or 1, which the roundings may miss by an ulp.
    low = 0.0 if hits == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if hits == trials else min(1.0, (centre + half) / scale)
    return low, high


def fraction_at_most(hits: float, trials: int, confidence: float) -> float:
    """The upper end of the exact one-sided interval of a fraction; 1 without trials.

    ``hits`` may be a sum of fractions, as for a patient half of whose images were hits. Yes or no varies more than any
    value between them, so the interval is then wider than it need be.
    Source: Clopper and Pearson, Biometrika 26 (1934) 404-413, as quantile of the beta distribution.
    """
    if hits >= trials:
        return 1.0
    return _beta_quantile(confidence, hits + 1, trials - hits)


def fraction_at_least(hits: float, trials: int, confidence: float) -> float:
    """The lower end of the exact one-sided interval of a fraction; 0 without trials."""
    return 1.0 - fraction_at_most(trials - hits, trials, confidence)


def rise_by_chance(hits: int, trials: int, hits_before: int, trials_before: int) -> float:
    """how probable this many hits or more are if the rate is still what it was: small values mean that it rose.

    Source: Fisher's exact test, one-sided; the tail of the hypergeometric distribution, in whole numbers.
    """
    total = hits + hits_before
    tail = sum(
        math.comb(trials, one) * math.comb(trials_before, total - one) for one in range(hits, min(trials, total) + 1)
    )
    return tail / math.comb(trials + trials_before, total)


@dataclass(frozen=True)
class PairedCounts:
    """Two models on the same units (images, or groups of them).

    ``lost`` of the units are correct by the first and wrong by the second, ``gained`` the other way round. If a unit
    is a group, its images count as fractions of it, so both may be fractions.
    """

    lost: float
    gained: float
    units: int

    @property
    def drop(self) -> float:
        """How much less accurate the second model is, as a fraction of the units; 0 if there are none."""
        return (self.lost - self.gained) / self.units if self.units else 0.0

    @property
    def swapped(self) -> PairedCounts:
        """The same with the models in the other order."""
        return PairedCounts(self.gained, self.lost, self.units)

    def drop_at_most(self, confidence: float) -> float:
        """The upper end of the one-sided interval of the drop; 1 without units.

        The wider of two: Tango's score interval, which keeps its level but for very few lost images (6.0 % of errors
        at 5 % if 0.02 of 300 are lost and none gained), and the exact intervals of lost and gained brought together,
        which are exact if none is gained and keep little more than their level if many are. Together they err in
        at most 5.0 % in the table of docs/decisions/0008-verdict.md.
        Source: Tango, Statistics in Medicine 17 (1998) 891-908; Zou and Donner, Statistics in Medicine 27 (2008)
        1693-1702, eq. 5 (MOVER), with Clopper-Pearson's ends.
        """
        if not self.units:
            return 1.0
        return max(self._score_end(confidence), self._mover_end(confidence))

    def drop_at_least(self, confidence: float) -> float:
        """The lower end of the one-sided interval of the drop; -1 without units."""
        return -self.swapped.drop_at_most(confidence)

    def chance_within(self, margin: float) -> float:
        """The p-value of "the drop is larger than ``margin``": small if it is proved not to be."""
        return 1.0 - _largest(lambda confidence: self.drop_at_most(confidence) <= margin, 0.5, 1.0)

    def chance_beyond(self, margin: float) -> float:
        """The p-value of "the drop is at most ``margin``": small if it is proved to be more."""
        return 1.0 - _largest(lambda confidence: self.drop_at_least(confidence) > margin, 0.5, 1.0)

    def units_needed(self, margin: float, confidence: float) -> int | None:
        """How many units would prove the margin if none beyond those seen were lost or gained; None for no number."""
        if margin <= 0:
            return None

        def proved(units: int) -> bool:
            return PairedCounts(self.lost, self.gained, units).drop_at_most(confidence) <= margin

        low, high = self.units - 1, max(self.units, 1)
        while not proved(high):
            low, high = high, 2 * high
            if high > _MOST_UNITS:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if proved(middle) else (middle, high)
        return high

    def _score_end(self, confidence: float) -> float:
        """The largest drop that Tango's score test does not reject."""
        quantile = NormalDist().inv_cdf(confidence)
        return _largest(lambda drop: self._score(drop) >= -quantile, self.drop, 1.0)

    def _score(self, drop: float) -> float:
        """Tango's statistic for a true drop, eq. 12: its normal deviate, at the likeliest fraction gained."""
        trials, units = self.lost + self.gained, self.units
        b = -trials + drop * (2 * units - self.lost + self.gained)
        c = -self.gained * drop * (1 - drop)
        gained_fraction = (math.sqrt(max(b * b - 8 * units * c, 0.0)) - b) / (4 * units)
        variance = units * (2 * gained_fraction + drop * (1 - drop))
        difference = self.lost - self.gained - units * drop
        if variance <= 0:
            return 0.0 if difference == 0 else math.copysign(math.inf, difference)
        return difference / math.sqrt(variance)

    def _mover_end(self, confidence: float) -> float:
        lost, gained = self.lost / self.units, self.gained / self.units
        more_lost = fraction_at_most(self.lost, self.units, confidence) - lost
        less_gained = gained - fraction_at_least(self.gained, self.units, confidence)
        return min(1.0, lost - gained + math.hypot(more_lost, less_gained))


def holm(p_values: Sequence[float], alpha: float) -> list[tuple[bool, float]]:
    """For each hypothesis whether it is rejected, and at which level it was tested; all together err in ``alpha``.

    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    decisions: list[tuple[bool, float]] = [(False, alpha)] * len(p_values)
    level, rejected = alpha, True
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        if rejected:  # after the first that is kept, all are kept
            level = alpha / (len(p_values) - step)
            rejected = p_values[index] <= level
        decisions[index] = rejected, level
    return decisions


def _largest(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The largest number up to ``high`` for which something holds that holds at ``low`` and up to some point."""
    if not holds(low):
        return low
    while high - low > _EXACT:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


@lru_cache(maxsize=4096)
def _beta_quantile(fraction: float, a: float, b: float) -> float:
    return _largest(lambda x: _beta_below(x, a, b) <= fraction, 0.0, 1.0)


def _beta_below(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b).

    Source: the continued fraction of DLMF 8.17.22, evaluated by Lentz's method; it converges fast on the side of the
    mean where x is.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _beta_below(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    tiny = 1e-300
    c, d = 1.0, 1.0 / (1 - (a + b) * x / (a + 1) or tiny)
    fraction = d
    for m in range(1, 10_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / ((1 + term * d) or tiny)
            c = (1 + term / c) or tiny
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * fraction / a
