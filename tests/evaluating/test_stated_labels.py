"""Whatever reader opens an artifact, it reads the run's labels and image path there, or the gate says where not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.gates.faults import vouch

from ftx.evaluating.stated_labels import identity_faults
from ftx.runs.artifacts import ARTIFACTS
from ftx.runs.run import Run
from ftx.runtimes import load_artifact


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_run, tmp_path / "run"))


def found(path: Path, artifact: str) -> list[str]:
    run = Run.open(path)
    return identity_faults(run, ARTIFACTS[artifact], load_artifact(run, artifact, compute="f32"))


@pytest.mark.parametrize("artifact", ["dense", "onnx", "openvino/fp32", "openvino/int8"])
def test_what_was_exported_says_what_its_run_says(run: Path, artifact: str) -> None:
    assert found(run, artifact) == []


def in_pretrained_cfg(**values: object) -> Callable[[Any], None]:
    return lambda document: document["pretrained_cfg"].update(values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda document: document["label_names"].reverse(), "the labels of config.json"),
        (lambda document: document["ftx"]["labels"]["names"].reverse(), "the labels of config.json"),
        (in_pretrained_cfg(mean=[0.4, 0.5, 0.5]), "the image path of config.json"),
        (in_pretrained_cfg(std=[0.4, 0.5, 0.5]), "the image path of config.json"),
        (in_pretrained_cfg(crop_pct=0.5), "the image path of config.json"),
        (in_pretrained_cfg(interpolation="bilinear"), "the image path of config.json"),
    ],
)
def test_a_dense_config_that_says_otherwise(run: Path, change: Callable[[Any], None], said: str) -> None:
    path = run / "dense" / "config.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    vouch(run)
    (fault,) = found(run, "dense")
    assert fault.startswith(f"dense: {said} are not the run's")


@pytest.mark.parametrize("key", ["labels", "label_info", "mean_values", "reverse_input_channels"])
def test_onnx_metadata_that_says_otherwise(run: Path, key: str) -> None:
    import onnx

    path = run / "onnx" / "model.onnx"
    model = onnx.load(path)
    (entry,) = [entry for entry in model.metadata_props if entry.key == f"model_info {key}"]
    entry.value = f"1{entry.value}" if key == "mean_values" else f"{entry.value} more"
    onnx.save(model, path)
    vouch(run)
    for artifact in ("openvino/fp32", "dense"):
        assert found(run, artifact) == []
    (fault,) = found(run, "onnx")
    assert fault.startswith(f"onnx: the {key} in model.onnx are not the run's")


@pytest.mark.parametrize("key", ["labels", "label_info", "orig_height", "embedded_processing"])
def test_metadata_of_an_ir_that_says_otherwise(run: Path, key: str) -> None:
    path = run / "openvino/fp32" / "model.xml"
    text = path.read_text()
    start = text.index(f"<{key} value=") + len(f"<{key} value=") + 1
    path.write_text(f"{text[:start]}x{text[start:]}")
    vouch(run)
    (fault,) = found(run, "openvino/fp32")
    assert fault.startswith(f"openvino/fp32: the {key} in model.xml are not the run's")
