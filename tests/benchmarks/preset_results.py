"""What the trainings of ``tests.benchmarks.presets`` show: accuracy, points lost against ``best``, time, one picture.

Shapes: S seeds, N test images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean, median

import numpy as np
from numpy.typing import NDArray

AGAINST = "best"
# Resamples: the ends of an interval move by less than 0.05 points from one thousand to another.
RESAMPLES = 4000
TAILS = (2.5, 97.5)


@dataclass(frozen=True)
class Trained:
    """One training: its time, and for each test image a 1 if every label is predicted correctly."""

    data: str
    contestant: str
    seed: int
    resolved: Mapping[str, object]
    seconds: float
    cpu_seconds: float
    best_epoch: int
    outcomes: str

    @property
    def accuracy(self) -> float:
        """The fraction of test images that are predicted correctly."""
        return self.outcomes.count("1") / len(self.outcomes)


@dataclass(frozen=True)
class Pairs:
    """The trainings of a contestant and of ``best`` on one data set with the same seeds."""

    mine: Sequence[Trained]
    best: Sequence[Trained]

    @classmethod
    def of(cls, found: Sequence[Trained], data: str, contestant: str) -> Pairs:
        """Those that both have."""
        by_seed = {one.seed: one for one in found if one.data == data and one.contestant == AGAINST}
        mine = [one for one in found if one.data == data and one.contestant == contestant and one.seed in by_seed]
        return cls(mine, [by_seed[one.seed] for one in mine])

    def lost(self) -> NDArray[np.float64]:
        """Points that each image loses against ``best``: 100, 0 or -100. Shape: [S, N]."""
        mine, best = (
            np.array([[bit == "1" for bit in one.outcomes] for one in side]) for side in (self.mine, self.best)
        )
        return 100 * (best.astype(float) - mine)

    @property
    def time(self) -> float:
        """The fraction of the time of ``best``, the median of the seeds."""
        return median(one.seconds / best.seconds for one, best in zip(self.mine, self.best, strict=True))


def rows(found: Sequence[Trained]) -> Iterator[dict[str, object]]:
    """A row for each data set and contestant."""
    for data in dict.fromkeys(one.data for one in found):
        for contestant in dict.fromkeys(one.contestant for one in found if one.data == data):
            pairs = Pairs.of(found, data, contestant)
            if not pairs.mine:
                continue
            lost_SN = pairs.lost()
            low, high = np.percentile(resampled(lost_SN, np.random.default_rng(0)), TAILS)
            yield {
                "data": data,
                "contestant": contestant,
                "test images": lost_SN.shape[1],
                "accuracy": ", ".join(f"{100 * one.accuracy:.1f}" for one in pairs.mine),
                "mean accuracy": round(100 * float(np.mean([one.accuracy for one in pairs.mine])), 2),
                "points lost": round(float(lost_SN.mean()), 2),
                "interval": f"{low:.2f} to {high:.2f}",
                "seconds": round(median(one.seconds for one in pairs.mine)),
                "time": round(pairs.time, 2),
            }


def overall(found: Sequence[Trained]) -> Iterator[dict[str, object]]:
    """A row for each contestant: the mean over the data sets, each of which counts the same.

    The interval is for other data sets, seeds and images: all three are drawn again, with replacement.
    """
    sets = list(dict.fromkeys(one.data for one in found))
    for contestant in dict.fromkeys(one.contestant for one in found):
        each = [pairs for data in sets if (pairs := Pairs.of(found, data, contestant)).mine]
        rng = np.random.default_rng(0)
        drawn_DR = np.stack([resampled(pairs.lost(), rng) for pairs in each])
        chosen_RD = rng.integers(len(each), size=(RESAMPLES, len(each)))
        means_R = drawn_DR[chosen_RD, np.arange(RESAMPLES)[:, None]].mean(1)
        low, high = np.percentile(means_R, TAILS)
        lost = [float(pairs.lost().mean()) for pairs in each]
        yield {
            "contestant": contestant,
            "data sets": len(each),
            "points lost": round(float(np.mean(lost)), 2),
            "interval": f"{low:.2f} to {high:.2f}",
            "most lost": round(max(lost), 2),
            "time": round(geometric_mean(pairs.time for pairs in each), 2),
        }


def resampled(lost_SN: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Means of the lost points, with seeds and images drawn again. Shape: [RESAMPLES]."""
    seeds, images = lost_SN.shape
    seed_weights_RS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    image_weights_RN = rng.multinomial(images, np.full(images, 1 / images), size=RESAMPLES) / images
    return np.einsum("rs,sn,rn->r", seed_weights_RS, lost_SN, image_weights_RN, optimize=True)


def draw(found: Sequence[Trained], path: Path) -> None:
    """One picture: for each data set the points lost against ``best``, over the fraction of its time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    markers = "os^DvPX*<>hpd"
    sets = list(dict.fromkeys(one.data for one in found))
    contestants = [name for name in dict.fromkeys(one.contestant for one in found) if name != AGAINST]
    for number, contestant in enumerate(contestants):
        for place, data in enumerate(sets):
            pairs = Pairs.of(found, data, contestant)
            if pairs.mine:
                axes.plot(
                    pairs.time,
                    -pairs.lost().mean(),
                    markers[place % len(markers)],
                    color=f"C{number}",
                    markersize=7,
                    label=contestant if place == 0 else None,
                )
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.set(xlabel="time, as a fraction of that of best", ylabel="points more than best (below 0: fewer)")
    for place, data in enumerate(sets):
        axes.plot([], [], markers[place % len(markers)], color="0.4", label=data)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(path)
