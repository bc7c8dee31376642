"""What an image costs before it is computed on, by the number of images: ``python -m tests.benchmarks.data_path OUT``.

For each of ``--images`` a data set of that many different JPEGs of ``--side`` pixels is made in OUT, and three
processes, each of its own, go through it as a training does: the survey (read, hash, decode, reduce and keep), a
survey that finds all of it kept, and an epoch of batches in random order. The sizes take turns, ``--rounds`` times.
Prints medians of the microseconds per image and of the peak of a process' memory above its start.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from ftx.core.progress import SILENT
from ftx.data.image_store import ImageStore
from ftx.data.loader import TrainingImages, in_batches
from ftx.data.open_dataset import survey
from ftx.data.pixel_store import pixel_store
from ftx.data.preprocess import Preprocess
from ftx.recipe.sections import DataRecipe, TrainRecipe

PRE = Preprocess(112, 112, 128, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLASSES = 10
WORK = ("first", "known", "epoch")


def make(folder: Path, images: int, side: int) -> None:
    """Different smooth images, so that each has its own hash and JPEG its usual work."""
    rng = np.random.default_rng(0)
    grounds = [Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((side, side)) for _ in range(64)]
    for number in range(images):
        path = folder / f"class-{number % CLASSES}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = grounds[number % 64].copy()
        image.paste(tuple(int(one) for one in rng.integers(0, 256, 3)), (0, 0, side // 3, side // 3))
        image.putpixel((side - 1, side - 1), (number % 256, number // 256 % 256, number // 65536))
        image.save(path, quality=95)


def go_through(what: str, data: Path, images: int) -> None:
    """One process' work; prints seconds and kilobytes."""
    train = TrainRecipe(augment="none", cache_gb=100)
    recipe = DataRecipe(path=data)
    # The process' own peak: what it inherited at its fork from its parent is none of its work.
    Path("/proc/self/clear_refs").write_text("5")
    before_kb, started = peak_kb(), time.perf_counter()
    with pixel_store(recipe, images, PRE, train, SILENT) as pixels:
        if what == "epoch":
            dataset = survey(data, val_fraction=0.2, pixels=pixels).dataset
            entries, store = dataset.entries, ImageStore(data)
            started = time.perf_counter()
            given = [store.at(entry.path, entry.sha256) for entry in entries]
            inputs = TrainingImages(given, np.zeros((len(given), 1), np.float32), PRE, augment="none", pixels=pixels)
            order = np.random.default_rng(0).permutation(len(given))
            for _ in inputs.views(in_batches(inputs.seen(order, epoch=1), 32, skipped=0)):
                pass
        else:
            survey(data, val_fraction=0.2, pixels=pixels)
    print(json.dumps({"seconds": time.perf_counter() - started, "kb": peak_kb() - before_kb}))


def peak_kb() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--process", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.process is not None:
        go_through(given.process, given.out, given.images[0])
        return
    root: Path = given.out.absolute()
    for images in given.images:
        if not (root / str(images)).exists():
            make(root / str(images), images, given.side)
    rounds = [{images: measured(root, images) for images in given.images} for _ in range(given.rounds)]
    print(f"{'images':>8} {'first survey':>14} {'known':>8} {'epoch':>8}  µs an image; peak above the start, MB")
    for images in given.images:
        each = [median(one[images][what]["seconds"] for one in rounds) / images * 1e6 for what in WORK]
        memory = ", ".join(f"{median(one[images][what]['kb'] for one in rounds) / 1024:.0f}" for what in WORK)
        print(f"{images:8} {each[0]:14.0f} {each[1]:8.0f} {each[2]:8.0f}  {memory}", flush=True)


def measured(root: Path, images: int) -> dict[str, dict[str, float]]:
    """Seconds and kilobytes of each kind of work on so many images, from an empty cache on."""
    cache = root / f"cache-{images}"
    shutil.rmtree(cache, ignore_errors=True)
    found: dict[str, dict[str, float]] = {}
    for what in WORK:
        command = [sys.executable, "-m", "tests.benchmarks.data_path", str(root / str(images)), "--process", what]
        command += ["--images", str(images)]
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        found[what] = json.loads(answer)
    print(f"{images:,}: {json.dumps(found)}", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
