"""The certificate of an int8-checked model: how far the float model moves the decisions of the quick one, on n images.

The quick model is int8; or, where the CPU computes in bf16, the float model in bf16 if that takes less time.

The bound is the largest movement (``ftx.tasks.decisions``). With 95 % confidence, a new image exceeds it with
probability at most 1 - 0.05^(1/n), if it is from the same source. Its labels can then differ from the float model's.
Source of the interval: Clopper and Pearson, Biometrika 26 (1934) 404-413, for no hit in n trials.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from ftx.core.closed_model import ClosedModel
from ftx.core.statistics import fraction_at_most
from ftx.runs.compute_precision import ComputeField
from ftx.runs.machine import InstructionSet, Machine
from ftx.runs.views import KernelPath

CONFIDENCE = 0.95
# The model that runs first.
QuickModel = Literal["int8", "bf16"]
# int8-checked pays if one image takes at most this part of fp32's time, with the second runs.
MOST_TIME = 0.8


class Certificate(ClosedModel):
    """The bound for one way to run the quick model, and the images that it was measured on."""

    machine: Machine
    """The machine that was measured."""
    isa: InstructionSet | None
    """The instruction set that decided which kernels ran; null on a CPU older than AVX2."""
    quick: QuickModel = "int8"
    """The model that runs first: ``int8``, or the float model in ``bf16``."""
    compute: ComputeField
    """The precision that the model computed in where it does not compute in 8 bits, for example ``auto:bf16``."""
    kernels: KernelPath
    """``batch``: with the kernels for batches. ``single``: with those for single images."""
    source: str
    """The images: for example the split of the run."""
    images: Annotated[int, Field(ge=1)]
    """The number of images."""
    bound: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """The largest movement of an image, in logits. Images with a smaller margin also run in float."""
    changed: Annotated[int, Field(ge=0)]
    """The number of these images for which the quick model without the float model predicts other labels. If the model
    drops patches, images in which two patches tie are not counted.
    """
    twice: Annotated[int, Field(ge=0)]
    """The number of these images that also run in float."""
    time_vs_fp32: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """The time of one image from its file, with the second runs, divided by that of the float model."""

    @property
    def differ_at_most(self) -> float:
        """The fraction of new images whose labels can differ from the float model's, with 95 % confidence."""
        return fraction_at_most(0, self.images, CONFIDENCE)

    @property
    def verdict(self) -> Literal["proved", "unproved"]:
        """Proved if fewer labels can differ than the quick model changed by itself."""
        return "proved" if self.differ_at_most < self.changed / self.images else "unproved"

    @property
    def needed_images(self) -> int | None:
        """The number of images that would prove it if the rest stays; None if the quick model changed no label."""
        if not self.changed:
            return None
        if self.changed == self.images:
            return 1
        return math.floor(math.log(1 - CONFIDENCE) / math.log(1 - self.changed / self.images)) + 1

    @property
    def way(self) -> str:
        """How the model was run, in words."""
        return f"{self.isa}, {self.quick}, {self.kernels}"

    @property
    def at_most(self) -> str:
        """How many labels can differ, in words."""
        measured = f"({100 * CONFIDENCE:g} % confidence, {self.images:,} images)"
        return f"at most {_up(100 * self.differ_at_most):g} % of labels differ from fp32's {measured}"

    @property
    def summary(self) -> str:
        """The certificate in a sentence."""
        if self.verdict == "proved":
            return self.at_most
        if self.needed_images is None:
            return f"{self.quick} has the same bound without the second model: {self.at_most}"
        return f"not certified: needs {self.needed_images:,} images to differ less than {self.quick}; {self.at_most}"

    @property
    def cost(self) -> str:
        """How many images also run in float, and what that costs, in words."""
        twice = f"{100 * self.twice / self.images:.1f} % of images also run in fp32"
        pays = "" if self.time_vs_fp32 <= MOST_TIME else ", so fp32 is the better choice here"
        return f"{twice}; one image takes {self.time_vs_fp32:.2f} of fp32's time{pays}"


def _up(value: float) -> float:
    """Rounded up to two digits: what is at most 2.004 is not at most 2."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(value / step - 1e-9) * step, 12)
