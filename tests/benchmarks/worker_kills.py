"""Workers that are killed at random: ``python -m tests.benchmarks.worker_kills trials|ray [--kills 10] [--seed 0]``.

``trials``: ``ftx tune`` is killed at a moment drawn at random and begun again, as often as asked, and then ends: each
trial of the study is complete once, and so is its run; a study that was left alone has as many.
``ray``: of two workers on Ray that answer 100,000 images one is killed at random moments: the answers are, byte by
byte, those of one process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from tests.conftest import COLOURS, write_colour_ir, write_data
from tests.scaling.test_on_ray import started, workers

from ftx.runs.run import Run
from ftx.runs.train_jsonl import read_epochs
from ftx.scaling.resumable_job import parts_folder

RECIPE = """\
data: {path: data, image_size: 32}
model: {name: test_vit, weights: none, peft: lora}
adapter: {blocks: all}
train: {epochs: 40, patience: 40, batch_size: 6, checkpoint_minutes: 0, cache_views: 0, head_init: random}
"""
TRIALS = 12


def trials(folder: Path, kills: int, rng: random.Random) -> None:
    write_data(folder / "data", 11)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "space.yaml").write_text("train.lr: {low: 1e-4, high: 1e-2, log: true}\nadapter.rank: [2, 4, 8]\n")
    words = ["tune", "recipe.yaml", "--space", "space.yaml", "--trials", str(TRIALS), "--out", "study"]
    command = [sys.executable, "-m", "ftx", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = 0
    while killed < kills:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        before, waited = progress_of(folder), time.monotonic()
        while progress_of(folder) == before and process.poll() is None:  # something is done that could be lost
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 2))
        if process.poll() is not None:
            print("the study ended before it could be killed again", flush=True)
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += 1
        print(
            f"{killed}: killed after {time.monotonic() - waited:.1f} s, {progress_of(folder)} lines of epochs",
            flush=True,
        )
    subprocess.run(
        command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    lines = [json.loads(line) for line in (folder / "study" / "trials.jsonl").read_text().splitlines()]
    states = Counter(line["state"] for line in lines)
    runs = [line["run"] for line in lines if line["state"] in ("complete", "pruned")]
    assert len(runs) == len(set(runs)) == TRIALS, lines
    for name in runs:
        Run.open(folder / name)
    assert (folder / "study" / "best.yaml").is_file()
    print(f"{killed} kills; {dict(states)}; {TRIALS} runs, each whole and once")


def progress_of(folder: Path) -> int:
    return sum(len(read_epochs(run)) for run in folder.glob("study/trials/*") if run.is_dir())


def on_ray(folder: Path, kills: int, rng: random.Random) -> None:
    model, images = folder / "model", folder / "images"
    model.mkdir()
    images.mkdir()
    write_colour_ir(model)
    for colour in range(len(COLOURS)):
        pixels = np.random.default_rng(colour).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{colour}.png")
    for number in range(100_000):
        os.link(folder / f"{number % len(COLOURS)}.png", images / f"{number:06d}.png")
    alone = [sys.executable, "-m", "ftx", "predict", "images", "--artifact", "model", "--out", "alone.jsonl"]
    subprocess.run(alone, cwd=folder, check=True, capture_output=True)
    process, killed, done = started(folder, "images", "--artifact", "model", "--out", "out.jsonl"), 0, 0
    while process.poll() is None and killed < kills:
        there = workers(process.pid)
        parts = len(list(parts_folder(folder / "out.jsonl").glob("*.jsonl")))
        if parts > done and len(there) == 2:
            time.sleep(rng.uniform(0, 1))
            os.kill(rng.choice(there), signal.SIGKILL)
            killed, done = killed + 1, parts
            print(f"{killed}: after {parts} parts", flush=True)
        time.sleep(0.05)
    said, err = process.communicate()
    assert process.returncode == 0, err
    assert (folder / "out.jsonl").read_bytes() == (folder / "alone.jsonl").read_bytes()
    print(f"{killed} kills; {json.loads(said)['images']} answers, those of one process")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("trials", "ray"))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        (trials if given.what == "trials" else on_ray)(Path(name), given.kills, random.Random(given.seed))


if __name__ == "__main__":
    main()
