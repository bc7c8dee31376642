"""What a share measured on so many images says about all images."""

from __future__ import annotations

import math

# The two-sided 95 % quantile of the normal distribution, and the one-sided one.
Z_TWO_SIDED = 1.959964
Z_ONE_SIDED = 1.644854


def wilson_interval(hits: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share; (0, 1) where nothing was tried.

    Unlike the normal interval it stays inside [0, 1] and does not collapse at 0 and 1.
    Source: E. B. Wilson, JASA 22 (1927) 209-212.
    """
    if trials == 0:
        return 0.0, 1.0
    share, z2 = hits / trials, Z_TWO_SIDED**2
    centre = share + z2 / (2 * trials)
    half = Z_TWO_SIDED * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    scale = 1 + z2 / trials
    # At hits 0 and hits == trials one end is exactly 0 or 1, which the roundings may miss by an ulp.
    low = 0.0 if hits == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if hits == trials else min(1.0, (centre + half) / scale)
    return low, high


def paired_drop_allowance(lost: int, gained: int, trials: int) -> float:
    """How far a drop in accuracy may lie above the true one by the choice of the images (one-sided 95 %).

    Both models see the same images, so only those count on which one is right and the other wrong:
    ``lost`` that turned wrong and ``gained`` that turned right.
    Source: Agresti, Categorical Data Analysis, section 11.1.1: the variance of a difference of paired shares.
    """
    if trials == 0:
        return 1.0
    variance = (lost + gained) / trials - ((lost - gained) / trials) ** 2
    return Z_ONE_SIDED * math.sqrt(max(0.0, variance) / trials)
