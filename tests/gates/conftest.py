"""A copy of one run for each fault."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_run, tmp_path / "run"))
