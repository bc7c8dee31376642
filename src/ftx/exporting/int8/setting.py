"""The ways to quantize a network that the search tries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Int8Preset = Literal["performance", "mixed"]
# Of an activation's range over the calibration images: between the means of their least and greatest values, between
# the least and the greatest of all, or what keeps a histogram nearest.
Ranges = Literal["mean", "widest", "histogram"]


@dataclass(frozen=True)
class Int8Setting:
    """One way to quantize: for a network with attention a strength of SmoothQuant, for another a preset; and the rest.

    ``alpha`` is how far SmoothQuant moves the activations' outliers into the weights: 0 not at all, 1 wholly,
    below 0 it is left out. Of the presets, performance has activations on a scale about 0, mixed between
    their own ends, which suits hard-swish, SiLU and GELU: they end a little below 0 and far above.
    ``in_float`` names the products of the network that stay as they are, ``accuracy_control`` leaves the choice of them
    to NNCF.
    """

    alpha: float | None = None
    preset: Int8Preset | None = None
    ranges: Ranges | None = None
    bias_correction: bool = True
    in_float: tuple[str, ...] = ()
    accuracy_control: bool = False

    def __str__(self) -> str:
        if self.alpha is None:
            parts = [f"{self.preset} preset"]
        else:
            parts = ["no SmoothQuant" if self.alpha < 0 else f"SmoothQuant {self.alpha:g}"]
        if self.ranges is not None:
            parts.append(f"{self.ranges} ranges")
        if not self.bias_correction:
            parts.append("no bias correction")
        if self.in_float:
            parts.append(f"{len(self.in_float)} in float")
        if self.accuracy_control:
            parts.append("accuracy control")
        return ", ".join(parts)

    @property
    def ranges_of_activations(self) -> Ranges:
        """By default, convolutions' activations by histograms, as they have rare large values.

        Between least and greatest the rest is left few steps. Mean logit error on Fashion-MNIST at 64 px, mixed preset,
        without and with: resnet18 0.032, 0.029 (the greatest 0.66, 0.22), mobilenetv3_large 0.30, 0.28, efficientnet_b0
        0.41, 0.29, convnext_atto 0.027, 0.019. Networks with attention lose by histograms: 0.26 instead of 0.05 on
        DINOv2-small.
        """
        return self.ranges or ("histogram" if self.alpha is None else "mean")


# No strength is best for all: deit3_small keeps most without, vit_b_16 with 0.15, swin_v2_s with 0.5 (published
# references of OpenVINO), and NNCF's own default is 0.95.
ATTENTION = tuple(Int8Setting(alpha=alpha) for alpha in (-1.0, 0.15, 0.5, 0.95))
CONVOLUTIONS = (Int8Setting(preset="performance"), Int8Setting(preset="mixed"))
