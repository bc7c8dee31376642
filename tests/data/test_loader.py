from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ftx.core.byte_store import ByteStore
from ftx.core.errors import ImageError
from ftx.core.memory import available_bytes
from ftx.data.augment import CROP_AREA, CROP_RATIO, crop_box, random_view
from ftx.data.image_store import ImageLike, open_image
from ftx.data.loader import TrainingImages, in_batches, load_pixels_many
from ftx.data.pixel_store import PixelStore, reduce
from ftx.data.preprocess import Pixels, Preprocess, load_pixels
from ftx.data.threads import in_threads

PRE = Preprocess(
    height=32, width=32, resize=36, interpolation="bicubic", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
SIZES = [(28, 28), (200, 90), (31, 77), (64, 64), (400, 60), (54, 54), (120, 160)]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    written = []
    for number, (width, height) in enumerate(SIZES * 2):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
        written.append(path)
    return written


@pytest.fixture(scope="module")
def truth(paths: Sequence[Path]) -> np.ndarray:
    return np.eye(len(paths), dtype=np.float32)


def batches(
    images: TrainingImages, order: Sequence[int] | NDArray[np.intp], size: int, *, epoch: int, skipped: int = 0
) -> Generator[tuple[Pixels, np.ndarray]]:
    """Pixels and truth, as a training makes batches of them."""
    chunks = in_batches(images.seen(order, epoch), size, skipped)
    with closing(images.views(chunks)) as made:
        for pixels, chunk in zip(made, chunks, strict=True):
            yield pixels, images.targets_NC[[view.image for view in chunk]]


def epoch(images: TrainingImages, number: int, batch_size: int = 4) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(99).permutation(len(images))
    made = list(batches(images, order, batch_size, epoch=number))
    assert [len(pixels) for pixels, _ in made] == [4, 4, 4, 2]
    return np.concatenate([pixels for pixels, _ in made]), np.concatenate([targets for _, targets in made])


def room(limit_bytes: float) -> PixelStore:
    return PixelStore(PRE, ByteStore(None, limit_bytes))


def data_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ftx-data")]


def test_batches_have_the_networks_size_and_their_own_targets(paths: list[Path], truth: np.ndarray) -> None:
    pixels_NHWC, targets = epoch(TrainingImages(paths, truth, PRE), 1)
    assert (pixels_NHWC.dtype, pixels_NHWC.shape) == (np.uint8, (14, 32, 32, 3))
    assert targets.dtype == np.float32
    assert np.array_equal(targets.argmax(1), np.random.default_rng(99).permutation(14))


def test_a_view_is_that_of_its_image_in_its_epoch_by_its_seed(paths: list[Path], truth: np.ndarray) -> None:
    images, order = TrainingImages(paths, truth, PRE), np.random.default_rng(99).permutation(14)
    first, again, other = (epoch(images, number)[0] for number in (1, 1, 2))
    assert np.array_equal(first, again)
    for found in (other, epoch(TrainingImages(paths, truth, PRE, seed=1), 1)[0]):
        # Six are too long for a crop at random: they are only mirrored, or not, so that any of them may be seen alike.
        assert sum(not np.array_equal(*pair) for pair in zip(first, found, strict=True)) >= 8
    # Wherever the image stands, whatever stands before it, and whether that is made at all.
    (straight, _) = next(iter(batches(images, range(14), 14, epoch=1)))
    assert np.array_equal(straight[order], first)
    rest = [pixels for pixels, _ in batches(images, order, 4, epoch=1, skipped=2)]
    assert np.array_equal(np.concatenate(rest), first[8:])


def test_an_image_that_comes_again_in_an_epoch_is_seen_otherwise(paths: list[Path], truth: np.ndarray) -> None:
    images = TrainingImages(paths, truth, PRE)
    (twice, targets), (once, _) = (next(iter(batches(images, order, 4, epoch=1))) for order in ([3, 5, 3, 3], [3]))
    assert targets.argmax(1).tolist() == [3, 5, 3, 3]
    assert np.array_equal(twice[0], once[0])
    assert len({view.tobytes() for view in twice[[0, 2, 3]]}) == 3


@pytest.mark.parametrize("augment", ["light", "none"])
def test_room_changes_no_pixel(paths: list[Path], truth: np.ndarray, augment: str) -> None:
    everything, half, nothing = (room(limit) for limit in (10**9, 30_000, 0))
    expected, _ = epoch(TrainingImages(paths, truth, PRE, augment=augment, pixels=everything), 3)
    for _ in range(2):  # decoded for the first time, and kept
        for pixels in (everything, half, nothing):
            assert np.array_equal(
                epoch(TrainingImages(paths, truth, PRE, augment=augment, pixels=pixels), 3)[0], expected
            )
    assert len(everything) == 14
    assert 0 < len(half) < 14
    assert len(nothing) == 0


def test_in_epoch_0_an_image_is_as_it_is(paths: list[Path], truth: np.ndarray) -> None:
    images = TrainingImages(paths, truth, PRE)
    epoch(images, 1)  # what is kept of them is reduced
    (pixels_NHWC, _) = next(iter(batches(images, range(14), 14, epoch=0)))
    assert np.array_equal(pixels_NHWC, load_pixels_many(paths, PRE))


def test_without_augmentation_it_is_the_image_path(paths: list[Path], truth: np.ndarray) -> None:
    images = TrainingImages(paths, truth, PRE, augment="none")
    (pixels_NHWC, _) = next(iter(batches(images, range(14), 14, epoch=0)))
    assert np.array_equal(pixels_NHWC, np.stack([load_pixels(path, PRE) for path in paths]))
    assert np.array_equal(load_pixels_many(paths, PRE), pixels_NHWC)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 2**32))
