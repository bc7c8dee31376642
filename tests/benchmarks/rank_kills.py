"""Processes of a training, killed at random: ``python -m tests.benchmarks.rank_kills [--kills 10] [--seed 0]``.

Each time two or three processes train; one of them, drawn at random, is killed at a moment drawn at random. Asked is
that all end within a minute, that one error is said, and that the run then goes on, with another number of processes,
to the end: the same best epoch as a training that was left alone, and the same validation losses to f32's rounding.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

from tests.conftest import write_data
from tests.training.test_ranks import OFTEN, TRAIN, started, workers

from ftx.runs.run_json import checkpoint_records
from ftx.runs.train_jsonl import read_epochs

WORDS = (*TRAIN, *OFTEN, "--epochs", "40", "--set", "train.patience=40")


def whole(folder: Path) -> list[float]:
    process = started(folder, 1, *WORDS, "--out", "whole")
    _, err = process.communicate()
    assert process.returncode == 0, err
    return [epoch.val_loss for epoch in read_epochs(folder / "whole")]


def killed(folder: Path, number: int, rng: random.Random) -> tuple[float, str]:
    """How long the others took to end after one was killed, and in words what happened."""
    run = folder / f"run-{number}"
    world = rng.choice([2, 3])
    process = started(folder, world, *WORDS, "--out", run.name)
    while not checkpoint_records(run):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 2.0))
    victim = rng.randrange(world)
    os.kill(workers(process.pid)[victim], signal.SIGKILL)
    began = time.monotonic()
    _, err = process.communicate(timeout=120)
    seconds = time.monotonic() - began
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert errors == ["error: another process of this training was lost"], err
    done = len(read_epochs(run))
    after = rng.choice([1, 2])
    process = started(folder, after, "train", "--resume", run.name)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return seconds, f"rank {victim} of {world} after {done} epochs; {after} went on"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder / "data", 11)
        losses = whole(folder)
        for number in range(given.kills):
            seconds, said = killed(folder, number, rng)
            found = [epoch.val_loss for epoch in read_epochs(folder / f"run-{number}")]
            apart = max(abs(one - other) / one for one, other in zip(losses, found, strict=True))
            assert apart < 1e-3, apart
            print(f"{number + 1}: {said}; all ended after {seconds:.1f} s; losses apart by {apart:.1e}", flush=True)
            shutil.rmtree(folder / f"run-{number}")


if __name__ == "__main__":
    main()
