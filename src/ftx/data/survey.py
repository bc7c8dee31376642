"""A folder or a table of images as data set: every image opened once, hashed, and put on its side."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from ftx.data.dataset import SPLITS, Dataset, Entry, Split, Unreadable
from ftx.data.preprocess import open_image
from ftx.data.relations import relate
from ftx.data.split import hash_split, hash_split_sets, refuse_small_classes
from ftx.data.table import TABLE_ENDINGS, read_table
from ftx.data.threads import in_threads
from ftx.data.tree import Found, Layout, describe, walk
from ftx.errors import DataError, ImageError
from ftx.labels import Labels
from ftx.progress import SILENT, Progress
from ftx.recipe import TaskName

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


def read_dataset(
    path: Path, task: TaskName = "multiclass", *, val_fraction: float, progress: Progress = SILENT
) -> Dataset:
    """The data set in a folder or a table: ``survey`` without its remarks.

    Raises: DataError.
    """
    return survey(path, task, val_fraction=val_fraction, progress=progress).dataset


def survey(path: Path, task: TaskName = "multiclass", *, val_fraction: float, progress: Progress = SILENT) -> Survey:
    """Read a folder of class folders, one with ``train/`` and ``val/`` or ``test/``, or a table (CSV, JSON lines).

    Without ``val``, the training images are split by content hash, ``val_fraction`` of them (of each class, where an
    image has one). Remarks on what is ignored, unreadable or doubled go to ``progress.note``.
    Raises: DataError if the folder or table does not hold (see ``ftx.data.tree.walk`` and ``ftx.data.table``), if over
    5 % of the images cannot be read, if a label has fewer than two images to train on, or if an image stands under
    contradicting labels.
    """
    listed = _listed(path, task)
    root, labels = listed.root, listed.labels
    files, hashes, unreadable = _read_all(root, listed.files, progress)
    _refuse_too_many(root, unreadable, len(listed.files), progress)
    _refuse_contradictions(root, files, hashes)
    for split in sorted({file.split for file in listed.files} - {file.split for file in files}, key=str):
        raise DataError("no image of this side can be read", where=root / str(split), mend="repair or remove them")
    trainable: dict[str, set[str]] = {name: set() for name in labels.names}
    for file, digest in zip(files, hashes, strict=True):
        if file.split in (None, "train"):
            for name in (above for label in file.labels for above in labels.path(label)):
                trainable[name].add(digest)
    because = f" ({len(unreadable)} images of the folder cannot be read)" if unreadable else ""
    counts = {name: len(distinct) for name, distinct in trainable.items()}
    refuse_small_classes(counts, where=str(root / "train" if listed.layout == "splits" else path), because=because)
    entries = _entries(files, hashes, val_fraction)
    dataset = Dataset(root, labels, entries, unreadable)
    found = Survey(dataset, listed.layout, listed.ignored, *_doubles(entries))
    _remark(found, progress)
    return found


@dataclass(frozen=True)
class _Listed:
    """Where the images are, how they were listed, all of them, their labels, and what was passed over."""

    root: Path
    layout: Layout
    files: tuple[Found, ...]
    labels: Labels
    ignored: Mapping[str, int]


def _listed(path: Path, task: TaskName) -> _Listed:
    if path.is_file():
        if path.suffix.lower() not in TABLE_ENDINGS:
            raise DataError(
                "a data file is a table", where=path, found=path.suffix or "no ending", mend="give .csv or .jsonl"
            )
        return _of_table(path, task)
    metadata = [path / f"metadata{ending}" for ending in TABLE_ENDINGS if (path / f"metadata{ending}").is_file()]
    if metadata:  # as Hugging Face's image folders have it
        return _of_table(metadata[0], task)
    if task == "multilabel":
        raise DataError(
            "class folders hold one label an image",
            where=path,
            found=f"task {task}",
            mend="name a table: --data labels.csv, with the columns path and labels (a;b)",
        )
    tree = walk(path, nested=task == "hierarchical")
    if task == "multiclass":  # a class may be empty, which its images would not tell
        return _Listed(path, tree.layout, tree.files, Labels.multiclass(tree.names), tree.ignored)
    files, labels = _related(task, tree.files, path)
    return _Listed(path, tree.layout, files, labels, tree.ignored)


def _of_table(table: Path, task: TaskName) -> _Listed:
    files, labels = _related(task, read_table(table), table)
    return _Listed(table.parent, "table", files, labels, {})


def _related(task: TaskName, files: tuple[Found, ...], where: Path) -> tuple[tuple[Found, ...], Labels]:
    labels, named = relate(task, [file.labels for file in files], where)
    return tuple(replace(file, labels=names) for file, names in zip(files, named, strict=True)), labels


def class_counts(dataset: Dataset) -> dict[str, dict[Split, int]]:
    """How many images each class has on each side, classes in label order, sides that exist."""
    path = dataset.labels.path
    counted = Counter(
        (name, entry.split)
        for entry in dataset.entries
        for name in {above for label in entry.labels for above in path(label)}
    )
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
        if other.labels != file.labels:
            clashes.append((other, file))
    if clashes:
        listed = [f"{one.path} = {other.path}" for one, other in clashes[:NAMED]]
        rest = len(clashes) - len(listed)
        raise DataError(
            "the same image stands under different labels",
            where=root,
            found="; ".join(listed) + (f"; and {rest} more" if rest else ""),
            mend="give each image the labels that hold",
        )


def _entries(files: list[Found], hashes: list[str], val_fraction: float) -> tuple[Entry, ...]:
    """One entry an image, sorted by path; whatever has no side yet, and train without a val, is split."""
    has_val = any(file.split == "val" for file in files)
    to_split = [index for index, file in enumerate(files) if file.split in (None, "train") and not has_val]
    drawn: dict[int, Split] = {}
    if to_split:
        # A subject's name is hashed as an image is, so that the order of names decides nothing.
        keys = {
            index: hashes[index] if (group := files[index].group) is None else sha256(group.encode()).hexdigest()
            for index in to_split
        }
        plain = all(len(file.labels) == 1 and file.group is None for file in files)
        if plain:
            sides = hash_split([(keys[index], files[index].labels[0]) for index in to_split], val_fraction)
        else:
            sides = hash_split_sets([(keys[index], files[index].labels) for index in to_split], val_fraction)
        drawn = dict(zip(to_split, sides, strict=True))
    entries = [
        Entry(file.path, digest, file.labels, drawn.get(index) or file.split or "train")
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
