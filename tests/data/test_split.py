from __future__ import annotations

import json
from collections import Counter
from hashlib import sha256
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftx.core.errors import DataError
from ftx.data.dataset import Entry
from ftx.data.sources import ListedImage
from ftx.data.split import assign_splits, hash_split, hash_split_sets

Samples = list[tuple[str, str]]


@st.composite
def samples(draw: st.DrawFn) -> Samples:
    """Classes of 2 to 30 distinct images, some of them several times, in any order."""
    sizes = draw(st.lists(st.integers(2, 30), min_size=1, max_size=5))
    salt = draw(st.integers(0, 1000))
    distinct = [
        (sha256(f"{salt}/{name}/{n}".encode()).hexdigest(), f"class {name}")
        for name, size in enumerate(sizes)
        for n in range(size)
    ]
    copies = draw(st.lists(st.sampled_from(distinct), max_size=10))
    return draw(st.permutations(distinct + copies))


fractions = st.floats(0.01, 0.99)


@given(samples(), fractions)
def test_every_class_stands_on_both_sides_in_the_share_asked_for(given_samples: Samples, fraction: float) -> None:
    sides = hash_split(given_samples, fraction)
    distinct = Counter(name for _, name in set(given_samples))
    val = Counter(name for (_, name), side in set(zip(given_samples, sides, strict=True)) if side == "val")
    for name, count in distinct.items():
        assert 1 <= val[name] <= count - 1
        # One half is the rounding to whole images; at the ends one image on each side comes first.
        assert abs(val[name] - count * fraction) <= 0.5 + 1e-9 or val[name] in (1, count - 1)


@given(samples(), fractions)
def test_copies_of_an_image_stand_on_one_side(given_samples: Samples, fraction: float) -> None:
    side_of: dict[tuple[str, str], str] = {}
    for sample, side in zip(given_samples, hash_split(given_samples, fraction), strict=True):
        assert side_of.setdefault(sample, side) == side


@given(samples(), fractions, st.randoms(use_true_random=False))
def test_order_does_not_matter(given_samples: Samples, fraction: float, random: Random) -> None:
    shuffled = list(given_samples)
    random.shuffle(shuffled)
    assert dict(zip(given_samples, hash_split(given_samples, fraction), strict=True)) == dict(
        zip(shuffled, hash_split(shuffled, fraction), strict=True)
    )


@given(samples(), fractions)
def test_class_names_do_not_matter(given_samples: Samples, fraction: float) -> None:
    renamed = [(digest, f"renamed {name}") for digest, name in given_samples]
    assert hash_split(renamed, fraction) == hash_split(given_samples, fraction)


@given(samples(), fractions)
def test_a_new_image_moves_at_most_one_other_of_its_class(given_samples: Samples, fraction: float) -> None:
    name = given_samples[0][1]
    grown = [*given_samples, (sha256(b"new").hexdigest(), name)]
    before = dict(zip(given_samples, hash_split(given_samples, fraction), strict=True))
    after = dict(zip(grown, hash_split(grown, fraction), strict=True))
    moved = [sample for sample, side in before.items() if after[sample] != side]
    assert len(moved) <= 1
    assert all(sample[1] == name for sample in moved)


def test_a_class_with_one_image_is_refused_even_if_it_is_there_twice() -> None:
    with pytest.raises(DataError, match="at least 2 different images") as caught:
        hash_split([("a1", "cat"), ("a2", "cat"), ("b1", "dog"), ("b1", "dog"), ("c1", "eel")], 0.2)
    assert caught.value.found == "dog: 1, eel: 1"


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_that_is_no_share_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="val_fraction"):
        hash_split([("a", "cat"), ("b", "cat")], fraction)


def test_an_entry_keeps_its_group_and_is_read_back_as_it_was_written() -> None:
    groups = ["patient 0", "patient 0", "patient 1", "patient 1", None, None]
    files = [ListedImage(f"{number}.png", ("a",), None, group) for number, group in enumerate(groups)]
    entries = assign_splits([(file, f"{number:064x}") for number, file in enumerate(files)], 0.25)
    assert [entry.group for entry in entries] == groups
    assert "group" not in entries[5].to_json()
    for entry in entries:
        assert Entry.from_json(json.loads(json.dumps(entry.to_json()))) == entry


