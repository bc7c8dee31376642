"""Write what turns the sample into data for the other two tasks, from ``fashion-mnist.zip`` alone.

``fashion-tree.csv``: the same images with paths in a tree (clothing/tops/Shirt) and one single label, *light*.
``fashion-sheets.zip``: sheets of up to four garments, for multi-label; the garments of train, val and test are held
apart. Every choice is drawn from SHA-256, so that no version of a generator changes it. Larger ones for experiments:
``make_sample.py --train 1000 --test 5000 --out big.zip`` and ``make_tasks.py --images big.zip --test 5000``.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from make_sample import ARCHIVE, Pixels, png, write_archive
from PIL import Image

TREE = {
    "T-shirt": "clothing/tops/T-shirt",
    "Pullover": "clothing/tops/Pullover",
    "Coat": "clothing/tops/Coat",
    "Shirt": "clothing/tops/Shirt",
    "Dress": "clothing/Dress",
    "Trouser": "clothing/Trouser",
    "Sandal": "footwear/Sandal",
    "Sneaker": "footwear/Sneaker",
    "Ankle boot": "footwear/Ankle boot",
    "Bag": "Bag",
}
# A garment is light if its own pixels, those above black, are on average lighter than this: 58 % of them are.
LIGHT = 140
# Where ftx unpacks the images, seen from the folder where it puts the table.
IMAGES = "sample-data"

SHEETS = {"train": 600, "val": 150, "test": 300}
# Of the training garments those for train; the others are for val.
TRAIN_SHARE = 0.8
# Pixels: a garment is 28 × 28, its place in the sheet a quarter of 64 × 64.
CELL = 32
GARMENT = 28
SWATCH = 12


def garments(archive: Path) -> dict[str, Pixels]:
    """Every image of the sample by its path."""
    with zipfile.ZipFile(archive) as opened:
        return {name: np.asarray(Image.open(io.BytesIO(opened.read(name)))) for name in sorted(opened.namelist())}


def tree(images: dict[str, Pixels]) -> bytes:
    """The table of the tree."""
    stream = io.StringIO()
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow(("path", "labels", "split"))
    for name, pixels_HW in images.items():
        side, kind, _ = name.split("/")
        light = pixels_HW[pixels_HW > 0].mean() > LIGHT
        rows.writerow((f"{IMAGES}/{name}", TREE[kind] + (";light" if light else ""), side if side == "test" else ""))
    return stream.getvalue().encode()


def draw(*what: object) -> Iterator[int]:
    """Numbers below 2^32 that are drawn for one thing alone."""
    digest = hashlib.sha256(":".join(map(str, what)).encode()).digest()
    return iter(int.from_bytes(digest[at : at + 4], "big") for at in range(0, len(digest), 4))


def sheet(images: dict[str, Pixels], pool: list[str], *what: object) -> tuple[Pixels, set[str]]:
    """Four places, each empty or with a garment a little off its middle, and what the garments are.

    A sheet without a garment shows a swatch of cloth, which is none: all black, such sheets would be one picture.
    """
    pixels_HW = np.zeros((2 * CELL, 2 * CELL), dtype=np.uint8)
    held: set[str] = set()
    for place in range(4):
        numbers = draw(*what, place)
        if next(numbers) % 2:
            name = pool[next(numbers) % len(pool)]
            top, left = (CELL * at + next(numbers) % (CELL - GARMENT + 1) for at in divmod(place, 2))
            pixels_HW[top : top + GARMENT, left : left + GARMENT] = images[name]
            held.add(name.split("/")[1])
    if not held:
        numbers = draw(*what, "swatch")
        cloth_HW = images[pool[next(numbers) % len(pool)]]
        top, left = (next(numbers) % (2 * CELL - SWATCH + 1) for _ in range(2))
        middle = slice((GARMENT - SWATCH) // 2, (GARMENT + SWATCH) // 2)
        pixels_HW[top : top + SWATCH, left : left + SWATCH] = cloth_HW[middle, middle]
    return pixels_HW, held


def sheets(images: dict[str, Pixels], counts: Mapping[str, int], seed: int = 0) -> dict[str, bytes]:
    """The files of the archive: sheets, and their table."""
    ranked = sorted((name for name in images if name.startswith("train/")), key=lambda name: next(draw(seed, name)))
    first = round(TRAIN_SHARE * len(ranked))
    pools = {
        "train": sorted(ranked[:first]),
        "val": sorted(ranked[first:]),
        "test": [name for name in images if name.startswith("test/")],
    }
    stream = io.StringIO()
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow(("path", "labels", "split"))
    contents: dict[str, bytes] = {}
    for side, count in counts.items():
        for number in range(count):
            pixels_HW, held = sheet(images, pools[side], seed, side, number)
            name = f"{side}/{number:03d}.png"
            contents[name] = png(pixels_HW)
            rows.writerow((name, ";".join(sorted(held)), side))
    return contents | {"metadata.csv": stream.getvalue().encode()}


def main(arguments: Sequence[str] = ()) -> None:
    """Write both beside the images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=ARCHIVE, help="what make_sample.py wrote, a zip (%(default)s)")
    for side, count in SHEETS.items():
        parser.add_argument(f"--{side}", type=int, default=count, help=f"sheets for {side} (%(default)s)")
    given = parser.parse_args(arguments)
    archive: Path = given.images
    images = garments(archive)
    archive.with_name("fashion-tree.csv").write_bytes(tree(images))
    write_archive(
        archive.with_name("fashion-sheets.zip"), sheets(images, {side: getattr(given, side) for side in SHEETS})
    )
    for name in ("fashion-tree.csv", "fashion-sheets.zip"):
        content = archive.with_name(name).read_bytes()
        print(f"{name}: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main(sys.argv[1:])
