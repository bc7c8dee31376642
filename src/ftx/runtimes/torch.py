"""The PyTorch runtime: the trained model before its merge, and the dense one after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from ftx.backbones.kept_tokens import ChoiceMargins, choice_margins
from ftx.core.errors import ImageError
from ftx.data.image_store import ImageLike
from ftx.data.preprocess import Pixels, Preprocess, load_pixels, normalise
from ftx.runs.artifacts import RuntimeName
from ftx.runs.compute_precision import F32, ComputePrecision
from ftx.runtimes.predictor import feed_files
from ftx.runtimes.uncertainty import Uncertainty
from ftx.tasks.base import Task
from ftx.tasks.thresholds import Floats


@dataclass
class TorchPredictor:
    """A module in eval mode and f32; it takes normalised images [N, 3, H, W]."""

    module: nn.Module
    preprocess: Preprocess
    task: Task
    name: RuntimeName = "torch"
    compute: ComputePrecision = F32
    model_info: dict[str, str] = field(default_factory=dict[str, str])
    uncertainty: Uncertainty | None = None

    def logits(self, pixels_NHWC: Pixels) -> Floats:
        images_N3HW = torch.from_numpy(normalise(pixels_NHWC, self.preprocess))
        with torch.inference_mode():
            return self.module(images_N3HW).float().numpy()

    def choice_margins(self) -> AbstractContextManager[ChoiceMargins]:
        """Record how clearly the patches of each image are chosen, if the model drops some."""
        return choice_margins(self.module)

    def logits_from_files(self, images: Iterable[ImageLike | ImageError]) -> Iterator[Floats | ImageError]:
        """Its preprocessing is that of the training, so this view equals the graph's."""
        return feed_files(images, partial(load_pixels, pre=self.preprocess), self.logits)