@given(samples(), fractions, st.randoms(use_true_random=False))
def test_what_was_learnt_is_chosen_by_where_nothing_else_is(
    given_samples: Samples, fraction: float, random: Random
) -> None:
    """In each class as many as before, of those that are new first."""
    digests = sorted({digest for digest, _ in given_samples})
    learnt = set(random.sample(digests, len(digests) // 2))
    before = dict(zip(given_samples, hash_split(given_samples, fraction), strict=True))
    after = dict(zip(given_samples, hash_split(given_samples, fraction, learnt), strict=True))
    for name in {name for _, name in given_samples}:
        of_class = {digest for digest, label in given_samples if label == name}
        val = {digest for digest in of_class if after[digest, name] == "val"}
        assert len(val) == sum(before[digest, name] == "val" for digest in of_class)
        assert not val & learnt or of_class - learnt <= val
    # Those that it did not learn from the last time are val again.
    learnt = {digest for (digest, _), split in before.items() if split == "train"}
    if not learnt & {digest for (digest, _), split in before.items() if split == "val"}:
        assert hash_split(given_samples, fraction, learnt) == tuple(before[sample] for sample in given_samples)


def test_where_each_label_is_of_one_group_alone_nothing_is_left_to_validate_on() -> None:
    """The only group of a label is learnt from; without an image to choose by there is no training."""
    samples: list[tuple[str, tuple[str, ...]]] = [("00", ("cat",)), ("01", ("dog",)), ("02", ("cat", "eel"))]
    assert hash_split_sets(samples, 0.3) == ("val", "train", "train")
    # Of those that the hash would take the label is their own: another one is taken.
    assert hash_split_sets([("0", ("dog",)), ("1", ("cat",)), ("2", ("cat",))], 0.3) == ("train", "val", "train")
    assert hash_split_sets([("0", ("dog",)), ("1", ())], 0.3) == ("train", "val")
    with pytest.raises(DataError, match="must have a second image, to validate on"):
        hash_split_sets(samples[1:], 0.3)
    files = [
        ListedImage(f"{number}.png", ("cat" if number < 3 else "dog",), None, "AB"[number // 3]) for number in range(6)
    ]
    with pytest.raises(DataError, match="must have a second image, to validate on"):
        assign_splits([(file, f"{number:064x}") for number, file in enumerate(files)], 0.5)


def test_of_what_leaves_val_for_a_label_that_was_learnt_goes_first() -> None:
    """Both images of the labels are drawn; the one that goes to train is the one that the model has learnt from."""
    samples: list[tuple[str, tuple[str, ...]]] = [("00", ("cat",)), ("01", ("cat",)), ("02", ())]
    before = hash_split_sets(samples, 0.5)
    assert before == ("train", "val", "train")
    assert hash_split_sets(samples, 0.5, {"00", "02"}) == before
    assert hash_split_sets(samples, 0.5, {"01", "02"}) == ("val", "train", "train")
    # Of what comes to val, one that was not learnt from: the third label has two more.
    samples = [("00", ()), ("01", ()), ("02", ("cat",)), ("03", ("cat",)), ("04", ("cat",)), ("05", ())]
    assert hash_split_sets(samples, 0.3) == ("val", "val", "val", "train", "train", "train")
    assert hash_split_sets(samples, 0.3, {"02", "03", "05"}) == ("val", "val", "train", "train", "val", "train")


def test_the_rarest_label_is_placed_first() -> None:
    """What becomes of a rare label moves images of others, so that these come after it, whatever their names are."""
    # Drawn are 00 and 01; the only image of c goes back to train, and then a needs 02 in val.
    samples: list[tuple[str, tuple[str, ...]]] = [("00", ("b",)), ("01", ("a", "c")), ("02", ("a",)), ("03", ("b",))]
    assert hash_split_sets(samples, 0.5) == ("val", "train", "val", "train")
    samples = [("00", ("b", "c")), ("01", ("a", "b")), ("02", ("a",))]
    assert hash_split_sets(samples, 0.2) == ("train", "val", "train")
