"""Pictures: a map lies where the network saw the image, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ftx.data.preprocess import Preprocess, resize_crop
from ftx.explaining.overlay import SIDES, overlay, seen

PRE = Preprocess(56, 56, 64, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# A network whose input is wider than high.
WIDE = Preprocess(40, 72, (48, 80), "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def half_light(side: int = 4) -> np.ndarray:
    light = np.zeros((side, side), np.float32)
    light[:, side // 2 :] = 1
    return light


@pytest.mark.parametrize("pre", [PRE, WIDE], ids=["square", "wide"])
@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (448, 448), (30, 1000), (2, 3)])
def test_the_map_covers_what_the_crop_takes(width: int, height: int, pre: Preprocess) -> None:
    left, top, right, bottom = seen(width, height, pre)
    # Of an image whose colour is its place, the crop has these places at its edges, within the pixels it averages.
    columns, rows = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    crop = resize_crop(Image.fromarray(np.stack([columns, rows, rows], axis=-1).astype(np.uint8)), pre)
    step = 2 * 255 / min(pre.height, pre.width) + 255 / min(width, height)
    row, column = pre.height // 2, pre.width // 2
    assert crop[row, 0, 0] == pytest.approx(255 * left / width, abs=step)
    assert crop[row, -1, 0] == pytest.approx(255 * right / width, abs=step)
    assert crop[0, column, 1] == pytest.approx(255 * top / height, abs=step)
    assert crop[-1, column, 1] == pytest.approx(255 * bottom / height, abs=step)


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


@pytest.mark.parametrize(
    ("value", "hidden", "colour"),
    [(0.0, 0.25, (0, 0, 4)), (0.5, 0.45, (188, 55, 84)), (1.0, 0.65, (252, 255, 164)), (1.5, 0.65, (252, 255, 164))],
)
def test_a_value_hides_the_image_by_as_much_as_it_says(
    value: float, hidden: float, colour: tuple[int, int, int]
) -> None:
    """A quarter of it where the map is 0, two thirds where it is 1; two thirds of all light is gone beside the crop."""
    picture = Image.new("RGB", (896, 448), (200, 100, 50))
    drawn = np.asarray(overlay(picture, np.full((4, 4), value, np.float32), PRE)).astype(int)
    expected = [round(own * (1 - hidden) + other * hidden) for own, other in zip((200, 100, 50), colour, strict=True)]
    assert np.abs(drawn[224, 448] - expected).max() <= 1  # rounded in f32
    assert drawn[224, 10].tolist() == [70, 35, 18]


@pytest.mark.parametrize("size", [(480, 560), (560, 480)], ids=["upright", "lying"])
def test_one_corner_of_the_map_is_the_same_corner_of_the_crop(size: tuple[int, int]) -> None:
    """Rows lie on rows and columns on columns, where the network sees more columns than rows."""
    corner = np.zeros((5, 9), np.float32)  # the grid of patches of 8 pixels
    corner[3:, :3] = 1
    drawn = np.asarray(overlay(Image.new("RGB", size, (128, 128, 128)), corner, WIDE)).astype(int).sum(axis=-1)
    left, top, right, bottom = (round(side) for side in seen(*size, WIDE))
    assert 0 < left < right < size[0]
    assert 0 < top < bottom < size[1]
    beside = drawn[0, 0]
    inside = drawn[top + 1 : bottom - 1, left + 1 : right - 1]
    rest = drawn.copy()
    rest[top - 1 : bottom + 1, left - 1 : right + 1] = beside
    assert (rest == beside).all()
    assert inside.min() > beside
    # The lit ninths and fifths, less half a patch at their edges, where light fades.
    rows, columns = inside.shape[0] / 5, inside.shape[1] / 9
    lit = inside > (inside.min() + inside.max()) / 2
    assert lit[round(3.5 * rows) :, : round(2.5 * columns)].all()
    assert not lit[: round(2.5 * rows)].any()
    assert not lit[:, round(3.5 * columns) :].any()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((28, 28), (448, 448)),
        ((14, 28), (224, 448)),
        ((4000, 1000), (1024, 256)),
        ((1000, 4000), (256, 1024)),
        ((300, 600), (300, 600)),
        ((1, 1), (448, 448)),
    ],
)
def test_a_picture_is_of_a_size_to_look_at(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert SIDES == (448, 1024)
    assert overlay(Image.new("RGB", size), half_light(), PRE).size == expected
