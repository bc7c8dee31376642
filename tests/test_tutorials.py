"""The tutorials: every command, as it stands there, in order, in an empty folder."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[1] / "docs" / "pages"
TASKS = ("multiclass", "multilabel", "hierarchical")


def commands(task: str) -> list[str]:
    """The lines that a reader copies: indented, and beginning with the program's name."""
    text = (PAGES / f"tutorial-{task}.md").read_text(encoding="utf-8")
    return re.findall(r"^    (ftx .+)$", text, re.MULTILINE)


@pytest.mark.parametrize("task", TASKS)
def test_a_tutorial_goes_from_data_to_answers(task: str) -> None:
    verbs = [line.split()[1] for line in commands(task)]
    wanted = ["data", "train", "merge", "export", "validate", "report", "predict"]
    assert [verb for verb in dict.fromkeys(verbs) if verb in wanted] == wanted


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_each_command_of_a_tutorial_does_what_it_says(task: str, tmp_path: Path) -> None:
    for line in commands(task):
        words = shlex.split(line)
        said = subprocess.run(
            [sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=1200
        )
        assert said.returncode == 0, f"{line}\n{said.stderr[-2000:]}"
    run = (tmp_path / "runs" / "latest").resolve()
    assert (run / "reports" / "report.html").is_file()
    assert (run / "openvino" / "fp32" / "proof.json").is_file()
