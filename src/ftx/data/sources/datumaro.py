"""Datumaro's own JSON (``annotations/<split>.json`` and ``images/<split>/``), and other formats by its package.

Source: the files that datumaro 1.13 writes (dm_format_version 1.0). The package is an extra of its own.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ftx.core.errors import DataError, EnvironmentFault, listed, nearest
from ftx.core.packages import install_command
from ftx.data.sources.annotation_files import CORRECT_ANNOTATIONS, DocumentPart, check_images_exist, folder_of, parse
from ftx.data.sources.listing import ImageCollector, ListedImage, Listing, label_name, path_below, short, split_named
from ftx.tasks.labels import LabelDeclaration


class _Label(DocumentPart):
    name: str
    parent: str | None = None


class _Group(DocumentPart):
    labels: list[str]
    # OTX marks the label of images without labels as "restricted", labels that are not exclusive as "inclusive".
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

    Exclusive groups of two or more labels stay so; a label that is the only one of its group, or in none, is
    independent. A label without images is left out.
    Raises: DataError naming each invalid item: a label number without a label, an image listed twice, a path that is
    absolute or leaves the folder; or files that differ in their labels.
    """
    folder = files[0][0].parent
    root = folder.parent if folder.name == "annotations" else folder
    read = [(file, parse(_Datumaro, content, file)) for file, content in files]
    labels = read[0][1].categories.label
    names = _names(labels, files[0][0])
    within = path_below(root, follow_links=follow_links)
    found = ImageCollector()
    for file, document in read:
        if document.categories.label != labels:
            raise DataError(
                "all annotation files of a data set must have the same labels",
                where=file,
                found=listed(names),
                fix="export the data set again with one list of labels",
            )
        placed: list[tuple[str, str, tuple[str, ...]]] = []
        for item in document.items:
            entry = f"{file.name}, item {short(item.id)}"
            with found.entry(entry):
                item_labels = labels_by_number([one.label_id for one in item.annotations], names)
                placed.append((entry, within(item.image.path), item_labels))
        above = folder_of(root, [f"images/{file.stem}", "images", "."], [name for _, name, _ in placed])
        for entry, name, item_labels in placed:
            with found.entry(entry):
                found.add(ListedImage(within(above + name), item_labels, split_named(file.stem)))
    found.check("the annotations have invalid items", path, CORRECT_ANNOTATIONS)
    check_images_exist(root, found.images.values(), path)
    groups = [group.labels for group in labels.label_groups if group.group_type == "exclusive"]
    parents = {label.name: label.parent for label in labels.labels if label.parent}
    relations = declared_relations(names, parents, groups if labels.label_groups else None, path)
    return Listing(root, "datumaro", tuple(found.images.values()), relations)


def _names(labels: _Labels, where: Path) -> list[str]:
    """Names in the order of their numbers."""
    try:
        return [label_name(label.name) for label in labels.labels]
    except ValueError as error:
        raise DataError(
            "each label must have a valid name", where=where, found=str(error), fix=CORRECT_ANNOTATIONS
        ) from error


def labels_by_number(numbers: Sequence[int | None], names: Sequence[str]) -> tuple[str, ...]:
    """The labels of one image, by the numbers of its annotations; those without a number have no label.

    Raises: ValueError if there is no label of a number.
    """
    held = {number for number in numbers if number is not None}
    if unknown := sorted(number for number in held if not 0 <= number < len(names)):
        raise ValueError(f"there is no label number {unknown[0]}")
    return tuple(names[number] for number in sorted(held))


