"""COCO's instances and categories: an image carries the categories of its objects, supercategories are a tree above."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ftx.core.errors import DataError, listed
from ftx.data.dataset import Split
from ftx.data.sources.annotation_files import DocumentPart, check_images_exist, folder_of, parse
from ftx.data.sources.listing import ListedImage, Listing, label_name, path_below, short, split_named
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

    Several categories may hold at once, so none excludes another. A category that no image holds is left out.
    Raises: DataError naming what does not hold: an annotation without its image or category, two categories of one
    name, one image twice, a path that is absolute or leaves the folder.
    """
    root = _root(path, files[0][0])
    found: dict[str, ListedImage] = {}
    parents: dict[str, str] = {}
    problems: list[str] = []
    for file, content in files:
        coco = parse(_Coco, content, file)
        names = _names(coco.categories, file)
        above = _parents(coco.categories)
        problems += [
            f"{file.name}: {name} is of the supercategory {up}, in another file of {parents[name]}"
            for name, up in above.items()
            if parents.setdefault(name, up) != up
        ]
        for image in _images(coco, file, names, root, path_below(root, follow_links=follow_links)):
            if isinstance(image, str):
                problems.append(f"{file.name}: {image}")
            elif found.setdefault(image.path, image) is not image:
                problems.append(f"{file.name}: {image.path} is listed twice")
    if problems:
        raise DataError(
            f"entries of the annotations that do not hold: {len(problems)}", where=path, found=listed(problems)
        )
    check_images_exist(root, found.values(), path)
    return Listing(root, "coco", tuple(found.values()), LabelDeclaration(groups=(), parents=parents))


def _root(path: Path, file: Path) -> Path:
    """The folder that holds annotations and images."""
    if path.is_dir():
        return path
    return file.parent.parent if file.parent.name == "annotations" else file.parent


def _names(categories: Sequence[_Category], where: Path) -> dict[Id, str]:
    """Names by id."""
    try:
        names = {one.id: label_name(one.name) for one in categories}
    except ValueError as error:
        raise DataError("a category has no name that can be used", where=where, found=str(error)) from error
    twice = sorted(name for name, count in Counter(names.values()).items() if count > 1)
    if twice or len(names) < len(categories):
        found = listed([repr(name) for name in twice]) or "an id twice"
        raise DataError("categories need names and ids of their own", where=where, found=found)
    return names


def _parents(categories: Sequence[_Category]) -> dict[str, str]:
    """Supercategories by name; "person" of the supercategory "person" is its own root."""
    above = {one.name.strip(): (one.supercategory or "").strip() for one in categories}
    return {name: up for name, up in above.items() if up.lower() not in _NO_SUPERCATEGORY and up != name}


def _images(
    coco: _Coco, file: Path, names: dict[Id, str], root: Path, within: Callable[[str], str]
) -> Iterator[ListedImage | str]:
    """Each image, or what does not hold about an entry."""
    held: dict[Id, set[str]] = {image.id: set() for image in coco.images}
    if len(held) < len(coco.images):
        yield "two images have one id"
    for annotation in coco.annotations:
        if annotation.image_id not in held:
            yield f"an annotation of the image {short(annotation.image_id)}, which is not listed"
        elif annotation.category_id not in names:
            yield f"an annotation of the category {short(annotation.category_id)}, which is not listed"
        else:
            held[annotation.image_id].add(names[annotation.category_id])
    subset = file.stem.removeprefix("instances_")
    split = split_named(file.parent.name if file.stem.startswith("_") else subset)
    placed: list[tuple[Id, str]] = []
    for image in coco.images:
        try:
            placed.append((image.id, within(image.file_name)))
        except ValueError as error:
            yield str(error)
    before = folder_of(root, _folders(file, root, subset, split), [name for _, name in placed])
    for number, name in placed:
        try:
            path = within(before + name)
        except ValueError as error:  # the folder that all of them are in is a link
            yield str(error)
        else:
            yield ListedImage(path, tuple(sorted(held[number])), split)


def _folders(file: Path, root: Path, subset: str, split: Split | None) -> list[str]:
    """Where images may lie, below the root: COCO's layout, CVAT's, Roboflow's, a folder called after the split."""
    beside = file.parent.relative_to(root).as_posix() if file.parent.is_relative_to(root) else "."
    inside_images = [f"images/{name}" for name in _of_split(root / "images", split)]
    return [f"images/{subset}", subset, *inside_images, *_of_split(root, split), "images", beside, "."]


def _of_split(folder: Path, split: Split | None) -> list[str]:
    if split is None or not folder.is_dir():
        return []
    return [path.name for path in sorted(folder.iterdir()) if path.is_dir() and split_named(path.name) == split]
