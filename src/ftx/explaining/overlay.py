"""A map over the image that it is of, as a picture."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ftx.data.preprocess import Preprocess
from ftx.tasks.thresholds import Floats

# A picture to look at: the longer side is brought into these bounds.
SIDES = (448, 1024)
# What a value of the map looks like, from 0 to 1: dark to light, so that grey prints and all kinds of eyes order it.
_COLOURS = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
# How much of the image the map hides where it is 0 and where it is 1.
_HIDDEN = (0.25, 0.65)
# The brightness of the image outside the crop that the network saw.
_UNSEEN = 0.35


def overlay(image: Image.Image, map_hw: Floats, pre: Preprocess) -> Image.Image:
    """Draw a map in [0, 1] over the part of an image that the network saw; the rest of the image is darkened.

    Shape: [h, w], any grid over the crop that ``pre`` takes of the image.
    """
    left, top, right, bottom = seen(image.width, image.height, pre)
    scale = min(max(SIDES[0], max(image.size)), SIDES[1]) / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    picture = np.asarray(image.resize(size, Image.Resampling.LANCZOS), dtype=np.float32)
    box = [round(side * scale) for side in (left, top, right, bottom)]
    x, y, width, height = box[0], box[1], max(1, box[2] - box[0]), max(1, box[3] - box[1])
    smooth = Image.fromarray(map_hw.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    value_HW = np.clip(np.asarray(smooth), 0, 1)
    places = np.linspace(0, 1, len(_COLOURS))
    colour_HW3 = np.stack(
        [np.interp(value_HW, places, [colour[channel] for colour in _COLOURS]) for channel in range(3)], axis=-1
    )
    hidden_HW1 = (_HIDDEN[0] + (_HIDDEN[1] - _HIDDEN[0]) * value_HW)[..., None]
    drawn = picture * _UNSEEN
    inside = picture[y : y + height, x : x + width]
    rows, columns = inside.shape[:2]
    drawn[y : y + height, x : x + width] = (
        inside * (1 - hidden_HW1[:rows, :columns]) + colour_HW3[:rows, :columns] * hidden_HW1[:rows, :columns]
    )
    return Image.fromarray(np.rint(drawn).clip(0, 255).astype(np.uint8))


def seen(width: int, height: int, pre: Preprocess) -> tuple[float, float, float, float]:
    """The crop that the network sees, in pixels of the image: left, top, right, bottom."""
    resized_height, resized_width = pre.resized(height, width)
    top, left = pre.crop_at(resized_height, resized_width)
    across, down = width / resized_width, height / resized_height
    return left * across, top * down, (left + pre.width) * across, (top + pre.height) * down
