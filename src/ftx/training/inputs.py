"""The input of a step: images, or features that the frozen trunk computed of them once."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from hashlib import sha256
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ftx.backbones.dropped_patches import ALL_PATCHES, DroppedPatches, OnChosenPatches
from ftx.backbones.kept_tokens import take
from ftx.backbones.split_network import full_model
from ftx.core.addresses import Location
from ftx.core.progress import Progress
from ftx.data.dataset import Entry
from ftx.data.image_store import ImageStore
from ftx.data.loader import ImageView, TrainingImages, in_batches
from ftx.data.pixel_store import PixelStore
from ftx.data.preprocess import Pixels, Preprocess, normalise
from ftx.data.random_draws import occurrences, patch_generator
from ftx.recipe.sections import Augment
from ftx.tasks.base import Task
from ftx.training.device_placement import EVAL_BATCH, to_device
from ftx.training.frozen_part import FrozenPart
from ftx.training.ranks import ONE_PROCESS, Ranks

Order = NDArray[np.intp]


class Batch(NamedTuple):
    """A batch, or this process's part of it: input, targets, and the targets of the whole batch.

    If there are fewer images than processes, a process without one computes another's, and ``counts`` is 0.
    ``chosen_BK`` are the tokens that a step computes of each image; None: all.
    Shape: [B, …], [B, C], [M, C] and [B, K].
    """

    input: Tensor
    targets_BC: Tensor
    whole_MC: Tensor
    counts: int = 1
    chosen_BK: Tensor | None = None

    def parts(self, number: int) -> list[Batch]:
        """The batch in ``number`` parts, or in as many as it has images."""
        each = self.input.chunk(number), self.targets_BC.chunk(number)
        chosen = [None] * len(each[0]) if self.chosen_BK is None else self.chosen_BK.chunk(number)
        return [
            Batch(images, targets_BC, self.whole_MC, self.counts, chosen_BK)
            for images, targets_BC, chosen_BK in zip(*each, chosen, strict=True)
        ]

    def through(self, network: nn.Module) -> Tensor:
        """The logits of a network. Shape: [B, C]."""
        return network(self.input) if self.chosen_BK is None else network(self.input, self.chosen_BK)


class Inputs(Protocol):
    """Batches of inputs and targets, and the network that computes them."""

    @property
    def network(self) -> nn.Module:
        """From the input of a batch to its logits. Shape: [B, …] to [B, C]."""
        ...

    @property
    def unit(self) -> str:
        """What a batch contains: images, or features that were computed before."""
        ...

    @property
    def waited_s(self) -> float:
        """How long computing has waited for its input, in all batches until now.

        That is for images to be read, augmented and normalised, and for kept features to be read.
        """
        ...

    def __len__(self) -> int: ...

    def batches(
        self, order: Order, batch_size: int, *, epoch: int, skipped: int = 0, ranks: Ranks = ONE_PROCESS
    ) -> Generator[Batch]:
        """This process's part of each batch, in the order given, without the first ``skipped`` batches.

        Epoch 0, before any training, has unaugmented images.
        """
        ...

    def to_prepare(self) -> int:
        """How many images must be decoded for the first time, or views computed by the frozen trunk."""
        ...


class RankViews(NamedTuple):
    """The views of a batch that this process computes, and all of them."""

    mine: Sequence[ImageView]
    whole: Sequence[ImageView]
    counts: int


def part_of(whole: Sequence[ImageView], ranks: Ranks) -> RankViews:
    """This process's part of a batch; if it is empty, an image that does not count, as all take part in each step."""
    mine = ranks.part(whole)
    return RankViews(mine, whole, 1) if mine else RankViews(whole[:1], whole, 0)


def choose_patches(
    dropped: DroppedPatches, tokens: int, always: int, images: TrainingImages, views: Sequence[ImageView]
) -> Tensor:
    """The tokens that a step computes of each view; of ``tokens`` the first ``always`` are no patches.

    What is left out depends on the seed, the epoch and the image, not on the batch or the process. Shape: [B, K].
    """
    draws = [patch_generator(images.seed, epoch, images.images[image].key, again) for image, epoch, again in views]
    return dropped.draw(tokens, always, draws)


