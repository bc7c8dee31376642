"""The data sets by which training defaults are chosen: ``python -m tests.benchmarks.datasets NAME|all OUT``.

Writes ``OUT/NAME/train`` and ``OUT/NAME/test`` with a folder of PNG files for each class, or with ``metadata.csv`` for
several labels, a tree or groups, and prints how many images each has. The same command gives the same pictures
everywhere: packages are pinned, and what is random comes from SHA-256. ``docs/bench/datasets.md`` lists all of them.

Choose defaults on the development half only. The held-back half shows whether a choice is good on data that nobody
looked at: do not evaluate a model on it while choosing.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from tests.benchmarks.dataset_garments import (
    garment_collages,
    garment_tree,
    garments,
    garments_with_wrong_labels,
    uneven_garments,
)
from tests.benchmarks.dataset_items import Contents, Item, draws, rank
from tests.benchmarks.dataset_registry import items

PACKAGE_CACHE = Path("build/packages")
# A training image whose grey pixels correlate more with those of a test image is left out. Units in one pose that
# differ in their colours and weapons correlate by 0.96, and textures that were made of one photograph by 0.7 or more.
MOST_ALIKE, UNITS_MOST_ALIKE, SURFACES_MOST_ALIKE = 0.98, 0.95, 0.7
GREY_SIDE = 32

# The pixels of a collage of photographs and of one of its four places; a photograph fills this much of its place.
COLLAGE, PLACE, SMALLEST, LARGEST = 224, 112, 72, 108
VIEWS, VIEW = 4, 160

Part = Literal["train", "test"]
Row = tuple[str, str, str, str]


@dataclass(frozen=True)
class Choice:
    """How the items of a source become two parts. ``test`` is the fraction of groups that are for the test.

    ``most_train`` and ``most_test`` limit the images of a class. One with fewer than ``least`` in a part is left out.
    """

    test: float
    most_train: int = 10_000
    most_test: int = 10_000
    least: int = 5
    most_alike: float = MOST_ALIKE


@dataclass(frozen=True)
class Picture:
    """A chosen item, drawn."""

    item: Item
    image: Image.Image


def choose(source: str, choice: Choice, cache: Path) -> dict[Part, list[Picture]]:
    """The two parts: each group in one of them, no picture twice, and none in train that is nearly one of test."""
    ranked = sorted(items(source, cache), key=lambda item: rank(source, item.name))
    parts: dict[Part, list[Picture]] = {"test": [], "train": []}
    seen: set[bytes] = set()
    left_out: Counter[str] = Counter()
    tests_NP = np.zeros((0, GREY_SIDE**2), np.float32)
    for part, pictures in parts.items():
        most, of_class = choice.most_test if part == "test" else choice.most_train, Counter[str]()
        for item in ranked:
            if (rank(source, "group", item.group) < choice.test) != (part == "test") or of_class[item.label] == most:
                continue
            image = item.draw()
            if image.tobytes() in seen:
                left_out["equal"] += 1
            elif part == "train" and (tests_NP @ standardised(image)).max() > choice.most_alike:
                left_out["near a test image"] += 1
            else:
                seen.add(image.tobytes())
                of_class[item.label] += 1
                pictures.append(Picture(item, image))
        if part == "test":
            tests_NP = np.stack([standardised(picture.image) for picture in pictures])
    counts = {part: Counter(picture.item.label for picture in pictures) for part, pictures in parts.items()}
    kept = {label for label in counts["train"] if min(count[label] for count in counts.values()) >= choice.least}
    print(f"{source}: left out {dict(left_out)}, classes {sorted({i.label for i in ranked} - kept)}", file=sys.stderr)
    return {part: [each for each in pictures if each.item.label in kept] for part, pictures in parts.items()}


def standardised(image: Image.Image) -> NDArray[np.float32]:
    """Grey pixels of which the product with another image's is their correlation. Shape: [P]."""
    grey = image.convert("L").resize((GREY_SIDE, GREY_SIDE), Image.Resampling.BOX)
    grey_P = np.asarray(grey, dtype=np.float32).ravel()
    grey_P -= grey_P.mean()
    return grey_P / max(float(np.linalg.norm(grey_P)), 1e-6)


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def metadata(rows: Iterable[Sequence[str]], columns: Sequence[str] = ("path", "labels", "split", "group")) -> bytes:
    """A table of images as ftx reads it."""
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    return stream.getvalue().encode()


