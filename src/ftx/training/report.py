"""The reports of ``ftx train``."""

from __future__ import annotations

from ftx.core.closed_model import ClosedModel
from ftx.core.command_report import CommandReport
from ftx.recipe.method_defaults import Method
from ftx.recipe.sections import Augment


class TrainReport(CommandReport):
    """How a training went, by its kept epoch on validation images.

    ``accuracy`` is the fraction of entirely correct images; ``metric`` is the name of the one that chose the epoch.
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


class PlannedLayer(ClosedModel):
    """A linear layer that gets an adapter: its targets, its sides, and how many parameters train in it."""

    name: str
    targets: list[str]
    inputs: int
    outputs: int
    rank: int
    parameters: int


class DryRunReport(CommandReport):
    """What a training would do; its times come from two steps on images of the data, on this machine as it is now.

    ``tokens`` is how many go into the first block and into each that ``model.keep_tokens`` names; empty if none is
    dropped. ``augment`` and ``patch_dropout`` are the recipe's after ``auto`` was decided: how images are augmented,
    and the fraction of their patches that a step leaves out. ``seconds_before`` is for what is done once: decoding, or
    computing the frozen trunk, if no training did it before. If it would not fit into memory nothing is tried, and
    there are no times.
    """

    verb: str = "train"
    method: Method
    model: str
    precision: str
    image_size: int | str
    tokens: dict[int, int]
    augment: Augment
    patch_dropout: float
    counts: dict[str, dict[str, int]]
    images: dict[str, int]
    unreadable: list[str]
    layers: list[PlannedLayer]
    trainable_parameters: int
    trainable_share: float
    memory_mb: int
    free_mb: int
    epochs: int
    seconds_before: float | None
    seconds_per_epoch: float | None
    seconds: float | None

    @property
    def seen(self) -> str:
        """What a step computes of an image, in words."""
        views = "unaugmented images" if self.augment == "none" else "crops and flips of images"
        return f"{views}, {self.patch_dropout:.0%} of the patches left out of a step" if self.patch_dropout else views
