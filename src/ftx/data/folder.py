"""A folder of images as data set: every image opened once, hashed, and put on its side."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ftx.data.dataset import SPLITS, Dataset, Entry, Split, Unreadable
from ftx.data.preprocess import open_image
from ftx.data.split import hash_split, refuse_small_classes
from ftx.data.threads import in_threads
from ftx.data.tree import Found, Layout, describe, walk
from ftx.errors import DataError, ImageError
from ftx.labels import Labels
from ftx.progress import SILENT, Progress

# The bound: more than this share of unreadable images means that something is wrong with the folder.
MOST_UNREADABLE = 0.05

# How many names a message lists before it counts the rest.
NAMED = 10


@dataclass(frozen=True)
class Survey:
    """A data set and what else was noticed while it was read.

    ``ignored`` counts files that are no images, by ending; ``copies`` are images that occur before under
    another name on the same side, ``leaks`` distinct images that stand in train and held out as well.
    """

    dataset: Dataset
    layout: Layout
    ignored: Mapping[str, int]
    copies: int
    leaks: int

    def counts(self) -> dict[str, dict[Split, int]]:
        """How many images each class has on each side, classes in label order."""
        return class_counts(self.dataset)


def read_folder(root: Path, *, val_fraction: float, progress: Progress = SILENT) -> Dataset:
    """The data set in a folder: ``survey_folder`` without its remarks.

    Raises: DataError.
    """
    return survey_folder(root, val_fraction=val_fraction, progress=progress).dataset


def survey_folder(root: Path, *, val_fraction: float, progress: Progress = SILENT) -> Survey:
    """Read a folder of class folders, or one with ``train/`` and ``val/`` or ``test/``.

    Without ``val/``, the training images are split by content hash, ``val_fraction`` of each class.
    Remarks on what is ignored, unreadable or doubled go to ``progress.note``.
    Raises: DataError if the folder does not hold (see ``ftx.data.tree.walk``), if over 5 % of the images
    cannot be read, if a class has fewer than two images to train on, or if two classes share an image.
    """
    tree = walk(root)
    files, hashes, unreadable = _read_all(root, tree.files, progress)
    _refuse_too_many(root, unreadable, len(tree.files), progress)
    _refuse_contradictions(root, files, hashes)
    for split in sorted({file.split for file in tree.files} - {file.split for file in files}, key=str):
        raise DataError("no image of this side can be read", where=root / str(split), mend="repair or remove them")
    trainable: dict[str, set[str]] = {name: set() for name in tree.names}
    for file, digest in zip(files, hashes, strict=True):
        if file.split in (None, "train"):
            trainable[file.label].add(digest)
    because = f" ({len(unreadable)} images of the folder cannot be read)" if unreadable else ""
    counts = {name: len(distinct) for name, distinct in trainable.items()}
    refuse_small_classes(counts, where=str(root if tree.layout == "tree" else root / "train"), because=because)
    entries = _entries(files, hashes, val_fraction)
    dataset = Dataset(root, Labels.multiclass(tree.names), entries, unreadable)
    survey = Survey(dataset, tree.layout, tree.ignored, *_doubles(entries))
    _remark(survey, progress)
    return survey


def class_counts(dataset: Dataset) -> dict[str, dict[Split, int]]:
    """How many images each class has on each side, classes in label order, sides that exist."""
    counted = Counter((entry.labels[0], entry.split) for entry in dataset.entries)
    present: list[Split] = [split for split in SPLITS if dataset.split(split)]
    return {name: {split: counted[name, split] for split in present} for name in dataset.labels.names}


def _read_all(
    root: Path, found: tuple[Found, ...], progress: Progress
) -> tuple[list[Found], list[str], tuple[Unreadable, ...]]:
    """Decode and hash each file once; those that cannot be decoded are told apart."""

    def read(file: Found) -> str | Unreadable:
        try:
            # One read serves both, so that what was hashed is what was decoded.
            content = (root / file.path).read_bytes()
            open_image(content)
            file.path.encode()
        except ImageError as error:
            return Unreadable(file.path, f"{error.what}: {error.found}" if error.found else error.what)
        except OSError as error:
            return Unreadable(file.path, error.strerror or str(error))
        except UnicodeEncodeError:
            return Unreadable(ascii(file.path), "its name is not valid text")
        return sha256(content).hexdigest()

    good: list[Found] = []
    hashes: list[str] = []
    bad: list[Unreadable] = []
    with progress.track("Reading images", len(found)) as task:
        for file, result in zip(found, in_threads(read, found), strict=True):
            if isinstance(result, Unreadable):
                bad.append(result)
            else:
                good.append(file)
                hashes.append(result)
            task.advance()
    return good, hashes, tuple(bad)


def _refuse_too_many(root: Path, unreadable: tuple[Unreadable, ...], total: int, progress: Progress) -> None:
    listed = [f"{one.path}: {one.reason}" for one in unreadable[:NAMED]]
    rest = len(unreadable) - len(listed)
    if len(unreadable) > MOST_UNREADABLE * total:
        raise DataError(
            f"{len(unreadable)} of {total} images cannot be read",
            where=root,
            found="; ".join(listed) + (f"; and {rest} more" if rest else ""),
            mend=f"repair or remove them; up to {MOST_UNREADABLE:.0%} are skipped",
        )
    if unreadable:
        progress.note(f"{len(unreadable)} of {total} images cannot be read and are skipped")
    for line in listed:
        progress.note(f"skipped {line}")
    if rest:
        progress.note(f"skipped {rest} more")


def _refuse_contradictions(root: Path, files: Iterable[Found], hashes: Iterable[str]) -> None:
    first: dict[str, Found] = {}
    clashes: list[tuple[Found, Found]] = []
    for file, digest in zip(files, hashes, strict=True):
        other = first.setdefault(digest, file)
        if other.label != file.label:
            clashes.append((other, file))
    if clashes:
        listed = [f"{one.path} = {other.path}" for one, other in clashes[:NAMED]]
        rest = len(clashes) - len(listed)
        raise DataError(
            "the same image stands under two classes",
            where=root,
            found="; ".join(listed) + (f"; and {rest} more" if rest else ""),
            mend="keep each image in the one class that holds",
        )


def _entries(files: list[Found], hashes: list[str], val_fraction: float) -> tuple[Entry, ...]:
    """One entry an image, sorted by path; whatever has no side yet, and train without a val, is split."""
    has_val = any(file.split == "val" for file in files)
    to_split = [index for index, file in enumerate(files) if file.split in (None, "train") and not has_val]
    drawn: dict[int, Split] = {}
    if to_split:
        sides = hash_split([(hashes[index], files[index].label) for index in to_split], val_fraction)
        drawn = dict(zip(to_split, sides, strict=True))
    entries = [
        Entry(file.path, digest, (file.label,), drawn.get(index) or file.split or "train")
        for index, (file, digest) in enumerate(zip(files, hashes, strict=True))
    ]
    return tuple(sorted(entries, key=lambda entry: entry.path))


def _doubles(entries: tuple[Entry, ...]) -> tuple[int, int]:
    """Copies on one side, and distinct images that stand in train and on another side too."""
    sides: dict[str, Counter[Split]] = defaultdict(Counter)
    for entry in entries:
        sides[entry.sha256][entry.split] += 1
    copies = sum(count - 1 for counted in sides.values() for count in counted.values())
    leaks = sum("train" in counted and len(counted) > 1 for counted in sides.values())
    return copies, leaks


def _remark(survey: Survey, progress: Progress) -> None:
    if survey.ignored:
        progress.note(f"ignored, as no images of a class: {describe(survey.ignored)}")
    if survey.copies:
        progress.note(f"{survey.copies} images are copies of others of their class")
    if survey.leaks:
        progress.note(f"{survey.leaks} images of train stand in val or test as well: results will look too good")
    for name, counted in survey.counts().items():
        missing = [split for split, count in counted.items() if not count]
        if missing:
            progress.note(f"no image of {name} in {', '.join(missing)}")
    if survey.dataset.report_split == "val":
        progress.note("there is no test/: reports use val")
