"""The search for the INT8 model: the setting in which a network loses least for its work, on images of its own.

It has four steps, each from the best setting so far: the strength of SmoothQuant (or the preset); how ranges are
estimated, and whether biases are corrected; products that go back into float, the most sensitive for their work first;
and, if labels still change beyond the margin for certain, accuracy control: more products go back, those that multiply
least first. NNCF takes seconds to analyse a network, however few its images. So each setting is calibrated with all of
them, the best one is the INT8 model, and products go back into float without NNCF.

Shapes: N images, C labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ftx.core.progress import SILENT, Progress, ProgressTask
from ftx.core.statistics import PairedCounts
from ftx.core.third_parties import no_telemetry
from ftx.exporting.int8.products import (
    Product,
    int8_fraction,
    only_products_rounded,
    products,
    quantized_products,
    restored,
    with_exact_inputs,
)
from ftx.exporting.int8.quantize import (
    ATTENTION,
    CONVOLUTIONS,
    Batches,
    Int8Setting,
    PredictedLabels,
    compiled,
    logits_of,
    quantize,
    reads,
)
from ftx.recipe.sections import MAX_DROP
from ftx.runs.quantize_json import LayerSensitivity
from ftx.tasks.thresholds import Floats

with no_telemetry():
    import openvino as ov

# Judging images by which a product's sensitivity is measured. A ViT-S has 74 products, and each is compiled again, so
# neighbours are measured together first: a block of a ViT has six in 8 bits.
SENSITIVITY_IMAGES = 16
NEIGHBOURS = 6
FINEST = 2
# How many products go back into float, step by step, and how much work all of them may add: without this limit the
# smallest error is that of a network with none in 8 bits.
IN_FLOAT = (1, 2, 4, 8)
MOST_ADDED = 0.1
# Accuracy control puts these fractions of the other products back into float, until labels are kept.
CONTROLLED = (1 / 4, 1 / 2, 3 / 4)
CONFIDENCE = 0.95
# To clone, compile and run a model takes a twelfth of a setting's time, in which NNCF reads 64 images or 32: in images.
COMPILED = 5


@dataclass(frozen=True)
class Candidate:
    """A setting that was tried, and its result.

    ``mean_abs`` is the mean absolute difference of a logit from the float model's, over the judging images; ``changed``
    is how many of these ``images`` have other labels. ``work`` is the fraction of the float model's multiplications
    that is left, as VNNI counts them. Nothing is timed: the same images make the same model on each machine.
    """

    setting: Int8Setting
    mean_abs: float
    changed: int
    images: int
    work: float

    @property
    def loss(self) -> float:
        """What is minimised: a tenth more work must bring a tenth less error."""
        return self.mean_abs * self.work if np.isfinite(self.mean_abs) else float("inf")


@dataclass(frozen=True)
class QuantizedBody:
    """An INT8 body, its setting, and the candidates it was chosen from; none if the setting was given."""

    model: ov.Model
    setting: Int8Setting
    candidates: tuple[Candidate, ...] = ()
    sensitivities: tuple[LayerSensitivity, ...] = ()

    @property
    def int8_fraction(self) -> float:
        """The fraction of it that this CPU computes in 8 bits, in [0, 1]."""
        return int8_fraction(compiled(self.model))


def quantize_body(
    body: ov.Model,
    calibration: Batches,
    held_out: Batches,
    *,
    settings: Sequence[Int8Setting] | None = None,
    overflow_safe: bool = False,
    predicted: PredictedLabels | None = None,
    max_drop: float = MAX_DROP,
    progress: Progress = SILENT,
) -> QuantizedBody:
    """Search for the best setting, and quantize with it.

    ``settings`` are the first ones, by default those for the body's kind; a single one is used without a search.
    ``predicted`` returns the labels of logits, by default the highest. ``overflow_safe`` is for CPUs without VNNI.

    Attention stays in float. Both operands are activations, which have no bit to spare if sums saturate; and as one
    fused operation it is as fast as with parts in 8 bits (DINOv2-small, one image: 5 % slower on AVX512-VNNI, as fast
    on AVX2-VNNI, 7 % faster on AVX512-BF16, 21 % faster on AMX).
    Shape: each item is a batch of normalised images, f32 [N, 3, H, W].
    """
    known = products(body)
    attention = tuple(one.name for one in known if one.kind == "attention")
    kinds = settings or (ATTENTION if attention else CONVOLUTIONS)
    kinds = tuple(replace(one, in_float=(*one.in_float, *attention)) for one in kinds)
    if len(kinds) == 1:
        with progress.track("Quantizing", reads(kinds[0], calibration)) as task:
            only = quantize(body, calibration, kinds[0], task, overflow_safe=overflow_safe)
        return QuantizedBody(only, kinds[0])
    search = _Search(body, calibration, held_out, known, predicted or _highest, max_drop, progress, overflow_safe)
    search.run(kinds)
    return QuantizedBody(search.model, search.best.setting, tuple(search.candidates), tuple(search.sensitivities))


@dataclass
class _Search:
    """The candidates so far, and the best of them."""

    body: ov.Model
    calibration: Batches
    held_out: Batches
    products: Sequence[Product]
    predicted: PredictedLabels
    max_drop: float
    progress: Progress
    overflow_safe: bool

    def __post_init__(self) -> None:
        self.by_name = {one.name: one for one in self.products}
        self.exact_NC = logits_of(self.body, self.held_out)
        self.candidates: list[Candidate] = []
        self.sensitivities: list[LayerSensitivity] = []
        self.best: Candidate
        self.model: ov.Model
        self.task: ProgressTask

    def run(self, settings: Sequence[Int8Setting]) -> None:
        """Go through all steps."""
        with self.progress.track("Comparing int8 settings", self.steps(settings)) as self.task:
            for setting in settings:
                self.attempt(setting)
            if self.best.setting.ranges_of_activations != "mean":
                self.attempt(replace(self.best.setting, ranges="mean"))
            if not self.best.setting.bias_correction:
                self.attempt(replace(self.best.setting, bias_correction=True))
            self.put_back()
            self.control()

    def steps(self, settings: Sequence[Int8Setting]) -> int:
        """About how many images are read, as the settings are alike; a model that is only compiled counts as some."""
        first = settings[0]
        tried = len(settings) + (first.ranges_of_activations != "mean") + (not first.bias_correction)
        layers = len(self.products) - len(first.in_float)
        singly = min(layers, NEIGHBOURS * FINEST)
        compiled_again = tried + math.ceil(layers / NEIGHBOURS) + singly + len(IN_FLOAT)
        return tried * reads(first, self.calibration) + compiled_again * COMPILED

    def put_back(self) -> None:
        """Put products back into float, more and more of them, as long as it pays."""
        start, model = self.best.setting, self.model
        self.sensitivities = self.measured_sensitivities()
        order = self.affordable()
        for count in IN_FLOAT:
            if count > len(order):
                break
            before, some = self.candidates[-1], order[:count]
            self.judge(replace(start, in_float=(*start.in_float, *some)), restored(model, self.body, some))
            if count > 1 and not self.candidates[-1].loss < before.loss:
                break

    def control(self) -> None:
        """Put products back until labels are kept, those that multiply least first; and round nothing but products.

        mobilenetv3_large and efficientnet_b0 after four epochs on Fashion-MNIST (of 200 labels 69 and 65 changed): with
        three quarters of the products back, their error is half and their work 0.65 of the float model's; 44 and 19
        labels change. In the order of depth, or of the gain of each product, it takes more work.
        """
        start, model = (
            replace(self.best.setting, accuracy_control=True),
            only_products_rounded(self.model, self.by_name),
        )
        least = sorted(quantized_products(model, self.by_name), key=lambda name: self.by_name[name].multiplications)
        for fraction in CONTROLLED:
            if PairedCounts(self.best.changed, 0, self.best.images).drop_at_least(CONFIDENCE) <= self.max_drop:
                break
            some = least[: math.ceil(fraction * len(least))]
            self.judge(replace(start, in_float=(*start.in_float, *some)), restored(model, self.body, some))

    def affordable(self) -> list[str]:
        """The products that gain most for their work, up to the limit of added work."""
        left = MOST_ADDED * self.best.work * sum(one.multiplications for one in self.products)
        found: list[str] = []
        for one in self.sensitivities:
            added = (1 - self.by_name[one.layer].int8_work) * one.multiplications
            if one.gain > 0 and added <= left:
                found.append(one.layer)
                left -= added
        return found

    def measured_sensitivities(self) -> list[LayerSensitivity]:
        """The products in 8 bits of the best model, from the most gain for its work to the least.

        Neighbours are measured together; then the products of the groups that gain most, one by one.
        """
        some = list(islice(self.held_out, SENSITIVITY_IMAGES))
        rounded = [self.by_name[name] for name in quantized_products(self.model, self.by_name)]
        groups = [rounded[start : start + NEIGHBOURS] for start in range(0, len(rounded), NEIGHBOURS)]

        def error(model: ov.Model) -> float:
            return float(np.abs(logits_of(model, some) - self.exact_NC[: len(some)]).mean())

        full = error(self.model)

        def gain(together: Sequence[Product]) -> float:
            self.task.advance(COMPILED)
            return full - error(with_exact_inputs(self.model, [one.name for one in together]))

        worth = [gain(group) / sum(one.multiplications for one in group) for group in groups]
        finest = sorted(range(len(groups)), key=lambda number: -worth[number])[:FINEST]
        layers = [one for number in finest for one in groups[number]]
        found = [
            LayerSensitivity(layer=one.name, kind=one.kind, multiplications=one.multiplications, gain=gain([one]))
            for one in layers
        ]
        return sorted(found, key=lambda one: -one.gain / one.multiplications)

    def attempt(self, setting: Int8Setting) -> None:
        """Quantize in one setting, and measure."""
        self.judge(setting, quantize(self.body, self.calibration, setting, self.task, overflow_safe=self.overflow_safe))

    def judge(self, setting: Int8Setting, model: ov.Model) -> None:
        """Measure a quantized model, and keep it if it is the best so far."""
        self.task.advance(COMPILED)
        logits_NC = logits_of(model, self.held_out)
        same_N = (self.predicted(logits_NC) == self.predicted(self.exact_NC)).all(axis=1)
        found = Candidate(
            setting=setting,
            mean_abs=float(np.abs(logits_NC - self.exact_NC).mean()),
            changed=int((~same_N).sum()),
            images=len(same_N),
            work=self.work(model),
        )
        if not self.candidates or self.is_better(found):
            self.best, self.model = found, model
        self.candidates.append(found)

    def is_better(self, found: Candidate) -> bool:
        """Whether it replaces the best; with accuracy control, which may take more work, by the error."""
        if found.setting.accuracy_control:
            return found.mean_abs < self.best.mean_abs
        return found.loss < self.best.loss

    def work(self, model: ov.Model) -> float:
        """The fraction of the float body's multiplications that is left in a quantized model."""
        rounded = set(quantized_products(model, self.by_name))
        left = sum((one.int8_work if one.name in rounded else 1) * one.multiplications for one in self.products)
        return left / max(sum(one.multiplications for one in self.products), 1)


def _highest(logits_NC: Floats) -> NDArray[np.bool_]:
    """Shape: [N, C]."""
    return logits_NC == logits_NC.max(axis=1, keepdims=True)
