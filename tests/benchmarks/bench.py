"""What `make bench` measured, as one: ``python -m tests.benchmarks.bench FOLDER``.

FOLDER holds step.json, first_step.json and peers.json, of one machine. Writes bench.json, which holds all three, and
bench.md, the tables that people read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from statistics import mean, median
from typing import Any

from tests.benchmarks.markdown import table

from ftx.core.statistics import wilson_interval

# Accuracies are kept in four decimals.
ROUNDING = 5e-5
PARTS = ("step", "first_step", "peers")
Json = Mapping[str, Any]


def steps(step: Json) -> str:
    """Of each method the seconds, and how many times the products', peft's and LoRA's they are."""
    precisions = [one for one in ("f32", "bf16") if one in step]
    names = list(step[precisions[0]])
    return table(
        (f"{step['size']} px, batch {step['batch']}", *precisions),
        ([name, *(step[precision][name] for precision in precisions)] for name in names),
    )


def first_steps(first_step: Json) -> str:
    rows = first_step["rows"].items()
    return table(
        (f"DoRA, {first_step['size']} px", "first step, s", "peak, MB", "waited for images"),
        ([name, f"{one['first_step_s']:.1f}", f"{one['peak_mb']:.0f}", waited(one["waiting"])] for name, one in rows),
    )


def waited(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def trainings(peers: Json) -> str:
    """Of each contestant and seed how it ended: of ours once for each number of epochs."""

    def rows() -> Iterator[Sequence[object]]:
        for one in peers["points"]:
            if one["ended"]:
                low, high = wilson_interval(one["kept"], one["test"])
                accuracy = f"{one['kept'] / one['test']:.1%} ({low:.1%} to {high:.1%})"
                yield one["contestant"], one["seed"], one["epoch"], f"{one['seconds']:.1f}", accuracy

    titles = (f"{peers['size']} px", "seed", "epochs", "seconds", "accuracy (95 % interval)")
    return table(titles, rows())


def as_good(peers: Json) -> str:
    """How many times as long a peer took as ours took to be as good as it ended, over the seeds that both have.

    Ours: by the fewest epochs from which on the mean accuracy is no worse, whatever the number of epochs, so that one
    lucky training does not count. The peer: to its end, and to the epoch that it kept. Medians of the seconds.
    """
    names = list(dict.fromkeys(row["contestant"] for row in peers["rows"]))
    rivals = [name for name in names if not name.startswith("ftx")]

    def ratios(name: str, rival: str) -> str:
        ends = {row["seed"]: row for row in peers["rows"] if row["contestant"] == rival}
        points = [one for one in peers["points"] if one["contestant"] == name and one["seed"] in ends]
        seeds = {one["seed"] for one in points}
        goal = mean([ends[seed]["accuracy"] for seed in seeds]) if seeds else inf
        reached: float | None = None
        for epochs in sorted({one["epoch"] for one in points}, reverse=True):
            there = [one for one in points if one["epoch"] == epochs]
            if mean([one["kept"] / one["test"] for one in there]) < goal - ROUNDING:
                break
            reached = median(one["seconds"] for one in there)
        if reached is None:
            return "never"
        ended, kept = (median(ends[seed][key] for seed in seeds) / reached for key in ("seconds", "kept_seconds"))
        return f"{ended:.1f}, {kept:.1f}"

    counts = [sum(row["contestant"] == rival for row in peers["rows"]) for rival in rivals]
    titles = [f"{rival}; seeds: {count}" for rival, count in zip(rivals, counts, strict=True)]
    ours = [name for name in names if name.startswith("ftx")]
    rows = ([name, *(ratios(name, rival) for rival in rivals)] for name in ours)
    return table(("to its end, to the epoch it kept", *titles), rows)


def report(found: Mapping[str, Json]) -> str:
    return "\n".join(
        [
            f"# {found['step']['machine']}\n",
            "## A training step, seconds and ratios; medians\n",
            steps(found["step"]),
            "## Until the first step, and memory; medians\n",
            first_steps(found["first_step"]),
            "## Whole trainings\n",
            trainings(found["peers"]),
            "## How many times as long a peer took to its end as ftx took to be as good on the same test images\n",
            as_good(found["peers"]),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    found = {part: json.loads((folder / f"{part}.json").read_text()) for part in PARTS}
    (folder / "bench.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "bench.md").write_text(report(found))


if __name__ == "__main__":
    main()
