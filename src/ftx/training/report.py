"""What ``ftx train`` answers."""

from __future__ import annotations

from ftx.recipe import Method
from ftx.reports import VerbReport


class TrainReport(VerbReport):
    """How a training went, by its kept epoch on validation images.

    ``accuracy`` is the share of wholly right images; ``metric`` names the one of ``metrics`` that chose the epoch.
    """

    verb: str = "train"
    method: Method
    model: str
    precision: str
    classes: int
    images: dict[str, int]
    unreadable: list[str]
    trainable_parameters: int
    epochs: int
    best_epoch: int
    accuracy: float
    metric: str
    metrics: dict[str, float]
    loss: float
    images_per_s: float
    seconds: float
    interrupted: bool


class DryRunReport(VerbReport):
    """What a training would do."""

    verb: str = "train"
    method: Method
    model: str
    precision: str
    image_size: int | str
    counts: dict[str, dict[str, int]]
    images: dict[str, int]
    unreadable: list[str]
    layers: list[str]
    trainable_parameters: int
    trainable_share: float
    memory_mb: int
    free_mb: int
