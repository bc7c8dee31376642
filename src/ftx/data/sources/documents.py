"""Annotation files in JSON: where they lie in a data set, and what is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from ftx.data.sources.listing import told
from ftx.errors import DataError

# What Roboflow calls COCO's annotations, beside the images of each side.
_BESIDE_IMAGES = "_annotations.coco.json"
_NAMED_KEYS = 8

Document = TypeVar("Document", bound=BaseModel)


class Part(BaseModel):
    """A part of an annotation file: what ftx reads of it, whatever else is there."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def documents(path: Path) -> list[Path]:
    """The annotation files of a data set; none where it is another kind of data set.

    Of COCO's own files ``instances_*`` alone say which categories an image holds.
    """
    if path.is_file():
        return [path]
    within = sorted((path / "annotations").glob("*.json"))
    instances = [file for file in within if file.name.startswith("instances_")]
    return instances or within or sorted(path.glob(f"*/{_BESIDE_IMAGES}")) or sorted(path.glob(_BESIDE_IMAGES))


def load(path: Path) -> dict[str, object]:
    """The JSON object in an annotation file of either kind.

    Raises: DataError if it is none, or holds neither COCO's images nor Datumaro's items.
    """
    try:
        document: object = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("the annotation file is not JSON", where=path, found=str(error)[:200]) from error
    keys = list(cast("dict[str, object]", document)) if isinstance(document, dict) else []
    if "categories" not in keys or not {"images", "items"} & set(keys):
        raise DataError(
            "this is no annotation file that ftx knows",
            where=path,
            found=f"keys {', '.join(keys[:_NAMED_KEYS])}" if keys else type(document).__name__,
            mend="COCO's has images, annotations and categories, Datumaro's items and categories",
        )
    return cast("dict[str, object]", document)


def parse(kind: type[Document], document: dict[str, object], where: Path) -> Document:
    """The document as what it should be.

    Raises: DataError naming each place that does not hold.
    """
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}, found {str(one['input'])[:40]}"
            for one in error.errors(include_url=False, include_context=False)
        ]
        raise DataError(
            f"{len(lines)} places of the annotations do not hold", where=where, found=told(lines)
        ) from error
