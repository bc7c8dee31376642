"""``ftx export --format ovms``: a configuration that the server takes, and models that answer as those of the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

from ftx.core.errors import InputError, RunError
from ftx.exporting.ovms import export_ovms
from ftx.runs.artifacts import IR_FP32, IR_INT8
from ftx.runs.run import Run

# What the server's own check of its configuration asks for and allows (openvinotoolkit/model_server, src/schema.cpp).
TOP_KEYS = {
    "model_config_list",
    "custom_loader_config_list",
    "pipeline_config_list",
    "custom_node_library_config_list",
}
NEEDED = {"name", "base_path"}
TEXTS = {"name", "base_path", "target_device"}


def check_config(config: Any) -> None:
    assert isinstance(config, dict)
    assert "model_config_list" in config
    assert set(config) <= TOP_KEYS
    for model in config["model_config_list"]:
        assert set(model) == {"config"}
        assert set(model["config"]) >= NEEDED
        assert set(model["config"]) <= TEXTS  # others are allowed, and need checks of their own
        assert all(isinstance(model["config"][key], str) for key in model["config"])


def ask(path: Path, pixels_NHWC: np.ndarray) -> np.ndarray:
    core = ov.Core()
    # In f32 whatever the CPU has: bf16 and int8 would be the same for both as well.
    model = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return model(pixels_NHWC)[0]


@pytest.mark.parametrize("precisions", [["fp32"], ["fp32", "int8"]])
def test_the_configuration_and_the_folders(whole_run: Path, tmp_path: Path, precisions: list[str]) -> None:
    found = export_ovms(whole_run, tmp_path / "models", precisions=precisions)
    config = json.loads(Path(found.config).read_text(encoding="utf-8"))
    check_config(config)
    names = [model["config"]["name"] for model in config["model_config_list"]]
    stem = Run.open(whole_run).path.resolve().name
    if len(precisions) == 1:
        assert names == [stem, f"{stem}-bgr"]
    else:
        assert names == [f"{stem}-fp32", f"{stem}-fp32-bgr", f"{stem}-int8", f"{stem}-int8-bgr"]
    for model in config["model_config_list"]:
        version = tmp_path / "models" / model["config"]["base_path"] / "1"  # relative to the configuration
        assert sorted(path.name for path in version.iterdir()) == ["model.bin", "model.xml"]
        read = ov.Core().read_model(version / "model.xml")
        assert read.input(0).get_any_name() == "image"
        assert read.input(0).get_element_type() == ov.Type.u8
        assert read.get_parameters()[0].get_layout() == ov.Layout("NHWC")  # which encoded images need
        assert read.output(0).get_any_name() == "logits"
    served = [(one.name, one.channels, one.artifact) for one in found.models]
    artifacts = [f"openvino/{precision}" for precision in precisions for _ in range(2)]
    assert served == list(zip(names, ["rgb", "bgr"] * len(precisions), artifacts, strict=True))
    assert (found.run, found.path) == (str(whole_run), str(tmp_path / "models"))
    assert found.size_bytes == sum(path.stat().st_size for path in (tmp_path / "models").rglob("*") if path.is_file())


@pytest.mark.representative
@pytest.mark.parametrize("artifact", [IR_FP32, IR_INT8], ids=str)
def test_bgr_is_answered_as_rgb_is(whole_run: Path, tmp_path: Path, artifact: Any) -> None:
    found = export_ovms(whole_run, tmp_path / "models", precisions=[artifact.variant])
    rgb, bgr = (tmp_path / "models" / model.name / "1" / "model.xml" for model in found.models)
    generator = np.random.default_rng(0)
    for shape in ((1, 32, 32, 3), (2, 50, 70, 3)):
        pixels = generator.integers(0, 256, shape, dtype=np.uint8)
        own = ask(whole_run / str(artifact) / "model.xml", pixels)
        np.testing.assert_array_equal(ask(rgb, pixels), own)
        np.testing.assert_array_equal(ask(bgr, np.ascontiguousarray(pixels[..., ::-1])), own)
        assert np.abs(ask(bgr, pixels) - own).max() > 0.1  # the order of channels is heard at all


def test_what_is_there_stays(whole_run: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with pytest.raises(InputError, match="already exists"):
        export_ovms(whole_run, tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_an_ir_that_the_run_lacks_is_named(whole_run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no openvino/int8-weights/ yet") as raised:
        export_ovms(whole_run, tmp_path / "models", precisions=["int8-weights"])
    assert "ftx export --precision int8-weights" in str(raised.value)
    assert not (tmp_path / "models").exists()


def test_a_name_is_one_that_an_address_takes(whole_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole_run, tmp_path / "<b>my run é", symlinks=True))
    found = export_ovms(run, tmp_path / "models")
    assert [model.name for model in found.models] == ["b-my-run", "b-my-run-bgr"]
    (tmp_path / "latest").symlink_to(run)
    found = export_ovms(tmp_path / "latest", tmp_path / "again")
    assert [model.name for model in found.models] == ["b-my-run", "b-my-run-bgr"]
