"""Batches of images, and what of their making training waits for."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from ftx.backbones.dropped_patches import DroppedPatches
from ftx.data.loader import TrainingImages
from ftx.data.preprocess import Pixels, Preprocess, normalise
from ftx.training.inputs import ImageInputs
from ftx.training.ranks import ONE_PROCESS, Ranks

PRE = Preprocess(16, 16, 16, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
COUNT = 6


def test_normalising_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(COUNT)]
    for number, path in enumerate(paths):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(path)

    def slow(pixels_BHWC: Pixels, pre: Preprocess) -> np.ndarray:
        time.sleep(0.05)
        return normalise(pixels_BHWC, pre)

    monkeypatch.setattr("ftx.training.inputs.normalise", slow)
    images = TrainingImages(paths, np.eye(COUNT, dtype=np.float32), PRE, augment="none")
    inputs = ImageInputs(nn.Identity(), images, torch.device("cpu"))
    for batch in inputs.batches(np.arange(COUNT), 2, epoch=1):
        time.sleep(0.1)  # a step, which nothing waits for
        assert batch.input.shape == (2, 3, 16, 16)
    assert 3 * 0.05 < inputs.waited_s < 3 * 0.1


def chosen_by_image(
    inputs: ImageInputs, epoch: int, batch_size: int, ranks: Ranks = ONE_PROCESS
) -> dict[int, list[int]]:
    """The tokens that a step computes of each image, by its number, which is its target."""
    found: dict[int, list[int]] = {}
    for batch in inputs.batches(np.random.default_rng(epoch).permutation(COUNT), batch_size, epoch=epoch, ranks=ranks):
        assert batch.chosen_BK is not None
        for part in batch.parts(2):
            assert part.chosen_BK is not None
            found |= zip(part.targets_BC.argmax(dim=1).tolist(), part.chosen_BK.tolist(), strict=True)
    return found


def test_which_patches_a_step_leaves_out_depends_on_seed_epoch_and_image_only(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(COUNT)]
    for number, path in enumerate(paths):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(path)

    def inputs(seed: int) -> ImageInputs:
        images = TrainingImages(paths, np.eye(COUNT, dtype=np.float32), PRE, seed=seed)
        vit = timm.create_model("test_vit", img_size=64, num_classes=2)
        return ImageInputs(vit, images, torch.device("cpu"), DroppedPatches(0.5))

    epoch_1 = chosen_by_image(inputs(3), 1, COUNT)
    assert {len(chosen) for chosen in epoch_1.values()} == {1 + 8}  # of 16 patches half
    assert len({tuple(chosen) for chosen in epoch_1.values()}) == COUNT
    assert chosen_by_image(inputs(3), 1, 2) == epoch_1
    ranks = [Ranks(rank, 2, rank, 2) for rank in range(2)]
    halves = [chosen_by_image(inputs(3), 1, 4, one) for one in ranks]
    assert not halves[0].keys() & halves[1].keys()
    assert halves[0] | halves[1] == epoch_1
    for other in (chosen_by_image(inputs(4), 1, COUNT), chosen_by_image(inputs(3), 2, COUNT)):
        assert all(other[image] != chosen for image, chosen in epoch_1.items())
    assert all(batch.chosen_BK is None for batch in inputs(3).batches(np.arange(COUNT), 2, epoch=0))
