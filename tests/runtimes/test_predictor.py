from __future__ import annotations

import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ftx.core.errors import ImageError
from ftx.data.preprocess import Pixels, Preprocess, load_pixels
from ftx.runtimes import predictor as base
from ftx.runtimes.predictor import feed_files
from ftx.tasks.thresholds import Floats


def decode(path: Path) -> Pixels:
    """``12x7-3``: an image of 12 × 7 filled with 3; anything else cannot be read."""
    size, _, value = path.name.partition("-")
    if "x" not in size:
        raise ImageError("cannot be read", where=path)
    height, width = size.split("x")
    return np.full((int(height), int(width), 3), int(value), dtype=np.uint8)


class Recorder:
    """Answers with the first pixel, and remembers the shape of each batch."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, pixels: Pixels) -> Floats:
        self.shapes.append(pixels.shape)
        return pixels[:, 0, 0, :1].astype(np.float32)


def ask(names: list[str]) -> tuple[list[object], list[tuple[int, ...]]]:
    recorder = Recorder()
    answers = list(feed_files([Path(name) for name in names], decode, recorder))
    return [type(a).__name__ if isinstance(a, ImageError) else float(a[0]) for a in answers], recorder.shapes


def test_neighbours_of_one_size_share_a_batch_and_order_is_kept() -> None:
    answers, shapes = ask(["4x4-1", "bad", "4x4-2", "6x4-3", "4x4-4", "worse"])
    assert answers == [1.0, "ImageError", 2.0, 3.0, 4.0, "ImageError"]
    assert shapes == [(2, 4, 4, 3), (1, 6, 4, 3), (1, 4, 4, 3)]


def test_a_batch_has_a_largest_number() -> None:
    count = 2 * base.BATCH_IMAGES + 3
    answers, shapes = ask([f"2x2-{index}" for index in range(count)])
    assert answers == [float(index) for index in range(count)]
    assert [shape[0] for shape in shapes] == [base.BATCH_IMAGES, base.BATCH_IMAGES, 3]


def test_large_images_fill_a_batch_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "BATCH_BYTES", 3 * 10 * 10 * 3)
    _, shapes = ask([f"10x10-{index}" for index in range(7)] + ["20x20-9"])
    assert [shape[0] for shape in shapes] == [3, 3, 1, 1]
    _, shapes = ask([f"40x40-{index}" for index in range(3)])  # each of which is more than all
    assert [shape[0] for shape in shapes] == [1, 1, 1]


def test_errors_that_wait_for_a_batch_hold_no_files(tmp_path: Path) -> None:
    """Each of its traceback's frames would hold a copy of the file, until an image comes that can be read."""
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1 << 20))
    pre = Preprocess(8, 8, 8, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    tracemalloc.start()
    try:
        answers = feed_files([path] * 50, partial(load_pixels, pre=pre), Recorder())
        first = next(iter(answers))
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(first, ImageError)
    assert first.where == str(path)
    assert first.__cause__ is not None
    assert first.__cause__.__traceback__ is not None  # where Pillow stopped is still told
    # Fifty errors are far less than a megabyte; a file or two may still be read ahead.
    assert held_bytes < 5 << 20


def test_no_files_no_batches() -> None:
    assert ask([]) == ([], [])
    assert ask(["bad"]) == (["ImageError"], [])
