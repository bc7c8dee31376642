"""Presets on many data sets: ``python -m tests.benchmarks.presets DATA OUT [KEY=VALUE ...]``.

DATA holds the data sets that ``tests.benchmarks.datasets`` makes. Each contestant (a preset, a former one, or keys that
``--also`` names) trains on each of them with each seed, as ``ftx train`` does, from an empty cache, and is tested on
every test image. Testing is not part of its time. Contestants take turns, so a slow minute of the machine falls on all
of them.

    python -m tests.benchmarks.datasets all build/data-sets
    python -m tests.benchmarks.presets build/data-sets build/presets data.image_size=112
    python -m tests.benchmarks.presets build/data-sets build/presets data.image_size=112 --half held-back
    ... --also "half: adapter.blocks=all train.augment=light train.patch_dropout=0.5"

A second start continues where the first stopped. Writes OUT/presets.jsonl (a training a line, with the outcome of each
test image), presets.json, presets.md and presets.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tests.benchmarks.accuracy import right
from tests.benchmarks.datasets import DEVELOPMENT, HELD_BACK, TASKS
from tests.benchmarks.kept_results import listing_digest, refuse_others
from tests.benchmarks.markdown import table
from tests.benchmarks.peers import empty_cache
from tests.benchmarks.preset_results import AGAINST, Trained, draw, overall, pairs_of, rows

import ftx
from ftx.recipe.sections import PRESETS
from ftx.runs.machine import this_machine
from ftx.runs.run import Run

MAY_BE_AUTO = (
    "model.peft",
    "adapter.blocks",
    "train.augment",
    "train.patch_dropout",
    "train.head_init",
    "train.epochs",
)
# The presets `best` and `balanced` (the default) as they were for multiclass data before `auto`, without an early stop.
FORMER: Mapping[str, Mapping[str, object]] = {
    "former best": {"train.epochs": 10, "train.patch_dropout": 0.0, "train.head_init": "random"},
    "former default": {"adapter.blocks": 5},
}
HALVES = {"development": tuple(DEVELOPMENT), "held-back": tuple(HELD_BACK)}


@dataclass(frozen=True)
class Contestant:
    """What differs from the recipe's defaults."""

    name: str
    keys: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Contestant:
        """``NAME: KEY=VALUE KEY=VALUE``."""
        name, _, keys = text.partition(":")
        return cls(name.strip(), tuple(keys.split()))


def of_preset(name: str, keys: Mapping[str, object]) -> Contestant:
    return Contestant(name, tuple(f"{key}={value}" for key, value in keys.items()))


def train(contestant: Contestant, data: Path, common: Sequence[str], seed: int) -> Trained:
    """One training, from an empty cache to its run folder, and its outcome on the test images."""
    with tempfile.TemporaryDirectory() as folder, empty_cache():
        began, worked = time.perf_counter(), time.process_time()
        overrides = [
            f"data.path={data}",
            f"task={TASKS.get(data.name, 'multiclass')}",
            f"seed={seed}",
            *common,
            *contestant.keys,
        ]
        report = ftx.train(ftx.Recipe().with_overrides(overrides), out=Path(folder) / "run")
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
        run = Run.open(Path(folder) / "run")
        resolved = run.recipe().by_key()
        return Trained(
            data=data.name,
            contestant=contestant.name,
            seed=seed,
            resolved={key: resolved[key] for key in MAY_BE_AUTO if key in resolved},
            seconds=round(seconds, 1),
            cpu_seconds=round(cpu_seconds, 1),
            best_epoch=report.best_epoch,
            outcomes="".join("1" if hit else "0" for hit in right(run)),
            keys=list(contestant.keys),
        )


def check_keys(found: Sequence[Trained], contestants: Sequence[Contestant]) -> None:
    """End if a contestant had other keys when it was measured before."""
    now = {one.name: list(one.keys) for one in contestants}
    for one in found:
        if one.keys is not None and now.get(one.contestant, one.keys) != list(one.keys):
            raise SystemExit(f"{one.contestant} was measured with {one.keys}, not with {now[one.contestant]}")


def with_few(data: Path, per_class: int, seed: int, out: Path) -> Path:
    """A data set of class folders with only some training images of each class, drawn by the seed; all test images."""
    if (data / "metadata.csv").is_file():
        raise SystemExit(f"{data} has groups, which a draw of single images would split")
    folder = out / f"{data.name}-few-{per_class}-{seed}" / data.name
    if folder.is_dir():
        shutil.rmtree(folder)  # a start that was interrupted may have left a part
    rng = np.random.default_rng(seed)
    for source in sorted((data / "train").iterdir()):
        images = sorted(source.iterdir())
        for row in rng.permutation(len(images))[:per_class]:
            image = folder / "train" / source.name / images[row].name
            image.parent.mkdir(parents=True, exist_ok=True)
            os.link(images[row], image)
    shutil.copytree(data / "test", folder / "test", copy_function=os.link)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE", help="keys of the recipe that all share")
    parser.add_argument("--half", choices=HALVES, default="development")
    parser.add_argument("--per-class", type=int, help="only this many training images of each class, drawn by the seed")
    parser.add_argument("--sets", nargs="+", metavar="NAME", help="only these data sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--also", nargs="+", default=[], type=Contestant.parse, metavar="NAME: KEY=VALUE ...")
    parser.add_argument("--only", nargs="+", default=None, metavar="NAME", help="only these contestants")
    given = parser.parse_intermixed_args()
    contestants = [*(of_preset(name, keys) for name, keys in {**PRESETS, **FORMER}.items()), *given.also]
    names = [name for name in HALVES[given.half] if given.sets is None or name in given.sets]
    log: Path = given.out / "presets.jsonl"
    found = [Trained(**json.loads(line)) for line in log.read_text().splitlines()] if log.is_file() else []
    check_keys(found, contestants)
    done = {(one.data, one.contestant, one.seed) for one in found}
    for name in names:
        settings = {"data": listing_digest(given.data / name), "keys": given.keys, "per_class": given.per_class}
        refuse_others(given.out / name, settings)
        for seed in given.seeds:
            for contestant in contestants:
                if (name, contestant.name, seed) in done or contestant.name not in (given.only or [contestant.name]):
                    continue
                data = given.data / name
                if given.per_class is not None:
                    data = with_few(data, given.per_class, seed, given.out)
                one = train(contestant, data, given.keys, seed)
                found.append(one)
                with log.open("a") as stream:
                    stream.write(json.dumps(asdict(one)) + "\n")
                print(f"{name}, {contestant.name}, seed {seed}: {one.seconds:.0f} s, {one.accuracy:.1%}", flush=True)
    pairs = pairs_of(found)
    if not pairs:
        return
    tables = list(rows(pairs)), list(overall(pairs))
    summary = {
        "machine": this_machine().model_dump(mode="json"),
        "keys": given.keys,
        "against": AGAINST,
        "rows": tables[0],
        "overall": tables[1],
    }
    (given.out / "presets.json").write_text(json.dumps(summary, indent=2) + "\n")
    text = "\n".join(table(list(part[0]), (row.values() for row in part)) for part in tables)
    (given.out / "presets.md").write_text(text)
    draw(pairs, given.out / "presets.svg")


if __name__ == "__main__":
    main()
