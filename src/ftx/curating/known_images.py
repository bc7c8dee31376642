"""Which images a table of choices is of, in a file beside it: what was chosen for one is never taken for another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from ftx.core.addresses import Location
from ftx.core.errors import InputError, shown
from ftx.core.files import sha256_file, write_atomic
from ftx.core.untrusted_input import JsonError, read_json
from ftx.data.dataset import Dataset

# Two million images.
MOST_BYTES = 1 << 28


def images_file(table: Path) -> Path:
    """Where the images of a table are named."""
    return table.with_name(f"{table.name}.images.json")


def images_of(dataset: Dataset) -> dict[str, str]:
    """The SHA-256 of every image by its path, those that are broken included; empty where there are no bytes."""
    return {one.path: one.sha256 for one in dataset.entries} | {
        one.path: _sha256(dataset.root / one.path) for one in dataset.unreadable
    }


def _sha256(path: Location) -> str:
    try:
        return sha256_file(path) if isinstance(path, Path) else ""
    except OSError:
        return ""


def write_images(table: Path, images: Mapping[str, str]) -> None:
    """Name the images of a table.

    Raises: EnvironmentFault if the file cannot be written.
    """
    write_atomic(images_file(table), json.dumps({"images": dict(images)}, indent=0).encode())


def read_images(table: Path) -> dict[str, str] | None:
    """The images that a table is of; None where none are named.

    Raises: InputError if the file beside the table is none of ours.
    """
    path = images_file(table)
    if not path.exists():
        return None
    try:
        given = read_json(path, most_bytes=MOST_BYTES)
    except (OSError, JsonError) as error:
        raise _not_ours(path, str(error)) from error
    images = cast("dict[str, object]", given).get("images") if isinstance(given, dict) else None
    if not isinstance(images, dict):
        raise _not_ours(path, shown(given))
    known = cast("dict[str, object]", images)
    if not all(isinstance(digest, str) for digest in known.values()):
        raise _not_ours(path, shown(known))
    return cast("dict[str, str]", known)


def _not_ours(path: Path, found: str) -> InputError:
    return InputError(
        "this does not name the images of a table", where=path, found=found, fix="name another table with --out"
    )
