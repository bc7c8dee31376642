"""Near-duplicates are found by their fingerprints, and different pictures are not taken for one."""

from __future__ import annotations

import io
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from skimage import data as photographs

from ftx.data.fingerprints import Fingerprint, fingerprint
from ftx.data.near_duplicates import likeness, near_duplicates

NAMES = ("astronaut", "camera", "cat", "coffee", "rocket", "page", "clock", "coins", "moon")


def photograph(name: str) -> Image.Image:
    return Image.fromarray(getattr(photographs, name)()).convert("RGB")


def saved_anew(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=60)
    return Image.open(stream).convert("RGB")


CHANGES = {
    "jpeg": saved_anew,
    "half": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC),
    "double": lambda image: image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.25),
    "paler": lambda image: ImageEnhance.Contrast(image).enhance(0.8),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_photograph_is_known_again(change: str) -> None:
    fingerprints = [fingerprint(photograph(name)) for name in NAMES]
    changed = [fingerprint(CHANGES[change](photograph(name))) for name in NAMES]
    assert {(pair.one, pair.other) for pair in near_duplicates(changed, fingerprints)} == {
        (row, row) for row in range(len(NAMES))
    }


def test_different_photographs_and_mirrored_ones_are_not() -> None:
    fingerprints = [fingerprint(photograph(name)) for name in NAMES]
    for one, other in combinations(fingerprints, 2):
        assert not near_duplicates([one], [other])
    mirrored = [fingerprint(photograph(name).transpose(Image.Transpose.FLIP_LEFT_RIGHT)) for name in NAMES]
    assert not near_duplicates(mirrored, fingerprints)


def test_pictures_of_one_grey_match_nothing() -> None:
    plain = [fingerprint(Image.new("RGB", (40, 40), (grey,) * 3)) for grey in (0, 128, 255)]
    assert not near_duplicates(plain[:1], plain[1:])
    # Of the 64 bits the first would be their brightness.
    assert len({one.bits >> 63 for one in plain}) == 1


def test_many_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftx.data.near_duplicates._PAIRS", 7)
    generator = np.random.default_rng(0)
    fingerprints = [
        fingerprint(Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8))) for _ in range(10)
    ]
    assert sorted((pair.one, pair.other) for pair in near_duplicates(fingerprints, fingerprints)) == [
        (row, row) for row in range(10)
    ]


def correlated(correlation: float) -> tuple[Fingerprint, Fingerprint]:
    """Two fingerprints of equal bits, whose grey pixels correlate by this but for their rounding to whole levels."""
    generator = np.random.default_rng(1)
    one, other = generator.normal(size=(2, 32 * 32))
    one -= one.mean()
    one /= np.linalg.norm(one)
    other -= other.mean()
    other -= (other @ one) * one
    other /= np.linalg.norm(other)
    mixed = correlation * one + np.sqrt(1 - correlation**2) * other
    grey = [(128 + 900 * each).round().clip(0, 255).astype(np.uint8).reshape(32, 32) for each in (one, mixed)]
    return Fingerprint(0, grey[0]), Fingerprint(0, grey[1])


# Rounding to whole grey levels, of a spread of 28, moves a correlation by some 1e-4.
@pytest.mark.parametrize(("correlation", "found"), [(0.9785, 0), (0.9815, 1), (0.5, 0), (0.9, 0), (1.0, 1)])
def test_near_duplicates_correlate_by_98_in_a_hundred(correlation: float, found: int) -> None:
    one, other = correlated(correlation)
    exact = float(np.corrcoef(one.grey_HW.ravel(), other.grey_HW.ravel())[0, 1])
    assert exact == pytest.approx(correlation, abs=1e-3)
    pairs = near_duplicates([one], [other])
    assert len(pairs) == found
    assert all(pair.correlation == pytest.approx(exact, abs=1e-5) for pair in pairs)


@pytest.mark.parametrize(("bits", "found"), [(8, 1), (9, 0)])
def test_near_duplicates_differ_by_8_bits_of_64(bits: int, found: int) -> None:
    one, other = correlated(1.0)
    assert len(near_duplicates([one], [Fingerprint(int("1" * bits, 2) << 20, other.grey_HW)])) == found


