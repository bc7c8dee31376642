"""What is measured rarely still runs: nobody would see that a benchmark had broken."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from tests.benchmarks.bench import as_good

# One runs inside of a debugger, with its Python.
BENCHMARKS = sorted({path.stem for path in Path(__file__).with_name("benchmarks").glob("*.py")} - {"without_avx512"})


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_finds_what_it_measures(name: str) -> None:
    importlib.import_module(f"tests.benchmarks.{name}")


def test_a_peer_is_as_late_as_the_first_training_that_is_not_just_lucky() -> None:
    """Two seeds; of ours two epochs and more are as good in the mean, and one is in one seed alone."""
    right = {1: (85, 70), 2: (82, 80), 3: (90, 84)}
    points = [
        {"contestant": "ftx", "seed": seed, "epoch": epoch, "kept": kept, "test": 100, "seconds": 10.0 * epoch}
        for epoch, each in right.items()
        for seed, kept in enumerate(each)
    ]
    rows = [{"contestant": "ftx", "seed": seed, "seconds": 30.0, "kept_seconds": 30.0} for seed in (0, 1)]
    rows += [
        {"contestant": name, "seed": seed, "seconds": 100.0, "kept_seconds": 60.0, "accuracy": accuracy}
        for name, accuracies in {"peft": (0.80, 0.81), "full": (0.88, 0.89)}.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    (*_, line) = as_good({"rows": rows, "points": points}).splitlines()
    assert line == "| ftx | 5.0, 3.0 | never |"
    points[4]["kept"] = 70  # three epochs are worse than two: two were lucky
    (*_, line) = as_good({"rows": rows, "points": points}).splitlines()
    assert line == "| ftx | never | never |"


def test_the_data_path_is_measured_on_few_images(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.data_path", str(tmp_path), "--images", "20", "--side", "40"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    images, *each = answer.splitlines()[1].split()
    assert images == "20"
    assert all(int(one) > 0 for one in each[:3])
