"""Annotation files in JSON: where they lie in a data set, and what is in them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ftx.core.errors import DataError, listed
from ftx.core.untrusted_input import read_file
from ftx.data.sources.listing import IMAGE_ENDINGS, ListedImage, check_link_inside, short

# What Roboflow calls COCO's annotations, next to the images of each split.
_NEXT_TO_IMAGES = "_annotations.coco.json"

# COCO's own, of 118,000 images with their outlines, has 470 megabytes; LVIS's 1.1 gigabytes.
MAX_ANNOTATIONS_BYTES = 1 << 31

AnnotationFormat = Literal["coco", "datumaro"]
Document = TypeVar("Document", bound=BaseModel)


class DocumentPart(BaseModel):
    """A part of an annotation file: what ftx reads of it, whatever else is there."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


CORRECT_ANNOTATIONS = "correct the annotation files, then run: ftx data check DIR"


def annotation_files(path: Path, *, follow_links: bool = False) -> list[Path]:
    """The annotation files of a data set; none where it is another kind of data set.

    Of COCO's own files only ``instances_*`` state the categories of an image. A folder named ``annotations`` that
    contains images is a class.
    Raises: DataError if a link leads out of the data set, where links are not followed.
    """
    if path.is_file():
        return [path]
    within = _visible(path / "annotations", "*.json")
    if any(file.suffix.lower() in IMAGE_ENDINGS for file in _visible(path / "annotations", "*")):
        within = []
    instances = [file for file in within if file.name.startswith("instances_")]
    found = (
        instances
        or within
        or _visible(path, "instances_*.json")
        or _visible(path, f"*/{_NEXT_TO_IMAGES}")
        or _visible(path, _NEXT_TO_IMAGES)
    )
    for file in () if follow_links else found:
        check_link_inside(Path(os.path.realpath(path)), file)
    return found


def _visible(folder: Path, pattern: str) -> list[Path]:
    return [file for file in sorted(folder.glob(pattern)) if not file.name.startswith(".")]


def read_annotations(path: Path) -> tuple[AnnotationFormat, bytes]:
    """The format of an annotation file, by its keys, and its content.

    Raises: DataError if it has neither COCO's images nor Datumaro's items.
    """
    try:
        content = read_file(path, MAX_ANNOTATIONS_BYTES)
    except OSError as error:
        raise DataError(
            "the annotation file cannot be read",
            where=path,
            found=error.strerror,
            fix="check the path and its read permission",
        ) from error
    # By text, as parsing all of COCO's polygons to look at the keys would take seconds and gigabytes.
    if re.search(rb'"categories"\s*:', content):
        if re.search(rb'"images"\s*:', content):
            return "coco", content
        if re.search(rb'"items"\s*:', content):
            return "datumaro", content
    raise DataError(
        "an annotation file must be in the format of COCO or Datumaro",
        where=path,
        found=short(content[:60].decode(errors="replace")),
        fix="export the annotations as COCO (images, annotations, categories) or Datumaro (items, categories)",
    )


def parse(kind: type[Document], content: bytes, where: Path) -> Document:
    """The document as this model.

    Raises: DataError naming each invalid place.
    """
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, one['loc'])) or 'file'}: {one['msg']}"
            + ("" if one["type"] == "json_invalid" else f", found {short(one['input'])}")
            for one in error.errors(include_url=False, include_context=False)
        ]
        what = f"the annotations have invalid values: {len(lines)}"
        raise DataError(what, where=where, found=listed(lines), fix=CORRECT_ANNOTATIONS) from error


def folder_of(root: Path, folders: list[str], names: list[str]) -> str:
    """The folder below the root that holds the images of one annotation file: the first that holds any of them.

    Returns: a path to go before the images', empty for the root itself, and where there are none.
    """
    holding = (one for one in folders if any((root / one / name).is_file() for name in names))
    folder = next(holding, ".")
    return "" if folder == "." else f"{folder}/"


def check_images_exist(root: Path, found: Collection[ListedImage], where: Path) -> None:
    """Raise DataError if there are no images, or not one of them is there."""
    if not found:
        raise DataError("the annotations must name at least one image", where=where, fix=CORRECT_ANNOTATIONS)
    if not any((root / image.path).is_file() for image in found):
        raise DataError(
            "the images that the annotations name must exist",
            where=where,
            found=f"none of {len(found)} images, first {next(iter(found)).path}",
            fix=f"put the images below {root}: in images/<split>/, in <split>/, in images/, or in the folder itself",
        )
