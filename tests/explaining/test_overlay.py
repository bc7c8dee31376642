"""Pictures: a map lies where the network saw the image, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ftx.data.preprocess import Preprocess, resize_crop
from ftx.explaining.overlay import SIDES, overlay, seen

PRE = Preprocess(56, 56, 64, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def half_light(side: int = 4) -> np.ndarray:
    light = np.zeros((side, side), np.float32)
    light[:, side // 2 :] = 1
    return light


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (448, 448), (30, 1000), (2, 3)])
def test_the_map_covers_what_the_crop_takes(width: int, height: int) -> None:
    left, top, right, bottom = seen(width, height, PRE)
    # Of an image whose colour is its place, the crop has these places at its edges, within the pixels it averages.
    columns, rows = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    crop = resize_crop(Image.fromarray(np.stack([columns, rows, rows], axis=-1).astype(np.uint8)), PRE)
    step = 2 * 255 / 56 + 255 / min(width, height)
    assert crop[28, 0, 0] == pytest.approx(255 * left / width, abs=step)
    assert crop[28, -1, 0] == pytest.approx(255 * right / width, abs=step)
    assert crop[0, 28, 1] == pytest.approx(255 * top / height, abs=step)
    assert crop[-1, 28, 1] == pytest.approx(255 * bottom / height, abs=step)


def test_light_is_on_the_lit_side_and_dark_beside_the_crop() -> None:
    grey = Image.fromarray(np.full((448, 896, 3), 128, np.uint8))
    drawn = np.asarray(overlay(grey, half_light(), PRE)).astype(int)
    assert drawn.shape == (448, 896, 3)
    left, _, right, _ = (round(side) for side in seen(896, 448, PRE))
    assert (left, right) == (252, 644)  # 56 of the 64 rows, and as many of the 128 columns
    lit, unlit, beside = drawn[224, right - 20], drawn[224, left + 20], drawn[224, left - 20]
    assert lit.sum() > 1.5 * unlit.sum()
    assert unlit.sum() > 1.5 * beside.sum()
    assert (drawn[224, : left - 1] == beside).all()


@pytest.mark.parametrize("size", [(28, 28), (4000, 1000), (1, 1)])
def test_a_picture_is_of_a_size_to_look_at(size: tuple[int, int]) -> None:
    drawn = overlay(Image.new("RGB", size), half_light(), PRE)
    assert SIDES[0] <= max(drawn.size) <= SIDES[1]
    assert drawn.width * size[1] == pytest.approx(drawn.height * size[0], rel=0.01)
