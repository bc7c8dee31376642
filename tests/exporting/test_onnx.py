from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
from model_api.adapters import OpenvinoAdapter
from model_api.models import Model

from ftx.exporting import export
from ftx.exporting import onnx as onnx_format
from ftx.runs.artifacts import ONNX
from ftx.runs.run import Run
from ftx.runtimes.compiled_network import core


@pytest.fixture(scope="module")
def path(exported: Any) -> Path:
    return exported.run.require(ONNX) / "model.onnx"


def answers(path: Path, images_NCHW: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": images_NCHW})[0]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_onnxruntime_answers_as_torch_at_every_batch_size(exported: Any, path: Path, count: int) -> None:
    images = exported.normalised(count)
    expected = exported.logits(images)
    np.testing.assert_allclose(answers(path, images), expected, rtol=0, atol=exported.bound(expected))


def test_the_interface_is_the_one_promised(path: Path) -> None:
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    (image,), (logits,) = model.graph.input, model.graph.output
    assert (image.name, logits.name) == ("image", "logits")
    shapes = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in (image, logits)]
    assert shapes == [["batch", 3, 32, 32], ["batch", 3]]
    assert image.type.tensor_type.elem_type == logits.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    # One operator each, where lower sets spell them out.
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Gelu") == 6
    assert operators.count("LayerNormalization") == 13
    assert "Erf" not in operators


def test_the_last_block_is_computed_for_the_class_token_alone(path: Path) -> None:
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
    tokens = [shapes[node.output[0]][1].dim_value for node in graph.node if node.op_type == "Gelu"]
    assert tokens == [5, 5, 5, 5, 5, 1]


def test_nothing_tells_where_it_was_made(path: Path, exported: Any) -> None:
    content = path.read_bytes()
    for secret in (str(Path(timm.__file__).parent), "site-packages", "stack_trace", str(exported.run.path), ".py"):
        assert secret.encode() not in content


@pytest.mark.representative
def test_another_export_is_the_same_bytes(fresh_run: Run, path: Path) -> None:
    export(fresh_run, formats=["onnx"])
    assert (fresh_run.path / "onnx" / "model.onnx").read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_weights_too_big_for_one_message_lie_beside_it(
    fresh_run: Run, exported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_format, "EMBEDDED_WEIGHTS_MAX_BYTES", 100_000)
    (artifact,) = export(fresh_run, formats=["onnx"]).artifacts
    folder = fresh_run.require(ONNX)
    assert sorted(file.name for file in folder.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert artifact.size_bytes == sum(file.stat().st_size for file in folder.iterdir())
    assert (folder / "model.onnx").stat().st_size < 500_000
    images = exported.normalised(2)
    expected = exported.logits(images)
    np.testing.assert_allclose(answers(folder / "model.onnx", images), expected, rtol=0, atol=exported.bound(expected))


def test_model_api_reads_labels_and_normalisation(exported: Any, path: Path) -> None:
    # Left to itself Model API leaves the precision to the CPU, which may choose bf16.
    pinned = {"INFERENCE_PRECISION_HINT": "f32"}
    model = Model.create_model(OpenvinoAdapter(core(), str(path), device="CPU", plugin_config=pinned))
    pixels = exported.pixels(4)
    expected = exported.logits(exported.normalised(4))
    for image, logits in zip(pixels, expected, strict=True):
        (best,) = model(image).top_labels
        assert best.id == int(logits.argmax())
        assert best.name == ("red_panda_2", "red_panda", "größe")[best.id]
        # At the network's size nothing is resized, so only the rounding of mean and scale to six digits is left.
        assert best.confidence == pytest.approx(softmax(logits)[best.id], abs=1e-4)


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max())
    return raised / raised.sum()
