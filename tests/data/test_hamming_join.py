"""Words that differ in a few bits are found, all of them and no others, as by comparing each with each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftx.data import hamming_join
from ftx.data.hamming_join import HammingJoin


def found(words_N: np.ndarray, words_M: np.ndarray, most: int) -> list[tuple[int, int]]:
    return [
        pair
        for rows, others in HammingJoin(words_M, most).near(words_N)
        for pair in zip(rows.tolist(), others.tolist(), strict=True)
    ]


def each_with_each(words_N: np.ndarray, words_M: np.ndarray, most: int) -> list[tuple[int, int]]:
    apart_NM = np.bitwise_count(words_N[:, None] ^ words_M)
    return list(zip(*(part.tolist() for part in np.nonzero(apart_NM <= most)), strict=True))


def changed(words: np.ndarray, rng: np.random.Generator, most: int) -> np.ndarray:
    bits = rng.integers(0, 64, (len(words), most))
    return np.bitwise_xor.reduce(np.uint64(1) << bits.astype(np.uint64), axis=1) ^ words


@pytest.mark.parametrize("words", [1, 2, 3, 17, 300, pytest.param(5000, marks=pytest.mark.representative)])
@pytest.mark.parametrize("most", [0, 1, 7, 8, 11])
def test_all_pairs_and_no_others(words: int, most: int) -> None:
    """As many words as make bands of 64 bits down to five; pairs at the bound, one within and one beyond it."""
    rng = np.random.default_rng(words)
    among = rng.integers(0, 2**64, words, dtype=np.uint64)
    asked = np.concatenate([changed(among, rng, bits) for bits in (1, 6, 9, 13)])
    assert found(asked, among, most) == each_with_each(asked, among, most)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30), st.integers(0, 64))
def test_any_words(words: list[int], most: int) -> None:
    among = np.array([*words, *(word ^ 3 for word in words)], dtype=np.uint64)
    assert found(among, among, most) == each_with_each(among, among, most)


def test_equal_words_are_held_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hamming_join, "_MOST_PAIRS", 1000)
    among = np.zeros(300, dtype=np.uint64)
    parts = list(HammingJoin(among, 8).near(among))
    assert len(parts) > 20
    assert sum(len(rows) for rows, _ in parts) == 300 * 300
    assert [row for rows, _ in parts for row in np.unique(rows).tolist()] == list(range(300))
