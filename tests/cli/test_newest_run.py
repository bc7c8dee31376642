"""A command that is given no run says which it takes, before anything that may last."""

from __future__ import annotations

import shutil
from contextlib import chdir
from pathlib import Path
from typing import NoReturn

import pytest
from tests.effects.lab import call

from ftx.core import rank_zero_output
from ftx.core.errors import RunError
from ftx.runs.runs_folder import point_latest_at


@pytest.mark.parametrize(
    "words",
    [
        ("merge", "--data", "nowhere"),
        ("export", "--data", "nowhere"),
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


def test_of_several_machines_the_first_alone_looks_for_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are told what it holds."""
    resumed: list[Path] = []

    def resume(run: Path, **_: object) -> NoReturn:
        resumed.append(run)
        raise RunError("reached")

    monkeypatch.setattr("ftx.training.resume", resume)
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"), ("MASTER_ADDR", "a")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr(rank_zero_output, "_allowed", [True])
    with chdir(tmp_path):
        for rank, found in (("1", [Path("nowhere")]), ("0", [])):
            resumed.clear()
            monkeypatch.setenv("RANK", rank)
            call("train", "--resume", "nowhere")
            assert resumed == found
