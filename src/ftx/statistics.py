"""What a share measured on so many images says about all images."""

from __future__ import annotations

import math
from statistics import NormalDist

# The two-sided 95 % quantile of the normal distribution.
Z_TWO_SIDED = 1.959964


def wilson_interval(hits: float, trials: int) -> tuple[float, float]:
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


def drop_p_value(lost: int, gained: int, images: int, allowed: float) -> float:
    """How likely at least so many images turn wrong by chance where a share ``allowed`` of them may, net.

    Both models see the same ``images``, so only those tell on which one is right and the other wrong: ``lost`` turned
    wrong and ``gained`` turned right. One-sided score test of the difference of two paired shares; with few images,
    where that is too bold, McNemar's exact test must agree.
    Source: Tango, Statistics in Medicine 17 (1998) 891-908, eq. 12; Agresti, Categorical Data Analysis, section 11.1.1.
    """
    trials = lost + gained
    exact = sum(math.comb(trials, hits) for hits in range(lost, trials + 1)) / 2**trials
    # The likeliest share of images gained, where the true drop is the allowed one: a root of Tango's quadratic.
    b = -trials + allowed * (2 * images - lost + gained)
    c = -gained * allowed * (1 - allowed)
    gained_share = (math.sqrt(b * b - 8 * images * c) - b) / (4 * images) if images else 0.0
    variance = images * (2 * gained_share + allowed * (1 - allowed))
    if variance <= 0:
        return exact
    score = (lost - gained - images * allowed) / math.sqrt(variance)
    return max(exact, NormalDist().cdf(-score))
