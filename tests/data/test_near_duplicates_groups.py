"""Which images are one picture."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from ftx.data.dataset import Entry
from ftx.data.fingerprints import Fingerprint, fingerprint
from ftx.data.near_duplicates import equal_files, near_duplicate_groups


def picture(seed: int, brighter: int = 0) -> Fingerprint:
    coarse = np.random.default_rng(seed).integers(20, 200, (8, 8), dtype=np.uint8)
    return fingerprint(Image.fromarray(coarse + np.uint8(brighter)).resize((64, 64), Image.Resampling.BICUBIC))


def entry(path: str, label: str, digest: str, group: str | None = None) -> Entry:
    return Entry(path, digest, (label,), "train", group)


def test_what_looks_alike_is_one_subject_and_contradicts_where_labels_differ() -> None:
    entries = [entry(f"{index}", "ab"[index % 2], f"{index}") for index in range(12)]
    prints = {f"{index}": picture(index) for index in range(12)} | {"7": picture(0, brighter=15)}
    found = near_duplicate_groups(entries, prints)
    assert found.subjects[0] == found.subjects[7]
    assert len(set(found.subjects)) == 11
    assert {(pair.one, pair.other) for pair in found.unlike} == {(0, 7), (7, 0)}
    assert all(0.98 <= pair.correlation <= 1 for pair in found.unlike)
    assert not found.notes


def test_equal_files_and_groups_are_one_subject_too() -> None:
    flat = fingerprint(Image.new("RGB", (9, 9), "red"))  # of one grey all over: nothing correlates
    entries = [entry("0", "a", "x"), entry("1", "b", "x"), entry("2", "a", "y", "g"), entry("3", "b", "z", "g")]
    entries += [entry("4", "a", "u", "h"), entry("5", "b", "u")]
    prints = {"0": flat, "1": flat, **{str(index): picture(index) for index in (2, 3, 4, 5)}}
    found = near_duplicate_groups(entries, prints)
    assert found.subjects[0] == found.subjects[1]
    assert found.subjects[2] == found.subjects[3]
    assert found.subjects[4] == found.subjects[5]
    assert len(set(found.subjects)) == 3
    assert {(pair.one, pair.other, pair.correlation) for pair in found.unlike} == {
        (0, 1, 1),
        (1, 0, 1),
        (4, 5, 1),
        (5, 4, 1),
    }


def test_twenty_thousand_equal_frames_take_no_second() -> None:
    """The first that has other labels is named, in whatever order they come."""
    entries = [entry(f"{index}", "a" if index < 19_999 else "b", "x") for index in range(20_000)]
    began_s = time.process_time()
    pairs = {pair.one: pair.other for pair in equal_files(entries)}
    # Compared each with each, minutes.
    assert time.process_time() - began_s < 1
    assert pairs == {**dict.fromkeys(range(19_999), 19_999), 19_999: 0}
    mixed = [entry(f"{index}", label, "x") for index, label in enumerate("baacb")]
    assert {pair.one: pair.other for pair in equal_files(mixed)} == {0: 1, 1: 0, 2: 0, 3: 0, 4: 1}
    assert not equal_files(entries[:-1])


@pytest.mark.parametrize("alike", [6, 30])
def test_under_a_fixed_camera_being_alike_says_nothing(alike: int) -> None:
    entries = [entry(f"{index}", "ab"[index % 2], f"{index}") for index in range(30)]
    prints = {f"{index}": picture(100 if index < alike else index, index % 5) for index in range(30)}
    found = near_duplicate_groups(entries, prints)
    if alike == 6:  # a fifth
        assert len(found.unlike) == 6
        assert not found.notes
    else:
        assert not found.unlike
        assert len(set(found.subjects)) == 30
        assert len(found.notes) == 2


def test_labels_differ_as_sets() -> None:
    """Of two pictures in three copies each: one copy has a label more, and one has the same in another order."""
    labels = [("a", "b"), ("a",), ("b", "a"), ("c",), ("c",), ()]
    entries = [Entry(f"{index}", f"{index}", each, "train") for index, each in enumerate(labels)]
    entries += [entry(f"{index}", "a", f"{index}") for index in range(6, 40)]
    prints = {f"{index}": picture(index // 3 if index < 6 else index, index % 3 * 10) for index in range(40)}
    found = near_duplicate_groups(entries, prints)
    assert {pair.one for pair in found.unlike} == {0, 1, 2, 3, 4, 5}
    assert {(pair.one, pair.other) for pair in found.unlike if pair.one in (0, 2, 3, 4)} == {
        (0, 1),
        (2, 1),
        (3, 5),
        (4, 5),
    }


@pytest.mark.parametrize(
    ("alike", "labels", "notes"),
    [
        (6, "a", []),
        (7, "a", ["many images look alike, as under a fixed camera: only equal files are kept in one fold"]),
        (2, "ab", ["8 images look like one with other labels: being alike says nothing here"]),
    ],
)
def test_a_fixed_camera_and_other_labels_are_told_apart(alike: int, labels: str, notes: list[str]) -> None:
    """Of 30 images a fifth may be one picture, and a fifth may look like one with other labels."""
    sets = 4 if alike == 2 else 1
    entries = [entry(f"{index}", labels[index % len(labels)], f"{index}") for index in range(30)]
    prints = {f"{index}": picture(100 + index // alike if index < sets * alike else index) for index in range(30)}
    found = near_duplicate_groups(entries, prints)
    assert found.notes == notes
    assert not found.unlike
    one_set = len(set(found.subjects[:alike])) == 1
    assert one_set == (alike != 7)
