"""Any other format, read by the datumaro package, which is an extra of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ftx.data.sources.listing import Found, Listing, inside, side_of, told
from ftx.errors import DataError, EnvironmentFault, nearest
from ftx.labels import Declared


def read_foreign(path: Path, form: str) -> Listing:
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
            mend="pip install 'ftx-vit[datumaro]'",
        ) from error
    known = sorted(str(name) for name in Environment().importers)
    if form not in known:
        alike = nearest(form, known)
        raise DataError(
            f"Datumaro has no format '{form}'", mend=f"did you mean {alike}?" if alike else f"one of {', '.join(known)}"
        )
    try:
        dataset: Any = Dataset.import_from(str(path), form)
        items: list[Any] = list(dataset)
    except Exception as error:  # whatever the package raises for data that it cannot read
        raise DataError(f"Datumaro does not read this as {form}", where=path, found=_said(error)) from error
    categories: Any = dataset.categories().get(AnnotationType.label)
    listed: list[Any] = [] if categories is None else list(categories.items)
    names = [str(label.name) for label in listed]
    root = path if path.is_dir() else path.parent
    found: list[Found] = []
    problems: list[str] = []
    for item in items:
        numbers = {one.label for one in item.annotations if getattr(one, "label", None) is not None}
        labels = tuple(name for number, name in enumerate(names) if number in numbers)
        try:
            found.append(Found(inside(root, _file(item, root)), labels, side_of(str(item.subset))))
        except ValueError as error:
            problems.append(f"{item.id}: {error}")
    if problems or not found:
        raise DataError(
            f"{len(problems)} images are not files in the folder" if problems else "there are no images",
            where=path,
            found=told(problems),
        )
    parents = {str(label.name): str(label.parent) for label in listed if label.parent}
    return Listing(root, "foreign", tuple(found), Declared(parents=parents))


def _file(item: Any, root: Path) -> str:
    named = getattr(item.media, "path", None)
    if not named:
        raise ValueError("it is no file of its own")
    return os.path.relpath(os.path.realpath(named), os.path.realpath(root))


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]