class ImageInputs:
    """Images, for the full model. An epoch leaves out other ``dropped`` patches of an image."""

    unit = "images"

    def __init__(
        self, module: nn.Module, images: TrainingImages, device: torch.device, dropped: DroppedPatches = ALL_PATCHES
    ) -> None:
        network = full_model(module)
        self.network = OnChosenPatches(network, module) if dropped else network
        self.images, self.device, self.dropped = images, device, dropped

    @property
    def waited_s(self) -> float:
        return self.images.waiting.seconds

    def __len__(self) -> int:
        return len(self.images)

    def batches(
        self, order: Order, batch_size: int, *, epoch: int, skipped: int = 0, ranks: Ranks = ONE_PROCESS
    ) -> Generator[Batch]:
        parts = [part_of(chunk, ranks) for chunk in in_batches(self.images.seen(order, epoch), batch_size, skipped)]
        with closing(self.images.views([part.mine for part in parts])) as batches:
            for part, pixels_BHWC in zip(parts, batches, strict=True):
                with self.images.waiting:
                    images_B3HW = torch.from_numpy(normalise(pixels_BHWC, self.images.pre))
                chosen_BK = self._chosen(part.mine) if epoch else None
                mine, whole = (self._targets(views) for views in (part.mine, part.whole))
                yield Batch(to_device(images_B3HW, self.device), mine, whole, part.counts, chosen_BK)

    def _chosen(self, views: Sequence[ImageView]) -> Tensor | None:
        if not isinstance(self.network, OnChosenPatches):
            return None
        tokens, always = self.network.tokens, self.network.always
        return to_device(choose_patches(self.dropped, tokens, always, self.images, views), self.device)

    def _targets(self, views: Sequence[ImageView]) -> Tensor:
        return to_device(torch.from_numpy(self.images.targets_NC[[view.image for view in views]]), self.device)

    def to_prepare(self) -> int:
        return len(self)


