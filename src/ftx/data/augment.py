"""Random views of a training image: few and mild, as fine-tuning needs them.

A pretrained backbone knows shapes and colours already; strong augmentation (small crops, colour
distortion, mixing) helps long training from scratch and slows down the few epochs of fine-tuning.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from ftx.data.preprocess import Pixels, Preprocess

# Fraction of the image's area, and width to height, that a crop may have. The ratio is that of Szegedy et al.,
# arXiv:1409.4842, section 6; the area there begins at 0.08, which often cuts the object off.
CROP_AREA = (0.6, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)

# As torchvision and timm: after ten draws that do not fit (a panorama), take the middle.
ATTEMPTS = 10

Box = tuple[float, float, float, float]


def random_view(image: Image.Image, pre: Preprocess, rng: np.random.Generator) -> Pixels:
    """A random part of an image at the network's size, mirrored half of the time.

    Shape: [H, W, 3].
    """
    box = crop_box(image.width, image.height, rng, aspect=pre.width / pre.height)
    mirrored = rng.random() < 0.5
    part = image.resize((pre.width, pre.height), Image.Resampling[pre.interpolation.upper()], box=box)
    pixels_HWC = np.asarray(part)
    return pixels_HWC[:, ::-1] if mirrored else pixels_HWC


def crop_box(width: int, height: int, rng: np.random.Generator, *, aspect: float = 1.0) -> Box:
    """A random box inside an image: (left, upper, right, lower); its ratio is ``aspect`` in the middle.

    Units: pixels, with fractions, so that a small image has as many crops as a large one.
    Source: Szegedy et al., arXiv:1409.4842, section 6; the ratio is drawn on a log scale, as torchvision does.
    """
    low, high = math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])
    for _ in range(ATTEMPTS):
        area = width * height * rng.uniform(*CROP_AREA)
        ratio = aspect * math.exp(rng.uniform(low, high))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            return _placed(w, h, rng.uniform(0, width - w), rng.uniform(0, height - h), width, height)
    w = min(width, height * aspect * CROP_RATIO[1])
    h = min(height, width / (aspect * CROP_RATIO[0]))
    return _placed(w, h, (width - w) / 2, (height - h) / 2, width, height)


def _placed(w: float, h: float, left: float, upper: float, width: int, height: int) -> Box:
    # The sum may be one rounding above the edge, which Pillow rejects.
    return left, upper, min(left + w, width), min(upper + h, height)
