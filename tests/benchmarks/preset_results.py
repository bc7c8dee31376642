"""What the trainings of ``tests.benchmarks.presets`` show: accuracy, points lost against ``best`` as it was, a picture.

Shapes: S seeds, N test images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from pathlib import Path
from statistics import geometric_mean, median

import numpy as np
from numpy.typing import NDArray

AGAINST = "former best"
RESAMPLES = 2000
TAILS = (2.5, 97.5)


@dataclass(frozen=True)
class Trained:
    """One training: its keys, its time, and for each test image a 1 if every label is predicted correctly.

    The keys are None in a result from before they were noted.
    """

    data: str
    contestant: str
    seed: int
    resolved: Mapping[str, object]
    seconds: float
    cpu_seconds: float
    best_epoch: int
    outcomes: str
    keys: Sequence[str] | None = None

    @property
    def accuracy(self) -> float:
        """The fraction of test images that are predicted correctly."""
        return self.outcomes.count("1") / len(self.outcomes)


@dataclass(frozen=True)
class Pairs:
    """The trainings of a contestant and of the former ``best`` on one data set with the same seeds."""

    data: str
    contestant: str
    mine: Sequence[Trained]
    best: Sequence[Trained]

    @cached_property
    def lost(self) -> NDArray[np.float64]:
        """Points that each image loses against the former ``best``: 100, 0 or -100. Shape: [S, N]."""
        mine, best = (
            np.array([[bit == "1" for bit in one.outcomes] for one in side], dtype=float)
            for side in (self.mine, self.best)
        )
        return 100 * (best - mine)

    @cached_property
    def resampled(self) -> NDArray[np.float64]:
        """Means of the lost points, with seeds and images drawn again, independently for each data set.

        Shape: [RESAMPLES].
        """
        seeds, images = self.lost.shape
        rng = np.random.default_rng(list(self.data.encode()))
        seed_weights_RS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
        image_weights_RN = rng.multinomial(images, np.full(images, 1 / images), size=RESAMPLES) / images
        return np.einsum("rs,sn,rn->r", seed_weights_RS, self.lost, image_weights_RN, optimize=True)

    @property
    def time(self) -> float:
        """The fraction of the time of the former ``best``, the median of the seeds."""
        return median(one.seconds / best.seconds for one, best in zip(self.mine, self.best, strict=True))


def pairs_of(found: Sequence[Trained]) -> list[Pairs]:
    """For each data set and contestant the trainings whose seed the former ``best`` has too, if there are any."""
    best = {(one.data, one.seed): one for one in found if one.contestant == AGAINST}
    each: dict[tuple[str, str], list[Trained]] = {}
    for one in found:
        if (one.data, one.seed) in best:
            each.setdefault((one.data, one.contestant), []).append(one)
    return [Pairs(*key, mine, [best[one.data, one.seed] for one in mine]) for key, mine in each.items()]


def rows(each: Sequence[Pairs]) -> Iterator[dict[str, object]]:
    """A row for each data set and contestant."""
    for pairs in each:
        low, high = np.percentile(pairs.resampled, TAILS)
        yield {
            "data": pairs.data,
            "contestant": pairs.contestant,
            "test images": pairs.lost.shape[1],
            "accuracy": ", ".join(f"{100 * one.accuracy:.1f}" for one in pairs.mine),
            "mean accuracy": round(100 * float(np.mean([one.accuracy for one in pairs.mine])), 2),
            "points lost": round(float(pairs.lost.mean()), 2),
            "interval": f"{low:.2f} to {high:.2f}",
            "seconds": round(median(one.seconds for one in pairs.mine)),
            "time": round(pairs.time, 2),
        }


def overall(each: Sequence[Pairs]) -> Iterator[dict[str, object]]:
    """A row for each contestant: the mean over the data sets, each of which counts the same.

    The interval is for other data sets, seeds and images: all three are drawn again, with replacement.
    """
    for contestant in dict.fromkeys(pairs.contestant for pairs in each):
        own = [pairs for pairs in each if pairs.contestant == contestant]
        drawn_DR = np.stack([pairs.resampled for pairs in own])
        chosen_RD = np.random.default_rng(0).integers(len(own), size=(RESAMPLES, len(own)))
        low, high = np.percentile(drawn_DR[chosen_RD, np.arange(RESAMPLES)[:, None]].mean(1), TAILS)
        lost = [float(pairs.lost.mean()) for pairs in own]
        yield {
            "contestant": contestant,
            "data sets": len(own),
            "points lost": round(float(np.mean(lost)), 2),
            "interval": f"{low:.2f} to {high:.2f}",
            "most lost": round(max(lost), 2),
            "time": round(geometric_mean(pairs.time for pairs in own), 2),
        }


def draw(each: Sequence[Pairs], path: Path) -> None:
    """One picture: for each data set the points lost against the former ``best``, over the fraction of its time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    contestants = [name for name in dict.fromkeys(pairs.contestant for pairs in each) if name != AGAINST]
    markers = dict(zip(dict.fromkeys(pairs.data for pairs in each), cycle("os^DvPX*<>hpdH8123"), strict=False))
    for pairs in each:
        if pairs.contestant != AGAINST:
            colour = f"C{contestants.index(pairs.contestant)}"
            axes.plot(pairs.time, -pairs.lost.mean(), markers[pairs.data], color=colour, markersize=7)
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.set(
        xlabel="time, as a fraction of that of the former best",
        ylabel="points more than the former best (below 0: fewer)",
    )
    for number, name in enumerate(contestants):
        axes.plot([], [], "s", color=f"C{number}", label=name)
    for name, marker in markers.items():
        axes.plot([], [], marker, color="0.4", label=name)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(path)