class FeatureInputs:
    """Features of views of the images from the frozen trunk, for the trainable tail.

    Epoch e has view e of each image, as a training without a store would; the first view follows the last of ``views``.
    An image that is drawn again in an epoch has the next view. ``unaugmented``: the head is fitted to unaugmented
    images before, so they are computed as well. Each epoch has other ``dropped`` patches.
    """

    unit = "features"

    def __init__(
        self,
        frozen: FrozenPart,
        images: TrainingImages,
        views: int,
        *,
        unaugmented: bool = False,
        dropped: DroppedPatches = ALL_PATCHES,
    ) -> None:
        self.dropped = dropped
        self.network, self.frozen, self.images = frozen.tail, frozen, images
        self.views = 0 if images.augment == "none" else views
        self.unaugmented = unaugmented or not self.views
        self.targets_NC = torch.from_numpy(images.targets_NC).to(frozen.device)

    @property
    def waited_s(self) -> float:
        return self.images.waiting.seconds

    def __len__(self) -> int:
        return len(self.images)

    def batches(
        self, order: Order, batch_size: int, *, epoch: int, skipped: int = 0, ranks: Ranks = ONE_PROCESS
    ) -> Generator[Batch]:
        parts = [part_of(chunk, ranks) for chunk in in_batches(self._views(order, epoch), batch_size, skipped)]
        unknown = self._unknown([part.mine for part in parts])
        drawn = in_batches(self.images.seen(order, epoch), batch_size, skipped)
        with closing(self.images.views(unknown)) as pixels:
            for part, first_seen, pixels_BHWC, drawn_for in zip(parts, unknown, pixels, drawn, strict=True):
                features = to_device(self._features(part.mine, first_seen, pixels_BHWC), self.frozen.device)
                if self.dropped and epoch:
                    features = self._fewer_patches(features, part_of(drawn_for, ranks).mine)
                mine, whole = (self._targets(views) for views in (part.mine, part.whole))
                yield Batch(features.float(), mine, whole, part.counts)
        self.frozen.store.sync()

    def _targets(self, views: Sequence[ImageView]) -> Tensor:
        return self.targets_NC[to_device(torch.tensor([view.image for view in views]), self.frozen.device)]

    def to_prepare(self) -> int:
        return sum(map(len, self._unknown([self._all_views()])))

    def fill(self, ranks: Ranks, progress: Progress) -> None:
        """Compute this process's part of all views that are not kept yet, for all of its machine to read."""
        chunks = in_batches(self._all_views()[ranks.local :: ranks.local_world], EVAL_BATCH, 0)
        unknown = [chunk for chunk in self._unknown(chunks) if chunk]
        with (
            progress.track("Computing frozen features", sum(map(len, unknown))) as bar,
            closing(self.images.views(unknown)) as pixels,
        ):
            for chunk, pixels_BHWC in zip(unknown, pixels, strict=True):
                self._computed(chunk, pixels_BHWC)
                bar.advance(len(chunk))
        self.frozen.store.sync()

    def _all_views(self) -> list[ImageView]:
        return [
            ImageView(image, turn) for turn in range(not self.unaugmented, self.views + 1) for image in range(len(self))
        ]

    def _views(self, order: Order, epoch: int) -> list[ImageView]:
        indices = [int(index) for index in order]
        if not self.views or not epoch:
            return [ImageView(index, 0) for index in indices]
        turns = [epoch - 1 + again for again in occurrences(indices)]
        return [ImageView(index, turn % self.views + 1) for index, turn in zip(indices, turns, strict=True)]

    def _key(self, view: ImageView) -> bytes:
        drawn = f"{self.images.seed} {view.epoch}" if view.epoch else "as it is"
        return sha256(f"{self.images.images[view.image].key} {drawn}".encode()).digest()

    def _unknown(self, chunks: Sequence[Sequence[ImageView]]) -> list[list[ImageView]]:
        """The views of each chunk that are not kept and in no chunk before."""
        met: set[ImageView] = set()
        found: list[list[ImageView]] = []
        for chunk in chunks:
            unseen = [view for view in dict.fromkeys(chunk) if view not in met]
            found.append([view for view in unseen if self._key(view) not in self.frozen.store])
            met.update(unseen)
        return found

    def _features(self, chunk: Sequence[ImageView], unknown: Sequence[ImageView], pixels_BHWC: Pixels) -> Tensor:
        """The features of views; those that are ``unknown`` are computed from their pixels, and kept."""
        features = self.frozen.empty(len(chunk))
        computed = self._computed(unknown, pixels_BHWC)
        with self.images.waiting:
            lost = [
                view
                for row, view in zip(features, chunk, strict=True)
                if view not in computed and not self.frozen.read_into(self._key(view), row)
            ]
        if lost:  # the store was full, or the entry is damaged
            (pixels_BHWC,) = self.images.views([lost])
            computed |= self._computed(lost, pixels_BHWC)
        for row, view in zip(features, chunk, strict=True):
            if view in computed:
                row.copy_(computed[view])
        return features

    def _fewer_patches(self, features: Tensor, drawn_for: Sequence[ImageView]) -> Tensor:
        tokens, always = features.shape[1], self.frozen.other_tokens
        chosen_BK = choose_patches(self.dropped, tokens, always, self.images, drawn_for)
        return take(features, to_device(chosen_BK, self.frozen.device))

    def _computed(self, views: Sequence[ImageView], pixels_BHWC: Pixels) -> dict[ImageView, Tensor]:
        rows = dict(zip(views, self.frozen.compute(pixels_BHWC), strict=True)) if views else {}
        for view, row in rows.items():
            self.frozen.keep(self._key(view), row)
        self.frozen.store.sync(due=True)  # between batches: a batch that is lost is computed again as a whole
        return rows


def training_images(
    pre: Preprocess,
    root: Location,
    entries: Sequence[Entry],
    task: Task,
    *,
    augment: Augment = "none",
    seed: int = 0,
    pixels: PixelStore | None = None,
) -> TrainingImages:
    """Entries of the data below ``root`` as a step decodes them, with their targets."""
    store, targets_NC = ImageStore(root), task.targets([entry.labels for entry in entries])
    images = [store.at(entry.path, entry.sha256) for entry in entries]
    return TrainingImages(images, targets_NC, pre, seed=seed, augment=augment, pixels=pixels)


def inputs_of(
    module: nn.Module,
    images: TrainingImages,
    frozen: FrozenPart | None = None,
    *,
    views: int = 0,
    unaugmented: bool = False,
    dropped: DroppedPatches = ALL_PATCHES,
) -> Inputs:
    """The inputs of some images, for the full model or for the tail behind its frozen trunk."""
    if frozen is not None:
        return FeatureInputs(frozen, images, views, unaugmented=unaugmented, dropped=dropped)
    return ImageInputs(module, images, next(module.parameters()).device, dropped)
