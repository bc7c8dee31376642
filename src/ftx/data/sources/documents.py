"""Annotation files in JSON: where they lie in a data set, and what is in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from ftx.errors import DataError

Document = Mapping[str, object]

# What Roboflow calls COCO's annotations, beside the images of each side.
_BESIDE_IMAGES = "_annotations.coco.json"


def documents(path: Path) -> list[Path]:
    """The annotation files of a data set; none where it is another kind of data set.

    Of COCO's own files ``instances_*`` alone say which categories an image holds.
    """
    if path.is_file():
        return [path]
    within = sorted((path / "annotations").glob("*.json"))
    instances = [file for file in within if file.name.startswith("instances_")]
    return instances or within or sorted(path.glob(f"*/{_BESIDE_IMAGES}")) or sorted(path.glob(_BESIDE_IMAGES))


def read_document(path: Path) -> Document:
    """One annotation file.

    Raises: DataError if it is no JSON object, or none that holds images and categories.
    """
    try:
        document: object = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError("the annotation file is not JSON", where=path, found=str(error)[:200]) from error
    keys = list(cast("Document", document)) if isinstance(document, dict) else []
    if "categories" not in keys or not {"images", "items"} & set(keys):
        raise DataError(
            "this is no annotation file that ftx knows",
            where=path,
            found=f"keys {', '.join(keys[:NAMED_KEYS])}" if keys else type(document).__name__,
            mend="COCO's has images, annotations and categories, Datumaro's items and categories",
        )
    return cast("Document", document)


NAMED_KEYS = 8


def records(document: Document, key: str, where: Path) -> list[Document]:
    """A list of JSON objects.

    Raises: DataError if the key holds something else.
    """
    value = document.get(key)
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in cast("list[object]", value)):
        raise DataError(f"{key} is no list of objects", where=where, found=type(value).__name__)
    return cast("list[Document]", value)
