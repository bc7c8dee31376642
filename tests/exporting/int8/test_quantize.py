from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import timm
import torch
from openvino import opset13 as op
from tests.conftest import Listener

from ftx.backbones.split_network import full_model
from ftx.core.signal_stack import OFF, SignalStack
from ftx.core.statistics import PairedCounts
from ftx.data.preprocess import Preprocess
from ftx.exporting.export_source import trace
from ftx.exporting.int8.products import (
    int8_fraction,
    only_products_rounded,
    products,
    quantized_products,
    restored,
)
from ftx.exporting.int8.quantize import ATTENTION, CONVOLUTIONS, Int8Setting, compress_weights, logits_of
from ftx.exporting.int8.search import CONFIDENCE, QuantizedBody, quantize_body
from ftx.exporting.openvino import convert_body, name_canonically
from ftx.runs.machine import WITHOUT_VNNI, this_set
from ftx.runtimes.compiled_network import core

IMAGES = 40


def body(side: int = 8, labels: int = 10) -> ov.Model:
    """Three linear layers, the second fed with an outlier channel, which is what SmoothQuant is for."""
    generator = np.random.default_rng(0)
    image = op.parameter([-1, 3, side, side], np.float32, name="image")
    flat = op.reshape(image, np.array([0, -1]), special_zero=True)
    hidden = op.gelu(op.matmul(flat, weights(generator, 3 * side * side, 64), False, False), "erf")
    scale = np.ones(64, np.float32)
    scale[7] = 40
    hidden = op.gelu(op.matmul(op.multiply(hidden, scale), weights(generator, 64, 64), False, False), "erf")
    logits = op.add(op.matmul(hidden, weights(generator, 64, labels), False, False), np.ones(labels, np.float32))
    logits.output(0).set_names({"logits"})
    return ov.Model([logits], [image], "three layers")


def weights(generator: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    return (generator.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)


def images(seed: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).standard_normal((IMAGES, 1, 3, 8, 8)).astype(np.float32))


@pytest.fixture(scope="module")
def listener() -> Listener:
    return Listener()


@pytest.fixture(scope="module")
def quantized(listener: Listener) -> QuantizedBody:
    return quantize_body(body(), images(1), images(2), settings=ATTENTION, progress=listener)


def test_linear_layers_but_the_head_run_in_int8(quantized: QuantizedBody) -> None:
    assert quantized.int8_fraction == pytest.approx(2 / 3)
    assert int8_fraction(core().compile_model(body(), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})) == 0


def test_the_setting_nearest_to_f32_on_held_out_images_is_taken(quantized: QuantizedBody) -> None:
    tried = [one.setting for one in quantized.candidates]
    assert tried[:2] == list(ATTENTION)
    best = min(quantized.candidates, key=lambda one: one.mean_abs * one.work)
    assert quantized.setting == best.setting
    # They are not all the same, or the search would be for nothing.
    errors = [one.mean_abs for one in quantized.candidates]
    assert max(errors) > 1.05 * min(errors)
    # Then how ranges are taken, and whether biases are corrected, each from the best before.
    assert tried[2] == replace(min(quantized.candidates[:2], key=lambda one: one.mean_abs).setting, ranges="mean")
    best = min(quantized.candidates[:3], key=lambda one: one.mean_abs).setting
    assert tried[3] == replace(best, bias_correction=True)
    assert not any(one.bias_correction for one in tried[:3])


