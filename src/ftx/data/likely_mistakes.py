"""What can be trained on and is probably not meant: one training image, a label spelt in two ways, two data sets."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from ftx.core.errors import listed
from ftx.data.sources.listing import SPLIT_WORDS, Listing

# Shorter names differ in a letter by right: cat and car.
_FEWEST_LETTERS = 4
# Of longer ones a letter is no typing error that anybody sees; and each costs its square.
_MOST_LETTERS = 64
# So many that differ in the same letter are a series, and no typing errors.
_SERIES = 20


def likely_mistakes(listing: Listing, names: Sequence[str], trained: Mapping[str, int]) -> Iterator[str]:
    """A sentence for each; ``trained`` is how many training images each label has."""
    if lonely := [name for name in names if trained.get(name) == 1]:
        yield f"labels with one training image: {listed(lonely)}"
    if alike := [" and ".join(each) for each in _same_but_for_case(names)]:
        yield f"labels that differ only in upper case or in spaces and signs: {listed(alike)}"
    if alike := [" and ".join(pair) for pair in _one_letter_apart(names)]:
        yield f"labels that differ in one letter (is one misspelt?): {listed(alike)}"
    if listing.repeated:
        yield f"duplicate lines in the table: {listed(listing.repeated)}"
    if listing.layout == "folders":
        yield from _data_sets_as_labels(names)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _same_but_for_case(names: Sequence[str]) -> Iterator[list[str]]:
    alike: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in names:
        alike[tuple(map(_plain, name.split("/")))].append(name)
    return (each for plain, each in alike.items() if len(each) > 1 and any(plain))


def _one_letter_apart(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pairs below one parent that are alike once a letter of the longer, or of each, is left out."""
    by_rest: defaultdict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for name in names:
        parent, _, own = name.rpartition("/")
        if _FEWEST_LETTERS <= len(own) <= _MOST_LETTERS:
            by_rest[parent, own.casefold()].append((name, ""))
            for at, letter in enumerate(own):
                by_rest[parent, (own[:at] + own[at + 1 :]).casefold()].append((name, letter))
    found: set[tuple[str, str]] = set()
    for ends in by_rest.values():
        for row, (name, letter) in enumerate(ends if len(ends) < _SERIES else ()):
            for other, others_letter in ends[row + 1 :]:
                # Numbers tell things apart, and what differs in case alone is told above.
                differs = any(one.isalpha() for one in (letter, others_letter)) and _plain(name) != _plain(other)
                if differs and not any(one.isdigit() for one in (letter, others_letter)):
                    found.add((min(name, other), max(name, other)))
    yield from sorted(found)


def _data_sets_as_labels(names: Sequence[str]) -> Iterator[str]:
    """Of a label tree from folders: top folders that are data sets themselves, as where their parent was named."""
    below: defaultdict[str, set[str]] = defaultdict(set)
    for name in names:
        top, _, rest = name.partition("/")
        if rest:
            below[top].add(rest.partition("/")[0])
    for top, inside in below.items():
        if splits := sorted(one for one in inside if one.lower() in SPLIT_WORDS):
            yield f"the folder {top} holds {' and '.join(splits)}: if it is the data set, name it instead of its parent"
    sets = list(below.values())
    if len(sets) > 1 and len(sets[0]) > 1 and all(one == sets[0] for one in sets):
        folders = " and ".join(sorted(below))
        yield f"the folders {folders} hold classes of the same names: if each is a data set, name one"
