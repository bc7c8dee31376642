"""Any other format, read by the datumaro package, which is an extra of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ftx.core.errors import DataError, EnvironmentFault, listed, nearest
from ftx.core.packages import install_command
from ftx.data.sources.datumaro import declared_relations, labels_by_number
from ftx.data.sources.listing import ListedImage, Listing, path_below, split_named


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
            f"reading the format {form} needs the datumaro package",
            found=f"no package '{error.name}'",
            fix="leave --format out for folders, tables, COCO and Datumaro's JSON; for others: "
            + install_command("datumaro"),
        ) from error
    known = sorted(str(name) for name in Environment().importers)
    if form not in known:
        alike = nearest(form, known)
        raise DataError(
            f"Datumaro has no format '{form}'", fix=f"did you mean {alike}?" if alike else f"one of {', '.join(known)}"
        )
    try:
        dataset: Any = Dataset.import_from(str(path), form)
        items: list[Any] = list(dataset)
    except Exception as error:  # whatever the package raises for data that it cannot read
        raise DataError(f"Datumaro does not read this as {form}", where=path, found=_said(error)) from error
    categories: Any = dataset.categories().get(AnnotationType.label)
    known: list[Any] = [] if categories is None else list(categories.items)
    names = [str(label.name) for label in known]
    root = path if path.is_dir() else path.parent
    within = path_below(root, follow_links=follow_links)
    found: dict[str, ListedImage] = {}
    problems: list[str] = []
    boxes = False
    for item in items:
        boxes = boxes or any(one.type != AnnotationType.label for one in item.annotations)
        try:
            labels = labels_by_number([getattr(one, "label", None) for one in item.annotations], names)
            image = ListedImage(within(_file(item, root)), labels, split_named(str(item.subset)))
        except ValueError as error:
            problems.append(f"{item.id}: {error}")
            continue
        if found.setdefault(image.path, image) is not image:
            problems.append(f"{item.id}: {image.path} is listed twice")
    if problems or not found:
        what = f"{len(problems)} images do not hold" if problems else "there are no images"
        raise DataError(what, where=path, found=listed(problems))
    parents = {str(label.name): str(label.parent) for label in known if label.parent}
    given: list[Any] = list(getattr(categories, "label_groups", None) or ())
    # Objects in boxes exclude nothing.
    groups = [list(map(str, one.labels)) for one in given if _is_exclusive(one)] if given or boxes else None
    return Listing(root, "foreign", tuple(found.values()), declared_relations(names, parents, groups, path))


def _is_exclusive(group: Any) -> bool:
    kind = group.group_type
    return str(getattr(kind, "name", kind)).lower() in ("exclusive", "0")


def _file(item: Any, root: Path) -> str:
    named = getattr(item.media, "path", None)
    if not named:
        raise ValueError("it is no file of its own")
    return os.path.relpath(os.path.realpath(named), os.path.realpath(root))


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]
