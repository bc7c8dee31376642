"""The tutorials: every command, in order, in an empty folder; as it stands there, and on a tiny network."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from tests.effects.lab import call
from tests.zygote import Zygote

PAGES = Path(__file__).parents[1] / "docs" / "pages"
TASKS = ("multiclass", "multilabel", "hierarchical")
# In place of the embedded model, which takes minutes; of a flag that is given twice the last one counts.
TINY, EPOCH = "--model test_vit --weights none --image-size 32".split(), ("--epochs", "1")


def commands(task: str) -> list[str]:
    """The lines that a reader copies: indented, and beginning with the program's name."""
    text = (PAGES / f"tutorial-{task}.md").read_text(encoding="utf-8")
    return re.findall(r"^    (ftx .+)$", text, re.MULTILINE)


@pytest.mark.parametrize("task", TASKS)
def test_a_tutorial_goes_from_data_to_answers(task: str) -> None:
    verbs = [line.split()[1] for line in commands(task)]
    wanted = ["data", "train", "merge", "export", "validate", "report", "predict"]
    assert [verb for verb in dict.fromkeys(verbs) if verb in wanted] == wanted


@pytest.mark.representative
@pytest.mark.parametrize("task", [TASKS[0], *(pytest.param(task, marks=pytest.mark.slow) for task in TASKS[1:])])
def test_the_commands_of_a_tutorial_follow_each_other(task: str, tmp_path: Path) -> None:
    """On a tiny network and a twelfth of the images: each command finds what the one before has left."""
    torch.set_num_threads(1)
    for line in commands(task):
        words = shlex.split(line)[1:]
        if words[0] == "train" or words[:2] == ["data", "look"]:
            words += [*TINY, *(EPOCH if words[0] == "train" else ())]
        with chdir(tmp_path):
            done = call(*words)
        assert done.status == 0, f"{line}\n{done.err[-2000:]}"
        if words[:2] == ["data", "sample"]:
            thin_out(tmp_path)
    assert_finished(tmp_path)


def thin_out(data: Path) -> None:
    """Keep every twelfth image, and the lines of tables that name one."""
    for number, image in enumerate(sorted(data.rglob("*.png"))):
        if number % 12:
            image.unlink()
    for table in data.rglob("*.csv"):
        header, *lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
        left = [line for line in lines if (table.parent / line.partition(",")[0]).exists()]
        assert len(left) > 80  # enough for each label in each split
        table.write_text("".join([header, *left]), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_each_command_of_a_tutorial_does_what_it_says(task: str, fresh_ftx: Zygote, tmp_path: Path) -> None:
    """As a reader types it; of one tutorial in processes that start as theirs do, of the others in forked ones."""
    for line in commands(task):
        words = shlex.split(line)
        if task == TASKS[0]:
            command = [sys.executable, "-m", *words]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=1200)
        else:
            done = fresh_ftx(*words[1:], cwd=tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"
    assert_finished(tmp_path)


def assert_finished(folder: Path) -> None:
    run = (folder / "runs" / "latest").resolve()
    assert (run / "reports" / "report.html").is_file()
    assert (run / "openvino" / "fp32" / "proof.json").is_file()
