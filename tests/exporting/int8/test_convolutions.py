"""Convolutional networks in INT8: from images to a validated IR, most of their convolutions in 8 bits."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

import pytest
import torch
from tests.conftest import write_data

from ftx.evaluating import validate
from ftx.exporting import export
from ftx.exporting.int8.search import FINEST, NEIGHBOURS
from ftx.merging.merge_and_prove import merge
from ftx.recipe.schema import Recipe
from ftx.runs.quantize_json import QuantizeReport
from ftx.runs.run import Run
from ftx.training import train


@pytest.mark.slow
@pytest.mark.parametrize(
    # Squeeze-and-excitation works on one pixel a channel: the CPU plugin leaves those products in f32.
    ("name", "least_share"),
    # Of the rest the search may put a few back into float.
    [("resnet18", 0.8), ("mobilenetv3_small_100", 0.55)],
)
def test_a_convolutional_network_goes_from_images_to_int8(name: str, least_share: float, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    # Long enough that answers are sure: random features tell colours apart, but not by much.
    settings = {"image_size": 64, "weights": "none", "epochs": 60, "patience": 60, "lr": 1e-2, "precision": "f32"}
    data = write_data(tmp_path / "data", 20)
    recipe = Recipe.named({"path": data, "name": name, "peft": "none", "freeze_backbone": True, **settings})
    with chdir(tmp_path):
        made = Run.open(train(recipe, out=tmp_path / "run").run)
        merge(made)
        fp32, int8 = export(made, formats=["openvino"], precisions=["fp32", "int8"]).artifacts
        report = validate(made)
    assert report.ok, report.problems
    assert (fp32.preset, fp32.int8_share) == (None, None)
    assert int8.preset in ("performance", "mixed")
    assert int8.smooth_quant_alpha is None
    assert int8.int8_share is not None
    assert int8.int8_share >= least_share
    assert int8.size_bytes < 0.6 * fp32.size_bytes
    assert fp32.searched is None
    kept = QuantizeReport.model_validate_json((made.path / "reports" / "quantize.json").read_bytes())
    assert kept == int8.searched
    (chosen,) = [row for row in kept.candidates if row.chosen]
    assert (chosen.preset, chosen.smooth_quant_alpha) == (int8.preset, None)
    assert chosen.mean_abs is not None
    assert all(
        row.mean_abs is None or chosen.mean_abs * chosen.work <= row.mean_abs * row.work for row in kept.candidates
    )
    assert {row.ranges for row in kept.candidates} == {"histogram", "mean"}
    assert {row.bias_correction for row in kept.candidates} == {True}
    layers = {one.layer for one in kept.sensitivities}
    assert set(chosen.in_float) <= layers
    assert 10 < len(layers) <= FINEST * NEIGHBOURS  # the groups that gain most, each whole but for the last
    drawn = (made.path / "reports" / "quantize.svg").read_text()
    assert drawn.count(f"{chosen.setting}: {chosen.changed} of {chosen.images} labels") == 1
