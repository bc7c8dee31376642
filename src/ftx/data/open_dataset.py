"""A data set of images as it was understood: every image opened once, hashed, and put into its split."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ftx.core.addresses import Address, Location
from ftx.core.errors import NAMED, DataError, ImageError, listed
from ftx.core.progress import SILENT, Progress
from ftx.data.dataset import SPLITS, Dataset, Entry, Split, Unreadable
from ftx.data.fingerprints import Fingerprint, GreyStore, fingerprint
from ftx.data.image_store import ImageStore, open_hashed
from ftx.data.pixel_store import PixelStore
from ftx.data.sources import Layout, ListedImage, Listing, list_images
from ftx.data.sources.folder import describe_ignored, table_among_folders
from ftx.data.split import assign_splits, check_class_sizes
from ftx.data.threads import in_threads
from ftx.tasks.labels import Labels
from ftx.tasks.output_meaning import TASKS
from ftx.tasks.task_names import TaskName

# Every large collection has a few damaged files; above this fraction something is wrong with the folder.
MOST_UNREADABLE = 0.05


@dataclass(frozen=True)
class Survey:
    """A data set and what else was noticed while it was read.

    ``ignored`` counts files that are no images, by ending; ``copies`` are images that occur before under
    another name in the same split, ``leaks`` distinct images that are in train and held out as well.
    """

    dataset: Dataset
    layout: Layout
    ignored: Mapping[str, int]
    copies: int
    leaks: int

    def counts(self) -> dict[str, dict[Split, int]]:
        """How many images each class has in each split, classes in label order."""
        return class_counts(self.dataset)


def survey(
    path: Location,
    task: TaskName = "multiclass",
    *,
    form: str = "auto",
    follow_links: bool = False,
    val_fraction: float,
    trained_on: Collection[str] = (),
    pixels: PixelStore | None = None,
    progress: Progress = SILENT,
) -> Survey:
    """Read a data set as ``ftx.data.sources`` lists it, open every image once, and put each into its split.

    Without ``val``, the training images are split by content hash: ``val_fraction`` of them (of each class, if each
    image has one label) become val. Images that a model was ``trained_on`` (by SHA-256) become val last. Decoded images
    go to ``pixels``; those already there are not decoded again. Remarks go to ``progress.note``.
    Raises: DataError if the data set is invalid (see ``ftx.data.sources``), if over 5 % of the images cannot be
    read, if a label has fewer than two images to train on, or if an image stands under contradicting labels.
    """
    listing = list_images(
        path, nested=TASKS[task].nested_folders, form=form, follow_links=follow_links, progress=progress
    )
    opened = open_all(listing, task, path, progress, pixels=pixels)
    for error in opened.problems:
        raise error
    note_unreadable(opened.unreadable, len(opened.unreadable) + len(opened.images), progress)
    found = with_splits(listing, opened, val_fraction, trained_on)
    _note_remarks(found, trained_on, progress)
    return found


@dataclass(frozen=True, slots=True)
class OpenedImage:
    """An image that can be read: as it was listed, the SHA-256 of its bytes, and its fingerprint if requested."""

    listed: ListedImage
    sha256: str
    fingerprint: Fingerprint | None


@dataclass(frozen=True)
class ImageSet:
    """The images of a listing after each was opened: those that can be read, those that cannot, and all problems."""

    labels: Labels
    images: tuple[OpenedImage, ...]
    unreadable: tuple[Unreadable, ...]
    problems: tuple[DataError, ...]

    @property
    def fingerprints(self) -> dict[str, Fingerprint]:
        """By path, if they were requested."""
        return {one.listed.path: one.fingerprint for one in self.images if one.fingerprint is not None}


def open_all(
    listing: Listing,
    task: TaskName,
    path: Location,
    progress: Progress,
    *,
    fingerprints: bool = False,
    pixels: PixelStore | None = None,
) -> ImageSet:
    """Relate the labels, open and hash every image once, and list all that keeps the data from being trained on.

    Raises: DataError if images lack the labels that the task needs.
    """
    labels, named = TASKS[task].relate({file.path: file.labels for file in listing.files}, listing.declared, path)
    relabelled = [replace(file, labels=names) for file, names in zip(listing.files, named, strict=True)]
    images, unreadable = read_all(listing.root, relabelled, progress, fingerprints=fingerprints, pixels=pixels)
    train = next((file.path.partition("/")[0] for file in relabelled if file.split == "train"), "train")
    where = str(listing.root / train if listing.layout == "splits" else path)
    problems = (
        *too_many_unreadable(listing.root, unreadable, len(relabelled)),
        *_contradictions(listing.root, images),
        *_split_problems(listing, images),
        *_small_classes(labels, images, where=where, unreadable=len(unreadable)),
    )
    return ImageSet(labels, tuple(images), tuple(unreadable), problems)


def class_counts(dataset: Dataset) -> dict[str, dict[Split, int]]:
    """How many images each class has in each split that exists, classes in label order."""
    path = dataset.labels.path
    counted = Counter(
        (name, entry.split)
        for entry in dataset.entries
        for name in {above for label in entry.labels for above in path(label)}
    )
    present: list[Split] = [split for split in SPLITS if dataset.split(split)]
    return {name: {split: counted[name, split] for split in present} for name in dataset.labels.names}


def read_all(
    root: Location,
    listed: Sequence[ListedImage],
    progress: Progress,
    *,
    fingerprints: bool = False,
    pixels: PixelStore | None = None,
) -> tuple[list[OpenedImage], list[Unreadable]]:
    """Hash and decode each image once; those that can be read and those that cannot, in order."""
    store, greys = ImageStore(root), GreyStore()
    known = None if pixels is None or fingerprints else pixels.knows  # a fingerprint is of what is decoded

    def read(image: ListedImage) -> OpenedImage | Unreadable:
        try:
            image.path.encode()
            decoded, digest = open_hashed(store.at(image.path), known)
            if pixels is not None and decoded is not None:
                pixels.add(digest, decoded, pixels=image.split != "test")
            mark = fingerprint(decoded, greys) if fingerprints and decoded is not None else None
            return OpenedImage(image, digest, mark)
        except ImageError as error:
            return Unreadable(image.path, f"{error.what}: {error.found}" if error.found else error.what)
        except UnicodeEncodeError:
            return Unreadable(ascii(image.path), "its name is not valid text")

    images: list[OpenedImage] = []
    unreadable: list[Unreadable] = []
    with progress.track("Reading images", len(listed)) as bar:
        for result in in_threads(read, listed):
            if isinstance(result, OpenedImage):
                images.append(result)
            else:
                unreadable.append(result)
            bar.advance()
    return images, unreadable


def too_many_unreadable(root: Location, unreadable: Sequence[Unreadable], total: int) -> Iterator[DataError]:
    """An error if the fraction of images that cannot be read is too large for a few damaged files."""
    if len(unreadable) > MOST_UNREADABLE * total:
        yield DataError(
            f"{len(unreadable)} of {total} images cannot be read (at most {MOST_UNREADABLE:.0%} may be unreadable)",
            where=root,
            found=listed([f"{one.path}: {one.reason}" for one in unreadable]),
            fix="repair these files or remove them, then run: ftx data check DIR",
        )


def _contradictions(root: Location, images: Sequence[OpenedImage]) -> Iterator[DataError]:
    first: dict[str, ListedImage] = {}
    clashes: list[str] = []
    for image in images:
        other = first.setdefault(image.sha256, image.listed)
        if other.labels != image.listed.labels:
            clashes.append(f"{other.path} = {image.listed.path}")
    if clashes:
        yield DataError(
            "the same image must not have different labels",
            where=root,
            found=listed(clashes),
            fix="correct the labels, or keep only one copy of each image",
        )


def _split_problems(listing: Listing, images: Sequence[OpenedImage]) -> Iterator[DataError]:
    splits = {file.split for file in listing.files}
    if not splits & {None, "train"}:
        yield DataError(
            "the data must have images of the split train",
            where=listing.root,
            found=f"all images are of {' and '.join(sorted(str(split) for split in splits))}",
            fix="add images of the split train",
        )
    for split in sorted(splits - {image.listed.split for image in images}, key=str):
        yield DataError(
            "the split must have an image that can be read",
            where=listing.root / str(split or ""),
            fix="repair these images or add others, then run: ftx data check DIR",
        )
    of_group: dict[str, set[str]] = defaultdict(set)
    for file in listing.files:
        if file.group is not None:
            of_group[file.group].add(file.split or "train")
    both = [f"{group}: {' and '.join(sorted(each))}" for group, each in sorted(of_group.items()) if len(each) > 1]
    if both:
        yield DataError(
            "all images of a group must be in one split",
            where=listing.root,
            found=f"groups in several splits: {len(both)}: {listed(both)}",
            fix="put all images of a group into one split, or leave the column 'split' empty",
        )


def _small_classes(
    labels: Labels, images: Sequence[OpenedImage], *, where: str, unreadable: int
) -> Iterator[DataError]:
    trainable: dict[str, set[str]] = {name: set() for name in labels.names}
    for image in images:
        if image.listed.split in (None, "train"):
            for name in (above for label in image.listed.labels for above in labels.path(label)):
                trainable[name].add(image.sha256)
    because = f"; of all images {unreadable} cannot be read" if unreadable else ""
    try:
        check_class_sizes({name: len(each) for name, each in trainable.items()}, where=where, because=because)
    except DataError as error:
        yield error


def with_splits(listing: Listing, opened: ImageSet, val_fraction: float, trained_on: Collection[str] = ()) -> Survey:
    """The data set with every image in its split; whether it can be trained on is the caller's to judge.

    Raises: DataError if a class has too few images to be split.
    """
    entries = assign_splits([(image.listed, image.sha256) for image in opened.images], val_fraction, trained_on)
    dataset = Dataset(listing.root, opened.labels, entries, opened.unreadable)
    return Survey(dataset, listing.layout, listing.ignored, *_doubles(entries))


def note_unreadable(unreadable: Sequence[Unreadable], total: int, progress: Progress) -> None:
    """Add notes about the images that are left out."""
    if unreadable:
        progress.note(f"{len(unreadable)} of {total} images cannot be read and are skipped")
    for one in unreadable[:NAMED]:
        progress.note(f"skipped {one.path}: {one.reason}")
    if len(unreadable) > NAMED:
        progress.note(f"skipped {len(unreadable) - NAMED} more")


def _doubles(entries: tuple[Entry, ...]) -> tuple[int, int]:
    """Copies in one split, and distinct images that are in train and in another split too."""
    splits: dict[str, Counter[Split]] = defaultdict(Counter)
    for entry in entries:
        splits[entry.sha256][entry.split] += 1
    copies = sum(count - 1 for counted in splits.values() for count in counted.values())
    leaks = sum("train" in counted and len(counted) > 1 for counted in splits.values())
    return copies, leaks


def _note_remarks(survey: Survey, trained_on: Collection[str], progress: Progress) -> None:
    if survey.ignored:
        progress.note(f"ignored, as no images of a class: {describe_ignored(survey.ignored)}")
        root = survey.dataset.root
        if not isinstance(root, Address) and (table := table_among_folders(root)):
            progress.note(f"if the labels are in it, name the table: --data {table}")
    if survey.copies:
        progress.note(f"images that are copies of others with the same labels: {survey.copies}")
    if survey.leaks:
        progress.note(f"images of train that stand in val or test as well (results will look too good): {survey.leaks}")
    for name, counted in survey.counts().items():
        missing = [split for split, count in counted.items() if not count]
        if missing:
            progress.note(f"no image of {name} in {', '.join(missing)}")
    if survey.dataset.report_split == "val":
        progress.note("there is no test/: reports use val")
    for split in ("val", "test"):
        entries = survey.dataset.split(split)
        if known := sum(entry.sha256 in trained_on for entry in entries):
            progress.note(
                f"{known} of {len(entries)} images of {split} were trained on by the run that this one begins with"
                " (results will look too good)"
            )
