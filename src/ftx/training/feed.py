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

from ftx.backbones.families import head_names, plain_vit
from ftx.backbones.split_network import crown, frozen_lead, head_alone, head_input, head_logits, token_shape, trunk
from ftx.core.memory import available_bytes
from ftx.core.progress import Progress
from ftx.data.augment import Augment
from ftx.data.dataset import Entry
from ftx.data.loader import TrainingImages, iter_pixels
from ftx.data.preprocess import Preprocess, normalise
from ftx.data.store import ImageLike, ImageStore
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import Augmentation
from ftx.tasks.base import Targets, Task

Order = NDArray[np.intp]
EVAL_BATCH = 32


class Feed(Protocol):
    """Batches of input and truth, and the part of the model that is still to be computed on them."""

    @property
    def unit(self) -> str:
        """What a batch holds: images, or features that were computed before."""
        ...

    def __len__(self) -> int: ...

    def batches(self, order: Order, batch_size: int, rng: np.random.Generator) -> Generator[tuple[Tensor, Tensor]]:
        """Input and targets in the order given. Shape: [B, …] and [B, C]."""
        ...

    def logits(self, module: nn.Module, batch: Tensor) -> Tensor:
        """Shape: [B, C]."""
        ...


class ImageFeed:
    """Images through the whole network."""

    unit = "images"

    def __init__(
        self,
        images: Sequence[ImageLike],
        targets_NC: Targets,
        pre: Preprocess,
        *,
        augment: Augment,
        device: torch.device,
        progress: Progress,
    ) -> None:
        self.images = TrainingImages(images, targets_NC, pre, augment=augment, progress=progress)
        self.pre, self.device = pre, device

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, order: Order, batch_size: int, rng: np.random.Generator) -> Generator[tuple[Tensor, Tensor]]:
        batches = self.images.batches(order, batch_size, rng)
        try:
            for pixels_BHWC, targets_BC in batches:
                images_B3HW = torch.from_numpy(normalise(pixels_BHWC, self.pre))
                yield images_B3HW.to(self.device), torch.from_numpy(targets_BC).to(self.device)
        finally:
            batches.close()

    def logits(self, module: nn.Module, batch: Tensor) -> Tensor:
        return module(batch) if plain_vit(module) is None else crown(module, trunk(module, batch, 0), 0)


class FeatureFeed:
    """What the first ``blocks`` blocks, all frozen, made of each image, computed once and kept.

    With all but the head frozen (linear probing, of any family) only the feature that the head reads is kept. The
    images are taken as they are: augmenting them would ask for the network again.
    """

    unit = "features"

    def __init__(
        self,
        module: nn.Module,
        blocks: int,
        images: Sequence[ImageLike],
        targets_NC: Targets,
        pre: Preprocess,
        *,
        device: torch.device,
        progress: Progress,
    ) -> None:
        self.blocks, self.pooled, self.device = blocks, head_alone(module), device
        self.targets_NC = torch.from_numpy(targets_NC).to(device)
        module.eval()  # what is kept once is drawn from no dropout and no statistics of a batch
        kept: list[Tensor] = []
        with torch.inference_mode(), progress.track("Computing frozen features", len(images)) as task:
            for pixels_BHWC in iter_pixels(images, pre, EVAL_BATCH):
                images_B3HW = torch.from_numpy(normalise(pixels_BHWC, pre)).to(device)
                found = head_input(module, images_B3HW) if self.pooled else trunk(module, images_B3HW, blocks)
                kept.append(found.cpu())
                task.advance(len(pixels_BHWC))
        with torch.no_grad():  # tensors of inference mode cannot be saved for a backward; a copy can
            self.features = torch.cat(kept).clone()

    def __len__(self) -> int:
        return len(self.features)

    def batches(self, order: Order, batch_size: int, rng: np.random.Generator) -> Generator[tuple[Tensor, Tensor]]:
        for start in range(0, len(order), batch_size):
            chosen = torch.from_numpy(order[start : start + batch_size])
            yield self.features[chosen].to(self.device), self.targets_NC[chosen.to(self.device)]

    def logits(self, module: nn.Module, batch: Tensor) -> Tensor:
        if self.pooled:
            return head_logits(module, batch)
        return crown(module, batch, self.blocks)


@dataclass(frozen=True)
class Plan:
    """How many leading blocks are computed once for all (None: none), and how training images are varied."""

    lead: int | None
    augment: Augmentation


def plan(module: nn.Module, recipe: Recipe, images: int, progress: Progress) -> Plan:
    """What is frozen is computed once where the features of so many images fit into memory."""
    lead, augment = frozen_lead(module), augmentation(module, recipe)
    if lead == 0 and not head_alone(module):
        return Plan(None, augment)
    if feature_bytes(module, lead, images) > available_bytes() // 3:
        progress.note("the frozen blocks' features do not fit into memory: they are computed in each epoch")
        return Plan(None, augment)
    return Plan(lead, augment)


def augmentation(module: nn.Module, recipe: Recipe) -> Augmentation:
    """How training images are varied: frozen blocks in front see each as it is, whether memory keeps that or not."""
    return "none" if frozen_lead(module) or head_alone(module) else recipe.train.augment


def feed_of(
    module: nn.Module,
    pre: Preprocess,
    root: Path,
    entries: Sequence[Entry],
    task: Task,
    planned: Plan,
    *,
    varied: bool,
    progress: Progress,
) -> Feed:
    """The feed of some images; ``varied`` ones are augmented as the plan says.

    Raises: ImageError for an image that cannot be read.
    """
    where = next(module.parameters()).device
    store = ImageStore(root)
    images = [store.at(entry.path) for entry in entries]
    targets_NC = task.targets([entry.labels for entry in entries])
    if planned.lead is not None:
        return FeatureFeed(module, planned.lead, images, targets_NC, pre, device=where, progress=progress)
    augment = planned.augment if varied else "none"
    return ImageFeed(images, targets_NC, pre, augment=augment, device=where, progress=progress)


def feature_bytes(module: nn.Module, blocks: int, images: int) -> int:
    """Memory that a FeatureFeed of so many images takes."""
    vit = plain_vit(module)
    if head_alone(module) or vit is None:
        return 4 * images * len(head_names(module)) * int(str(getattr(module, "num_features", 0)))
    tokens, width = token_shape(vit)
    return 4 * images * width * tokens
