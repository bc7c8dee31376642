"""Presets against all blocks on varied images: ``python -m tests.benchmarks.presets DATA OUT``.

DATA has a part ``test``, or is a folder of few images, of which each fifth is asked about in its turn (``--folds``).
Each contestant (a preset, ``balanced`` on all patches, or the last N blocks on images as they are, on all patches or
half of them) trains as many epochs as the others, from an empty cache, and is asked about every test image; asking is
not in its time. Contestants take turns, seed by seed. An image counts as lost by the share of the seeds that lost it,
against ``best``; the bound on what is lost is for other images with these seeds, that ``by the seeds`` for other seeds
with these images.

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
from scipy.stats import t
from tests.benchmarks.accuracy import right
from tests.benchmarks.kept_results import listing_digest, refuse_others
from tests.benchmarks.markdown import table
from tests.benchmarks.peers import empty_cache
from tests.benchmarks.photographs import folds, write_table

import ftx
from ftx.core.statistics import PairedCounts, wilson_interval
from ftx.recipe.sections import PRESETS
from ftx.runs.machine import this_machine
from ftx.runs.run import Run

AGAINST = "best"
MAY_BE_AUTO = ("adapter.blocks", "train.augment", "train.patch_dropout")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Trained:
    """One training: how long it took, and of each test image a 1 where it is named rightly.

    ``came_to`` is what the recipe's keys that may be ``auto`` were in the run, and is the same for all of a contestant.
    """

    contestant: str
    seed: int
    came_to: Mapping[str, object]
    seconds: float
    cpu_seconds: float
    best_epoch: int
    right: str


def contestants(also: Sequence[int]) -> dict[str, Mapping[str, object]]:
    shallow = {
        f"last {blocks}{patches}": {"adapter.blocks": blocks, "train.augment": "none", "train.patch_dropout": share}
        for blocks in also
        for share, patches in ((0, ""), (0.5, ", half of the patches"))
    }
    return {**PRESETS, "balanced, all patches": {**PRESETS["balanced"], "train.patch_dropout": 0}, **shallow}


def train(
    name: str, keys: Mapping[str, object], parts: Sequence[Path], common: Sequence[str], seed: int, epochs: int
) -> Trained:
    """A training of ftx for each data set, each from an empty cache to its run folder; times are summed."""
    overrides = [f"seed={seed}", *common, *(f"{key}={value}" for key, value in keys.items())]
    if not keys.get("model.freeze_backbone"):  # the head alone is solved, in one pass
        overrides += [f"train.epochs={epochs}", f"train.patience={epochs}"]
    seconds, cpu_seconds, best_epochs, answers, came_to = 0.0, 0.0, [], "", {}
    for data in parts:
        with tempfile.TemporaryDirectory() as folder, empty_cache():
            began, worked = time.perf_counter(), time.process_time()
            recipe = ftx.Recipe().with_overrides([f"data.path={data}", *overrides])
            best_epochs.append(ftx.train(recipe, out=Path(folder) / "run").best_epoch)
            seconds += time.perf_counter() - began
            cpu_seconds += time.process_time() - worked
            run = Run.open(Path(folder) / "run")
            answers += "".join("1" if hit else "0" for hit in right(run))
            came_to = {key: run.recipe().by_key()[key] for key in MAY_BE_AUTO}
    return Trained(name, seed, came_to, round(seconds, 1), round(cpu_seconds, 1), round(median(best_epochs)), answers)


def in_folds(folder: Path) -> list[Path]:
    """Tables beside a folder of images, of which each has a fifth to test, so that every image is asked about."""
    images = sorted(path for path in folder.rglob("*") if path.is_file())
    labels = [path.relative_to(folder).parts[0] for path in images]
    paths = [f"{folder.name}/{path.relative_to(folder)}" for path in images]
    return [
        write_table(folder, paths, labels, asked, f"fold-{fold}") for fold, asked in enumerate(folds(labels, seed=0))
    ]


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
        best = hits(found, AGAINST, seeds)
        gain = (given - best).mean(0)
        paired = PairedCounts(float(-gain[gain < 0].sum()), float(gain[gain > 0].sum()), len(gain))
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
            "at most by the seeds": by_seeds(given, best),
            "seconds": [one.seconds for one in mine if one.seed in theirs],
            "time": round(median(one.seconds / theirs[one.seed].seconds for one in mine if one.seed in theirs), 3),
            "processor time": round(
                median(one.cpu_seconds / theirs[one.seed].cpu_seconds for one in mine if one.seed in theirs), 3
            ),
        }


def by_seeds(given: np.ndarray, best: np.ndarray) -> float | None:
    """The points that another seed's training loses at most, by Student's t; of one seed nothing is known."""
    lost = 100 * (best - given).mean(1)
    if len(lost) < 2 or not lost.any():
        return None
    return round(float(lost.mean() + t.ppf(CONFIDENCE, len(lost) - 1) * lost.std(ddof=1) / len(lost) ** 0.5), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE", help="keys of the recipe that all share")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--also", type=int, nargs="+", default=[], metavar="N", help="the last N blocks")
    parser.add_argument("--folds", action="store_true", help="DATA has no part test: train on four fifths, five times")
    parser.add_argument("--only", nargs="+", default=None, metavar="NAME")
    given = parser.parse_intermixed_args()
    known = contestants(given.also)
    parts = in_folds(given.data) if given.folds else [given.data]
    asked = {"data": listing_digest(given.data), "keys": given.keys, "epochs": given.epochs, "folds": given.folds}
    refuse_others(given.out, asked)
    log: Path = given.out / "presets.jsonl"
    found = [Trained(**json.loads(line)) for line in log.read_text().splitlines()] if log.is_file() else []
    done = {(one.contestant, one.seed) for one in found}
    for seed in given.seeds:
        for name in given.only or known:
            if (name, seed) in done:
                continue
            one = train(name, known[name], parts, given.keys, seed, given.epochs)
            if others := [other for other in found if other.contestant == name and other.came_to != one.came_to]:
                raise SystemExit(f"{log}: {name} was {others[0].came_to} and is {one.came_to}: name another folder")
            found.append(one)
            with log.open("a") as stream:
                stream.write(json.dumps(asdict(one)) + "\n")
            share = one.right.count("1") / len(one.right)
            print(f"{name}, seed {seed}: {one.seconds:.0f} s, {100 * share:.1f} %", flush=True)
    each = list(rows(found))
    if not each:
        return
    machine = this_machine().model_dump(mode="json")
    said = {"machine": machine, "epochs": given.epochs, "keys": given.keys, "rows": each}
    (given.out / "presets.json").write_text(json.dumps(said, indent=2) + "\n")
    (given.out / "presets.md").write_text(table(list(each[0]), (row.values() for row in each)))


if __name__ == "__main__":
    main()
