"""Random views: each operation has its effect, within its bounds and as often as it is said to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from ftx.data.augment import crop_box, random_view
from ftx.data.pixel_store import reduce
from ftx.data.preprocess import Preprocess


def path_of(interpolation: Any = "bicubic", size: int = 32) -> Preprocess:
    return Preprocess(size, size, size, interpolation, (0.5,) * 3, (0.5,) * 3)


def boxes(width: int, height: int, aspect: float = 1.0) -> np.ndarray:
    """Shape: [4000, 4]."""
    return np.array([crop_box(width, height, np.random.default_rng(seed), aspect=aspect) for seed in range(4000)])


# The tolerances are four standard deviations of 4,000 draws; all are seeded, so that they give the same each time.


def test_the_area_is_drawn_between_six_tenths_and_the_whole() -> None:
    left, upper, right, lower = boxes(1000, 1000).T
    area = (right - left) * (lower - upper) / 1e6
    assert 0.6 <= area.min() < 0.602
    assert 0.97 < area.max() <= 1
    # A box of the ratio r fits while its area is at most min(r, 1/r), and a draw that does not fit is drawn again: the
    # areas that are kept have the mean of min(a, b) over both draws, a uniform in [0.6, 1] and log r in ±log(4/3).
    generator = np.random.default_rng(0)
    drawn, ratio = generator.uniform(0.6, 1, 400_000), np.exp(generator.uniform(-1, 1, 400_000) * np.log(4 / 3))
    kept = drawn[drawn <= np.minimum(ratio, 1 / ratio)]
    assert area.mean() == pytest.approx(kept.mean(), abs=4 * 0.1 / np.sqrt(4000))


@pytest.mark.parametrize("aspect", [1.0, 224 / 160])
def test_the_ratio_is_drawn_on_a_log_scale_about_that_of_the_network(aspect: float) -> None:
    left, upper, right, lower = boxes(1400, 1000, aspect).T if aspect > 1 else boxes(1000, 1000).T
    logs = np.log((right - left) / (lower - upper) / aspect)
    assert -np.log(4 / 3) - 1e-9 <= logs.min() < -0.27
    assert 0.27 < logs.max() <= np.log(4 / 3) + 1e-9
    # Wide and tall are as frequent; on a linear scale of 3/4 to 4/3 the median would lie at 1.04.
    assert np.median(logs) == pytest.approx(0, abs=0.02)


def test_the_place_is_drawn_uniformly() -> None:
    left, upper, right, lower = boxes(1000, 800).T
    for start, end, side in ((left, right, 1000), (upper, lower, 800)):
        spare = side - (end - start)
        share = (start / np.maximum(spare, 1))[spare > 1]
        # Kolmogorov's distance of so many uniform draws is below this in all but 1 of 10,000 cases.
        assert np.abs(np.sort(share) - np.linspace(0, 1, len(share))).max() < 2.23 / np.sqrt(len(share))


def test_a_panorama_is_cut_from_its_middle() -> None:
    middle = [1000 / 2 - 100 * 2 / 3, 0, 1000 / 2 + 100 * 2 / 3, 100]
    np.testing.assert_allclose(boxes(1000, 100)[:100], [middle] * 100, rtol=1e-12)


def test_a_view_is_its_box_mirrored_half_of_the_time() -> None:
    # A plane of brightness x in red and y in green: where its ends lie says what the view shows.
    y, x = np.mgrid[0:256, 0:256]
    image = Image.fromarray(np.stack([x, y, x], axis=2).astype(np.uint8))
    mirrored = 0
    for seed in range(300):
        view = random_view(image, path_of(), np.random.default_rng(seed)).astype(float)
        left, upper, right, lower = crop_box(256, 256, np.random.default_rng(seed))
        ends = view[16, [0, -1], 0]
        mirrored += bool(ends[0] > ends[1])
        # The middle of the first and the last of 32 pixels; antialiasing leans on the edge, by some two levels.
        step = (right - left) / 64
        np.testing.assert_allclose(sorted(ends), [left + step - 0.5, right - step - 0.5], atol=2.5)
        step = (lower - upper) / 64
        np.testing.assert_allclose(view[[0, -1], 16, 1], [upper + step - 0.5, lower - step - 0.5], atol=2.5)
    assert abs(mirrored - 150) < 4 * np.sqrt(300 / 4)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_view_is_antialiased(interpolation: str) -> None:
    # Lines one pixel wide, made eight times smaller: their mean with antialiasing, black or white without.
    lines = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (256, 128))[..., None].repeat(3, axis=2))
    for seed in range(10):
        view = random_view(lines, path_of(interpolation), np.random.default_rng(seed))
        assert np.abs(view.astype(float) - 127.5).max() < 30
    kept = np.asarray(reduce(lines, 1.5, path_of(interpolation)))
    assert kept.shape == (48, 48, 3)
    assert np.abs(kept.astype(float) - 127.5).max() < 30


def test_a_view_is_interpolated_as_the_network_asks() -> None:
    # Keys' cubic overshoots beside an edge by up to 7 % of it, as no mean of its neighbours does.
    edge = Image.fromarray(
        np.where(np.arange(16) < 8, 50, 200).astype(np.uint8)[None, :, None].repeat(16, 0).repeat(3, 2)
    )
    views = {
        name: np.stack([random_view(edge, path_of(name, 64), np.random.default_rng(seed)) for seed in range(5)])
        for name in ("bicubic", "bilinear")
    }
    assert views["bilinear"].min() == 50
    assert views["bilinear"].max() == 200
    assert views["bicubic"].min() < 45
    assert views["bicubic"].max() > 205
    # Either has more than the two levels of the edge, which the nearest pixel alone would give.
    assert len(np.unique(views["bilinear"])) > 20


@pytest.mark.parametrize(("height", "width"), [(24, 48), (48, 24)])
def test_a_view_for_a_network_that_is_no_square_is_not_squeezed(height: int, width: int) -> None:
    """A step of the network is as far across as down: by 3/4 to 4/3, and neither more often than the other."""
    y, x = np.mgrid[0 : 5 * height, 0 : 5 * width]
    image = Image.fromarray(np.stack([x, y, x], axis=2).astype(np.uint8))
    pre = Preprocess(height, width, (height, width), "bilinear", (0.5,) * 3, (0.5,) * 3)
    steps: list[float] = []
    for seed in range(200):
        view = random_view(image, pre, np.random.default_rng(seed)).astype(float)
        assert view.shape == (height, width, 3)
        across = abs(view[4, -5, 0] - view[4, 4, 0]) / (width - 9)
        down = abs(view[-5, 4, 1] - view[4, 4, 1]) / (height - 9)
        steps.append(np.log(across / down))
    # Ends are whole levels, one off of 45 to 75 from end to end of the shorter side.
    assert np.abs(steps).max() < np.log(4 / 3) + 0.03
    # Uniform in ± log(4/3), or less wide where that does not fit: four deviations of 200 draws.
    assert abs(np.mean(steps)) < 4 * np.log(4 / 3) / np.sqrt(3 * 200)
