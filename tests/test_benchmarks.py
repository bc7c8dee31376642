"""What is measured rarely still runs: nobody would see that a benchmark had broken."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

# One runs inside of a debugger, with its Python.
BENCHMARKS = sorted({path.stem for path in Path(__file__).with_name("benchmarks").glob("*.py")} - {"without_avx512"})


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_finds_what_it_measures(name: str) -> None:
    importlib.import_module(f"tests.benchmarks.{name}")


@pytest.mark.slow
def test_the_data_path_is_measured_on_few_images(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.data_path", str(tmp_path), "--images", "20", "--side", "40"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    images, *each = answer.splitlines()[1].split()
    assert images == "20"
    assert all(int(one) > 0 for one in each[:3])
