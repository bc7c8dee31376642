"""``ftx data check`` on up to a million thumbnails: ``python -m tests.benchmarks.thumbnails OUT [--images N]``.

Thumbnails of 64 × 64 are cut from photographs that scikit-image carries, at random places, scales and turns, one in
fifty of them once more as another JPEG of it, a little brighter: these are to be found. Measured is, at a hundredth, a
tenth and all of the images, how long the shards take to be read, decoded, compared and split, and how much memory that
takes beside what the system can have back (RssAnon, sampled).

Writes OUT/thumbnails.json and OUT/thumbnails.md.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image, ImageEnhance
from skimage import data as photographs
from webdataset.writer import TarWriter

from ftx.core.progress import SILENT
from ftx.data.check import DataReport, open_and_check
from ftx.runs.machine import this_machine

SIDE, PER_SHARD, AGAIN = 64, 10_000, 50
NAMES = ("astronaut", "cat", "coffee", "rocket", "hubble_deep_field", "retina", "immunohistochemistry")


def thumbnail(pictures: list[Image.Image], number: int) -> tuple[str, Image.Image]:
    """A picture's name, and a piece of it that no other number has."""
    rng = np.random.default_rng([7, number])
    which = int(rng.integers(len(pictures)))
    picture = pictures[which]
    side = int(rng.integers(SIDE, min(picture.size) // 2))
    left, top = (int(rng.integers(length - side)) for length in picture.size)
    turned = picture.crop((left, top, left + side, top + side)).rotate(90 * int(rng.integers(4)))
    small = np.asarray(turned.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(np.float32)
    # Pieces of one plain surface would be alike: each has a pattern of its own upon it.
    pattern = rng.normal(0, 40, (8, 8, 1)).repeat(8, 0).repeat(8, 1)
    return NAMES[which], Image.fromarray((small + pattern).clip(0, 255).astype(np.uint8))


def shard(job: tuple[Path, int]) -> None:
    out, nth = job
    pictures = [Image.fromarray(getattr(photographs, name)()).convert("RGB") for name in NAMES]
    with (out / f"{nth:04d}.tar").open("wb") as file, TarWriter(file, encoder=False, mtime=0) as archive:
        for number in range(nth * PER_SHARD, (nth + 1) * PER_SHARD):
            again = number % AGAIN == AGAIN - 1
            name, image = thumbnail(pictures, number - again)
            stream = io.BytesIO()
            (ImageEnhance.Brightness(image).enhance(1.1) if again else image).save(
                stream, "JPEG", quality=70 if again else 85
            )
            said = {
                "labels": [name],
                "split": "test" if again else "train",
                "sha256": sha256(stream.getvalue()).hexdigest(),
            }
            archive.write({"__key__": f"{number:09d}", "jpg": stream.getvalue(), "json": json.dumps(said).encode()})


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))


def checked(path: Path, results: multiprocessing.Queue[dict[str, float]]) -> None:
    """Check in a process of its own, and tell what it took."""
    most, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.2):
            most = max(most, anonymous_bytes())

    threading.Thread(target=watch, daemon=True).start()
    before, began = anonymous_bytes(), time.perf_counter()
    report: DataReport = open_and_check(path, "multiclass", progress=SILENT).report
    seconds = time.perf_counter() - began
    ended.set()
    planted = {(one.held_out, one.train) for one in report.near_duplicates}
    held_out = report.images["test"]
    right = sum(number(one) == number(other) + 1 for one, other in planted)
    results.put(
        {
            "images": sum(report.images.values()),
            "seconds": seconds,
            "memory_gb": (most - before) / 1e9,
            "planted": held_out,
            "found": right,
            "found_otherwise": len(planted) - right,
        }
    )


def number(path: str) -> int:
    return int(Path(path).stem)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=1_000_000)
    given = parser.parse_args()
    out, shards = cast("Path", given.out), cast("int", given.images) // PER_SHARD
    folder = out / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        list(pool.map(shard, [(folder, nth) for nth in range(shards) if not (folder / f"{nth:04d}.tar").exists()]))
    rows = [measured(folder, count) for count in counts(shards)]
    out.joinpath("thumbnails.json").write_text(
        json.dumps({"machine": this_machine().model_dump(), "rows": rows}, indent=1)
    )
    names = list(rows[0])
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    lines += [
        " | ".join(f"{row[name]:,.4g}" if name in ("seconds", "memory_gb") else f"{row[name]:,}" for name in names)
        for row in rows
    ]
    out.joinpath("thumbnails.md").write_text("".join(f"| {line} |\n" for line in lines))
    print(out.joinpath("thumbnails.md").read_text())


def counts(shards: int) -> Iterator[int]:
    yield from sorted({max(1, shards // 100), max(1, shards // 10), shards})


def measured(folder: Path, shards: int) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[dict[str, float]] = context.Queue()
    process = context.Process(target=checked, args=(folder / f"{{0000..{shards - 1:04d}}}.tar", results))
    process.start()
    row = results.get()
    process.join()
    print(json.dumps(row), flush=True)
    return row


if __name__ == "__main__":
    main()
