"""COCO's instances and categories: an image carries the categories of its objects, supercategories are a tree above."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ftx.data.dataset import Split
from ftx.data.sources.documents import Part, parse
from ftx.data.sources.listing import Found, Listing, inside, side_of, told
from ftx.errors import DataError
from ftx.labels import Declared

_NO_SUPERCATEGORY = ("", "none")

Id = int | str


class _Image(Part):
    id: Id
    file_name: str


class _Category(Part):
    id: Id
    name: str
    supercategory: str | None = None


class _Annotation(Part):
    image_id: Id
    category_id: Id


class _Coco(Part):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def read_coco(path: Path, files: Sequence[tuple[Path, dict[str, object]]]) -> Listing:
    """The images that annotation files name, each with the categories that occur in it; there may be none.

    Several categories may hold at once, so none excludes another. A category that no image holds is left out.
    Raises: DataError naming what does not hold: an annotation without its image or category, two categories of one
    name, one image twice, a path that is absolute or leaves the folder.
    """
    root = _root(path, files[0][0])
    found: dict[str, Found] = {}
    parents: dict[str, str] = {}
    problems: list[str] = []
    for file, document in files:
        coco = parse(_Coco, document, file)
        names = _names(coco.categories, file)
        parents |= _parents(coco.categories)
        for image in _images(coco, file, names, root):
            if isinstance(image, str):
                problems.append(f"{file.name}: {image}")
            elif found.setdefault(image.path, image) is not image:
                problems.append(f"{file.name}: {image.path} is listed twice")
    if problems:
        raise DataError(f"{len(problems)} entries of the annotations do not hold", where=path, found=told(problems))
    if not found:
        raise DataError("the annotations name no images", where=path)
    return Listing(root, "coco", tuple(found.values()), Declared(groups=(), parents=parents))


def _root(path: Path, file: Path) -> Path:
    """The folder that holds annotations and images."""
    if path.is_dir():
        return path
    return file.parent.parent if file.parent.name == "annotations" else file.parent


def _names(categories: Sequence[_Category], where: Path) -> dict[Id, str]:
    """Names by id."""
    names = {one.id: one.name.strip() for one in categories}
    twice = sorted(name for name, count in Counter(names.values()).items() if count > 1 or not name)
    if twice or len(names) < len(categories):
        found = ", ".join(map(repr, twice)) or "an id twice"
        raise DataError("categories need names and ids of their own", where=where, found=found)
    return names


def _parents(categories: Sequence[_Category]) -> dict[str, str]:
    """Supercategories by name; "person" of the supercategory "person" is its own root."""
    above = {one.name.strip(): (one.supercategory or "").strip() for one in categories}
    return {name: up for name, up in above.items() if up.lower() not in _NO_SUPERCATEGORY and up != name}


def _images(coco: _Coco, file: Path, names: dict[Id, str], root: Path) -> Iterator[Found | str]:
    """Each image, or what does not hold about an entry."""
    held: dict[Id, set[str]] = {image.id: set() for image in coco.images}
    if len(held) < len(coco.images):
        yield "two images have one id"
    for annotation in coco.annotations:
        if annotation.image_id not in held:
            yield f"an annotation of the image {annotation.image_id}, which is not listed"
        elif annotation.category_id not in names:
            yield f"an annotation of the category {annotation.category_id}, which is not listed"
        else:
            held[annotation.image_id].add(names[annotation.category_id])
    subset = file.stem.removeprefix("instances_")
    side = side_of(file.parent.name if file.stem.startswith("_") else subset)
    folders = _folders(root, file, subset, side)
    for image in coco.images:
        try:
            located = _located(root, folders, inside(root, image.file_name))
            yield Found(located, tuple(sorted(held[image.id])), side)
        except ValueError as error:
            yield str(error)


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
