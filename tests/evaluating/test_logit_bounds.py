from __future__ import annotations

import pytest

from ftx.core.errors import InputError
from ftx.evaluating.logit_bounds import BOUNDS, Bounds, coarsest_rounding
from ftx.runs.artifacts import ARTIFACTS, IR_FP16, IR_FP32, IR_INT8
from ftx.runs.compute_precision import F32, read_compute


def test_the_graph_bound_is_the_one_of_the_design() -> None:
    bound = BOUNDS["fp32.graph"]
    assert bound.max_abs_for(0.25) == 1e-4
    assert bound.max_abs_for(20.0) == pytest.approx(2e-3)


@pytest.mark.parametrize(
    ("row", "sound", "faulty"),
    [
        # Shares of the largest logit as measured with a trained DINOv2 ViT-S: what rounding and a resize that is one
        # grey level off do, and what the smallest fault does: 1 % on a weight, another interpolation, no mean.
        ("fp32.graph", 4.5e-6, 9e-4),
        ("fp32.files", 0.05, 0.36),
        ("fp16.graph", 1e-3, 3.5e-3),
        ("fp16.files", 0.05, 0.36),
        ("bf16.graph", 0.03, 0.41),
        ("bf16.files", 0.03 + 0.05, 0.36),
        ("int8.graph", 0.15, 0.44),
        ("int8.files", 0.15 + 0.05, 0.44),
    ],
)
def test_a_bound_lies_between_what_rounding_does_and_what_a_fault_does(row: str, sound: float, faulty: float) -> None:
    bound = BOUNDS[row].max_abs_for(1.0)
    assert bound is not None
    assert sound < bound < faulty


def test_every_bound_has_a_reason() -> None:
    assert all(len(bound.reason) > 20 for bound in BOUNDS.values())


@pytest.mark.parametrize(
    ("artifact", "compute", "rounding"),
    [
        ("dense", "f32", "fp32"),
        ("onnx", "f32", "fp32"),
        ("openvino/fp32", "f32", "fp32"),
        ("openvino/fp32", "auto:f32", "fp32"),
        ("openvino/fp32", "auto:bf16", "bf16"),
        ("openvino/fp16", "f32", "fp16"),
        ("openvino/fp16", "auto:bf16", "bf16"),
        ("openvino/fp32", "auto:f16", "bf16"),
        ("openvino/int8", "f32", "int8"),
        ("openvino/int8", "auto:bf16", "int8"),
    ],
)
def test_the_coarsest_rounding_decides(artifact: str, compute: str, rounding: str) -> None:
    assert coarsest_rounding(ARTIFACTS[artifact], read_compute(compute)) == rounding


def test_a_value_can_be_set_and_the_rest_stays() -> None:
    bounds = Bounds.of({"int8.graph.max_abs": 2.0})
    changed = bounds.pick(IR_INT8, "graph", F32)
    assert changed.max_abs_for(1000.0) == 2.0
    assert changed.cosine == BOUNDS["int8.graph"].cosine
    assert "set by the user" in changed.reason
    assert bounds.pick(IR_FP32, "graph", F32) is BOUNDS["fp32.graph"]


def test_all_values_that_are_set_hold_together() -> None:
    """Two measures of one row, and one of another, in whatever order."""
    given = {"int8.graph.max_abs": 2.0, "fp16.graph.max_share": 0.25, "int8.graph.cosine": 0.5}
    for order in (given, dict(reversed(given.items()))):
        bounds = Bounds.of(order)
        int8, fp16 = bounds.pick(IR_INT8, "graph", F32), bounds.pick(IR_FP16, "graph", F32)
        assert (int8.max_abs_for(1000.0), int8.cosine) == (2.0, 0.5)
        assert (fp16.max_abs_for(8.0), fp16.cosine) == (2.0, BOUNDS["fp16.graph"].cosine)
        assert [row for row in BOUNDS if bounds.table[row] != BOUNDS[row]] == ["fp16.graph", "int8.graph"]
    assert BOUNDS["int8.graph"].max_abs is None  # the table itself is as it was
    share_and_number = Bounds.of({"bf16.files.max_share": 0.5, "bf16.files.max_abs": 3.0}).table["bf16.files"]
    assert share_and_number.max_abs_for(1000.0) == 3.0


def test_each_view_has_its_own_row() -> None:
    bounds = Bounds.of({"int8.files.max_abs": 2.0, "bf16.graph.max_abs": 3.0})
    auto = read_compute("auto:bf16")
    assert bounds.pick(IR_INT8, "files", F32).max_abs == 2.0
    assert bounds.pick(IR_INT8, "graph", F32) is bounds.pick(IR_INT8, "one_image", F32) is BOUNDS["int8.graph"]
    for artifact in (IR_FP32, IR_FP16):
        assert bounds.pick(artifact, "graph", auto).max_abs == 3.0
        assert bounds.pick(artifact, "files", auto) is BOUNDS["bf16.files"]
    # The image path of OpenVINO is its own; of torch and ONNX Runtime it is the training's.
    assert bounds.pick(IR_FP32, "files", F32) is BOUNDS["fp32.files"]
    for name in ("trained", "dense", "onnx"):
        assert bounds.pick(ARTIFACTS[name], "files", F32) is BOUNDS["fp32.graph"]


def test_a_model_that_drops_patches_is_held_to_the_mean_cosine_or_to_what_the_user_says() -> None:
    given = Bounds.of({"fp16.graph.max_abs": 0.5})
    coarse = given.pick(IR_INT8, "graph", F32, drops_patches=True)
    assert (coarse.max_abs_for(1000.0), coarse.cosine) == (None, BOUNDS["int8.graph"].cosine)
    assert given.pick(IR_FP16, "graph", F32, drops_patches=True) is given.table["fp16.graph"]
    exact = given.pick(IR_FP32, "graph", F32, drops_patches=True)
    assert exact is BOUNDS["fp32.graph"]


def test_bounds_that_are_none_are_all_named() -> None:
    with pytest.raises(InputError) as caught:
        Bounds.of({"int8.graf.cosine": 0.9, "fp32.graph.max_abs": float("nan"), "reason": 1.0})
    text = str(caught.value)
    assert "int8.graf.cosine: unknown bound, did you mean 'int8.graph.cosine'?" in text
    assert "fp32.graph.max_abs: must be a number of 0 or more, found nan" in text
    assert "reason: unknown bound" in text
