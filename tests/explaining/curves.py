"""Do maps say what an answer comes from? Patches taken away, or given, in the order of a map.

Garments of the sample lie on noise, so it is known where each is; a linear probe on the embedded DINOv2-small learns
to name them.

Source: deletion and insertion, RISE, arXiv:1806.07421, section 4.2; here by patches, and what is taken away becomes the
grey that the noise has in the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ftx.backbones.build import build
from ftx.core.shipped_files import sample_file
from ftx.data.bundled_sample import unpack_sample
from ftx.data.preprocess import Preprocess, normalise

Floats = NDArray[np.float64]

SIDE, GARMENT = 112, 42
GREY = 128
LABELS = ("Ankle boot", "Bag", "Dress", "Trouser")


@dataclass(frozen=True)
class Scene:
    """Pixels, the label's number, and where the garment is: left, top."""

    pixels_HW3: NDArray[np.uint8]
    label: int
    corner: tuple[int, int]

    def covers(self, x: float, y: float) -> bool:
        """Whether a place is on the garment's square."""
        left, top = self.corner
        return left <= x < left + GARMENT and top <= y < top + GARMENT


def scenes(sample: Path, count: int, seed: int) -> list[Scene]:
    """Garments of the sample, each somewhere on noise."""
    random = np.random.default_rng(seed)
    found: list[Scene] = []
    paths = [sorted((sample / label).glob("*.png")) for label in LABELS]
    for number in range(count):
        label = number % len(LABELS)
        path = paths[label][int(random.integers(len(paths[label])))]
        garment = np.asarray(Image.open(path).convert("RGB").resize((GARMENT, GARMENT)))
        pixels = random.integers(GREY - 48, GREY + 48, (SIDE, SIDE, 3), dtype=np.uint8)
        left, top = (int(one) for one in random.integers(0, SIDE - GARMENT, 2))
        worn = garment.max(axis=2, keepdims=True) > 24
        square = pixels[top : top + GARMENT, left : left + GARMENT]
        pixels[top : top + GARMENT, left : left + GARMENT] = np.where(worn, garment, square)
        found.append(Scene(pixels, label, (left, top)))
    return found


def probe(sample: Path) -> tuple[nn.Module, Preprocess]:
    """DINOv2-small with a head that names the garments."""
    backbone = build("dinov2-small", num_classes=len(LABELS), image_size=SIDE, weights="auto", seed=0)
    module, pre = backbone.module.eval(), backbone.preprocess
    seen = scenes(sample, 160, seed=0)
    with torch.no_grad():
        features = torch.cat(
            [module.forward_head(module.forward_features(as_input([one], pre)), pre_logits=True) for one in seen]
        )
    head = module.get_classifier()
    wanted = torch.tensor([one.label for one in seen])
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(features), wanted).backward()
        optimizer.step()
    return module.requires_grad_(False), pre


def as_input(some: list[Scene], pre: Preprocess) -> Tensor:
    return torch.from_numpy(normalise(np.stack([one.pixels_HW3 for one in some]), pre))


def gradient_map(module: nn.Module, x_13HW: Tensor, label: int, grid: tuple[int, int]) -> Floats:
    """The plain gradient: how much a label's logit moves with each patch's pixels. Shape: [h, w]."""
    x_13HW = x_13HW.clone().requires_grad_()
    module(x_13HW)[0, label].backward()
    assert x_13HW.grad is not None
    patch = x_13HW.shape[2] // grid[0]
    return nn.functional.avg_pool2d(x_13HW.grad.abs().sum(dim=1), patch)[0].double().numpy()


def areas(module: nn.Module, scene: Scene, pre: Preprocess, map_hw: Floats, *, steps: int = 8) -> tuple[float, float]:
    """The area below the label's probability while the patches that count most are deleted first, and inserted first.

    In [0, 1] each; of a good map the first is small, and the second large.
    """
    height, width = map_hw.shape
    patch = SIDE // height
    order = np.argsort(-map_hw.ravel(), kind="stable")
    grey = np.full_like(scene.pixels_HW3, GREY)
    shown: list[NDArray[np.uint8]] = []
    for start, other in ((scene.pixels_HW3, grey), (grey, scene.pixels_HW3)):
        for step in range(steps + 1):
            pixels = start.copy()
            for place in order[: len(order) * step // steps]:
                y, x = (int(one) * patch for one in divmod(int(place), width))
                pixels[y : y + patch, x : x + patch] = other[y : y + patch, x : x + patch]
            shown.append(pixels)
    with torch.no_grad():
        logits = module(torch.from_numpy(normalise(np.stack(shown), pre)))
    held = logits.softmax(dim=1)[:, scene.label].double().numpy().reshape(2, steps + 1)
    deletion, insertion = np.trapezoid(held, dx=1 / steps, axis=1)
    return float(deletion), float(insertion)


def sample_images(folder: Path) -> Path:
    """The sample's folder of a folder a label."""
    return unpack_sample(sample_file("fashion-mnist.zip"), folder / "sample") / "train"
