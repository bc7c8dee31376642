"""What ``ftx tune`` reports: its trials, the best of them, and a plot of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ftx.core.command_report import CommandReport
from ftx.core.pages import drawn

_INCHES = (7.0, 4.0)


class TriedTrial(BaseModel):
    """One trial: its keys, its values (null if it has none), and its run folder, with the machine if it is another."""

    model_config = ConfigDict(extra="forbid")

    number: int
    state: str
    keys: dict[str, object]
    metric: float | None
    latency_ms: float | None
    epochs: int | None
    run: str | None
    reason: str | None = None


class TuneReport(CommandReport):
    """The trials of the study so far, and the numbers of the best ones: of two objectives, the Pareto front.

    ``metric`` is maximised. ``best_recipe`` is the file with the recipe of the trial with the best metric.
    """

    verb: str = "tune"
    study: str
    storage: str
    metric: str
    objectives: list[str]
    searched: dict[str, object]
    trials: list[TriedTrial]
    best: list[int]
    best_recipe: str | None
    seconds: float


def draw_trials(trials: Sequence[TriedTrial], best: Sequence[int], metric: str, to: Path) -> None:
    """Plot each trial that has a metric, and label the ``best``; against latencies, draw the Pareto front."""
    measured = [one for one in trials if one.metric is not None]
    timed = [one for one in measured if one.latency_ms is not None]
    with drawn(to, _INCHES) as figure:
        axes = figure.subplots()
        rows = timed or measured
        places = [(one.latency_ms or float(one.number), 100 * (one.metric or 0.0)) for one in rows]
        axes.scatter(*zip(*places, strict=True) if places else ([], []), s=18, color="0.6")
        chosen = sorted(place for one, place in zip(rows, places, strict=True) if one.number in best)
        if timed and chosen:  # another worker may have found a better one meanwhile
            axes.step(*zip(*chosen, strict=True), where="post", linewidth=1)
        for one, place in zip(rows, places, strict=True):
            if one.number in best:
                axes.scatter(*place, s=36, color="C0")
                axes.annotate(str(one.number), place, textcoords="offset points", xytext=(4, 4), fontsize=8)
        if not timed:  # no fractions of a trial
            axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("median latency of one image, ms" if timed else "trial")
        axes.set_ylabel(f"{metric.replace('_', ' ')} on validation images, %")
        axes.grid(alpha=0.3)
