"""Time to the first step and peak memory of a DoRA run: ``python -m tests.benchmarks.first_step DATA [--size 112]``.

Each in a process of its own, in turn: ``ftx train`` by default and with the last four blocks, from an empty cache
and once more; the field's trainer rebuilt (``tests.benchmarks.peers``). Seconds are counted from before the process
began to the end of its first optimizer step (the trainer's without those in which ftx lists its images for it);
memory is the peak of the process that trains (of the trainer, whose two workers read, without them) after one epoch,
and of that epoch the share of time in which computing waited for images.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.machine_features import features

OURS = {
    "ftx, auto": (),
    "ftx, the last four blocks": ("adapter.blocks=4",),
}
TRAINER = "the field's trainer"


class First:
    """A listener that notes when training first got on."""

    at: float | None = None

    @contextmanager
    def track(self, description: str, total: int | None) -> Iterator[_Bar]:
        yield _Bar(self, counts=description == "Training")

    def note(self, text: str) -> None: ...


class _Bar:
    def __init__(self, first: First, *, counts: bool) -> None:
        self.first, self.counts = first, counts

    def advance(self, steps: int = 1, **fields: str) -> None:
        # The first is where a resumed training stood: of a fresh one, nothing.
        if self.counts and steps and self.first.at is None:
            self.first.at = time.time()


def one(name: str, data: Path, size: int, began: float) -> None:
    """Train for an epoch, and print seconds to the first step and the peak in MB."""
    if name == TRAINER:
        import torch
        from tests.benchmarks.peers import Images, theirs

        at: list[float] = []
        torch.optim.AdamW.step = noting(torch.optim.AdamW.step, at)
        loop = next(one for one in theirs(size) if one.name == "trainer dora")
        started = time.time()
        images = Images.of(data)
        began += time.time() - started
        next(iter(loop.run(images, 0)))
        first, waiting = at[0], None  # it measures none
    else:
        import ftx

        listener = First()
        keys = ["model.peft=dora", "train.epochs=1", f"data.path={data}", f"data.image_size={size}", *OURS[name]]
        with tempfile.TemporaryDirectory() as folder:
            ftx.train(ftx.Recipe().with_overrides(keys), out=Path(folder, "run"), progress=listener)
            line = Path(folder, "run", "reports", "train.jsonl").read_text().splitlines()[0]
        assert listener.at is not None
        first, waiting = listener.at, json.loads(line)["waiting_share"]
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"first_step_s": first - began, "peak_mb": peak_mb, "waiting": waiting}))


def noting(step, at: list[float]):
    def noted(*given: object, **named: object) -> object:
        made = step(*given, **named)
        at.append(time.time())
        return made

    return noted


def median(measured: list[float | None]) -> float | None:
    """Of what was measured, where it was."""
    known = [one for one in measured if one is not None]
    return statistics.median(known) if known else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--to", type=Path, help="also into this JSON file")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one[0], given.data, given.size, float(given.one[1]))
        return
    found: dict[str, list[dict[str, float | None]]] = {}
    for _ in range(given.rounds):
        for name in (*OURS, TRAINER):
            with tempfile.TemporaryDirectory() as cache:
                for again in ("", ", once more") if name in OURS else ("",):
                    command = [sys.executable, "-m", "tests.benchmarks.first_step", str(given.data)]
                    command += ["--size", str(given.size), "--one", name, repr(time.time())]
                    environment = {**os.environ, "XDG_CACHE_HOME": cache}
                    made = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                    found.setdefault(name + again, []).append(json.loads(made.stdout.splitlines()[-1]))
    print(f"{features()}; DoRA of DINOv2-small at {given.size} px; medians of {given.rounds}")
    rows = {name: {key: median([one[key] for one in each]) for key in each[0]} for name, each in found.items()}
    for name, row in rows.items():
        waiting = "" if row["waiting"] is None else f"   waited for images {row['waiting']:.2%}"
        print(f"{name:36} first step {row['first_step_s']:6.1f} s   peak {row['peak_mb']:6.0f} MB{waiting}")
    if given.to is not None:
        said = {"machine": features(), "size": given.size, "rounds": given.rounds, "rows": rows}
        given.to.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
