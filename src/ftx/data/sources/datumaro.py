"""Datumaro's own JSON (``annotations/<side>.json`` beside ``images/<side>/``), with label groups and parents.

Source: the files that datumaro 1.13 writes (dm_format_version 1.0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from ftx.data.sources.documents import Document, records
from ftx.data.sources.listing import Found, Listing, inside, side_of, told
from ftx.errors import DataError
from ftx.labels import Declared


def read_datumaro(path: Path, files: Sequence[tuple[Path, Document]]) -> Listing:
    """The images that the files name, with the labels of their annotations, boxes and masks included.

    Exclusive groups of two or more labels stay so; a label alone in its group, or in none, holds or does not. A label
    that no image carries is left out.
    Raises: DataError naming what does not hold: a label number without a label, files that differ in their labels, an
    image twice, a path that is absolute or leaves the folder.
    """
    folder = files[0][0].parent
    root = folder.parent if folder.name == "annotations" else folder
    declared: Declared | None = None
    found: dict[str, Found] = {}
    problems: list[str] = []
    for file, document in files:
        names, here = _labels(document, file)
        if declared is not None and here != declared:
            raise DataError("the files of one data set differ in their labels", where=file, found=", ".join(names))
        declared = here
        for item in records(document, "items", file):
            try:
                image = _item(item, names, file, root)
            except ValueError as error:
                problems.append(f"{file.name}, item {item.get('id')}: {error}")
                continue
            if found.setdefault(image.path, image) is not image:
                problems.append(f"{file.name}, item {item.get('id')}: {image.path} is listed twice")
    if problems:
        raise DataError(f"{len(problems)} items do not hold", where=path, found=told(problems))
    if not found or declared is None:
        raise DataError("the annotations name no images", where=path)
    return Listing(root, "datumaro", tuple(found.values()), declared)


def _labels(document: Document, where: Path) -> tuple[list[str], Declared]:
    """Names in the order of their numbers, and how they relate."""
    categories = document.get("categories")
    label = cast("Mapping[str, object]", categories).get("label") if isinstance(categories, dict) else None
    if not isinstance(label, dict):
        raise DataError("the annotation file has no label categories", where=where)
    label = cast("Document", label)
    listed = records(label, "labels", where)
    names = [str(one.get("name", "")) for one in listed]
    if not all(names) or len(set(names)) < len(names):
        raise DataError("labels need names of their own", where=where, found=", ".join(map(repr, names)))
    parents = {name: str(one["parent"]) for name, one in zip(names, listed, strict=True) if one.get("parent")}
    if "label_groups" not in label or not label["label_groups"]:
        return names, Declared(parents=parents)
    groups = tuple(
        tuple(str(name) for name in cast("list[object]", group.get("labels") or []))
        for group in records(label, "label_groups", where)
        if group.get("group_type", "exclusive") == "exclusive"
    )
    return names, Declared(groups=tuple(group for group in groups if len(group) > 1), parents=parents)


def _item(item: Document, names: Sequence[str], file: Path, root: Path) -> Found:
    numbers = {one["label_id"] for one in records(item, "annotations", file) if one.get("label_id") is not None}
    unknown = [number for number in numbers if not isinstance(number, int) or not 0 <= number < len(names)]
    if unknown:
        raise ValueError(f"there is no label number {unknown[0]}")
    image = item.get("image")
    name = str(cast("Document", image).get("path") or "") if isinstance(image, dict) else ""
    if not name:
        raise ValueError("it names no image file")
    path = inside(root, name)
    for folder in (f"images/{file.stem}", "images", "."):
        if (root / folder / path).is_file():
            path = inside(root, path if folder == "." else f"{folder}/{path}")
            break
    return Found(path, tuple(name for number, name in enumerate(names) if number in numbers), side_of(file.stem))
