"""The gate must be able to fail: each fault is written to disk, and found by a process that reads it from there.

Where only the file is altered its hash tells (exit status 2); where card and run.json are rewritten to
vouch for the altered file, the numbers must tell (1).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.gates.faults import Constant, Tensors, edit_constants, edit_json, edit_tensors, keep, vouch
from tests.zygote import Zygote

import ftx
from ftx.core.errors import RunError
from ftx.core.files import sha256_file
from ftx.runs.compute_precision import F32
from ftx.runs.parity_json import ParityReport
from ftx.runs.run import Run

LABELS = 4
IRS = ("openvino/fp32", "openvino/fp16", "openvino/int8")


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_run, tmp_path / "run"))


def one_percent(constants: list[Constant]) -> int:
    """The largest weight, which lies in the middle of the model."""
    matrices = [c.values for c in constants if c.learned and c.values.ndim == 2 and min(c.values.shape) > LABELS]
    chosen = max(matrices, key=lambda values: values.size)
    chosen *= np.asarray(1.01, chosen.dtype)
    return 1


def swap_channels(constants: list[Constant]) -> int:
    kernels = [c.values for c in constants if c.values.ndim == 4 and c.values.shape[1] == 3 and c.values.size > 3]
    for kernel in kernels:
        kernel[:] = kernel[:, ::-1].copy()
    return len(kernels)


def shift_mean(constants: list[Constant]) -> int:
    """Mean and scale, which are all that has three numbers: a tenth too large."""
    return _scale_triples(constants, 1.1)


def forget_mean(constants: list[Constant]) -> int:
    """The mean, which comes first, is zero."""
    return _scale_triples(constants, 0.0, first=True)


def _scale_triples(constants: list[Constant], factor: float, *, first: bool = False) -> int:
    triples = [c.values for c in constants if c.values.size == 3 and c.values.dtype == np.float32]
    for values in triples[:1] if first else triples:
        values *= np.float32(factor)
    return len(triples)


def permute_head(constants: list[Constant]) -> int:
    """Whatever has an axis of labels, rolled by one: weights, their scales, the bias."""
    heads = [c.values for c in constants if c.learned and LABELS in c.values.shape and c.values.ndim <= 2]
    for values in heads:
        values[:] = np.roll(values, 1, axis=values.shape.index(LABELS))
    return len(heads)


# What the numbers must catch, and in which artifacts. Rounding to fp16 or int8 hides what is as small as itself.
FAULTS: dict[str, tuple[Callable[[list[Constant]], int], tuple[str, ...]]] = {
    "one percent": (one_percent, IRS[:1]),
    "channels swapped": (swap_channels, IRS),
    "mean a tenth too large": (shift_mean, IRS[:2]),
    "mean forgotten": (forget_mean, IRS),
    "labels permuted": (permute_head, IRS),
}


def validate(target: Path, **settings: Any) -> ParityReport:
    """On a tenth of the images: what fails, fails on few."""
    if (target / "run.json").is_file():
        settings.setdefault("images", 24)
    return ftx.validate(target, **settings)


def failing(report: ParityReport) -> set[str]:
    return {row.artifact for row in report.rows if not row.ok}


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(name, marks=pytest.mark.representative if name == "labels permuted" else pytest.mark.slow)
        for name in sorted(FAULTS)
    ],
)
def test_a_fault_in_an_ir_that_its_hashes_vouch_for(run: Path, fault: str, fresh_ftx: Zygote) -> None:
    change, artifacts = FAULTS[fault]
    for artifact in artifacts:
        edit_constants(run / artifact, change)
    vouch(run)
    # The fp32 one on its own, as a device has it, read by a fresh process.
    done = fresh_ftx("validate", run / "openvino/fp32", "--json")
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["ok"] is False
    for artifact in artifacts[1:]:
        assert not validate(run / artifact).ok
    if fault == "one percent":  # once for all, as it takes a while: within the run, beside whole artifacts
        report = validate(run)
        assert not report.ok
        assert failing(report) == set(report.faulty) == set(artifacts)


@pytest.mark.representative
def test_a_fault_whose_hash_tells(run: Path, fresh_ftx: Zygote) -> None:
    edit_constants(run / "openvino/fp32", one_percent)
    for target in (run, run / "openvino/fp32"):
        done = fresh_ftx("validate", target, "--json")
        assert done.returncode == 2
        assert "model.bin" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_mean_that_the_run_does_not_have(run: Path) -> None:
    keep(run, IRS[0])
    edit_json(run / "run.json", lambda document: document["preprocess"].update(mean=[0.3, 0.5, 0.5]))
    report = validate(run)
    # What was made before says the mean that it was made with: config.json as well as card.json.
    assert report.faulty == ["dense", IRS[0]]
    assert "dense: the image path of config.json" in report.problems[0]
    assert "openvino/fp32: the image path of card.json" in report.problems[1]


def test_dense_weights_changed_after_the_merge(run: Path) -> None:
    keep(run, IRS[0])

    def spoil(tensors: Tensors) -> None:
        tensors["blocks.5.mlp.fc1.weight"] *= np.float32(1.01)

    edit_tensors(run / "dense" / "model.safetensors", spoil)
    with pytest.raises(RunError, match="has changed since ftx wrote it"):
        validate(run)
    vouch(run, lineage=False)
    # With its hash fixed the exports are those of another dense model.
    with pytest.raises(RunError, match="is stale"):
        validate(run)
    vouch(run)
    assert failing(validate(run)) == {"dense"}


def test_a_stale_ir(run: Path, fresh_ftx: Zygote) -> None:
    # What retraining into the run and merging it would leave: an IR made from the dense model before.
    path = run / "dense" / "config.json"
    path.write_text(path.read_text() + "\n")
    vouch(run, lineage=False)
    done = fresh_ftx("validate", run, "--images", "24", "--json")
    assert done.returncode == 2
    assert "openvino/fp32/ is stale" in done.stderr or "onnx/ is stale" in done.stderr


@pytest.mark.representative
def test_grey_images_show_swapped_channels_by_their_tinted_copies(run: Path, tmp_path: Path) -> None:
    keep(run, IRS[0])
    data = Path(shutil.copytree(Run.open(run).manifest.data_root, tmp_path / "grey"))
    lines = []
    for line in (run / "data.jsonl").read_text().splitlines():
        entry = json.loads(line)
        path = data / entry["path"]
        Image.open(path).convert("L").save(path)
        lines.append(json.dumps(entry | {"sha256": sha256_file(path)}) + "\n")
    (run / "data.jsonl").write_text("".join(lines))
    vouch(run)
    assert validate(run, data=data).ok
    edit_constants(run / "openvino/fp32", swap_channels)
    vouch(run)
    report = validate(run, data=data)
    (row,) = [row for row in report.rows if (row.artifact, row.view, row.compute) == ("openvino/fp32", "graph", F32)]
    assert not row.ok
    assert row.worst[0].endswith("(tinted)")
    assert row.images == 24
