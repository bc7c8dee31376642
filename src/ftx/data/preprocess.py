"""THE image path: decode, resize, crop, normalise; the same for training, evaluation, calibration and parity.

It equals timm's evaluation transform pixel for pixel, whatever the release of Pillow (see ``resize_crop``).
``ftx.exporting.preprocess_graph`` is the same as a graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ftx.core.untrusted_input import LEAST_STD, MOST_BOX, MOST_MEAN, MOST_SIDE, MOST_STD
from ftx.data.image_store import ImageLike, open_image

Pixels = NDArray[np.uint8]
Interpolation = Literal["bicubic", "bilinear"]
# The short side, or height and width of a box that the image is to cover.
Resize = int | tuple[int, int]


@dataclass(frozen=True)
class Preprocess:
    """From a decoded image to the network's input.

    ``resize`` is the short side in pixels after resizing, before the centre crop to ``height`` x ``width``, or the
    height and width of a box that the resized image just covers; ``mean`` and ``std`` are per channel (RGB) on
    the 0..1 scale.
    """

    height: int
    width: int
    resize: Resize
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        box_height, box_width = self.box
        if not (0 < self.height <= box_height and 0 < self.width <= box_width):
            raise ValueError(f"a crop of {self.height} x {self.width} does not fit a resize to {self.resize}")
        if max(self.height, self.width) > MOST_SIDE or max(box_height, box_width) > MOST_BOX:
            raise ValueError(f"{self.height} x {self.width} out of {self.resize} is more than {MOST_SIDE} a side")
        # Written so that NaN is rejected too.
        if not all(abs(mean) <= MOST_MEAN for mean in self.mean):
            raise ValueError(f"the mean of a channel lies within {MOST_MEAN:g} of 0; they are {self.mean}")
        if not all(LEAST_STD <= std <= MOST_STD for std in self.std):
            raise ValueError(f"the std of a channel lies between {LEAST_STD:g} and {MOST_STD:g}; they are {self.std}")

    @property
    def box(self) -> tuple[int, int]:
        """Height and width that a resized image covers, one of them exactly."""
        return (self.resize, self.resize) if isinstance(self.resize, int) else self.resize

    @property
    def image_size(self) -> int | str:
        """As a recipe has it: the side of a square, or ``HEIGHTxWIDTH``."""
        return self.height if self.height == self.width else f"{self.height}x{self.width}"

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image after resizing.

        The other side is rounded down for a short side, as torchvision does, and to the nearest for a box, half
        to even, as timm's ResizeKeepRatio does. timm divides floats: where a quotient is exactly half, its side
        may be one pixel off this one.
        """
        box_height, box_width = self.box
        if height * box_width <= width * box_height:
            return box_height, self._quotient(width * box_height, height)
        return self._quotient(height * box_width, width), box_width

    def crop_at(self, resized_height: int, resized_width: int) -> tuple[int, int]:
        """Top and left of the centre crop. Python rounds half to even, as torchvision's crop does."""
        return round((resized_height - self.height) / 2), round((resized_width - self.width) / 2)

    def _quotient(self, product: int, side: int) -> int:
        whole, rest = divmod(product, side)
        # 1 where the rest is above a half, or is one and the whole is odd.
        return whole if isinstance(self.resize, int) else whole + (2 * rest + whole % 2 + side - 1) // (2 * side)


def covering(height: int, width: int, fraction: float) -> Resize:
    """What is resized to before a crop that keeps this fraction of each side; timm takes the floor."""
    box = math.floor(height / fraction), math.floor(width / fraction)
    return box[0] if box[0] == box[1] else box


def crop_fraction(pre: Preprocess) -> float:
    """The fraction by which timm's transform finds the same sizes again: the inverse of ``covering``."""
    box_height, box_width = pre.box
    fraction = min(pre.height / box_height, pre.width / box_width)
    while math.floor(pre.height / fraction) < box_height or math.floor(pre.width / fraction) < box_width:  # rounding
        fraction = math.nextafter(fraction, 0)
    return fraction


def resize_crop(image: Image.Image, pre: Preprocess) -> Pixels:
    """Resized with Pillow's antialias until it covers the box, then the centre crop.

    Shape: uint8 [height, width, 3]. Offsets are those of torchvision's CenterCrop.
    """
    height, width = pre.resized(image.height, image.width)
    # Width, then height. For both at once Pillow 13 does the same, but for an image more than twice as
    # tall as wide, where it rounds the other way round; earlier releases and the graph know one order.
    for size in ((width, image.height), (width, height)):
        image = image.resize(size, Image.Resampling[pre.interpolation.upper()])
    top, left = pre.crop_at(height, width)
    return np.array(image.crop((left, top, left + pre.width, top + pre.height)))


def load_pixels(image: ImageLike, pre: Preprocess) -> Pixels:
    """An image as the network sees it, before normalising. Shape: uint8 [height, width, 3].

    Raises: as ``open_image``.
    """
    return resize_crop(open_image(image), pre)


def normalise(pixels_NHWC: Pixels, pre: Preprocess) -> NDArray[np.float32]:
    """Grey levels as the network's input. Shape: uint8 [N, H, W, 3] to float32 [N, 3, H, W]."""
    scaled = pixels_NHWC.astype(np.float32) / np.float32(255)
    scaled = (scaled - np.asarray(pre.mean, np.float32)) / np.asarray(pre.std, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
