"""The reports of ``ftx train``."""

from __future__ import annotations

from ftx.core.closed_model import ClosedModel
from ftx.core.command_report import CommandReport
from ftx.recipe.method_defaults import Method
from ftx.recipe.sections import Augment


class TrainReport(CommandReport):
    """The result of a training: its best epoch, on validation images."""

    verb: str = "train"
    method: Method
    """The training method, for example ``dora``."""
    model: str
    """The model that is trained, as in ``--model``."""
    precision: str
    """The precision that the training computes in."""
    classes: int
    """The number of labels."""
    images: dict[str, int]
    """The number of images in each split: ``train``, ``val`` and ``test``."""
    unreadable: list[str]
    """The path of each image that cannot be read, with the reason."""
    trainable_parameters: int
    """The number of parameters that are trained."""
    epochs: int
    """The number of epochs that ended."""
    best_epoch: int
    """The epoch that is kept, counted from 1."""
    accuracy: float
    """The fraction of images with all labels correct, from 0 to 1."""
    metric: str
    """The name of the metric that chose the epoch."""
    metrics: dict[str, float]
    """The metrics of the task by name, from 0 to 1."""
    loss: float
    """The mean loss."""
    images_per_s: float
    """The training speed in images per second: the median of the epochs."""
    seconds: float
    """The time of the training in seconds."""
    interrupted: bool
    """Whether Ctrl-C or the system stopped the training early."""


class PlannedLayer(ClosedModel):
    """A layer that gets an adapter."""

    name: str
    """The name of the layer."""
    targets: list[str]
    """The targets of the adapter in this layer."""
    inputs: int
    """The number of inputs of the layer."""
    outputs: int
    """The number of outputs of the layer."""
    rank: int
    """The rank of the adapter."""
    parameters: int
    """The number of parameters that are trained in it."""


class DryRunReport(CommandReport):
    """What a training would do, with times from two steps on this machine."""

    verb: str = "train"
    method: Method
    """The training method, for example ``dora``."""
    model: str
    """The model that is trained, as in ``--model``."""
    precision: str
    """The precision that the training would compute in."""
    image_size: int | str
    """The image size in pixels: the side of a square, or ``HEIGHTxWIDTH``."""
    tokens: dict[int, int]
    """The number of tokens of an image in the first block and in each block of ``model.keep_tokens``. Empty if no
    patches are dropped.
    """
    augment: Augment
    """How training images are augmented."""
    patch_dropout: float
    """The fraction of patches that each training step leaves out, from 0 to 1."""
    counts: dict[str, dict[str, int]]
    """The number of images by label and split. An image also counts for the parents of its labels."""
    images: dict[str, int]
    """The number of images in each split: ``train``, ``val`` and ``test``."""
    unreadable: list[str]
    """The path of each image that cannot be read, with the reason."""
    layers: list[PlannedLayer]
    """The layers that get an adapter."""
    trainable_parameters: int
    """The number of parameters that would be trained."""
    trainable_share: float
    """The fraction of all parameters that would be trained, from 0 to 1."""
    memory_mb: int
    """The estimated memory of the training in MB."""
    free_mb: int
    """The free memory in MB."""
    epochs: int
    """The number of epochs."""
    seconds_before: float | None
    """The time before the first epoch in seconds, for work that is done once. null if the memory is too small: then
    nothing is timed.
    """
    seconds_per_epoch: float | None
    """The time of each epoch in seconds; null if nothing is timed."""
    seconds: float | None
    """The time of the whole training in seconds; null if nothing is timed."""

    @property
    def seen(self) -> str:
        """What a step computes of an image, in words."""
        views = "unaugmented images" if self.augment == "none" else "crops and flips of images"
        return f"{views}, {self.patch_dropout:.0%} of the patches left out of a step" if self.patch_dropout else views
