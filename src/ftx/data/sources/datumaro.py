"""Datumaro's own JSON (``annotations/<split>.json`` beside ``images/<split>/``), with label groups and parents.

Source: the files that datumaro 1.13 writes (dm_format_version 1.0).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from ftx.core.errors import DataError, listed
from ftx.data.sources.annotation_files import DocumentPart, check_images_exist, folder_of, parse
from ftx.data.sources.listing import ListedImage, Listing, label_name, path_below, short, split_named
from ftx.tasks.labels import LabelDeclaration


class _Label(DocumentPart):
    name: str
    parent: str | None = None


class _Group(DocumentPart):
    labels: list[str]
    # "restricted" is how OTX marks the label of images that have none, "inclusive" what may hold together.
    group_type: Literal["exclusive", "restricted", "inclusive"] = "exclusive"


class _Labels(DocumentPart):
    labels: list[_Label]
    label_groups: tuple[_Group, ...] = ()


class _Categories(DocumentPart):
    label: _Labels


class _Annotation(DocumentPart):
    label_id: int | None = None


class _Image(DocumentPart):
    path: str


class _Item(DocumentPart):
    id: str
    annotations: list[_Annotation]
    image: _Image


class _Datumaro(DocumentPart):
    categories: _Categories
    items: list[_Item]


def read_datumaro(path: Path, files: Sequence[tuple[Path, bytes]], *, follow_links: bool = False) -> Listing:
    """The images that the files name, with the labels of their annotations, boxes and masks included.

    Exclusive groups of two or more labels stay so; a label alone in its group, or in none, holds or does not. A label
    that no image carries is left out.
    Raises: DataError naming what does not hold: a label number without a label, files that differ in their labels, an
    image twice, a path that is absolute or leaves the folder.
    """
    folder = files[0][0].parent
    root = folder.parent if folder.name == "annotations" else folder
    read = [(file, parse(_Datumaro, content, file)) for file, content in files]
    labels = read[0][1].categories.label
    names = _names(labels, files[0][0])
    within = path_below(root, follow_links=follow_links)
    found: dict[str, ListedImage] = {}
    problems: list[str] = []
    for file, document in read:
        if document.categories.label != labels:
            raise DataError("the files of one data set differ in their labels", where=file, found=listed(names))
        placed: list[tuple[_Item, str, tuple[str, ...]]] = []
        for item in document.items:
            try:
                labels_held = labels_by_number([one.label_id for one in item.annotations], names)
                placed.append((item, within(item.image.path), labels_held))
            except ValueError as error:
                problems.append(f"{file.name}, item {short(item.id)}: {error}")
        before = folder_of(root, [f"images/{file.stem}", "images", "."], [name for _, name, _ in placed])
        for item, name, held in placed:
            image = ListedImage(within(before + name), held, split_named(file.stem))
            if found.setdefault(image.path, image) is not image:
                problems.append(f"{file.name}, item {short(item.id)}: {short(image.path)} is listed twice")
    if problems:
        raise DataError(f"items that do not hold: {len(problems)}", where=path, found=listed(problems))
    check_images_exist(root, found.values(), path)
    groups = [group.labels for group in labels.label_groups if group.group_type == "exclusive"]
    parents = {label.name: label.parent for label in labels.labels if label.parent}
    relations = declared_relations(names, parents, groups if labels.label_groups else None, path)
    return Listing(root, "datumaro", tuple(found.values()), relations)


def _names(labels: _Labels, where: Path) -> list[str]:
    """Names in the order of their numbers."""
    try:
        return [label_name(label.name) for label in labels.labels]
    except ValueError as error:
        raise DataError("a label has no name that can be used", where=where, found=str(error)) from error


def labels_by_number(numbers: Sequence[int | None], names: Sequence[str]) -> tuple[str, ...]:
    """The labels of one image, by the numbers of its annotations; those without a number say nothing.

    Raises: ValueError if there is no label of a number.
    """
    held = {number for number in numbers if number is not None}
    if unknown := sorted(number for number in held if not 0 <= number < len(names)):
        raise ValueError(f"there is no label number {unknown[0]}")
    return tuple(names[number] for number in sorted(held))


def declared_relations(
    names: Sequence[str], parents: Mapping[str, str], groups: Sequence[Sequence[str]] | None, where: Path
) -> LabelDeclaration:
    """How labels relate by Datumaro's word: exclusive ``groups``, None where it has none at all, and parents.

    Raises: DataError if they name labels that are not there, or one label stands in two groups.
    """
    grouped = [name for group in groups or () for name in group]
    if unknown := sorted({*parents.values(), *grouped} - set(names)):
        raise DataError("groups or parents name labels that are not listed", where=where, found=listed(unknown))
    if len(set(names)) < len(names):
        raise DataError("labels need names of their own", where=where, found=listed(_twice(names)))
    if len(set(grouped)) < len(grouped):
        raise DataError("a label stands in two exclusive groups", where=where, found=listed(_twice(grouped)))
    kept = None if groups is None else tuple(tuple(group) for group in groups if len(group) > 1)
    return LabelDeclaration(groups=kept, parents=parents)


def _twice(names: Sequence[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)
