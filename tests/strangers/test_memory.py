"""Memory that runs out is the machine's fault, status 3, with what would fit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import write_data
from tests.training.plans import planned

from ftx.adapters.trainable_model import prepare
from ftx.cli.failure import as_ftx_error
from ftx.core.errors import EnvironmentFault
from ftx.core.memory import is_out_of_memory, memory_faults
from ftx.recipe.schema import Recipe
from ftx.training.estimate import memory_mb, what_would_fit
from ftx.training.head_start import bytes_to_fit
from ftx.training.ranks import Ranks


def torch_on_the_cpu() -> object:
    return torch.empty(1 << 58, dtype=torch.uint8)


def numpy() -> object:
    return np.empty(1 << 58, dtype=np.uint8)


def python() -> object:
    return bytearray(1 << 62)


@pytest.mark.parametrize("take", [torch_on_the_cpu, numpy, python])
def test_what_each_library_says(take: object) -> None:
    """Asked for what no machine has."""
    with pytest.raises((RuntimeError, MemoryError)) as refused:
        take()  # pyright: ignore[reportCallIssue]
    known = as_ftx_error(refused.value)  # pyright: ignore[reportArgumentType]
    assert isinstance(known, EnvironmentFault)
    assert "smaller batch" in str(known)


def test_what_torch_says_of_a_gpu() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of …")
    assert is_out_of_memory(error)
    with pytest.raises(EnvironmentFault, match="not enough memory") as refused, memory_faults(lambda: "--batch-size 4"):
        raise error
    assert refused.value.fix == "--batch-size 4"
    assert refused.value.exit_code == 3


@pytest.mark.parametrize("error", [RuntimeError("shape '[2]' is invalid"), KeyError("out of memory"), ValueError("x")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)), memory_faults(lambda: "x"):
        raise error


def test_the_batch_that_fits_is_the_largest_by_the_estimate() -> None:
    """Halved from 64 until the estimate lies within the memory: worked out here from the estimate of one image."""
    recipe = Recipe().with_overrides(["model.name=vit_tiny_patch16_224", "model.weights=none", "train.batch_size=64"])
    prepared = prepare(recipe, 4)
    plan = planned(prepared, recipe)

    def needed(batch: int) -> float:
        return 1e6 * memory_mb(prepared, recipe.with_overrides([f"train.batch_size={batch}"]), plan, 1000)

    assert what_would_fit(prepared, recipe, plan, 1000, int(needed(32))).startswith("use --batch-size 32,")
    assert what_would_fit(prepared, recipe, plan, 1000, int(needed(32)) - 1_000_000).startswith("use --batch-size 16,")
    assert what_would_fit(prepared, recipe, plan, 1000, int(needed(2))).startswith("use --batch-size 2,")
    assert what_would_fit(prepared, recipe, plan, 3, int(needed(64))).startswith("use --batch-size 1,")  # of three
    assert "--method linear" in what_would_fit(prepared, recipe, plan, 1000, 1_000_000)
    # Of many images the features of the probe take most.
    many = 10_000_000
    probe = bytes_to_fit(prepared.backbone.module, many, 2)
    one = 1e6 * memory_mb(prepared, recipe.with_overrides(["train.batch_size=1"]), plan, many) - probe
    assert "train.head_init=random" in what_would_fit(prepared, recipe, plan, many, int(one) + 2_000_000)
    assert "train.head_init=random" not in what_would_fit(prepared, recipe, plan, many, int(one) - 2_000_000)
    # Of four processes each computes a quarter of the batch.
    four = Ranks(rank=0, world=4)
    assert what_would_fit(prepared, recipe, plan, 1000, int(needed(8)), four).startswith("use --batch-size 32,")


@pytest.mark.slow
def test_a_training_in_too_little_memory(tmp_path: Path) -> None:
    """In a fresh process with a limit on its addresses, which torch meets in a step of 128 images of 224 px."""
    write_data(tmp_path / "data", count=40)
    words = (
        f"train --data {tmp_path / 'data'} --model vit_tiny_patch16_224 --weights none --peft none --epochs 1 "
        f"--batch-size 128 --precision f32 --out {tmp_path / 'run'}"
    ).split()
    program = (
        "import resource, sys\nimport torch\nfrom ftx.training import session\nfrom ftx.cli.app import run\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 1_500_000_000,) * 2)\n"
        f"sys.exit(run({words!r}))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False, timeout=300
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("error: ") == 1
    assert "error: there is not enough memory\n" in done.stderr
    assert "fix: use --batch-size " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
