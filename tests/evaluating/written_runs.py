"""Runs that are there from the start (tests/written/v1), for tests that need a whole one and no training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.gates.faults import edit_json, vouch_for

from ftx.runs.run import Run

WRITTEN = Path(__file__).parents[1] / "written" / "v1"


def written_run(name: str, where: Path) -> Run:
    """A copy of one with its images and weights, in a folder to be in: its paths count from there."""
    where.mkdir(exist_ok=True)
    for beside in (name, "images"):
        shutil.copytree(WRITTEN / beside, where / beside)
    for weights in WRITTEN.glob("*.safetensors"):
        shutil.copy(weights, where)
    return Run(where / name)


def relabel(run: Run, labels: Sequence[tuple[str, ...]]) -> None:
    """Give the held-out images other labels, in the order of the run."""
    given = iter(labels)

    def change(entry: Any) -> Any:
        return entry | {"labels": list(next(given))} if entry["split"] == "test" else entry

    edit_entries(run, change)
    assert next(given, None) is None


def edit_entries(run: Run, change: Callable[[Any], Any]) -> None:
    """Alter lines of data.jsonl, and the hash that run.json has of it."""
    path = run.path / "data.jsonl"
    entries = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    vouch_for(run.path, "data.jsonl")


def keep(run: Run, *artifacts: str) -> None:
    """Let the run hold these exports alone."""

    def holds(name: str) -> bool:
        return not name.startswith(("onnx/", "openvino/")) or name.startswith(tuple(f"{one}/" for one in artifacts))

    def change(raw: Any) -> None:
        raw["files"] = {name: digest for name, digest in raw["files"].items() if holds(name)}
        raw["lineage"] = {name: line for name, line in raw["lineage"].items() if holds(f"{name}/")}

    edit_json(run.path / "run.json", change)
