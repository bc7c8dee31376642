"""What a plan needs timed on this machine: which runtime computes the frozen trunk, and whether compiling pays."""

from __future__ import annotations

from dataclasses import dataclass

from ftx.adapters.trainable_model import TrainableModel
from ftx.backbones.dropped_patches import DroppedPatches
from ftx.core.progress import Progress
from ftx.recipe.sections import Compile, FrozenRuntime, TrainRecipe
from ftx.training.compiling import chosen
from ftx.training.frozen_part import FrozenTrunk, faster_runtime


@dataclass(frozen=True)
class MachineTimer:
    """Times parts of a model here; what it finds is kept in the user's cache. It keeps the model as it is."""

    prepared: TrainableModel
    progress: Progress

    def frozen_runtime(self, kept_blocks: int, views: int, *, bf16: bool) -> FrozenRuntime:
        """OpenVINO if it is faster than torch, as close, and converting pays for this number of views."""
        return faster_runtime(FrozenTrunk(self.prepared.backbone, kept_blocks, bf16=bf16), views, self.progress)

    def compiles(
        self, train: TrainRecipe, images: int, *, dropped: DroppedPatches, plain_attention: bool, bf16: bool
    ) -> Compile:
        """Whether compiling the trained blocks saves more time than it takes, for this number of images in all epochs.

        Raises: ModelError or EnvironmentFault if the recipe says blocks, and that is impossible.
        """
        return chosen(
            self.prepared.backbone.module,
            train,
            images,
            dropped=dropped,
            plain_attention=plain_attention,
            bf16=bf16,
            progress=self.progress,
        )
