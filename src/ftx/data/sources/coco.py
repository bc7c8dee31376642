"""COCO's instances and categories: an image carries the categories of its objects, supercategories are a tree above."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ftx.data.dataset import Split
from ftx.data.sources.documents import Document, records
from ftx.data.sources.listing import Found, Listing, inside, side_of, told
from ftx.errors import DataError
from ftx.labels import Declared

_NO_SUPERCATEGORY = ("", "none")


def read_coco(path: Path, files: Sequence[tuple[Path, Document]]) -> Listing:
    """The images that annotation files name, each with the categories that occur in it; there may be none.

    Several categories may hold at once, so none excludes another. A category that no image holds is left out.
    Raises: DataError naming what does not hold: an annotation without its image or category, two categories of one
    name, one image with different labels, a path that is absolute or leaves the folder.
    """
    root = _root(path, files)
    found: dict[str, Found] = {}
    parents: dict[str, str] = {}
    problems: list[str] = []
    for file, document in files:
        names, above = _categories(document, file)
        parents |= above
        for problem, image in _images(document, file, names, root):
            if image is None:
                problems.append(f"{file.name}: {problem}")
            elif found.setdefault(image.path, image) != image:
                problems.append(f"{file.name}: {image.path} stands in another file with other labels or side")
    if problems:
        raise DataError(f"{len(problems)} entries of the annotations do not hold", where=path, found=told(problems))
    if not found:
        raise DataError("the annotations name no images", where=path)
    return Listing(root, "coco", tuple(found.values()), Declared(groups=(), parents=parents))


def _root(path: Path, files: Sequence[tuple[Path, Document]]) -> Path:
    """The folder that holds annotations and images."""
    if path.is_dir():
        return path
    folder = files[0][0].parent
    return folder.parent if folder.name == "annotations" else folder


def _categories(document: Document, where: Path) -> tuple[dict[object, str], dict[str, str]]:
    """Names by id, and supercategories by name."""
    listed = records(document, "categories", where)
    names = {one.get("id"): str(one.get("name", "")).strip() for one in listed}
    twice = sorted(name for name, count in Counter(names.values()).items() if count > 1 or not name)
    if twice or len(names) < len(listed):
        raise DataError(
            "categories need names and ids of their own",
            where=where,
            found=", ".join(map(repr, twice)) or "an id twice",
        )
    above = {
        names[one.get("id")]: str(one.get("supercategory") or "").strip()
        for one in listed
        if str(one.get("supercategory") or "").strip().lower() not in _NO_SUPERCATEGORY
    }
    # "person" of the supercategory "person" is its own root.
    return names, {name: up for name, up in above.items() if name != up}


def _images(document: Document, file: Path, names: dict[object, str], root: Path) -> Iterator[tuple[str, Found | None]]:
    held: dict[object, set[str]] = {image.get("id"): set() for image in records(document, "images", file)}
    for annotation in records(document, "annotations", file):
        image_id, category = annotation.get("image_id"), annotation.get("category_id")
        if image_id not in held:
            yield f"an annotation of the image {image_id}, which is not listed", None
        elif category not in names:
            yield f"an annotation of the category {category}, which is not listed", None
        else:
            held[image_id].add(names[category])
    subset = file.stem.removeprefix("instances_")
    side = side_of(file.parent.name if file.stem.startswith("_") else subset)
    folders = _folders(root, file, subset, side)
    for image in records(document, "images", file):
        name = str(image.get("file_name", ""))
        try:
            yield "", Found(_located(root, folders, inside(root, name)), tuple(sorted(held[image.get("id")])), side)
        except ValueError as error:
            yield str(error), None


def _folders(root: Path, file: Path, subset: str, side: Split | None) -> list[str]:
    """Where images lie, below the root: COCO's own layout, CVAT's, Roboflow's."""
    beside = file.parent.relative_to(root).as_posix() if file.parent.is_relative_to(root) else "."
    named = [f"images/{subset}", subset, f"images/{side}", str(side), "images", beside, "."]
    return [folder for folder in named if (root / folder).is_dir()]


def _located(root: Path, folders: Sequence[str], name: str) -> str:
    """The image's path below the root; where there is none, the name as it stands, for reading it to complain."""
    for folder in folders:
        if (root / folder / name).is_file():
            return inside(root, name if folder == "." else f"{folder}/{name}")
    return name
