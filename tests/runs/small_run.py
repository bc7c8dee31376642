"""A run made of a few small files, for tests of what is written beside its models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftx.data.dataset import Entry
from ftx.data.preprocess import Preprocess
from ftx.runs.artifacts import Artifact
from ftx.runs.new_run import new_run, seal
from ftx.runs.run import Run
from ftx.runs.run_json import Manifest
from ftx.tasks.labels import Labels

# One image to train on, two to choose by, three that are held out.
ENTRIES = tuple(
    Entry(f"{side}/{number}.png", f"{number}{len(side)}" * 32, ("ab"[number % 2],), side)
    for side, count in (("train", 1), ("val", 2), ("test", 3))
    for number in range(count)
)


def small_run(path: Path, artifacts: Sequence[Artifact] = (), entries: Sequence[Entry] = ENTRIES) -> Run:
    """Two labels; each artifact is one file, which holds its name."""
    manifest = Manifest(
        task="multiclass",
        model="m",
        architecture="m",
        method="full",
        base_digest="0",
        labels=Labels.multiclass(["a", "b"]),
        preprocess=Preprocess(32, 32, 32, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        data_root="data",
    )
    with new_run(path) as new:
        (new.folder / "trained").mkdir()
        (new.folder / "trained" / "weights").write_text("one")
        seal(new.folder, manifest, tuple(entries))
    run = Run.open(path)
    for artifact in artifacts:
        make(run, artifact, artifact.name)
    return run


def make(run: Run, artifact: Artifact, content: str) -> None:
    """Write an artifact into a run, as its command would."""
    with run.add(artifact) as folder:
        (folder / "weights").write_text(content)
