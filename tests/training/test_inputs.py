"""Batches of images, and what of their making training waits for."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ftx.data.loader import TrainingImages
from ftx.data.preprocess import Pixels, Preprocess, normalise
from ftx.training.inputs import ImageInputs

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
