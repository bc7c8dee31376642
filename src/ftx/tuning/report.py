"""What ``ftx tune`` reports: its trials, the best of them, and a plot of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ftx.core.command_report import CommandReport
from ftx.core.pages import drawn

_INCHES = (7.0, 4.0)


class TriedTrial(BaseModel):
    """One trial of a search."""

    model_config = ConfigDict(extra="forbid")

    number: int
    """The number of the trial, counted from 0."""
    state: str
    """The state in Optuna: ``running``, ``complete``, ``pruned`` or ``fail``."""
    keys: dict[str, object]
    """The value of each recipe key that is searched."""
    metric: float | None
    """The best value of the metric, from 0 to 1; null if no epoch has ended."""
    latency_ms: float | None
    """The median latency of one image in milliseconds; null if it is not measured."""
    epochs: int | None
    """The number of epochs that ended; null if the trial has not ended."""
    run: str | None
    """The run folder, after the name of its machine if that is another one; null if it does not exist."""
    reason: str | None = None
    """Why the trial failed; null if it did not."""


class TuneReport(CommandReport):
    """The trials of a search so far, and the best of them."""

    verb: str = "tune"
    study: str
    """The name of the study."""
    storage: str
    """The file or database of the study, without a password."""
    metric: str
    """The name of the metric that is maximised."""
    objectives: list[str]
    """What is optimised: only the metric, or also the latency."""
    searched: dict[str, object]
    """The range or the choices of each recipe key that is searched."""
    trials: list[TriedTrial]
    """All trials."""
    best: list[int]
    """The number of the best trial; with two objectives, those of the Pareto front."""
    best_recipe: str | None
    """The file with the recipe of the best metric, which the run in ``run`` reached; null if no trial is complete."""
    seconds: float
    """The time of this call in seconds."""


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
