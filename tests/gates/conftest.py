"""A copy of one run for each fault, and processes that read it from the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.zygote import Zygote, zygote


@pytest.fixture(scope="session")
def ftx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """The program, in a fresh process for each call."""
    with zygote(tmp_path_factory.mktemp("ftx")) as command:
        yield command


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_run, tmp_path / "run"))
