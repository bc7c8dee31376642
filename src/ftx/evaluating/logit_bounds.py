"""How far an artifact may lie from the trained model: each bound with its reason, all in this file.

A bound belongs to a rounding and a view. The rounding is the coarsest on the way: an fp32 model under
bf16 has the bounds of bf16, an int8 model those of int8 whatever surrounds it. The view is the
graph's (same pixels; so has int8 for one image) or the files' (the runtime's own image path).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

from ftx.core.errors import InputError, nearest
from ftx.runs.artifacts import Artifact
from ftx.runs.compute_precision import ComputePrecision
from ftx.runs.views import VIEW_OF, View

Rounding = Literal["fp32", "fp16", "bf16", "int8"]


@dataclass(frozen=True)
class Bound:
    """The bound of one row; None is no bound.

    ``max_share`` bounds the largest difference of a logit in units of max(1, max|logit|); ``max_abs``
    bounds it in logits, and replaces ``max_share`` where it is set. ``cosine`` is a least value. How many labels may
    change is bounded elsewhere, for all rows alike: by the margin of ``ftx.evaluating.judge``.
    """

    max_share: float | None
    cosine: float | None
    reason: str
    max_abs: float | None = None

    def max_abs_for(self, largest_logit: float) -> float | None:
        """The bound on a difference, in logits, where the reference's largest is so large."""
        if self.max_abs is not None:
            return self.max_abs
        return None if self.max_share is None else self.max_share * max(1.0, largest_logit)


# "Measured" is: DINOv2 ViT-S/14 at 112 px with a linear head, 96 held-out images of Fashion-MNIST, accuracy 0.71 (so
# many close calls), OpenVINO 2026.4 on a CPU with AVX512-BF16. Differences are shares of the largest logit. For
# comparison: 1 % on one weight matrix moved a logit by 3.5e-3 or more (1.3e-2 in the median, 9e-4 for the smallest
# tensor of all, the class token), a mean of 0.5 for all channels by 0.41, bilinear for bicubic resizing by 0.36.
BOUNDS: Mapping[str, Bound] = {
    "fp32.graph": Bound(
        max_share=1e-4,
        cosine=None,
        reason="f32 throughout, only the order of sums differs: 4.5e-6 measured; 1 % on any one weight tensor is 9e-4",
    ),
    "fp32.files": Bound(
        max_share=0.1,
        cosine=0.999,
        reason="the embedded resize is one grey level off at most: 0.05, cosine 0.9996 measured with one on every "
        "pixel; another interpolation is 0.36, cosine 0.94",
    ),
    "fp16.graph": Bound(
        max_share=3e-3,
        cosine=0.9999,
        reason="weights rounded to 11 bits, computed in f32: 1e-3 measured; 1 % on any one weight matrix is 3.5e-3",
    ),
    "fp16.files": Bound(
        max_share=0.1,
        cosine=0.999,
        reason="the image path's grey level (see fp32.files), fifty times the rounding of the weights",
    ),
    "bf16.graph": Bound(
        max_share=0.1,
        cosine=0.998,
        reason="8 bits in each product: 0.03, cosine 0.9996 measured; a wrong mean is 0.41, cosine 0.94",
    ),
    "bf16.files": Bound(
        max_share=0.15,
        cosine=0.997,
        reason="bf16 and the image path's grey level together",
    ),
    "int8.graph": Bound(
        max_share=0.35,
        cosine=0.98,
        reason="0.15, cosine 0.993 measured; a wrong mean on top is 0.44, cosine 0.96",
    ),
    "int8.files": Bound(
        max_share=0.35,
        cosine=0.98,
        reason="as int8.graph: the image path's grey level, 0.05, is small next to it",
    ),
}

# Only labels are counted; how far the logits lie is measured as well.
FREE = Bound(None, None, reason="only labels are compared")

_MEASURES = tuple(field.name for field in fields(Bound) if field.name != "reason")
_KEYS = tuple(f"{row}.{measure}" for row in BOUNDS for measure in _MEASURES)


@dataclass(frozen=True)
class Bounds:
    """A whole table, the default one or the user's."""

    table: Mapping[str, Bound]

    @classmethod
    def of(cls, overrides: Mapping[str, float] | Bounds | None = None) -> Bounds:
        """The default table with values laid over it, such as ``{"int8.graph.max_abs": 2.0}``.

        Raises: InputError naming each key that there is not, with the nearest, and each value that is no bound.
        """
        if isinstance(overrides, Bounds):
            return overrides
        table = dict(BOUNDS)
        faults: list[str] = []
        for key, value in (overrides or {}).items():
            row, _, measure = key.rpartition(".")
            if row in table and measure in ("agreement", "accuracy_drop"):
                faults.append(f"{key}: labels have one margin for all rows, set by --max-drop")
            elif row not in table or measure not in _MEASURES:
                alike = nearest(key, _KEYS)
                faults.append(f"{key}: unknown bound" + (f", did you mean '{alike}'?" if alike else ""))
            elif not 0 <= value < float("inf"):
                faults.append(f"{key}: must be a number of 0 or more, found {value}")
            else:
                table[row] = replace(table[row], **{measure: float(value)}, reason=f"set by the user: {key}={value:g}")
        if faults:
            raise InputError(
                "--bound must be ROW.MEASURE=VALUE",
                found="; ".join(faults),
                fix=f"use a row of {', '.join(BOUNDS)}, and a measure of {', '.join(_MEASURES)}",
            )
        return cls(table)

    def pick(self, artifact: Artifact, view: View, compute: ComputePrecision, *, drops_patches: bool = False) -> Bound:
        """The bound of one row.

        Torch and ONNX Runtime use the preprocessing of training: in f32 their logits from files are those from pixels.
        A model that drops patches keeps another one now and then wherever anything but the order of sums differs, and
        one image then has other logits: the mean cosine and the labels judge it.
        """
        rounding = coarsest_rounding(artifact, compute)
        if view == VIEW_OF["single"]:  # as much is rounded as there
            view = "graph"
        if rounding == "fp32" and not (artifact.resizes and view == "files"):
            return self.table["fp32.graph"]
        row = f"{rounding}.{view}"
        if not drops_patches or self.table[row] != BOUNDS[row]:  # the user's
            return self.table[row]
        held = BOUNDS[f"{'fp32' if rounding == 'fp32' else 'int8'}.{view}"]
        reason = "another patch that is kept may move one image's logits at will: by 0.25 measured, of 64 patches"
        return replace(held, max_share=None, reason=reason)


def coarsest_rounding(artifact: Artifact, compute: ComputePrecision) -> Rounding:
    """The coarsest rounding on the way through an artifact under a precision."""
    if artifact.precision == "int8":
        return "int8"
    # f16 arithmetic, which some CPUs choose, rounds three bits later than bf16 and so stays within its bounds.
    return artifact.precision if compute.dtype == "f32" else "bf16"


def rests_on_labels(artifact: Artifact, compute: ComputePrecision) -> bool:
    """Whether an artifact's proof under a precision is an interval: any rounding coarser than f32 changes labels."""
    return coarsest_rounding(artifact, compute) != "fp32"
