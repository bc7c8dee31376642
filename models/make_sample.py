"""Write a balanced part of Fashion-MNIST as PNG files: ``train/<class>/`` and ``test/<class>/``.

The sample that ftx carries is what this script writes when called without arguments. Larger sets for
experiments: ``python models/make_sample.py --train 3000 --test 5000 --out fmnist``. The same arguments give
the same images in every environment, and the same bytes where zlib is the same.

Source: the four idx files of Fashion-MNIST (MIT; Xiao, Rasul and Vollgraf, arXiv:1708.07747), on Debian
and Ubuntu in the package ``dataset-fashion-mnist``.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
ARCHIVE = Path(__file__).parent / "ftx_models" / "sample" / "fashion-mnist.zip"

# In the order of the data set's label numbers. Label 0 is "T-shirt/top" there, which no folder can be called.
CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

# The earliest time that a zip can hold; a real one would make each archive differ.
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)

Pixels = NDArray[np.uint8]


def read_idx(path: Path) -> Pixels:
    """Read one gzipped idx file of bytes.

    Source: http://yann.lecun.com/exdb/mnist, "The IDX file format": 0, 0, type 8, rank, sizes as big-endian u4.
    """
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\0\0\x08":
        raise SystemExit(f"{path}: not an idx file of bytes")
    rank = content[3]
    shape = [int(size) for size in np.frombuffer(content, ">u4", rank, 4)]
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def choose(pixels_NHW: Pixels, labels_N: Pixels, count: int, seed: int, taken: set[bytes]) -> list[int]:
    """Indices of ``count`` images, the same number of each class, no picture twice and none in ``taken``.

    The order comes from SHA-256, not from a generator: its numbers are the same in every version of numpy.
    """
    each, rest = divmod(count, len(CLASSES))
    if rest or each < 1:
        raise SystemExit(f"{count} images cannot be shared out evenly among {len(CLASSES)} classes")
    ranked = sorted(range(len(labels_N)), key=lambda index: hashlib.sha256(f"{seed}:{index}".encode()).digest())
    chosen: dict[int, list[int]] = {label: [] for label in range(len(CLASSES))}
    for index in ranked:
        picture = pixels_NHW[index].tobytes()
        of_class = chosen[int(labels_N[index])]
        if len(of_class) < each and picture not in taken:
            of_class.append(index)
            taken.add(picture)
    short = [CLASSES[label] for label, found in chosen.items() if len(found) < each]
    if short:
        raise SystemExit(f"fewer than {each} distinct images of: {', '.join(short)}")
    return sorted(index for found in chosen.values() for index in found)


def png(pixels_HW: Pixels) -> bytes:
    """One grey PNG."""
    stream = io.BytesIO()
    Image.fromarray(pixels_HW).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def files(source: Path, train: int, test: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents. A file is called after its place in the data set's own train or test part."""
    # Fashion-MNIST has some pictures twice, a few of them in both parts: test comes first and keeps them.
    taken: set[bytes] = set()
    for split, stem, count in (("test", "t10k", test), ("train", "train", train)):
        pixels_NHW = read_idx(source / f"{stem}-images-idx3-ubyte.gz")
        labels_N = read_idx(source / f"{stem}-labels-idx1-ubyte.gz")
        for index in choose(pixels_NHW, labels_N, count, seed, taken):
            yield f"{split}/{CLASSES[int(labels_N[index])]}/{index:05d}.png", png(pixels_NHW[index])


def write_archive(out: Path, contents: dict[str, bytes]) -> None:
    """A zip without times, owners or an order of its own; PNG is compressed already, so files are stored."""
    with zipfile.ZipFile(out, "w") as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, ZIP_EPOCH)
            entry.create_system = 3  # Unix, on every system
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, contents[name], zipfile.ZIP_STORED)


def write_folder(out: Path, contents: dict[str, bytes]) -> None:
    """The same files on disk, in a folder that must not exist."""
    for name in sorted(contents):
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[name])


def main() -> None:
    """Parse, choose, write."""
    parser = argparse.ArgumentParser(description="Write a balanced part of Fashion-MNIST as PNG files.")
    parser.add_argument("--source", type=Path, default=DEBIAN, help="folder of the four idx files (%(default)s)")
    parser.add_argument("--train", type=int, default=1000, help="training images (%(default)s)")
    parser.add_argument("--test", type=int, default=500, help="test images (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which images (%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=ARCHIVE, help="a new folder, or a file ending in .zip (%(default)s)"
    )
    arguments = parser.parse_args()
    out: Path = arguments.out
    archive = out.suffix == ".zip"
    if not archive and out.exists():
        parser.error(f"{out} exists")
    if not arguments.source.is_dir():
        parser.error(f"{arguments.source} is not there; on Debian: apt install dataset-fashion-mnist")
    contents = dict(files(arguments.source, arguments.train, arguments.test, arguments.seed))
    (write_archive if archive else write_folder)(out, contents)
    print(f"{out}: {len(contents)} images", f"sha256 {hashlib.sha256(out.read_bytes()).hexdigest()}" if archive else "")


if __name__ == "__main__":
    main()
