"""How often the prediction sets of a model are right: in the reports of ``ftx eval`` and ``ftx validate``."""

from __future__ import annotations

from ftx.core.closed_model import ClosedModel
from ftx.runs.compute_precision import ComputeField
from ftx.runs.machine import InstructionSet
from ftx.runs.views import KernelPath


class SetQuality(ClosedModel):
    """How often prediction sets are right, and how large they are."""

    images: int
    """The number of held-out images. Those that calibrated the sets are not among them."""
    coverage: float
    """The fraction of images whose set is right, from 0 to 1. With several independent labels, the mean fraction of the
    labels of an image that are in its set.
    """
    size: float
    """The mean number of labels in a set."""
    guarantee: str
    """What is guaranteed for new images, in a sentence, or why nothing is."""


class SetRow(SetQuality):
    """The prediction sets of one OpenVINO model on one instruction set."""

    artifact: str
    """The model."""
    isa: InstructionSet | None
    """The instruction set; null on a CPU older than AVX2."""
    compute: ComputeField
    """The precision that it computed in where it does not compute in 8 bits."""
    kernels: KernelPath
    """``batch``: with the kernels for batches. ``single``: with those for single images."""