def declared_relations(
    names: Sequence[str], parents: Mapping[str, str], groups: Sequence[Sequence[str]] | None, where: Path
) -> LabelDeclaration:
    """How Datumaro relates the labels: exclusive ``groups``, None where it has none at all, and parents.

    Raises: DataError if they name labels that are not there, or one label stands in two groups.
    """
    grouped = [name for group in groups or () for name in group]
    if unknown := sorted({*parents.values(), *grouped} - set(names)):
        raise DataError(
            "groups and parents must be labels that are listed",
            where=where,
            found=listed(unknown),
            fix=CORRECT_ANNOTATIONS,
        )
    if len(set(names)) < len(names):
        raise DataError(
            "each label must have a different name", where=where, found=listed(_twice(names)), fix=CORRECT_ANNOTATIONS
        )
    if len(set(grouped)) < len(grouped):
        raise DataError(
            "a label must be in only one exclusive group",
            where=where,
            found=listed(_twice(grouped)),
            fix=CORRECT_ANNOTATIONS,
        )
    kept = None if groups is None else tuple(tuple(group) for group in groups if len(group) > 1)
    return LabelDeclaration(groups=kept, parents=parents)


def _twice(names: Sequence[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def read_with_datumaro(path: Path, form: str, *, follow_links: bool = False) -> Listing:
    """The images of a data set in one of Datumaro's formats, with the labels of their annotations.

    Raises: DataError if there is no such format, if it does not read the folder, or if its images are not files below
    the folder; EnvironmentFault if the package is not installed.
    """
    try:
        from datumaro.components.annotation import AnnotationType  # pyright: ignore[reportMissingImports]
        from datumaro.components.dataset import Dataset  # pyright: ignore[reportMissingImports]
        from datumaro.components.environment import Environment  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise EnvironmentFault(
            f"the datumaro package must be installed to read the format {form}",
            found=f"no package '{error.name}'",
            fix=f"{install_command('datumaro')}  (folders, tables, COCO and Datumaro's JSON need no --format)",
        ) from error
    known = sorted(str(name) for name in Environment().importers)
    if form not in known:
        alike = nearest(form, known)
        raise DataError(
            "--format must be auto or a format of Datumaro",
            found=f"'{form}'",
            fix=f"did you mean {alike}?" if alike else f"choose one of {', '.join(known)}",
        )
    try:
        dataset: Any = Dataset.import_from(str(path), form)
        items: list[Any] = list(dataset)
    except Exception as error:  # whatever the package raises for data that it cannot read
        found = f"{type(error).__name__}: {error}"[:300]
        raise DataError(
            f"Datumaro cannot read this data as {form}",
            where=path,
            found=found,
            fix="choose the --format of this data, or run again without --format",
        ) from error
    categories: Any = dataset.categories().get(AnnotationType.label)
    known: list[Any] = [] if categories is None else list(categories.items)
    names = [str(label.name) for label in known]
    root = path if path.is_dir() else path.parent
    within = path_below(root, follow_links=follow_links)
    found = ImageCollector()
    boxes = False
    for item in items:
        boxes = boxes or any(one.type != AnnotationType.label for one in item.annotations)
        with found.entry(str(item.id)):
            labels = labels_by_number([getattr(one, "label", None) for one in item.annotations], names)
            found.add(ListedImage(within(_file(item, root)), labels, split_named(str(item.subset))))
    found.check("the data has invalid images", path, "correct these images and their labels")
    if not found.images:
        raise DataError("the data must contain images", where=path, fix="check the path and the --format of the data")
    parents = {str(label.name): str(label.parent) for label in known if label.parent}
    given: list[Any] = list(getattr(categories, "label_groups", None) or ())
    # Objects in boxes exclude nothing.
    groups = [list(map(str, one.labels)) for one in given if _is_exclusive(one)] if given or boxes else None
    return Listing(root, "foreign", tuple(found.images.values()), declared_relations(names, parents, groups, path))


def _is_exclusive(group: Any) -> bool:
    kind = group.group_type
    return str(getattr(kind, "name", kind)).lower() in ("exclusive", "0")


def _file(item: Any, root: Path) -> str:
    named = getattr(item.media, "path", None)
    if not named:
        raise ValueError("the annotation contains no path of an image file")
    return os.path.relpath(os.path.realpath(named), os.path.realpath(root))