def class_folders(source: str, choice: Choice, cache: Path) -> Contents:
    """A source in two parts, a folder for each class."""
    return {path: png(picture.image) for path, _, picture in placed(source, choice, cache)}


def grouped_folders(source: str, choice: Choice, cache: Path) -> Contents:
    """The same with a table of groups, so that validation images are not of the same groups as training images."""
    each = list(placed(source, choice, cache))
    rows = [(path, picture.item.label, part, picture.item.group) for path, part, picture in each]
    return {path: png(picture.image) for path, _, picture in each} | {"metadata.csv": metadata(rows)}


def placed(source: str, choice: Choice, cache: Path) -> Iterator[tuple[str, Part, Picture]]:
    """The chosen pictures, each with its path and part."""
    for part, pictures in choose(source, choice, cache).items():
        for picture in pictures:
            yield f"{part}/{picture.item.label}/{picture.item.name}.png", part, picture


# Photographs of Tux Paint's stamps.

PHOTOGRAPHS = Choice(test=0.4)


def photograph_collages(counts: Mapping[Part, int], cache: Path) -> Contents:
    """Multi-label collages of one to four photographs; those of train and test contain different photographs."""
    contents: Contents = {}
    rows: list[Sequence[str]] = []
    for part, pictures in choose("photographs", PHOTOGRAPHS, cache).items():
        by_class: dict[str, list[Image.Image]] = {}
        for picture in pictures:
            by_class.setdefault(picture.item.label, []).append(picture.image)
        for number in range(counts[part]):
            path = f"{part}/{number:04}.png"
            image, labels = collage(by_class, part, number)
            contents[path] = png(image)
            rows.append((path, ";".join(sorted(labels)), part))
    return contents | {"metadata.csv": metadata(rows, ("path", "labels", "split"))}


def collage(by_class: Mapping[str, Sequence[Image.Image]], *what: object) -> tuple[Image.Image, set[str]]:
    """Four places, each empty or with a photograph of a class that is drawn first, so that classes are even."""
    sheet, labels, classes = Image.new("RGB", (COLLAGE, COLLAGE), "white"), set[str](), sorted(by_class)
    full = next(draws("full", *what)) % 4
    for place in range(4):
        numbers = draws("place", *what, place)
        if next(numbers) % 2 == 0 and place != full:
            continue
        label = classes[next(numbers) % len(classes)]
        photograph = by_class[label][next(numbers) % len(by_class[label])].copy()
        side = SMALLEST + next(numbers) % (LARGEST - SMALLEST + 1)
        photograph.thumbnail((side, side))
        row, column = divmod(place, 2)
        left = column * PLACE + next(numbers) % (PLACE - photograph.width + 1)
        sheet.paste(photograph, (left, row * PLACE + next(numbers) % (PLACE - photograph.height + 1)))
        labels.add(label)
    return sheet, labels


def photograph_views(cache: Path) -> Contents:
    """Several views of each photograph, which are one group."""
    contents: Contents = {}
    rows: list[Row] = []
    for part, pictures in choose("photographs", PHOTOGRAPHS, cache).items():
        for item, image in ((picture.item, picture.image) for picture in pictures):
            for number in range(VIEWS):
                path = f"{part}/{item.label}/{item.name}-{number}.png"
                contents[path] = png(view(image, item.label, item.name, number))
                rows.append((path, item.label, part, f"{item.label}/{item.name}"))
    return contents | {"metadata.csv": metadata(rows)}


def view(image: Image.Image, *what: object) -> Image.Image:
    """A photograph turned by up to 20 degrees, cut to 75 % or more of each side, darker or brighter, or mirrored."""
    angle, fraction, left, top, light, mirrored = (number / 2**32 for number in list(draws("view", *what))[:6])
    turned = image.rotate(40 * angle - 20, Image.Resampling.BICUBIC, fillcolor="white")
    width, height = (round(side * (0.75 + 0.25 * fraction)) for side in turned.size)
    x, y = round(left * (turned.width - width)), round(top * (turned.height - height))
    cut = turned.crop((x, y, x + width, y + height))
    if mirrored < 0.5:
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    seen = ImageEnhance.Brightness(cut).enhance(0.7 + 0.4 * light)
    seen.thumbnail((VIEW, VIEW))
    return seen


