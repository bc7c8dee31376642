"""What ``ftx validate`` returns: a row an artifact, view and precision."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from ftx.reports import VerbReport
from ftx.runtimes.base import RuntimeName
from ftx.validation.tolerance import View


class RowBound(BaseModel):
    """What a row was held to: null where a measure is free. ``max_abs`` in logits, the rest in [0, 1]."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_abs: float | None
    cosine: float | None
    agreement: float | None
    accuracy_drop: float | None
    reason: str


class ParityRow(BaseModel):
    """One artifact in one view under one precision, against the trained model in torch f32 before its merge.

    Differences are null where a logit was not finite; accuracies where the truth is unknown.
    ``accuracy_low`` and ``accuracy_high`` are the ends of Wilson's 95 % interval; ``cosine`` and ``agreement`` are
    means over images, the latter of the share of labels that both give (Dice's; with one label each, the share of
    images called the same). ``unsure`` says what lies beyond its bound, on so few images that chance may have done it.
    ``worst`` holds the images furthest off, the worst first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    artifact: str
    runtime: RuntimeName
    view: View
    compute: str
    images: int
    max_abs: float | None
    mean_abs: float | None
    cosine: float | None
    agreement: float
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    latency_ms: float
    bound: RowBound
    ok: bool
    unsure: list[str]
    worst: list[str]


class ParityReport(VerbReport):
    """All rows, and in words what does not hold.

    ``problems`` says each bound that was passed and each label or image path that differs; ``faulty`` names
    their artifacts. ``digests`` are those of the artifacts at the time. ``whole``: on every held-out image and with
    no bound changed, which is what counts as proof when ``ftx predict`` chooses a model.
    """

    verb: str = "validate"
    folder: str | None = None
    reference: str
    split: str
    whole: bool
    rows: list[ParityRow]
    problems: list[str]
    faulty: list[str]
    digests: dict[str, str]
