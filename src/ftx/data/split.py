"""The split of each image, which depends only on its content."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from hashlib import sha256

from ftx.core.connected_components import least_of_component
from ftx.core.errors import DataError
from ftx.data.dataset import Entry, Split
from ftx.data.sources import ListedImage

# One image to learn from and one to choose by.
FEWEST_PER_CLASS = 2
_SPLIT_IT = "add images of other groups, or split the data yourself: folders train/ and val/, or a column split"


def assign_splits(
    images: Sequence[tuple[ListedImage, str]], val_fraction: float, trained_on: Collection[str] = ()
) -> tuple[Entry, ...]:
    """One entry for each image, which is given with its SHA-256, sorted by path.

    What is in no split yet is divided into train and val, and so is train where there is no val. Images that
    were ``trained_on`` before (by SHA-256) become val only where a label has no other image for it.
    Raises: DataError if there is too little to split.
    """
    has_val = any(file.split == "val" for file, _ in images)
    to_split = [image for image in images if image[0].split in (None, "train") and not has_val]
    drawn: dict[str, Split] = {}
    if to_split:
        subjects = _subjects(to_split)
        known = {subject for subject, (_, digest) in zip(subjects, to_split, strict=True) if digest in trained_on}
        samples = [(subject, file.labels) for subject, (file, _) in zip(subjects, to_split, strict=True)]
        grouped = any(file.group is not None for file, _ in to_split)
        splits = _drawn(samples, val_fraction, known, grouped=grouped)
        drawn = {file.path: split for (file, _), split in zip(to_split, splits, strict=True)}
    entries = [
        Entry(file.path, digest, file.labels, drawn.get(file.path) or file.split or "train", file.group)
        for file, digest in images
    ]
    return tuple(sorted(entries, key=lambda entry: entry.path))


def _drawn(
    samples: Sequence[tuple[str, tuple[str, ...]]], val_fraction: float, trained_on: Collection[str], *, grouped: bool
) -> tuple[Split, ...]:
    """Split each class by itself, if each image has one label and no group, and each label several different images.

    A label of only one image, as one that is known only to the first level of its tree, is in one split.
    """
    distinct: dict[str, set[str]] = defaultdict(set)
    for key, labels in samples:
        for name in labels:
            distinct[name].add(key)
    enough = all(len(keys) >= FEWEST_PER_CLASS for keys in distinct.values())
    if enough and not grouped and all(len(labels) == 1 for _, labels in samples):
        return hash_split([(key, label) for key, (label,) in samples], val_fraction, trained_on)
    return hash_split_sets(samples, val_fraction, trained_on)


def _subjects(images: Sequence[tuple[ListedImage, str]]) -> list[str]:
    """What must be in one split together, as a hash: an image's copies, and all images of its group."""
    # Copies in two groups tie the groups. A group's name is hashed as an image is, so that the order of names decides
    # nothing.
    least = least_of_component(
        (digest, sha256(file.group.encode()).hexdigest()) for file, digest in images if file.group is not None
    )
    return [least.get(digest, digest) for _, digest in images]


def hash_split(
    samples: Sequence[tuple[str, str]], val_fraction: float, trained_on: Collection[str] = ()
) -> tuple[Split, ...]:
    """Split (SHA-256, class) pairs into train and val, each class by itself.

    A class's distinct images are ranked by hash, and the first ``val_fraction`` of them, rounded but at
    least one and never all, are val; those in ``trained_on`` rank last. So copies of an image
    stand together, neither order nor file names matter, and an image that is added or removed moves at most one
    other of its class.
    Raises: DataError if the fraction is not between 0 and 1, or naming each class of fewer than two images.
    """
    if not 0 < val_fraction < 1:
        raise DataError(
            "data.val_fraction must be between 0 and 1", found=str(val_fraction), fix="set data.val_fraction=0.2"
        )
    hashes: dict[str, set[str]] = defaultdict(set)
    for digest, name in samples:
        hashes[name].add(digest)
    check_class_sizes({name: len(distinct) for name, distinct in hashes.items()})
    val = {
        (digest, name)
        for name, distinct in hashes.items()
        for digest in _ranked(distinct, trained_on)[: _val_count(len(distinct), val_fraction)]
    }
    return tuple("val" if sample in val else "train" for sample in samples)


def hash_split_sets(
    samples: Sequence[tuple[str, tuple[str, ...]]], val_fraction: float, trained_on: Collection[str] = ()
) -> tuple[Split, ...]:
    """Split (key, labels) pairs into train and val, where an image has several labels or a subject several images.

    The distinct keys are ranked, those in ``trained_on`` last, and the first ``val_fraction`` of them, at least one
    and never all, become val. Then each label, the rarest first, that only one split has although two keys have it gets
    one of them moved over, unless another label would lose its last one there.
    Raises: DataError if the fraction is not between 0 and 1, if there are fewer than two keys, or if each has a label
    that no other has, which must be trained on.
    """
    if not 0 < val_fraction < 1:
        raise DataError(
            "data.val_fraction must be between 0 and 1", found=str(val_fraction), fix="set data.val_fraction=0.2"
        )
    labels_of: dict[str, set[str]] = defaultdict(set)
    keys_of: dict[str, set[str]] = defaultdict(set)
    for key, labels in samples:
        labels_of[key] |= set(labels)
        for label in labels:
            keys_of[label].add(key)
    ranked = _ranked(labels_of, trained_on)
    if len(ranked) < FEWEST_PER_CLASS:
        raise DataError(
            "the data must have at least two different images or groups to split",
            found=f"{len(ranked)} of them",
            fix=_SPLIT_IT,
        )
    val = set(ranked[: _val_count(len(ranked), val_fraction)])
    fresh = labels_of.keys() - set(trained_on)
    for label in sorted(keys_of, key=lambda name: (len(keys_of[name]), name)):
        if len(keys_of[label]) < FEWEST_PER_CLASS:
            val -= keys_of[label]  # the only one stays in train
            continue
        held, rest = keys_of[label] & val, keys_of[label] - val
        for here, there, last in ((held, rest, trained_on), (rest, held, fresh)):
            if here:
                continue
            movable = [
                key
                for key in _ranked(there, last)
                if all(len(keys_of[one] & val if key in val else keys_of[one] - val) > 1 for one in labels_of[key])
            ]
            if movable:
                val ^= {movable[0]}
    if not val:  # those that were drawn have labels of their own
        spare = [key for key in ranked if all(len(keys_of[one]) >= FEWEST_PER_CLASS for one in labels_of[key])]
        if not spare:
            raise DataError(
                "some labels must have a second image, to validate on",
                found="each image has a label that no other image, or no other group, has",
                fix=_SPLIT_IT,
            )
        val = {spare[0]}
    return tuple("val" if key in val else "train" for key, _ in samples)


def _ranked(keys: Iterable[str], last: Collection[str]) -> list[str]:
    return sorted(keys, key=lambda key: (key in last, key))


def check_class_sizes(distinct: dict[str, int], *, where: str | None = None, because: str = "") -> None:
    """Raise DataError naming every class that has fewer than two different images."""
    small = [f"{name}: {count}" for name, count in sorted(distinct.items()) if count < FEWEST_PER_CLASS]
    if small:
        raise DataError(
            f"each class must have at least {FEWEST_PER_CLASS} different images to train on",
            where=where,
            found=", ".join(small) + because,
            fix="add images to these classes, or remove the classes",
        )


def _val_count(distinct: int, val_fraction: float) -> int:
    # Halves go up; Python's own round sends them to the even neighbour.
    return min(max(int(distinct * val_fraction + 0.5), 1), distinct - 1)
