"""A link in a run leads nothing out of it: neither what is written there, nor the lock that a writer holds."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.effects.lab import call

from ftx.core.errors import RunError
from ftx.core.files import LOCK, is_locked, sole_writer


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("command", "inside"),
    [
        ("eval", "reports"),
        ("report", "reports"),
        ("validate", "reports/answers"),
        ("export --precision fp16", "openvino"),
        ("export --precision fp16", "openvino/fp16"),
        ("merge", "dense"),
        ("merge", "trained"),
        ("bench", "openvino/int8"),
        ("predict", "onnx"),
        ("train --resume", "checkpoints"),
        ("runs --remove", LOCK),
        ("eval", LOCK),
    ],
)
def test_a_link_in_a_run_is_refused(command: str, inside: str, whole_run: Path, tmp_path: Path) -> None:
    run, outside = Path(shutil.copytree(whole_run, tmp_path / "run")), tmp_path / "outside"
    link = run / inside
    if inside == LOCK:
        outside.mkdir()
        (outside / "victim").write_text("mine")
        link.unlink(missing_ok=True)
        link.symlink_to(outside / "victim")
    else:
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.exists():
            shutil.move(link, outside)
        else:
            outside.mkdir()
        link.symlink_to(outside)
    before = contents(outside)
    verb, *flags = command.split()
    given = {"predict": [run / "data.jsonl", "--artifact", run], "train": [*flags, run], "runs": [*flags, run, "--yes"]}
    said = call(*map(str, (verb, *given.get(verb, [run, *flags]))))
    assert said.status == 2
    told = " ".join(said.err.split())
    assert "must not contain links" in told
    assert contents(outside) == before
    assert os.path.lexists(link)


def test_a_lock_that_is_a_link_is_never_opened(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / LOCK).symlink_to(tmp_path / "victim")
    with pytest.raises(RunError), sole_writer(tmp_path / "folder", None):
        pass
    assert not is_locked(tmp_path / "folder")
    assert (tmp_path / "victim").read_text() == "mine"
