"""Times ``ftx predict`` on a folder of photographs: ``python -m tests.benchmarks.folder IR FOLDER``.

Against what the cores could do: cores / (seconds of the model + seconds of decoding, an image, on one core each). In
turn, five rounds; medians, and the median of the ratios.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from ftx.core.processors import cores
from ftx.data.image_store import open_image
from ftx.runtimes import load_folder
from ftx.runtimes.openvino import OpenVinoPredictor

ROUNDS = 5
SOME = 24


def main(ir: Path, folder: Path) -> None:
    """Print a line."""
    images = sorted(folder.iterdir())
    many = load_folder(ir, goal="throughput")
    list(many.logits_from_files(images[:SOME]))
    rounds: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        own = [sys.executable, "-m", "tests.benchmarks.folder", str(ir), str(folder), "one core"]
        bound = cores() / float(subprocess.run(own, capture_output=True, text=True, check=True).stdout)
        started = time.perf_counter()
        answered = sum(1 for _ in many.logits_from_files(images))
        rounds.append((answered / (time.perf_counter() - started), bound))
    found, bound = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(one / other for one, other in rounds)
    print(f"{len(images)} images, {cores()} cores: {found:.1f} a second, bound {bound:.1f}, ratio {ratio:.2f}")


def seconds_on_one_core(ir: Path, images: list[Path]) -> float:
    """Of an image: decoding it, and the model with its resize."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    model = OpenVinoPredictor(ir, threads=1, streams=1)
    request = model.request()
    took: list[float] = []
    for path in images:
        started = time.perf_counter()
        request(np.asarray(open_image(path))[None])
        took.append(time.perf_counter() - started)
    return statistics.median(took[2:])


if __name__ == "__main__":
    if len(sys.argv) > 3:
        print(seconds_on_one_core(Path(sys.argv[1]), sorted(Path(sys.argv[2]).iterdir())[:SOME]))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
