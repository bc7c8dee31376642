"""What ``ftx tune`` reports: its trials, and the best of them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from ftx.core.command_report import CommandReport


class TriedTrial(BaseModel):
    """One trial: its keys, its values (null where it has none), and its run folder, behind the machine if another."""

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
    """The trials of the study so far; the best ones by number, of two objectives those that no other beats in both.

    ``metric`` names what is to rise. ``best_recipe`` is the file of the best one's recipe, by its metric.
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
