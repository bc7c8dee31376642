"""``ftx data check``: what is understood of a data set, and all that is wrong with it, before any training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field

from ftx.core.addresses import Location, typed
from ftx.core.command_report import CommandReport
from ftx.core.errors import DataError
from ftx.core.progress import SILENT, Progress
from ftx.data.dataset import SPLITS, Dataset, Entry
from ftx.data.likely_mistakes import likely_mistakes
from ftx.data.near_duplicates import NearDuplicate, seen_in_training
from ftx.data.open_dataset import ImageSet, class_counts, open_all, with_splits
from ftx.data.sources import Layout, Listing, list_images
from ftx.recipe.sections import DataRecipe
from ftx.tasks.labels import Labels
from ftx.tasks.output_meaning import TASKS
from ftx.tasks.task_names import TaskName


class DataReport(CommandReport):
    """What a training would make of a data set.

    ``task`` is the narrowest that the labels suit unless one was named (``task_named``). ``counts`` holds images by
    label and split, ancestors counted with their children. ``imbalance`` is the largest ratio of training images
    between two labels of one group, or between those that have a single label and those that have not. ``copies``
    counts images that occur before under another name in the same split, ``ignored`` other files by ending. ``ok`` says
    that ``ftx train`` would take it: no ``problems``. ``warnings`` are what is probably not meant.
    """

    verb: str = "data check"
    path: str
    layout: Layout
    task: TaskName
    task_named: bool
    images: dict[str, int]
    labels: Labels
    counts: dict[str, dict[str, int]]
    unlabelled: int
    imbalance: float
    near_duplicates: list[NearDuplicate]
    copies: int
    unreadable: list[str]
    ignored: dict[str, int]
    problems: list[str]
    warnings: list[str] = Field(default_factory=list[str])


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

    Raises: DataError if not even a list of images can be made of it, or if images do not carry what ``task`` asks for.
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