def test_it_answers_near_to_f32(quantized: QuantizedBody) -> None:
    batch = np.concatenate(images(3))
    exact = core().compile_model(body(), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(batch)[0]
    found = core().compile_model(quantized.model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(batch)[0]
    # The median image: with so few to calibrate with, some lie outside the range and are cut off.
    error = np.median(np.abs(found - exact).mean(axis=1))
    # 8 bits over a range of about 8 standard deviations are off by 1 % of one; two layers. Not 0, or it is f32 still.
    assert 0 < error < 0.05 * exact.std()


def test_progress_counts_every_image_of_every_pass(listener: Listener, quantized: QuantizedBody) -> None:
    assert listener.descriptions == ["Comparing int8 settings"]
    assert 0.8 * listener.total < listener.steps <= listener.total
    # SmoothQuant takes a pass of its own.
    made = [one for one in quantized.candidates if not one.setting.in_float]
    assert listener.advances.count(1) == 2 * len(made) * IMAGES


@pytest.mark.representative
@pytest.mark.parametrize("bias_correction", [True, False])
@pytest.mark.parametrize("alpha", [-1.0, 0.5])
def test_a_product_that_goes_back_into_float_is_that_of_the_float_model(alpha: float, bias_correction: bool) -> None:
    """And the others are as NNCF makes them if it ignores that product from the start."""
    given, batch = sensitive_body(), np.concatenate(images(3))
    known = {one.name for one in products(given)}
    setting = Int8Setting(alpha=alpha, bias_correction=bias_correction, ranges="widest")
    whole = quantize_body(given, images(1), images(2), settings=(setting,)).model
    rounded = quantized_products(whole, known)
    assert len(rounded) == 4

    def logits(model: ov.Model) -> np.ndarray:
        return core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(batch)[0]

    exact = logits(given)
    off = np.abs(logits(whole) - exact).max()
    assert np.abs(logits(restored(whole, given, rounded)) - exact).max() < 1e-5 * np.abs(exact).max() < off
    some = restored(whole, given, ["delicate"])
    assert set(quantized_products(some, known)) == set(rounded) - {"delicate"}
    own = quantize_body(given, images(1), images(2), settings=(replace(setting, in_float=("delicate",)),)).model
    assert np.abs(logits(some) - logits(own)).max() < 1e-5 * np.abs(exact).max()


def test_of_products_with_one_input_the_others_stay_rounded() -> None:
    """Queries, keys and values share what rounds their input; and weights may be computed from constants."""
    generator = np.random.default_rng(0)
    image = op.parameter([-1, 3, 8, 8], np.float32, name="image")
    flat = op.gelu(op.reshape(image, np.array([0, -1]), special_zero=True), "erf")
    both: list[ov.Node] = []
    for name in ("one", "two"):
        matrix = op.multiply(op.constant(weights(generator, 192, 32)), np.float32(0.5))
        product = op.matmul(flat, matrix, False, False)
        product.set_friendly_name(name)
        both.append(op.add(product, generator.standard_normal((1, 32)).astype(np.float32)))
    hidden = op.gelu(op.add(*both), "erf")
    logits = op.matmul(hidden, weights(generator, 32, 10), False, False)
    given = ov.Model([logits], [image], "two products")
    whole = quantize_body(given, images(1), images(2), settings=(Int8Setting(alpha=0.5),)).model
    assert set(quantized_products(whole, ["one", "two"])) == {"one", "two"}
    some = restored(whole, given, ["two"])
    assert quantized_products(some, ["one", "two"]) == ["one"]
    own = quantize_body(given, images(1), images(2), settings=(Int8Setting(alpha=0.5, in_float=("two",)),)).model
    batch = np.concatenate(images(3))
    found, expected = (
        core().compile_model(one, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(batch)[0] for one in (some, own)
    )
    exact = core().compile_model(given, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(batch)[0]
    # SmoothQuant's scales of the other product do not know the weights of this one.
    assert np.abs(found - expected).mean() < 0.5 * np.abs(found - exact).mean()


@pytest.mark.representative
def test_the_best_candidate_is_the_model() -> None:
    made = quantize_body(sensitive_body(), images(1), images(2))
    best = next(one for one in made.candidates if one.setting == made.setting)
    exact, found = (logits_of(model, images(2)) for model in (sensitive_body(), made.model))
    assert best.mean_abs == pytest.approx(float(np.abs(found - exact).mean()), rel=1e-5)


def faded_body() -> ov.Model:
    """A convolution whose answers are 1 but for the last bits, as at the end of untrained networks."""
    image = op.parameter([-1, 3, 8, 8], np.float32, name="image")
    kernel = (3e-7 * np.random.default_rng(0).standard_normal((4, 3, 3, 3))).astype(np.float32)
    faded = op.add(op.convolution(image, kernel, [1, 1], [1, 1], [1, 1], [1, 1]), np.ones((1, 4, 1, 1), np.float32))
    deeper = op.convolution(faded, np.full((4, 4, 3, 3), 0.1, np.float32), [1, 1], [1, 1], [1, 1], [1, 1])
    flat = op.reshape(op.relu(deeper), np.array([0, -1]), special_zero=True)
    logits = op.matmul(flat, weights(np.random.default_rng(1), 256, 10), False, False)
    return ov.Model([logits], [image], "faded")


@pytest.mark.parametrize("setting", CONVOLUTIONS)
def test_a_layer_without_a_histogram_has_a_range_all_the_same(setting: Int8Setting) -> None:
    without_vnni = this_set() in WITHOUT_VNNI  # where 8 bits of both saturate
    made = quantize_body(faded_body(), images(1), images(2), settings=(setting,), overflow_safe=without_vnni)
    found, exact = (
        core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(images(3)[0])[0]
        for model in (made.model, faded_body())
    )
    assert made.int8_fraction > 0
    # 8 bits over the range from 0 to 1: at most half of 1/255; measured 8e-4 of the largest. Weights of 7 bits: half of
    # 1/63; measured 7e-3.
    bound = 0.008 if without_vnni else 0.002
    np.testing.assert_allclose(found, exact, rtol=0, atol=bound * np.abs(exact).max())


def test_one_setting_is_not_searched_for() -> None:
    only = Int8Setting(alpha=0.5)
    made = quantize_body(body(), images(1), images(2), settings=(only,))
    assert (made.setting, made.candidates, made.sensitivities) == (only, (), ())


def attention_body() -> ov.Model:
    """Queries and keys of one matrix, multiplied without a softmax, as linear attention has it."""
    image = op.parameter([-1, 3, 8, 8], np.float32, name="image")
    tokens_NTD = op.reshape(image, np.array([0, 3, 64]), special_zero=True)
    queries_NTD = op.matmul(tokens_NTD, weights(np.random.default_rng(0), 64, 64), False, False)
    scores_NTT = op.matmul(queries_NTD, tokens_NTD, False, True)
    return ov.Model([op.reduce_mean(scores_NTT, np.array([1]))], [image], "attention")


def gated_body() -> ov.Model:
    """A softmax that weighs channels, as ResNeSt has it: no attention between positions."""
    image = op.parameter([-1, 3, 8, 8], np.float32, name="image")
    weight_N3 = op.softmax(op.reduce_mean(image, np.array([2, 3])), 1)
    gated = op.multiply(image, op.unsqueeze(weight_N3, np.array([2, 3])))
    return ov.Model([op.reduce_mean(gated, np.array([2, 3]))], [image], "gated")


def test_attention_is_known_by_its_products() -> None:
    kinds = [{one.kind for one in products(given)} for given in (attention_body(), gated_body(), body())]
    assert ["attention" in found for found in kinds] == [True, False, False]


def in_8_bits(model: ov.Model) -> list[np.ndarray]:
    """The constants of a model that are whole numbers of 8 bits, but for single ones (zero points)."""
    kinds = (ov.Type.i8, ov.Type.u8)
    return [
        node.data.astype(np.int64)
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Constant" and node.get_element_type() in kinds and node.data.size > 1000
    ]


@pytest.mark.representative
def test_safe_from_overflow_are_weights_of_seven_bits() -> None:
    """Two products of u8 and 7 bits fit into i16: 2 x 255 x 64 = 32,640."""
    settings = (Int8Setting(alpha=-1.0),)
    plain, safe = (
        in_8_bits(quantize_body(body(), images(1), images(2), settings=settings, overflow_safe=one).model)
        for one in (False, True)
    )
    searched = in_8_bits(quantize_body(body(), images(1), images(2), overflow_safe=True).model)
    assert [half.shape for half in searched] == [half.shape for half in safe]
    assert all(np.abs(half).max() <= 64 for half in searched)
    assert len(plain) == len(safe) == 2  # the head stays f32
    for whole, half in zip(plain, safe, strict=True):
        assert np.abs(whole).max() == 127
        assert 60 <= np.abs(half).max() <= 64


def test_weights_alone_are_compressed_and_the_head_is_not() -> None:
    known = body()
    compressed = compress_weights(known)
    assert len(in_8_bits(compressed)) == 2
    assert in_8_bits(known) == []  # the body is others' too
    some = np.concatenate(images(3))
    exact, found = (
        core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(some)[0]
        for model in (known, compressed)
    )
    # Of a weight a step is 1/255 of its row's range, and a logit sums 64 of them three layers deep.
    assert 0 < np.abs(exact - found).max() < 0.05 * np.abs(exact).max()


def test_the_same_body_quantizes_to_the_same_bytes(tmp_path: Path) -> None:
    contents: list[bytes] = []
    for number in range(2):
        given = body()
        name_canonically(given, "body")
        made = quantize_body(given, images(1), images(2), settings=(Int8Setting(alpha=0.5),)).model
        name_canonically(made, "body")
        path = tmp_path / f"{number}.xml"
        ov.save_model(made, path, compress_to_fp16=False)
        contents.append(path.read_bytes() + path.with_suffix(".bin").read_bytes())
    assert contents[0] == contents[1]


def test_multiplications_are_counted_as_the_network_makes_them() -> None:
    """A ViT of 2 blocks at 32 px: 4 patches and a class token, 48 wide, 3 heads, the last block for one token alone."""
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48, num_heads=3, num_classes=7)
    pre = Preprocess(32, 32, 32, "bicubic", (0.5,) * 3, (0.5,) * 3)
    known = products(convert_body(trace(full_model(vit.eval()), pre), pre, "vit"))
    tokens, width = 5, 48
    block = [tokens * width * 3 * width, 2 * tokens * tokens * width, tokens * width**2, *[4 * tokens * width**2] * 2]
    last = [tokens * width * 3 * width, 2 * tokens * width, width**2, *[4 * width**2] * 2]
    assert [one.multiplications for one in known] == [4 * 16 * 16 * 3 * width, *block, *last, width * 7]
    kinds = ["linear", "attention", "linear", "linear", "linear"]
    assert [one.kind for one in known] == ["convolution", *kinds, *kinds, "linear"]


# Without SmoothQuant, which is there for what these networks show.
PLAIN = (Int8Setting(alpha=-1.0), Int8Setting(alpha=-1.0, ranges="widest"))


def sensitive_body() -> ov.Model:
    """Like ``body``, and beside it a small product into the logits whose input has an outlier in each image."""
    generator = np.random.default_rng(0)
    plain = body()
    image, logits = plain.get_parameters()[0], plain.output(0).get_node().input(0).get_source_output()
    flat = op.reshape(image, np.array([0, -1]), special_zero=True)
    few = op.slice(flat, np.array([0]), np.array([8]), np.array([1]), np.array([1]))
    wide = op.multiply(few, np.array([500] + [1] * 7, np.float32))
    # In float the outlier meets weights of nothing; in 8 bits its step is what the other seven are made of.
    matrix = np.concatenate([np.zeros((1, 10)), generator.standard_normal((7, 10))]).astype(np.float32)
    delicate = op.matmul(wide, matrix, False, False)
    delicate.set_friendly_name("delicate")
    # twice, so that neither product is the head
    total = op.add(logits, op.relu(delicate))
    total.output(0).set_names({"logits"})
    return ov.Model([total], [image], "sensitive")


@pytest.mark.representative
def test_the_product_that_loses_most_for_its_work_goes_back_into_float() -> None:
    made = quantize_body(sensitive_body(), images(1), images(2), settings=PLAIN, max_drop=0.5)
    assert made.sensitivities[0].layer == "delicate"
    assert made.sensitivities[0].gain > 0
    assert "delicate" in made.setting.in_float
    chosen = next(one for one in made.candidates if one.setting == made.setting)
    whole = next(one for one in made.candidates if one.setting == replace(made.setting, in_float=()))
    assert chosen.mean_abs < 0.8 * whole.mean_abs
    assert whole.work < chosen.work <= 1.1 * whole.work


def residual_body() -> ov.Model:
    """Four convolutions, two of which read the same values as a sum does."""
    generator = np.random.default_rng(0)
    image = op.parameter([-1, 3, 8, 8], np.float32, name="image")

    def convolved(given: ov.Node, rows: int, columns: int, side: int, name: str) -> ov.Node:
        kernel = weights(generator, rows * side * side, columns).T.reshape(columns, rows, side, side).copy()
        ends = [side // 2] * 2
        made = op.convolution(given, op.constant(kernel), [1, 1], ends, ends, [1, 1])
        made.set_friendly_name(name)
        return made

    stem = op.relu(convolved(image, 3, 16, 3, "stem"))
    total = op.add(stem, convolved(op.relu(convolved(stem, 16, 16, 3, "first")), 16, 16, 1, "second"))
    wide = op.relu(convolved(op.relu(total), 16, 64, 1, "third"))
    mean = op.reduce_mean(wide, np.array([2, 3]), False)
    logits = op.matmul(mean, weights(generator, 64, 100), False, False)
    logits.output(0).set_names({"logits"})
    return ov.Model([logits], [image], "residual")


def test_without_other_rounding_products_that_go_back_leave_the_float_model() -> None:
    given, batch = residual_body(), np.concatenate(images(3))
    whole = quantize_body(given, images(1), images(2), settings=(Int8Setting(preset="mixed"),)).model
    names = {one.name for one in products(given)}
    only = only_products_rounded(whole, names)
    rounded = quantized_products(whole, names)
    assert quantized_products(only, names) == rounded == ["stem", "first", "second", "third"]

    def error(model: ov.Model) -> float:
        compiled = (core().compile_model(one, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}) for one in (model, given))
        found, exact = (one(batch)[0] for one in compiled)
        return float(np.abs(found - exact).max())

    assert error(only) > 0
    assert error(restored(whole, given, rounded)) > 1e-3
    assert error(restored(only, given, rounded)) < 1e-6


@pytest.mark.representative
def test_labels_that_change_beyond_the_margin_call_for_accuracy_control() -> None:
    """The products that multiply least go back first, until the labels are within the margin."""

    def made(max_drop: float) -> QuantizedBody:
        return quantize_body(
            residual_body(),
            images(1),
            images(2),
            settings=CONVOLUTIONS,
            max_drop=max_drop,
            predicted=lambda logits_NC: logits_NC > 0.02,
        )

    strict = made(1e-6)
    controlled = [one for one in strict.candidates if one.setting.accuracy_control]
    least = ["second", "stem", "third"]
    assert [list(one.setting.in_float) for one in controlled] == [least[:1], least[:2], least]
    assert strict.setting == controlled[-1].setting
    first, second, last = (one.changed for one in controlled)
    assert last < second < first
    assert [one.work for one in controlled] == sorted(one.work for one in controlled)
    # The second is enough for another margin.
    enough = made(PairedCounts(second, 0, IMAGES).drop_at_least(CONFIDENCE) + 1e-6)
    assert enough.candidates == strict.candidates[:-1]
    assert enough.setting == controlled[1].setting
    # A Core that NNCF made and dropped takes the thread's signal stack with it, and the next Ctrl-C is the last.
    after = SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(after)) == 0
    assert after.flags == OFF


@pytest.mark.representative
def test_labels_that_do_not_change_call_for_none_however_small_the_margin() -> None:
    made = quantize_body(
        body(), images(1), images(2), settings=PLAIN, max_drop=0.0, predicted=lambda logits_NC: logits_NC != logits_NC
    )
    assert {one.changed for one in made.candidates} == {0}
    assert not any(one.setting.accuracy_control for one in made.candidates)


@pytest.mark.representative
def test_attention_stays_in_float() -> None:
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48, num_heads=3, num_classes=7)
    pre = Preprocess(32, 32, 32, "bicubic", (0.5,) * 3, (0.5,) * 3)
    given = convert_body(trace(full_model(vit.eval()), pre), pre, "vit")
    some = list(np.random.default_rng(0).standard_normal((4, 1, 3, 32, 32)).astype(np.float32))
    known = products(given)
    assert {one.kind for one in known} == {"linear", "attention", "convolution"}
    for safe in (False, True):
        made = quantize_body(given, some, some, settings=(Int8Setting(alpha=0.5),), overflow_safe=safe)
        rounded = quantized_products(made.model, [one.name for one in known])
        assert {one.kind for one in known if one.name in rounded} == {"linear", "convolution"}


def test_standard_output_stays_ours(capfd: pytest.CaptureFixture[str]) -> None:
    quantize_body(body(), images(1), images(2), settings=(Int8Setting(alpha=-1.0),))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (Int8Setting(alpha=-1.0), "no SmoothQuant"),
        (Int8Setting(alpha=0.15, ranges="widest"), "SmoothQuant 0.15, widest ranges"),
        (
            Int8Setting(alpha=0.5, bias_correction=False, in_float=("a", "b")),
            "SmoothQuant 0.5, no bias correction, 2 in float",
        ),
        (Int8Setting(preset="mixed", accuracy_control=True), "mixed preset, accuracy control"),
    ],
)
def test_a_setting_says_what_it_is(setting: Int8Setting, said: str) -> None:
    assert str(setting) == said
