"""Held-out images that training has seen: in train, and of test in val as well, by which the epoch is chosen."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ftx.data.dataset import Entry, Split
from ftx.data.fingerprints import fingerprint
from ftx.data.near_duplicates import seen_in_training


def picture(seed: int, side: int = 64) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 8), np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def test_images_of_test_are_compared_with_val_too() -> None:
    made: list[tuple[str, Split, int, str]] = [
        ("train/a", "train", 1, "1"),
        ("train/b", "train", 2, "2"),
        ("val/b", "val", 2, "other bytes"),
        ("val/c", "val", 3, "3"),
        ("test/a", "test", 1, "1"),
        ("test/c", "test", 3, "3"),
        ("test/smaller-c", "test", 3, "fewer pixels"),
        ("test/d", "test", 4, "4"),
    ]
    entries = [Entry(path, sha256, ("x",), split) for path, split, _, sha256 in made]
    prints = {path: fingerprint(picture(seed, 48 if "smaller" in path else 64)) for path, _, seed, _ in made}
    found = {(one.held_out, one.train, one.correlation == 1) for one in seen_in_training(entries, prints)}
    assert {(held_out, train) for held_out, train, _ in found} == {
        ("val/b", "train/b"),
        ("test/a", "train/a"),
        ("test/c", "val/c"),
        ("test/smaller-c", "val/c"),
    }
    assert ("test/c", "val/c", True) in found