def test_a_crop_lies_inside_and_keeps_its_shape(width: int, height: int, seed: int) -> None:
    left, upper, right, lower = crop_box(width, height, np.random.default_rng(seed))
    assert 0 <= left < right <= width
    assert 0 <= upper < lower <= height
    ratio, area = (right - left) / (lower - upper), (right - left) * (lower - upper) / (width * height)
    # 1e-9: rounding of a few float64 products.
    assert CROP_RATIO[0] - 1e-9 <= ratio <= CROP_RATIO[1] + 1e-9
    # A panorama's largest crop of an allowed shape may be less than the area asked for.
    fits = CROP_RATIO[0] <= width / height <= CROP_RATIO[1]
    assert area <= 1 + 1e-9
    assert area >= CROP_AREA[0] - 1e-9 or not fits


def test_half_of_the_views_are_mirrored() -> None:
    ramp_HWC = np.repeat(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))[..., None], 3, axis=2)
    image = Image.fromarray(ramp_HWC)
    views = [random_view(image, PRE, np.random.default_rng(seed)) for seed in range(400)]
    mirrored = sum(bool(view[16, 0, 0] > view[16, -1, 0]) for view in views)
    # Binomial(400, 1/2): 200 with standard deviation 10; seeded, so it always gives the same number.
    assert abs(mirrored - 200) < 40


def test_kept_images_are_reduced_and_small_ones_untouched() -> None:
    small, wide = Image.new("RGB", (54, 54)), Image.new("RGB", (400, 100))
    assert reduce(small, 1.5, PRE) is small
    assert reduce(wide, 1.5, PRE).size == (216, 54)


def test_a_missing_image_is_an_error_where_it_is_met(paths: list[Path], truth: np.ndarray) -> None:
    gone = [*paths[:-1], paths[0].parent / "gone.png"]
    for limit_bytes in (0, 10**9):
        images = TrainingImages(gone, truth, PRE, pixels=room(limit_bytes))
        made = batches(images, range(14), 4, epoch=1)
        assert len([next(made) for _ in range(3)]) == 3
        with pytest.raises(ImageError):
            next(made)
        assert not data_threads()


def test_closing_early_leaves_no_thread(paths: list[Path], truth: np.ndarray) -> None:
    made = batches(TrainingImages(paths, truth, PRE), range(14), 1, epoch=0)
    next(made)
    assert data_threads()
    made.close()
    assert not data_threads()


def test_threads_keep_the_order_and_their_distance() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.002 * (item % 3))
        return item * item

    results = in_threads(work, range(30), workers=4, prefetch=5)
    for number, result in enumerate(results):
        assert result == number * number
        assert len(begun) <= number + 1 + 5
    assert sorted(begun) == list(range(30))


def test_an_interrupt_drops_what_has_not_begun() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.01)
        return item

    def interrupted() -> None:
        for result in in_threads(work, range(1000), workers=2, prefetch=8):
            if result == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(begun) <= 3 + 8 + 1
    assert not data_threads()


def test_free_memory_is_more_than_this_test_needs() -> None:
    assert available_bytes() > 1 << 20


def test_it_counts_what_it_made_others_wait(
    paths: list[Path], truth: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(image: ImageLike) -> Image.Image:
        time.sleep(0.02)
        return open_image(image)

    monkeypatch.setattr("ftx.data.pixel_store.open_image", slow)
    images = TrainingImages(paths, truth, PRE)
    for _ in batches(images, range(14), 7, epoch=1):
        time.sleep(0.3)  # meanwhile the others are made
    assert 0.13 < images.waiting.seconds < 0.4
    waited_s = images.waiting.seconds
    for _ in batches(images, range(14), 7, epoch=2):  # nothing is decoded any more
        time.sleep(0.1)
    assert images.waiting.seconds - waited_s < 0.1
