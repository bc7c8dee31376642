"""COCO's instances and categories: an image carries the categories of its objects, supercategories are a tree above."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from ftx.core.errors import DataError, listed
from ftx.data.dataset import Split
from ftx.data.sources.annotation_files import CORRECT_ANNOTATIONS, DocumentPart, check_images_exist, folder_of, parse
from ftx.data.sources.listing import ImageCollector, ListedImage, Listing, label_name, path_below, short, split_named
from ftx.tasks.labels import LabelDeclaration

_NO_SUPERCATEGORY = ("", "none")

Id = int | str


class _Image(DocumentPart):
    id: Id
    file_name: str


class _Category(DocumentPart):
    id: Id
    name: str
    supercategory: str | None = None


class _Annotation(DocumentPart):
    image_id: Id
    category_id: Id


class _Coco(DocumentPart):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def read_coco(path: Path, files: Sequence[tuple[Path, bytes]], *, follow_links: bool = False) -> Listing:
    """The images that annotation files name, each with the categories that occur in it; there may be none.

    An image may have several categories, so none excludes another. A category without images is left out.
    Raises: DataError naming each invalid entry: an annotation without its image or category, two categories of one
    name, an image listed twice, a path that is absolute or leaves the folder.
    """
    folder = files[0][0].parent
    around = folder.parent if folder.name == "annotations" else folder
    root = path if path.is_dir() else around
    within = path_below(root, follow_links=follow_links)
    found = ImageCollector()
    parents: dict[str, str] = {}
    for file, content in files:
        coco = parse(_Coco, content, file)
        names = _names(coco.categories, file)
        found.problems += [
            f"{file.name}: {name} is of the supercategory {up}, in another file of {parents[name]}"
            for name, up in _parents(coco.categories).items()
            if parents.setdefault(name, up) != up
        ]
        _add_images(found, coco, file, names, root, within)
    found.check("the annotations have invalid entries", path, CORRECT_ANNOTATIONS)
    check_images_exist(root, found.images.values(), path)
    return Listing(root, "coco", tuple(found.images.values()), LabelDeclaration(groups=(), parents=parents))


def _names(categories: Sequence[_Category], where: Path) -> dict[Id, str]:
    """Names by id."""
    try:
        names = {one.id: label_name(one.name) for one in categories}
    except ValueError as error:
        raise DataError(
            "each category must have a valid name", where=where, found=str(error), fix=CORRECT_ANNOTATIONS
        ) from error
    twice = sorted(name for name, count in Counter(names.values()).items() if count > 1)
    if twice or len(names) < len(categories):
        found = listed([repr(name) for name in twice]) or "an id that appears twice"
        raise DataError(
            "each category must have a different name and id", where=where, found=found, fix=CORRECT_ANNOTATIONS
        )
    return names


def _parents(categories: Sequence[_Category]) -> dict[str, str]:
    """Supercategories by name; "person" of the supercategory "person" is its own root."""
    above = {one.name.strip(): (one.supercategory or "").strip() for one in categories}
    return {name: up for name, up in above.items() if up.lower() not in _NO_SUPERCATEGORY and up != name}


def _add_images(
    found: ImageCollector, coco: _Coco, file: Path, names: dict[Id, str], root: Path, within: Callable[[str], str]
) -> None:
    labels: dict[Id, set[str]] = {image.id: set() for image in coco.images}
    if len(labels) < len(coco.images):
        found.problems.append(f"{file.name}: two images have one id")
    for annotation in coco.annotations:
        if annotation.image_id not in labels:
            missing = f"image {short(annotation.image_id)}"
        elif annotation.category_id not in names:
            missing = f"category {short(annotation.category_id)}"
        else:
            labels[annotation.image_id].add(names[annotation.category_id])
            continue
        found.problems.append(f"{file.name}: an annotation of the {missing}, which is not listed")
    subset = file.stem.removeprefix("instances_")
    split = split_named(file.parent.name if file.stem.startswith("_") else subset)
    placed: list[tuple[Id, str]] = []
    for image in coco.images:
        with found.entry(file.name):
            placed.append((image.id, within(image.file_name)))
    above = folder_of(root, _folders(file, root, subset, split), [name for _, name in placed])
    for number, name in placed:
        with found.entry(file.name):  # the folder that all of them are in may be a link
            found.add(ListedImage(within(above + name), tuple(sorted(labels[number])), split))


def _folders(file: Path, root: Path, subset: str, split: Split | None) -> list[str]:
    """Where images may lie, below the root: COCO's layout, CVAT's, Roboflow's, a folder named after the split."""
    own = file.parent.relative_to(root).as_posix() if file.parent.is_relative_to(root) else "."
    inside_images = [f"images/{name}" for name in _of_split(root / "images", split)]
    return [f"images/{subset}", subset, *inside_images, *_of_split(root, split), "images", own, "."]


def _of_split(folder: Path, split: Split | None) -> list[str]:
    if split is None or not folder.is_dir():
        return []
    return [path.name for path in sorted(folder.iterdir()) if path.is_dir() and split_named(path.name) == split]
