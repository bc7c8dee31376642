"""Which of many 64-bit words differ from which in a few bits, without comparing each with each.

The 64 bits are cut into bands. Two words that differ in at most ``most`` bits differ in some band in at most its part
of them, so all words that are that near in one band are looked up, and then compared whole. Bands have about as many
bits as the logarithm of the number of words, by which a lookup finds about one: the time is near-linear in it.

Source: multi-index hashing (Norouzi, Punjani, Fleet 2012, arXiv:1307.2982, section 3.2).
Shapes: N words looked for among M, P patterns of a band.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from math import log2
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BITS = 64
Words = NDArray[np.uint64]
RowNumbers = NDArray[np.intp]
# Words that are looked for at a time, and pairs that are held at a time, 24 bytes each, unless one word has more.
_AT_A_TIME = 1024
_MOST_PAIRS = 1 << 21
# A table of four million places for each band.
_MOST_BAND_BITS = 22


class HammingJoin:
    """M words, to find those near others among."""

    def __init__(self, words_M: Words, most: int) -> None:
        self.words_M, self.most = words_M, most
        number = max(round(BITS / max(1.0, log2(max(2, len(words_M))))), -(-BITS // _MOST_BAND_BITS))
        edges = np.linspace(0, BITS, number + 1).round().astype(int).tolist()
        # Two words that differ in more than its radius in every band would differ in more than ``most`` bits.
        each, rest = divmod(most, number)
        self._bands = [
            _Band(words_M, start, end - start, radius)
            for nth, (start, end) in enumerate(pairwise(edges))
            if (radius := each if nth <= rest else each - 1) >= 0
        ]

    def near(self, words_N: Words) -> Iterator[tuple[RowNumbers, RowNumbers]]:
        """Rows of ``words_N`` and those of the words that differ from them in at most ``most`` bits, each pair once.

        All pairs of one row come together, and the rows in order.
        """
        for start in range(0, len(words_N), _AT_A_TIME):
            rows = np.arange(start, min(start + _AT_A_TIME, len(words_N)))
            runs = [band.runs(words_N[rows]) for band in self._bands]
            pairs_N = sum((run.length_NP.sum(axis=1) for run in runs), np.zeros(len(rows), np.intp))
            cuts = np.flatnonzero(np.diff(np.cumsum(pairs_N) // _MOST_PAIRS)) + 1
            for some in np.split(np.arange(len(rows)), cuts):
                yield self._near(words_N, rows[some], [run.of(some) for run in runs])

    def _near(self, words_N: Words, rows: RowNumbers, runs: Sequence[_Runs]) -> tuple[RowNumbers, RowNumbers]:
        ones, others = [np.empty(0, np.intp)], [np.empty(0, np.intp)]
        for nth, (band, run) in enumerate(zip(self._bands, runs, strict=True)):
            one, other = band.candidates(run)
            apart = words_N[rows[one]] ^ self.words_M[other]
            new = np.flatnonzero(np.bitwise_count(apart) <= self.most)
            for before in self._bands[:nth]:  # that found it already
                new = new[~before.finds(apart[new])]
            ones.append(rows[one[new]])
            others.append(other[new])
        row, other = np.concatenate(ones), np.concatenate(others)
        ordered = np.lexsort((other, row))
        return row[ordered], other[ordered]


class _Runs(NamedTuple):
    """Of each word and each pattern, a run of a band's sorted words. Shape: [N, P] both."""

    begin_NP: RowNumbers
    length_NP: RowNumbers

    def of(self, some: RowNumbers) -> _Runs:
        """Of some of the words."""
        return _Runs(self.begin_NP[some], self.length_NP[some])


class _Band:
    """Some neighbouring bits of all words, and the words in the order of these bits."""

    def __init__(self, words_M: Words, start: int, bits: int, radius: int) -> None:
        self._shift, self._mask, self._radius = np.uint64(start), np.uint64((1 << bits) - 1), radius
        keys_M = self._keys(words_M)
        self._rows_M = np.argsort(keys_M, kind="stable")
        self._begins = np.concatenate([[0], np.cumsum(np.bincount(keys_M, minlength=1 << bits))])
        self._flips_P = np.array(
            [sum(1 << bit for bit in flipped) for n in range(radius + 1) for flipped in combinations(range(bits), n)]
        )

    def _keys(self, words: Words) -> RowNumbers:
        return ((words >> self._shift) & self._mask).astype(np.intp)

    def finds(self, apart: Words) -> NDArray[np.bool_]:
        """Whether a pair of words whose difference this is would be looked up here."""
        return np.bitwise_count(self._keys(apart)) <= self._radius

    def runs(self, words_N: Words) -> _Runs:
        """Where the words lie whose bits here differ from each word's in the radius at most."""
        keys_NP = self._keys(words_N)[:, None] ^ self._flips_P
        begin_NP = self._begins[keys_NP]
        return _Runs(begin_NP, self._begins[keys_NP + 1] - begin_NP)

    def candidates(self, run: _Runs) -> tuple[RowNumbers, RowNumbers]:
        """By their rows, the words that runs are of, and those in them."""
        begin, length = run.begin_NP.ravel(), run.length_NP.ravel()
        row = np.repeat(np.arange(run.begin_NP.size) // len(self._flips_P), length)
        # Within each run one place after the other.
        place = np.arange(len(row)) + np.repeat(begin - np.cumsum(length) + length, length)
        return row, self._rows_M[place]