@pytest.mark.parametrize("dense", [0, 1 << 40])
def test_pair_by_pair_and_by_products_of_matrices_are_one(dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by comparing each with each: scenes of a fixed camera, some of them twice and some under another label."""
    monkeypatch.setattr("ftx.data.near_duplicates._DENSE", dense)
    monkeypatch.setattr("ftx.data.near_duplicates._PAIRS", 7)
    rng = np.random.default_rng(4)
    scenes = [rng.normal(0, 50, (8, 8)) for _ in range(3)]
    images = [
        Image.fromarray((128 + scenes[n % 3] + rng.normal(0, 4, (8, 8))).clip(0, 255).astype(np.uint8)).resize((64, 64))
        for n in range(60)
    ]
    alone = [Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).resize((64, 64)) for _ in range(4)]
    prints = [fingerprint(image) for image in [*images, *alone, *images[:6]]]
    kind_N = rng.integers(0, 2, len(prints))
    flat_NP = np.stack([one.grey_HW.ravel().astype(float) for one in prints])
    bits = np.array([one.bits for one in prints], np.uint64)
    near_NN = (np.corrcoef(flat_NP) >= 0.98) & (np.bitwise_count(bits[:, None] ^ bits) <= 8)
    found = likeness(prints, kind_N)
    reached = near_NN.copy()
    for _ in range(7):
        reached |= (reached.astype(int) @ reached.astype(int)) > 0
    assert ((found.set_N[:, None] == found.set_N) == reached).all()
    other_NN = near_NN & (kind_N[:, None] != kind_N)
    assert [pair.one for pair in found.unlike] == np.flatnonzero(other_NN.any(axis=1)).tolist()
    best_N = np.where(other_NN, np.corrcoef(flat_NP), -1).max(axis=1)
    assert [pair.correlation for pair in found.unlike] == pytest.approx(best_N[other_NN.any(axis=1)].tolist(), abs=1e-5)
    assert 0 < len(found.unlike) < len(prints)
    pairs = near_duplicates(prints[:20], prints[20:])
    assert sorted(pair.one for pair in pairs) == np.flatnonzero(near_NN[:20, 20:].any(axis=1)).tolist()


def test_likeness_joins_near_duplicates_of_near_duplicates_and_names_those_of_another_kind() -> None:
    """Two pictures, each in three brightnesses, and one of one grey; beside what pair by pair says."""
    rng = np.random.default_rng(3)
    pictures = [rng.integers(20, 180, (8, 8), dtype=np.uint8) for _ in range(2)]
    prints = [
        fingerprint(Image.fromarray(picture + np.uint8(brighter)).resize((64, 64), Image.Resampling.BICUBIC))
        for brighter in (0, 20, 40)
        for picture in pictures
    ] + [fingerprint(Image.new("L", (8, 8), 90))]
    kind_N = np.array([0, 0, 0, 0, 1, 0, 2])
    found = likeness(prints, kind_N)
    assert [set(np.flatnonzero(found.set_N == one).tolist()) for one in found.set_N[:2]] == [{0, 2, 4}, {1, 3, 5}]
    assert np.flatnonzero(found.set_N == found.set_N[6]).tolist() == [6]  # like itself alone
    assert {(pair.one, pair.other) for pair in found.unlike if pair.one != 4} == {(0, 4), (2, 4)}
    (fourth,) = [pair for pair in found.unlike if pair.one == 4]
    assert fourth.other in (0, 2)
    alone = [near_duplicates([prints[pair.one]], [prints[pair.other]])[0].correlation for pair in found.unlike]
    assert [pair.correlation for pair in found.unlike] == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize("images", [1, 7, 100])
def test_images_are_compared_in_parts_with_the_same_result(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near-duplicates across parts, and pictures of one grey among them, so that a place is no number of a picture."""
    rng = np.random.default_rng(5)
    pictures = [rng.integers(20, 180, (8, 8)) for _ in range(12)]
    # Of three that are alike no two pairs are as alike as each other.
    changed = [
        picture + rng.integers(-strength, strength + 1, (8, 8)) for strength in (0, 3, 6) for picture in pictures
    ]
    prints = [
        fingerprint(Image.fromarray(each.astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC))
        for each in changed
    ]
    flat = fingerprint(Image.new("L", (8, 8), 90))
    prints[3:3], prints[20:20] = [flat], [flat, flat]
    kind_N = np.arange(len(prints)) // 5 % 2
    whole, pairs = likeness(prints, kind_N), near_duplicates(prints[:15], prints[15:])
    assert len(set(whole.set_N.tolist())) == 12 + 3
    assert len(whole.unlike) > 20
    assert len(pairs) == 14
    monkeypatch.setattr("ftx.data.near_duplicates._IMAGES", images)
    parts = likeness(prints, kind_N)
    assert parts.set_N.tolist() == whole.set_N.tolist()
    assert [(pair.one, pair.other) for pair in parts.unlike] == [(pair.one, pair.other) for pair in whole.unlike]
    # A product of matrices of another shape rounds otherwise.
    assert [pair.correlation for pair in parts.unlike] == pytest.approx([p.correlation for p in whole.unlike], abs=1e-6)
    assert sorted((pair.one, pair.other) for pair in near_duplicates(prints[:15], prints[15:])) == sorted(
        (pair.one, pair.other) for pair in pairs
    )
