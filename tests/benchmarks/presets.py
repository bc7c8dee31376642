"""Fewer blocks and no variation against all blocks on varied images: ``python -m tests.benchmarks.presets DATA OUT``.

DATA has a part ``test``. Each contestant (a preset, or the last N blocks on images as they are) trains as many epochs
as the others, from an empty cache, and is asked about every test image; asking is not in its time. Contestants take
turns, seed by seed. An image counts as lost by the share of the seeds that lost it, against ``best``.

    python models/make_sample.py --train 1000 --test 5000 --out build/garments
    python -m tests.benchmarks.presets build/garments build/presets --also 3 2 data.image_size=112

A second start goes on where the first stopped. Writes OUT/presets.jsonl (with each test image's answer, right or
wrong), presets.json and presets.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
from tests.benchmarks.accuracy import right
from tests.benchmarks.peers import empty_cache

import ftx
from ftx.core.statistics import Paired, wilson_interval
from ftx.recipe.presets import PRESETS
from ftx.runs.machine import this_machine
from ftx.runs.run import Run

AGAINST = "best"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Trained:
    """One training: how long it took, and of each test image a 1 where it is named rightly."""

    contestant: str
    seed: int
    seconds: float
    cpu_seconds: float
    best_epoch: int
    right: str


def contestants(also: Sequence[int]) -> dict[str, Mapping[str, object]]:
    shallow = {f"last {blocks}": {"adapter.blocks": blocks, "train.augment": "none"} for blocks in also}
    return {**PRESETS, **shallow}


def train(name: str, keys: Mapping[str, object], data: Path, common: Sequence[str], seed: int, epochs: int) -> Trained:
    """One training of ftx, from an empty cache to its run folder."""
    overrides = [f"data.path={data}", f"seed={seed}", *common, *(f"{key}={value}" for key, value in keys.items())]
    if not keys.get("model.freeze_backbone"):  # the head alone is solved, in one pass
        overrides += [f"train.epochs={epochs}", f"train.patience={epochs}"]
    with tempfile.TemporaryDirectory() as folder, empty_cache():
        began, worked = time.perf_counter(), time.process_time()
        report = ftx.train(ftx.Recipe().with_overrides(overrides), out=Path(folder) / "run")
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
        hits = right(Run.open(Path(folder) / "run"))
    answers = "".join("1" if hit else "0" for hit in hits)
    return Trained(name, seed, round(seconds, 1), round(cpu_seconds, 1), report.best_epoch, answers)


def hits(found: Sequence[Trained], name: str, seeds: Sequence[int]) -> np.ndarray:
    """Shape: [seeds, test images]."""
    of = {one.seed: one.right for one in found if one.contestant == name}
    return np.array([[answer == "1" for answer in of[seed]] for seed in seeds], dtype=float)


def rows(found: Sequence[Trained]) -> Iterator[dict[str, object]]:
    """Of each contestant its accuracy and time, and against all blocks what it loses and the share of the time."""
    for name in dict.fromkeys(one.contestant for one in found):
        mine = [one for one in found if one.contestant == name]
        theirs = {one.seed: one for one in found if one.contestant == AGAINST}
        seeds = [one.seed for one in mine if one.seed in theirs]
        if not seeds:
            continue
        given = hits(found, name, seeds)
        gain = (given - hits(found, AGAINST, seeds)).mean(0)
        paired = Paired(float(-gain[gain < 0].sum()), float(gain[gain > 0].sum()), len(gain))
        low, high = wilson_interval(round(given.mean() * given.shape[1]), given.shape[1])
        yield {
            "contestant": name,
            "seeds": seeds,
            "test images": given.shape[1],
            "accuracy": [round(100 * float(one), 2) for one in given.mean(1)],
            "mean accuracy": round(100 * float(given.mean()), 2),
            "interval": [round(100 * low, 2), round(100 * high, 2)],
            "points lost": round(100 * paired.drop, 2),
            "at most": round(100 * paired.drop_at_most(CONFIDENCE), 2),
            "seconds": [one.seconds for one in mine if one.seed in theirs],
            "time": round(median(one.seconds / theirs[one.seed].seconds for one in mine if one.seed in theirs), 3),
            "processor time": round(
                median(one.cpu_seconds / theirs[one.seed].cpu_seconds for one in mine if one.seed in theirs), 3
            ),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE", help="keys of the recipe that all share")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--also", type=int, nargs="+", default=[], metavar="N", help="the last N blocks")
    parser.add_argument("--only", nargs="+", default=None, metavar="NAME")
    given = parser.parse_intermixed_args()
    known = contestants(given.also)
    given.out.mkdir(parents=True, exist_ok=True)
    log: Path = given.out / "presets.jsonl"
    found = [Trained(**json.loads(line)) for line in log.read_text().splitlines()] if log.is_file() else []
    done = {(one.contestant, one.seed) for one in found}
    for seed in given.seeds:
        for name in given.only or known:
            if (name, seed) in done:
                continue
            one = train(name, known[name], given.data, given.keys, seed, given.epochs)
            found.append(one)
            with log.open("a") as stream:
                stream.write(json.dumps(asdict(one)) + "\n")
            share = one.right.count("1") / len(one.right)
            print(f"{name}, seed {seed}: {one.seconds:.0f} s, {100 * share:.1f} %", flush=True)
    table = list(rows(found))
    if not table:
        return
    machine = this_machine().model_dump(mode="json")
    said = {"machine": machine, "epochs": given.epochs, "keys": given.keys, "rows": table}
    (given.out / "presets.json").write_text(json.dumps(said, indent=2) + "\n")
    titles = list(table[0])
    lines = [titles, ["---"] * len(titles), *([row[title] for title in titles] for row in table)]
    (given.out / "presets.md").write_text("".join(f"| {' | '.join(map(str, line))} |\n" for line in lines))


if __name__ == "__main__":
    main()
