"""Datumaro's own JSON (``annotations/<side>.json`` beside ``images/<side>/``), with label groups and parents.

Source: the files that datumaro 1.13 writes (dm_format_version 1.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ftx.data.sources.documents import Part, parse
from ftx.data.sources.listing import Found, Listing, inside, side_of, told
from ftx.errors import DataError
from ftx.labels import Declared


class _Label(Part):
    name: str
    parent: str | None = None


class _Group(Part):
    labels: list[str]
    # "restricted" is how OTX marks the label of images that have none, "inclusive" what may hold together.
    group_type: Literal["exclusive", "restricted", "inclusive"] = "exclusive"


class _Labels(Part):
    labels: list[_Label]
    label_groups: tuple[_Group, ...] = ()


class _Categories(Part):
    label: _Labels


class _Annotation(Part):
    label_id: int | None = None


class _Image(Part):
    path: str


class _Item(Part):
    id: str
    annotations: list[_Annotation]
    image: _Image


class _Datumaro(Part):
    categories: _Categories
    items: list[_Item]


def read_datumaro(path: Path, files: Sequence[tuple[Path, dict[str, object]]]) -> Listing:
    """The images that the files name, with the labels of their annotations, boxes and masks included.

    Exclusive groups of two or more labels stay so; a label alone in its group, or in none, holds or does not. A label
    that no image carries is left out.
    Raises: DataError naming what does not hold: a label number without a label, files that differ in their labels, an
    image twice, a path that is absolute or leaves the folder.
    """
    folder = files[0][0].parent
    root = folder.parent if folder.name == "annotations" else folder
    read = [(file, parse(_Datumaro, document, file)) for file, document in files]
    labels = read[0][1].categories.label
    names = _names(labels, files[0][0])
    found: dict[str, Found] = {}
    problems: list[str] = []
    for file, document in read:
        if document.categories.label != labels:
            raise DataError("the files of one data set differ in their labels", where=file, found=", ".join(names))
        for item in document.items:
            try:
                image = _found(item, names, file, root)
            except ValueError as error:
                problems.append(f"{file.name}, item {item.id}: {error}")
                continue
            if found.setdefault(image.path, image) is not image:
                problems.append(f"{file.name}, item {item.id}: {image.path} is listed twice")
    if problems:
        raise DataError(f"{len(problems)} items do not hold", where=path, found=told(problems))
    if not found:
        raise DataError("the annotations name no images", where=path)
    return Listing(root, "datumaro", tuple(found.values()), _declared(labels))


def _names(labels: _Labels, where: Path) -> list[str]:
    """Names in the order of their numbers; groups and parents name no others."""
    names = [label.name for label in labels.labels]
    if not all(names) or len(set(names)) < len(names):
        raise DataError("labels need names of their own", where=where, found=", ".join(map(repr, names)))
    named = [label.parent for label in labels.labels if label.parent]
    grouped = [name for group in labels.label_groups for name in group.labels]
    if unknown := sorted({*named, *grouped} - set(names)):
        raise DataError("groups or parents name labels that are not listed", where=where, found=", ".join(unknown))
    exclusive = [name for group in labels.label_groups if group.group_type == "exclusive" for name in group.labels]
    if len(set(exclusive)) < len(exclusive):
        raise DataError("a label stands in two exclusive groups", where=where, found=", ".join(exclusive))
    return names


def _declared(labels: _Labels) -> Declared:
    parents = {label.name: label.parent for label in labels.labels if label.parent}
    if not labels.label_groups:
        return Declared(parents=parents)
    groups = [tuple(group.labels) for group in labels.label_groups if group.group_type == "exclusive"]
    return Declared(groups=tuple(group for group in groups if len(group) > 1), parents=parents)


def _found(item: _Item, names: Sequence[str], file: Path, root: Path) -> Found:
    numbers = {one.label_id for one in item.annotations if one.label_id is not None}
    unknown = sorted(number for number in numbers if not 0 <= number < len(names))
    if unknown:
        raise ValueError(f"there is no label number {unknown[0]}")
    path = inside(root, item.image.path)
    for folder in (f"images/{file.stem}", "images", "."):
        if (root / folder / path).is_file():
            path = inside(root, path if folder == "." else f"{folder}/{path}")
            break
    return Found(path, tuple(name for number, name in enumerate(names) if number in numbers), side_of(file.stem))
