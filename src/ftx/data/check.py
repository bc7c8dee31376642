"""``ftx data check``: what is understood of a data set, and all that is wrong with it, before any training."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field

from ftx.core.addresses import Location, typed
from ftx.core.closed_model import ClosedModel
from ftx.core.command_report import CommandReport
from ftx.core.errors import DataError, listed
from ftx.core.progress import SILENT, Progress
from ftx.data.dataset import SPLITS, Dataset, Entry
from ftx.data.near_duplicates import NearDuplicate, seen_in_training
from ftx.data.open_dataset import ImageSet, class_counts, open_all, with_splits
from ftx.data.sources import Layout, Listing, list_images
from ftx.data.sources.listing import SPLIT_WORDS
from ftx.recipe.sections import DataRecipe
from ftx.tasks.labels import Labels
from ftx.tasks.output_meaning import TASKS
from ftx.tasks.task_names import TaskName

# Shorter names differ in a letter on purpose: cat and car.
_FEWEST_LETTERS = 4
# Of longer ones a letter is no typing error that anybody sees; and each costs its square.
_MOST_LETTERS = 64
# This many that differ in the same letter are a series, and no typing errors.
_SERIES = 20


class LearningCurve(ClosedModel):
    """How much linear probes gain from twice as many training images."""

    images: int
    """The number of training images."""
    accuracy_40: float
    """The fraction of images with all labels correct, by probes that are trained on 40 % of the training images. No
    probe predicts an image that it is trained on.
    """
    accuracy_80: float
    """The same fraction for probes that are trained on 80 %."""
    gain: float
    """``accuracy_80`` minus ``accuracy_40``."""
    gain_low: float
    """The lower end of the 95 % confidence interval of ``gain``."""
    gain_high: float
    """The upper end of that interval."""
    summary: str
    """What the gain means, in a sentence."""


class DataReport(CommandReport):
    """How ftx understands a data set, and what is wrong with it."""

    verb: str = "data check"
    path: str
    """The folder, file or URL of the data set."""
    layout: Layout
    """How the images are organised: ``folders`` of classes, also inside ``splits``; annotations; ``foreign``, which the
    package datumaro reads; or tar ``shards``.
    """
    task: TaskName
    """The task that you named, or else the narrowest one that the labels fit."""
    task_named: bool
    """Whether you named the task with ``--task``."""
    images: dict[str, int]
    """The number of images in each split: ``train``, ``val`` and ``test``."""
    val_from_train: bool = False
    """Whether a training takes validation images from the others, because the data has none."""
    labels: Labels
    """The label names in the order of the logits, groups of mutually exclusive classes, independent labels
    (``singles``), and the parent of each label in a tree.
    """
    counts: dict[str, dict[str, int]]
    """The number of images by label and split. An image also counts for the parents of its labels."""
    unlabelled: int
    """The number of images without a label."""
    imbalance: float
    """The largest ratio of training images between two mutually exclusive classes, or between images with and without
    an independent label.
    """
    near_duplicates: list[NearDuplicate]
    """Validation and test images that are almost equal to an image seen in training."""
    copies: int
    """The number of images that repeat another image of the same split."""
    unreadable: list[str]
    """The path of each image that cannot be read, with the reason."""
    ignored: dict[str, int]
    """The number of other files, by file ending."""
    problems: list[str]
    """Why ``ftx train`` rejects the data; ``ok`` is false if there are any."""
    warnings: list[str] = Field(default_factory=list[str])
    """What is probably a mistake, but does not prevent a training."""
    learning_curve: LearningCurve | None = None
    """How much more images would help; null without ``--more-images``, or if ``warnings`` explain why it cannot be
    measured.
    """


@dataclass(frozen=True)
class CheckedDataset:
    """A data set, every image of it opened once, and the report on it."""

    listing: Listing
    opened: ImageSet
    dataset: Dataset
    report: DataReport


def check(
    path: Location,
    task: TaskName | None = None,
    *,
    form: str = "auto",
    follow_links: bool = False,
    val_fraction: float = DataRecipe().val_fraction,
    progress: Progress = SILENT,
) -> DataReport:
    """Open every image of a data set and say what was understood; without a ``task``, for the narrowest that fits.

    Raises: DataError if not even a list of images can be made of it, or if images lack the labels that ``task`` needs.
    """
    return open_and_check(
        path, task, form=form, follow_links=follow_links, val_fraction=val_fraction, progress=progress
    ).report


def open_and_check(
    path: Location,
    task: TaskName | None = None,
    *,
    form: str = "auto",
    follow_links: bool = False,
    val_fraction: float = DataRecipe().val_fraction,
    progress: Progress = SILENT,
) -> CheckedDataset:
    """As ``check``, with what was opened: for whoever looks further. Raises: as ``check``."""
    path = typed(path)
    nested = task is None or TASKS[task].nested_folders
    listing = list_images(path, nested=nested, form=form, follow_links=follow_links, progress=progress)
    understood = task or _narrowest_task(listing)
    opened = open_all(listing, understood, path, progress, fingerprints=True)
    problems = [*opened.problems]
    try:
        found = with_splits(listing, opened, val_fraction)
        dataset, copies = found.dataset, found.copies
    except DataError as error:  # too few to split: each stands where it was put, or in train
        problems += [] if problems else [error]
        dataset, copies = _unsplit(listing, opened), 0
    counts = {name: {str(split): n for split, n in each.items()} for name, each in class_counts(dataset).items()}
    trained = {name: each.get("train", 0) for name, each in counts.items()}
    report = DataReport(
        ok=not problems,
        path=str(path),
        layout=listing.layout,
        task=understood,
        task_named=task is not None,
        images={str(split): len(dataset.split(split)) for split in SPLITS if dataset.split(split)},
        val_from_train=not any(file.split == "val" for file in listing.files) and bool(dataset.split("val")),
        labels=dataset.labels,
        counts=counts,
        unlabelled=sum(not entry.labels for entry in dataset.entries),
        imbalance=_imbalance(dataset.labels, trained, len(dataset.split("train"))),
        near_duplicates=seen_in_training(dataset.entries, opened.fingerprints, progress),
        copies=copies,
        unreadable=[f"{one.path}: {one.reason}" for one in opened.unreadable],
        ignored=dict(listing.ignored),
        problems=[str(error) for error in problems],
        warnings=[*likely_mistakes(listing, dataset.labels.names, trained)],
    )
    return CheckedDataset(listing, opened, dataset, report)


def _narrowest_task(listing: Listing) -> TaskName:
    """The narrowest task that its labels suit: one label each is also any number of labels."""
    carried = {file.path: file.labels for file in listing.files}
    return next(name for name, task in TASKS.items() if task.suits(carried, listing.declared))


def _imbalance(labels: Labels, trained: Mapping[str, int], images: int) -> float:
    """Between labels of one group, or between the images that have a single label and those that have not."""
    groups = [[trained[name] for name in group] for group in labels.groups]
    singles = [[trained[name], images - trained[name]] for name in labels.singles if name not in labels.parents]
    return round(max(max(each) / max(min(each), 1) for each in groups + singles), 2)


def _unsplit(listing: Listing, opened: ImageSet) -> Dataset:
    entries = tuple(
        Entry(image.listed.path, image.sha256, image.listed.labels, image.listed.split or "train")
        for image in opened.images
    )
    return Dataset(listing.root, opened.labels, entries, opened.unreadable)


def likely_mistakes(listing: Listing, names: Sequence[str], trained: Mapping[str, int]) -> Iterator[str]:
    """A sentence for each thing that can be trained on but is probably not meant, such as a label in two spellings.

    ``trained`` is how many training images each label has.
    """
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
                # Numbers distinguish things, and what differs only in case is reported above.
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
