"""The picture of a study: its trials in their order, or of two objectives against each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftx.core.pages import drawn
from ftx.tuning.report import TriedTrial

_INCHES = (7.0, 4.0)


def draw_trials(trials: Sequence[TriedTrial], best: Sequence[int], metric: str, to: Path) -> None:
    """Draw each trial that has a metric; those that are ``best`` are named.

    Of latencies the front is drawn: whoever is beside it is beaten in both.
    """
    measured = [one for one in trials if one.metric is not None]
    timed = [one for one in measured if one.latency_ms is not None]
    with drawn(to, _INCHES) as figure:
        axes = figure.subplots()
        rows = timed or measured
        places = [(one.latency_ms or float(one.number), 100 * (one.metric or 0.0)) for one in rows]
        axes.scatter(*zip(*places, strict=True) if places else ([], []), s=18, color="0.6")
        chosen = sorted(place for one, place in zip(rows, places, strict=True) if one.number in best)
        if timed and chosen:  # another worker may have ended a better one meanwhile
            axes.step(*zip(*chosen, strict=True), where="post", linewidth=1)
        for one, place in zip(rows, places, strict=True):
            if one.number in best:
                axes.scatter(*place, s=36, color="C0")
                axes.annotate(str(one.number), place, textcoords="offset points", xytext=(4, 4), fontsize=8)
        if not timed:  # half a trial is none
            axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("median latency of one image, ms" if timed else "trial")
        axes.set_ylabel(f"{metric.replace('_', ' ')} on validation images, %")
        axes.grid(alpha=0.3)
