"""Pixels that are kept: those of their image whatever happened, and read instead of decoding it again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import Listener
from tests.data.test_loader import PRE
from tests.data.test_open_dataset import tree

from ftx.core.errors import DataError
from ftx.data.image_store import EncodedImage, ImageStore, open_image
from ftx.data.open_dataset import survey
from ftx.data.pixel_store import KEPT_TO_RESIZE, Form, PixelStore, pixel_store, reduce
from ftx.data.preprocess import Preprocess, load_pixels
from ftx.recipe.sections import Augment, DataRecipe, TrainRecipe


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ftx" / "pixels"


@contextmanager
def opened(
    data: Path,
    *,
    augment: Augment = "light",
    cache_gb: float = 1,
    listener: Listener | None = None,
    pre: Preprocess = PRE,
) -> Iterator[PixelStore]:
    train = TrainRecipe(augment=augment, cache_gb=cache_gb)
    with pixel_store(DataRecipe(path=data), 4, pre, train, listener or Listener()) as store:
        yield store


@pytest.fixture
def image(tmp_path: Path) -> EncodedImage:
    path = tmp_path / "wide.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 200, 3), np.uint8)).save(path)
    return ImageStore(tmp_path).at(path.name, sha256(path.read_bytes()).hexdigest())


FORMS: tuple[Form, ...] = ("final", "reduced")


def test_another_process_reads_what_one_has_decoded(image: EncodedImage, tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        expected = [store.get(image, form) for form in FORMS]
    np.testing.assert_array_equal(expected[0], load_pixels(image, PRE))
    assert expected[1].shape == (54, 120, 3)
    (tmp_path / "wide.png").unlink()  # it is its hash that names it
    with opened(tmp_path) as store:
        for form, pixels_HWC in zip(FORMS, expected, strict=True):
            np.testing.assert_array_equal(store.get(image, form), pixels_HWC)


def test_what_is_damaged_is_decoded_again(image: EncodedImage, tmp_path: Path, cache: Path) -> None:
    with opened(tmp_path) as store:
        expected = store.get(image, "final")
    (content,) = cache.glob("*/content")
    bytes_ = bytearray(content.read_bytes())
    bytes_[1000] ^= 1
    content.write_bytes(bytes_)
    with opened(tmp_path) as store:
        np.testing.assert_array_equal(store.get(image, "final"), expected)


def test_a_name_says_nothing_of_another_days_bytes(image: EncodedImage, tmp_path: Path) -> None:
    named = ImageStore(tmp_path).at("wide.png")
    with opened(tmp_path) as store:
        store.get(named, "final")
        assert len(store) == 0


def test_reading_a_data_set_decodes_what_it_does_not_know(tmp_path: Path) -> None:
    data = tree(tmp_path / "data", {"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1})
    with opened(data) as store:
        dataset = survey(data, val_fraction=0.4, pixels=store).dataset
        # Of each that it is an image; of those that training asks for, both forms.
        assert len(store) == 8 + 2 * 6
        assert all(store.knows(entry.sha256) for entry in dataset.entries)
    with opened(data, augment="none") as store:
        assert survey(data, val_fraction=0.4, pixels=store).dataset == dataset
        assert len(store) == 8 + 2 * 6
    (data / "train" / "a" / "000.png").write_bytes(b"no image")  # 1 of 8: more than are passed over
    with opened(data) as store, pytest.raises(DataError, match="cannot be read"):
        survey(data, val_fraction=0.4, pixels=store)
    with opened(data) as store:  # what it is told that it knows, it does not decode
        store.add(sha256(b"no image").hexdigest(), Image.new("RGB", (40, 40)), pixels=True)
        assert len(survey(data, val_fraction=0.4, pixels=store).dataset.entries) == 8


def test_what_there_is_no_room_for_is_said_once(image: EncodedImage, tmp_path: Path, cache: Path) -> None:
    listener = Listener()
    with opened(tmp_path, cache_gb=1e-5, listener=listener) as store:  # 10 kB: final pixels, and not the reduced
        for _ in range(2):
            for form in FORMS:
                store.get(image, form)
        assert len(store) == 1
    (said,) = listener.said
    assert "not all images are kept decoded: they take more than 0.0 GB (train.cache_gb, half the disk)" in said
    with opened(tmp_path / "other", cache_gb=0) as store:
        store.get(image, "final")
        assert len(store) == 0
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"interpolation": "bilinear"},
        {"height": 28},
        {"width": 28},
        {"resize": 40},
        {"resize": (36, 40)},
        {"height": 24, "width": 36},
    ],
    ids=str,
)
def test_what_one_model_has_kept_is_not_read_by_another_that_sees_otherwise(
    change: dict[str, Any], image: EncodedImage, tmp_path: Path
) -> None:
    other = replace(PRE, **change)
    with opened(tmp_path) as store:
        for form in FORMS:
            store.get(image, form)
    with opened(tmp_path, pre=other) as store:
        assert len(store) == 0
        np.testing.assert_array_equal(store.get(image, "final"), load_pixels(image, other))
        expected = np.asarray(reduce(open_image(image), KEPT_TO_RESIZE, other))
        np.testing.assert_array_equal(store.get(image, "reduced"), expected)
    # Mean and deviation come after, and move no pixel.
    with opened(tmp_path, pre=replace(PRE, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))) as store:
        assert len(store) == len(FORMS)


@pytest.mark.parametrize("constant", ["KEPT_TO_RESIZE", "__version__", "PIL.__version__"])
def test_pixels_are_of_one_version_and_one_size(
    constant: str, image: EncodedImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as store:
        store.get(image, "reduced")
    monkeypatch.setattr(f"ftx.data.pixel_store.{constant}", 2.5 if constant == "KEPT_TO_RESIZE" else "0.0.1")
    with opened(tmp_path) as store:
        assert len(store) == 0


def kept_before(cache: Path, name: str, size_bytes: int, at_s: int) -> Path:
    """A folder of another data set's pixels, that was last used then."""
    (cache / name).mkdir(parents=True)
    (cache / name / "content").write_bytes(bytes(size_bytes))
    os.utime(cache / name, (at_s, at_s))
    return cache / name


@pytest.mark.parametrize(("limit_kb", "left"), [(150, set[str]()), (170, {"new"}), (230, {"new", "old"})])
@pytest.mark.parametrize("augment", ["light", "none"])
def test_pixels_of_other_data_make_room_for_all_images_in_the_forms_that_are_kept(
    augment: Augment, limit_kb: int, left: set[str], tmp_path: Path, cache: Path
) -> None:
    """Four images as they are take 12 kB, and those that views are cut from 47 kB; other data have 110 and 60 kB."""
    old, new = kept_before(cache, "old", 60_000, 1000), kept_before(cache, "new", 110_000, 2000)
    final_bytes = 4 * 3 * 32 * 32
    reduced_bytes = 4 * 3 * 1.5**2 * 4 / 3 * 36 * 36
    own_bytes = final_bytes + (reduced_bytes if augment == "light" else 0)
    assert 46_000 < reduced_bytes < 47_000
    # Less by what is not kept: so much room as each limit leaves where both forms are.
    limit_gb = (limit_kb * 1000 - final_bytes - reduced_bytes + own_bytes) / 1e9
    with opened(tmp_path, augment=augment, cache_gb=limit_gb):
        pass
    assert {path.name for path in (old, new) if path.exists()} == left
