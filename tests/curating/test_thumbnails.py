"""Small pictures: which are kept is seen by taking their images away."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ftx.curating.thumbnails import Thumbnails


def test_those_that_were_looked_at_last_are_kept(tmp_path: Path) -> None:
    paths = [f"{number}.png" for number in range(6)]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / path)
    shown = Thumbnails(tmp_path, paths, kept=2)
    made = {number: shown.webp(number) for number in (0, 1, 2, 3)}
    assert shown.webp(2) == made[2]  # so that 3 is the one that was not looked at for longest
    made[4] = shown.webp(4)
    for path in paths:
        (tmp_path / path).unlink()
    assert [number for number in range(6) if shown.webp(number) is not None] == [2, 4]
    assert [shown.webp(number) for number in (2, 4)] == [made[2], made[4]]


def test_each_number_is_its_own_image(tmp_path: Path) -> None:
    hues = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    for number, hue in enumerate(hues):
        Image.new("RGB", (40 + number, 40), hue).save(tmp_path / f"{number}.png")
    shown = Thumbnails(tmp_path, ["2.png", "0.png", "1.png"])
    for _ in range(2):  # made, and kept
        for number, of in enumerate((2, 0, 1)):
            with Image.open(io.BytesIO(shown.webp(number) or b"")) as image:
                assert image.width == 40 + of
                # A flat colour loses next to nothing in WebP.
                assert np.abs(np.asarray(image.convert("RGB")).astype(int) - hues[of]).max() < 8
