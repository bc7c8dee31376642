"""Where a step's input comes from: images, or what the frozen part of the network made of them once."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ftx.backbones.kept_tokens import tokens_behind
from ftx.backbones.layer_roles import head_names, plain_vit
from ftx.backbones.split_network import (
    SplitNetwork,
    cut_after,
    cut_at_head,
    frozen_blocks,
    head_alone,
    token_shape,
    uncut,
)
from ftx.core.memory import available_bytes
from ftx.core.progress import Progress
from ftx.data.dataset import Entry
from ftx.data.image_store import ImageLike, ImageStore
from ftx.data.loader import TrainingImages, iter_pixels
from ftx.data.preprocess import Preprocess, normalise
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import Augment
from ftx.tasks.base import Targets, Task

Order = NDArray[np.intp]
EVAL_BATCH = 32


class Inputs(Protocol):
    """Batches of input and truth, and the network that is still to be computed on them."""

    @property
    def network(self) -> nn.Module:
        """Its forward takes a batch. Shape: [B, …] to [B, C]."""
        ...

    @property
    def unit(self) -> str:
        """What a batch holds: images, or features that were computed before."""
        ...

    def __len__(self) -> int: ...

    def batches(
        self, order: Order, batch_size: int, *, epoch: int, skipped: int = 0
    ) -> Generator[tuple[Tensor, Tensor]]:
        """Input and targets in the order given, but for the first ``skipped`` batches. Shape: [B, …] and [B, C]."""
        ...


class ImageInputs:
    """Images, for the whole network."""

    unit = "images"

    def __init__(self, network: nn.Module, images: TrainingImages, device: torch.device) -> None:
        self.network, self.images, self.device = network, images, device

    def __len__(self) -> int:
        return len(self.images)

    def batches(
        self, order: Order, batch_size: int, *, epoch: int, skipped: int = 0
    ) -> Generator[tuple[Tensor, Tensor]]:
        batches = self.images.batches(order, batch_size, epoch=epoch, skipped=skipped)
        try:
            for pixels_BHWC, targets_BC in batches:
                images_B3HW = torch.from_numpy(normalise(pixels_BHWC, self.images.pre))
                yield images_B3HW.to(self.device), torch.from_numpy(targets_BC).to(self.device)
        finally:
            batches.close()


class FeatureInputs:
    """What the frozen prefix of a network made of each image, computed once and kept, for its suffix.

    The images are taken as they are: varying them would ask for the prefix again.
    """

    unit = "features"

    def __init__(
        self,
        split: SplitNetwork,
        images: Sequence[ImageLike],
        targets_NC: Targets,
        pre: Preprocess,
        *,
        device: torch.device,
        progress: Progress,
    ) -> None:
        self.network, self.device = split.suffix, device
        self.targets_NC = torch.from_numpy(targets_NC).to(device)
        split.eval()  # what is kept once is drawn from no dropout and no statistics of a batch
        kept: list[Tensor] = []
        with torch.inference_mode(), progress.track("Computing frozen features", len(images)) as task:
            for pixels_BHWC in iter_pixels(images, pre, EVAL_BATCH):
                kept.append(split.prefix(torch.from_numpy(normalise(pixels_BHWC, pre)).to(device)).cpu())
                task.advance(len(pixels_BHWC))
        with torch.no_grad():  # tensors of inference mode cannot be saved for a backward; a copy can
            self.features = torch.cat(kept).clone()

    def __len__(self) -> int:
        return len(self.features)

    def batches(
        self, order: Order, batch_size: int, *, epoch: int, skipped: int = 0
    ) -> Generator[tuple[Tensor, Tensor]]:
        for start in range(skipped * batch_size, len(order), batch_size):
            chosen = torch.from_numpy(order[start : start + batch_size])
            yield self.features[chosen].to(self.device), self.targets_NC[chosen.to(self.device)]


@dataclass(frozen=True)
class Plan:
    """What is computed once for all, and how training images are varied.

    ``kept_blocks`` leading blocks are, with 0 whatever the head reads; with None nothing is.
    """

    kept_blocks: int | None
    augment: Augment


def plan(module: nn.Module, recipe: Recipe, images: int, progress: Progress) -> Plan:
    """What is frozen is computed once where the features of so many images fit into memory."""
    augment = augmentation(module, recipe)
    blocks = 0 if head_alone(module) else frozen_blocks(module) or None
    if blocks is not None and feature_bytes(module, blocks, images) > available_bytes() // 3:
        progress.note("the frozen blocks' features do not fit into memory: they are computed in each epoch")
        blocks = None
    return Plan(blocks, augment)


def augmentation(module: nn.Module, recipe: Recipe) -> Augment:
    """How training images are varied: frozen blocks in front see each as it is, whether memory keeps that or not."""
    return "none" if frozen_blocks(module) or head_alone(module) else recipe.train.augment


def inputs_of(
    module: nn.Module,
    pre: Preprocess,
    root: Path,
    entries: Sequence[Entry],
    task: Task,
    planned: Plan,
    *,
    seed: int | None,
    progress: Progress,
) -> Inputs:
    """The inputs of some images, varied as the plan says if a ``seed`` is given.

    Raises: ImageError for an image that cannot be read.
    """
    device = next(module.parameters()).device
    store = ImageStore(root)
    images = [store.at(entry.path, entry.sha256) for entry in entries]
    targets_NC = task.targets([entry.labels for entry in entries])
    if planned.kept_blocks is not None:
        split = cut_after(module, planned.kept_blocks) if planned.kept_blocks else cut_at_head(module)
        return FeatureInputs(split, images, targets_NC, pre, device=device, progress=progress)
    augment: Augment = "none" if seed is None else planned.augment
    training = TrainingImages(images, targets_NC, pre, seed=seed or 0, augment=augment, progress=progress)
    return ImageInputs(uncut(module), training, device)


def feature_bytes(module: nn.Module, blocks: int, images: int) -> int:
    """Memory that the features of so many images take: what the head reads, or so many blocks make."""
    vit = plain_vit(module)
    if vit is None or not blocks:
        return 4 * images * len(head_names(module)) * int(str(getattr(module, "num_features", 0)))
    return 4 * images * tokens_behind(vit, blocks) * token_shape(vit)[1]
