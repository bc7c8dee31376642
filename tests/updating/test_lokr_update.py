"""The whole way of a LoKr adapter: trained, merged with proof, exported, and merged on a device into the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.conftest import write_data

from ftx.evaluating import validate
from ftx.exporting import export
from ftx.exporting.base_ir import export_base, export_update
from ftx.merging.merge_and_prove import merge
from ftx.recipe.schema import Recipe
from ftx.runs.run import Run
from ftx.training import train
from ftx.updating.apply import apply


@pytest.mark.representative
def test_a_device_makes_the_servers_bytes_of_lokr(tmp_path: Path) -> None:
    write_data(tmp_path / "data", 12)
    tiny = {"name": "test_vit", "weights": "none", "image_size": 32, "epochs": 2, "batch_size": 8, "precision": "f32"}
    lokr = {"path": tmp_path / "data", "peft": "lokr", "blocks": "all", "rank": 3, "lr": 0.03, "augment": "none"}
    report = train(Recipe.named(tiny | lokr), tmp_path / "run")
    assert report.method == "lokr"
    factors = load_file(tmp_path / "run" / "trained" / "adapter_model.safetensors")
    assert all(np.abs(factor).max() > 0 for factor in factors.values())  # w1 began at zero
    merged = merge(tmp_path / "run")
    assert len(merged.layers) == 24  # four in each of six blocks
    assert merged.max_relative_error <= merged.layer_bound
    export(tmp_path / "run", formats=["openvino"], precisions=["fp32"])
    assert validate(tmp_path / "run").ok
    export_base(tmp_path / "run", tmp_path / "base")
    export_update(tmp_path / "run", tmp_path / "update", tmp_path / "base")
    assert apply(tmp_path / "update", tmp_path / "base", tmp_path / "out").exact
    made, expected = (folder / "model.bin" for folder in (tmp_path / "out", tmp_path / "run" / "openvino" / "fp32"))
    assert made.read_bytes() == expected.read_bytes()
    assert "LoKr" in (Run(tmp_path / "run").path / "trained" / "README.md").read_text()
