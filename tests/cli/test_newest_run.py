"""A command that is given no run says which it takes, before anything that may last."""

from __future__ import annotations

import shutil
from contextlib import chdir
from pathlib import Path

import pytest
from tests.effects.lab import call

from ftx.runs.latest import point_latest_at


@pytest.mark.parametrize(
    "words",
    [
        ("merge", "--data", "nowhere"),
        ("export", "--precision", "bogus"),
        ("eval", "--data", "nowhere"),
        ("report", "--out", "."),
    ],
    ids=" ".join,
)
def test_the_newest_run_is_named(words: tuple[str, ...], whole_run: Path, tmp_path: Path) -> None:
    shutil.copytree(whole_run, tmp_path / "runs" / "second")
    with chdir(tmp_path):
        assert call(*words).status == 2  # there is no run yet that is the newest
        point_latest_at(Path("runs/second"))
        said = call(*words)
        assert said.status == 2
        assert said.err.startswith("run: runs/second, the newest\n")
        verb, *more = words
        assert "the newest" not in call(verb, "runs/second", *more).err