DEVELOPMENT: Mapping[str, Callable[[Path], Contents]] = {
    "garments-200": partial(garments, 200, 5000),
    "garments-1000": partial(garments, 1000, 5000),
    "garments-5000": partial(garments, 5000, 5000),
    "garments-wrong": partial(garments_with_wrong_labels, 1000, 5000, 0.05),
    "garments-uneven": partial(uneven_garments, 300, 20, 5000),
    "garments-tree": partial(garment_tree, 1000, 5000),
    "garments-collages": partial(garment_collages, 1000, 5000, {"train": 800, "val": 200, "test": 5000}),
    "photographs": partial(class_folders, "photographs", PHOTOGRAPHS),
    "photographs-collages": partial(photograph_collages, {"train": 1000, "test": 1000}),
    "photographs-views": photograph_views,
    "cards": partial(class_folders, "cards", Choice(0.4, 100, 80)),
    "climate": partial(class_folders, "climate", Choice(0.4, 120, 70, 10)),
    "digits": partial(class_folders, "digits", Choice(0.5, 50, 200)),
    "emoji": partial(class_folders, "emoji", Choice(0.45)),
    "parts": partial(class_folders, "parts", Choice(0.4, 60, 40)),
    "sky": partial(class_folders, "sky", Choice(0.5)),
    "clipart": partial(class_folders, "clipart", Choice(0.45, 90, 70)),
    "units": partial(grouped_folders, "units", Choice(0.45, 90, 70, most_alike=UNITS_MOST_ALIKE)),
}
HELD_BACK: Mapping[str, Callable[[Path], Contents]] = {
    "footprints": partial(grouped_folders, "footprints", Choice(0.4, 40, 28)),
    "furniture": partial(class_folders, "furniture", Choice(0.42)),
    "languages": partial(grouped_folders, "languages", Choice(0.4, 150, 110)),
    "scripts": partial(grouped_folders, "scripts", Choice(0.4, 40, 30)),
    "surfaces": partial(grouped_folders, "surfaces", Choice(0.45, most_alike=SURFACES_MOST_ALIKE)),
}

# The others are multiclass.
TASKS = {
    "garments-tree": "hierarchical",
    "garments-collages": "multilabel",
    "photographs-collages": "multilabel",
}


def write(folder: Path, contents: Contents) -> None:
    """A folder that appears when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as staging:
        for name, content in contents.items():
            path = Path(staging) / "files" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (Path(staging) / "files").rename(folder)


def summary(contents: Contents) -> str:
    """Labels, images by part, and a digest of the names, by which two lists of images are compared."""
    images = [name for name in contents if name.endswith(".png")]
    parts = Counter(name.split("/")[0] for name in images)
    labels = {name.split("/")[1] for name in images}
    if table := contents.get("metadata.csv"):
        labels = {one for row in csv.DictReader(io.StringIO(table.decode())) for one in row["labels"].split(";") if one}
    digest = hashlib.sha256("\n".join(sorted(images)).encode()).hexdigest()[:8]
    counts = ", ".join(f"{part} {count}" for part, count in sorted(parts.items()))
    return f"{len(labels)} labels, {counts}, names {digest}"


def main(arguments: Sequence[str] | None = None) -> None:
    every = {**DEVELOPMENT, **HELD_BACK}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*every, "all"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--cache", type=Path, default=PACKAGE_CACHE, help="folder for packages (%(default)s)")
    given = parser.parse_args(arguments)
    for name in every if given.name == "all" else [given.name]:
        if (given.out / name).exists():
            print(f"{name}: already exists")
            continue
        contents = every[name](given.cache)
        write(given.out / name, contents)
        print(f"{name}: {summary(contents)}", flush=True)


if __name__ == "__main__":
    main()
