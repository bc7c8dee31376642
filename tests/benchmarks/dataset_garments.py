"""Garments of Fashion-MNIST for ``tests.benchmarks.datasets``, by the scripts that make the bundled sample."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tests.benchmarks.dataset_items import Contents, rank
from tests.benchmarks.dataset_packages import PACKAGES

MODELS = Path(__file__).parents[2] / "models"


def script(name: str) -> ModuleType:
    """A module of ``models/``, which is no package."""
    if str(MODELS) not in sys.path:
        sys.path.append(str(MODELS))
    return importlib.import_module(name)


def garments(train: int, test: int, cache: Path) -> Contents:
    """The same images as ``make_sample.py --train TRAIN --test TEST``."""
    folder = PACKAGES["dataset-fashion-mnist"].folder(cache) / "usr/share/datasets/fashion-mnist"
    return dict(script("make_sample").files(folder, train, test, seed=0))


def garments_with_wrong_labels(train: int, test: int, wrong: float, cache: Path) -> Contents:
    """A fraction of the training images in the folder of another class, drawn among the others."""
    right = garments(train, test, cache)
    classes: tuple[str, ...] = script("make_sample").CLASSES
    ranked = sorted((path for path in right if path.startswith("train/")), key=lambda path: rank("wrong", path))
    moved = {path: path for path in right}
    for path in ranked[: round(wrong * train)]:
        part, label, name = path.split("/")
        others = [each for each in classes if each != label]
        moved[path] = f"{part}/{others[int(rank('label', path) * len(others))]}/{name}"
    return {moved[path]: content for path, content in right.items()}


def uneven_garments(most: int, ratio: float, test: int, cache: Path) -> Contents:
    """Each class has fewer training images than the one before, by the same factor; the last ``most / ratio``."""
    even = garments(10 * most, test, cache)
    classes: tuple[str, ...] = script("make_sample").CLASSES
    kept = {path: content for path, content in even.items() if path.startswith("test/")}
    for place, label in enumerate(sorted(classes, key=lambda label: rank("uneven", label))):
        paths = sorted((path for path in even if path.startswith(f"train/{label}/")), key=lambda path: rank(path))
        for path in paths[: round(most * ratio ** (-place / (len(classes) - 1)))]:
            kept[path] = even[path]
    return kept


def garment_tree(train: int, test: int, cache: Path) -> Contents:
    """Garments with paths in a tree as labels, and one independent label."""
    images, tasks = garments(train, test, cache), script("make_tasks")
    table: bytes = tasks.tree({path: pixels(content) for path, content in images.items()})
    return images | {"metadata.csv": table.replace(f"{tasks.IMAGES}/".encode(), b"")}


def garment_collages(train: int, test: int, counts: Mapping[str, int], cache: Path) -> Contents:
    """Multi-label collages of garments; those of train, val and test contain different garments."""
    images = {path: pixels(content) for path, content in garments(train, test, cache).items()}
    return script("make_tasks").sheets(images, counts)


def pixels(content: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(content)))
