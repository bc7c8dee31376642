"""What a plan needs timed on this machine: which runtime computes the frozen trunk, and whether compiling pays."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ftx.adapters.trainable_model import TrainableModel
from ftx.core.memory import keep_freed_memory
from ftx.core.progress import Progress
from ftx.recipe.sections import Compile, FrozenRuntime
from ftx.training.compiling import StepShape, compiling_pays
from ftx.training.frozen_part import FrozenTrunk, faster_runtime


@dataclass(frozen=True)
class MachineTimer:
    """Times parts of a model here, on the CPU. Results are kept in the user's cache; the model stays as it is."""

    prepared: TrainableModel
    progress: Progress

    def frozen_runtime(self, kept_blocks: int, *, bf16: bool) -> FrozenRuntime:
        """OpenVINO if it is faster than torch, and as close to f32."""
        return faster_runtime(FrozenTrunk(self.prepared.backbone, kept_blocks, bf16=bf16), self.progress)

    def compiles(self, images: int, steps: StepShape) -> Compile:
        """Whether compiling the trained blocks pays, for this number of images in all epochs together."""
        keep_freed_memory()  # as in training
        with torch.random.fork_rng(devices=[]):
            return compiling_pays(self.prepared.backbone.module, images, steps, self.progress)
