"""Training through 8 bits: a new run of the same kind, nearer to the model that it came from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import made_once, write_data

from ftx.core.errors import GateFailed, RunError
from ftx.data.preprocess import load_pixels
from ftx.evaluating import validate
from ftx.exporting import export
from ftx.exporting.int8 import recover as recovering
from ftx.exporting.int8 import search as quantizing
from ftx.exporting.int8.quantize import Int8Setting
from ftx.exporting.int8.recover import recover
from ftx.exporting.recover_report import RecoverReport
from ftx.merging.merge_and_prove import merge
from ftx.recipe.schema import Recipe
from ftx.runs.artifacts import DENSE, IR_INT8, TRAINED
from ftx.runs.dense import load_dense
from ftx.runs.machine import WITHOUT_VNNI, this_set
from ftx.runs.run import Run
from ftx.runtimes import load_artifact
from ftx.training import train

pytestmark = pytest.mark.slow

STEPS = 48


def make(root: Path) -> None:
    """A run of DoRA in the attention and the MLP of the last two blocks, and the one that was recovered from it."""
    torch.set_num_threads(1)
    for side, count, first in (("train", 40, 0), ("val", 8, 100), ("test", 60, 200)):
        write_data(root / "data" / side, count, first=first)
    settings = {"path": root / "data", "image_size": 64, "name": "test_vit", "weights": "none", "peft": "dora"}
    train(Recipe.named(settings | {"epochs": 6, "lr": 1e-2, "blocks": 2}), root / "before")
    merge(root / "before")
    report = recover(root / "before", root / "after", steps=STEPS)
    (root / "report.json").write_text(report.model_dump_json())
    merge(root / "after")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "recovered", make)


def test_the_new_run_says_where_it_comes_from(runs: Path) -> None:
    report = RecoverReport.model_validate_json((runs / "report.json").read_text())
    before, after = Run.open(runs / "before"), Run.open(runs / "after")
    recovered = after.manifest.recovered
    assert recovered is not None
    assert recovered.trained == before.manifest.digest(TRAINED)
    assert (recovered.steps, recovered.lr) == (STEPS, pytest.approx(3e-5))
    assert (recovered.error_before, recovered.error_after) == (report.error_before, report.error_after)
    assert recovered.error_after < recovered.error_before
    assert before.manifest.recovered is None
    assert '"recovered"' not in (runs / "before" / "run.json").read_text()
    card = (runs / "after" / "trained" / "README.md").read_text()
    assert f"{STEPS} steps with int8 rounding, from the weights of another run" in card
    assert after.recipe() == before.recipe()
    assert after.entries() == before.entries()


def test_what_the_method_trains_has_moved_and_nothing_else(runs: Path) -> None:
    """The two models differ in the adapters of the last two blocks and the head, and by little."""
    states = [
        {
            name: tensor.clone()
            for name, tensor in load_artifact(Run.open(runs / name), TRAINED).module.named_parameters()
        }
        for name in ("before", "after")
    ]
    moved = {name for name, tensor in states[0].items() if not torch.equal(tensor, states[1][name])}
    assert moved
    assert all(".lora_" in name or name.startswith("head.") for name in moved), moved
    assert {name.split(".")[1] for name in moved if ".lora_" in name} == {"4", "5"}
    assert {"head.weight", "head.bias"} < moved


def test_the_quantized_network_rounds_what_the_ir_does(runs: Path) -> None:
    """Inputs of linear layers, but for the head's, and no queries, keys and values."""
    dense = load_dense(Run.open(runs / "before").require(DENSE))
    student = recovering._quantized(dense, [torch.rand(1, 3, 64, 64) for _ in range(2)])
    rounding = [name for name, module in student.named_modules() if type(module).__name__.endswith("Quantizer")]
    assert any("blocks/0/attn/qkv/" in name for name in rounding)
    assert not any("scaled_dot_product" in name or "head/" in name for name in rounding)


def int8_error(run: Run, reference: Run) -> float:
    """How far a run's INT8 model lies from another's trained one, over images that neither was trained on."""
    pre, root = run.manifest.preprocess, run.data_root()
    pixels = np.stack([load_pixels(root / entry.path, pre) for entry in run.entries("test")])
    wanted_NC = load_artifact(reference, TRAINED).logits(pixels)
    return float(np.abs(load_artifact(run, IR_INT8, compute="f32").logits(pixels) - wanted_NC).mean())


@pytest.mark.skipif(
    this_set() in WITHOUT_VNNI, reason="without VNNI sums saturate, which nothing is trained to live with"
)
def test_the_ir_of_the_new_run_lies_nearer_to_the_old_model(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = (Int8Setting(alpha=recovering.ALPHA, ranges="widest"),)
    whole = quantizing.quantize_body
    monkeypatch.setattr(quantizing, "quantize_body", lambda *given, **named: whole(*given, **named | {"settings": one}))
    before, after = Run.open(runs / "before"), Run.open(runs / "after")
    for run in (before, after):
        export(run, formats=("openvino",), precisions=("int8",))
    assert int8_error(after, before) < 0.9 * int8_error(before, before)
    report = validate(after)
    assert report.verdicts["openvino/int8"] == "proved", report.summary


def test_what_came_no_nearer_is_not_written(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovering, "LR_MULTIPLIER", 10.0)
    with pytest.raises(GateFailed, match="did not bring the int8 model closer"):
        recover(runs / "before", tmp_path / "after", steps=2)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RunError, match="--out must not exist yet"):
        recover(runs / "before", runs / "after", steps=2)
