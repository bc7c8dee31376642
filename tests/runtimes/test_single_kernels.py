"""INT8 linear layers as convolutions: bit for bit the same, where all numbers lie on the grids that they round to.

Every product, sum and bias is a multiple of 2^-6 below 2^17 of them, so no kernel rounds, in whatever order it adds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as op

from ftx.runtimes.compiled_network import core
from ftx.runtimes.single_kernels import with_convolutions

TOKENS, INPUTS, OUTPUTS = 7, 24, 40
# Of activations: 256 levels from -16 and from 0, an eighth apart.
SIGNED, UNSIGNED = (-16.0, 15.875), (0.0, 31.875)
SCALE = 0.125


def rounded(values: ov.Node, ends: tuple[float, float]) -> ov.Node:
    low, high = (np.float32(end) for end in ends)
    return op.fake_quantize(values, low, high, low, high, 256)


@dataclass(frozen=True)
class Layer:
    """W = (w - zero) s + b, w of few steps: without VNNI sums of two products have 16 bits."""

    w_OI: np.ndarray
    scale_O1: np.ndarray
    bias_O: np.ndarray
    zero: int = 0

    @staticmethod
    def drawn(seed: int, outputs: int, inputs: int, zero: int = 0) -> Layer:
        generator = np.random.default_rng(seed)
        w_OI = generator.integers(-15, 16, (outputs, inputs)).astype(np.int8)
        scale_O1 = 2.0 ** generator.integers(-3, 0, (outputs, 1)).astype(np.float32)
        return Layer(w_OI, scale_O1, (generator.integers(-64, 64, outputs) / 64).astype(np.float32), zero)

    @property
    def dense(self) -> np.ndarray:
        return (self.w_OI.astype(np.float32) - self.zero) * self.scale_O1

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        return tokens @ self.dense.T + self.bias_O

    def built(self, tokens: ov.Node, *, transposed: bool = True, half: bool = False) -> ov.Node:
        w, scale = (self.w_OI, self.scale_O1) if transposed else (self.w_OI.T, self.scale_O1.T)
        weights = op.convert(op.constant(np.ascontiguousarray(w)), np.float32)
        if self.zero:
            weights = op.subtract(weights, np.float32(self.zero))
        product = op.matmul(tokens, op.multiply(weights, np.ascontiguousarray(scale)), False, transposed)
        bias = op.convert(op.constant(self.bias_O.astype(np.float16)), np.float32) if half else self.bias_O
        return op.add(product, bias)


def answer(model: ov.Model, tokens: np.ndarray) -> np.ndarray:
    compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled([tokens], share_inputs=False)[0])


def kinds(model: ov.Model) -> Counter[str]:
    return Counter(node.get_type_name() for node in model.get_ordered_ops())


def tokens_of(shape: tuple[int, ...], ends: tuple[float, float]) -> np.ndarray:
    low, high = ends
    steps = np.random.default_rng(5).integers(0, 256, shape)
    return (low + (high - low) / 255 * steps).astype(np.float32)


def network(shape: tuple[int, ...], make: Callable[[ov.Node], ov.Node]) -> ov.Model:
    tokens = op.parameter(list(shape), np.float32, name="tokens")
    return ov.Model([make(tokens)], [tokens], "layers")


@pytest.mark.parametrize("shape", [(1, TOKENS, INPUTS), (1, 3, 5, INPUTS)])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("zero", [0, 2])
@pytest.mark.parametrize("ends", [SIGNED, UNSIGNED])
def test_a_layer_is_the_same_product(
    shape: tuple[int, ...], transposed: bool, zero: int, ends: tuple[float, float]
) -> None:
    layer = Layer.drawn(1, OUTPUTS, INPUTS, zero)
    model = network(shape, lambda tokens: layer.built(rounded(tokens, ends), transposed=transposed, half=zero > 0))
    changed = with_convolutions(model)
    assert kinds(changed)["Convolution"] == 1
    assert kinds(changed)["Convolution"] == 1
    assert not kinds(changed)["MatMul"]
    tokens = tokens_of(shape, ends)
    np.testing.assert_array_equal(answer(changed, tokens), layer(tokens))
    np.testing.assert_array_equal(answer(model, tokens), layer(tokens))  # and it was before


def test_the_second_layer_takes_what_the_first_made_as_it_lies() -> None:
    first, second = Layer.drawn(1, OUTPUTS, INPUTS), Layer.drawn(2, INPUTS, OUTPUTS)

    def mlp(tokens: ov.Node) -> ov.Node:
        hidden = op.multiply(first.built(rounded(tokens, SIGNED)), np.float32([[[SCALE] * OUTPUTS]]))
        return op.add(tokens, second.built(rounded(hidden, UNSIGNED)))

    shape = (1, TOKENS, INPUTS)
    changed = with_convolutions(network(shape, mlp))
    assert kinds(changed)["Convolution"] == 2
    assert kinds(changed)["Transpose"] == 2  # into the first, and out of the second
    tokens = tokens_of(shape, SIGNED)
    hidden = np.clip(first(tokens) * SCALE, *UNSIGNED)
    hidden = np.round(hidden / SCALE) * SCALE  # numpy and OpenVINO round halves to even
    np.testing.assert_array_equal(answer(changed, tokens), tokens + second(hidden.astype(np.float32)))


def test_gelu_goes_with_its_layer() -> None:
    layer = Layer.drawn(1, OUTPUTS, INPUTS)
    shape = (1, TOKENS, INPUTS)
    model = network(shape, lambda tokens: op.relu(op.gelu(layer.built(rounded(tokens, SIGNED)), "tanh")))
    changed = with_convolutions(model)
    order = [node.get_type_name() for node in changed.get_ordered_ops() if node.get_type_name() in ("Gelu", "Squeeze")]
    assert order == ["Gelu", "Squeeze"]
    tokens = tokens_of(shape, SIGNED)
    # The same formula in f32 by two kernels, of values up to 400. Measured 3e-5.
    np.testing.assert_allclose(answer(changed, tokens), answer(model, tokens), rtol=1e-5, atol=1e-5)


def test_layers_beside_each_other_take_one_transpose() -> None:
    layers = [Layer.drawn(seed, OUTPUTS, INPUTS) for seed in range(3)]
    shape = (1, TOKENS, INPUTS)

    def three(tokens: ov.Node) -> ov.Node:
        taken = rounded(tokens, SIGNED)
        queries, keys, values = (layer.built(taken) for layer in layers)
        return op.add(op.add(queries, keys), values)

    changed = with_convolutions(network(shape, three))
    assert kinds(changed)["Convolution"] == 3
    into = [node for node in changed.get_ordered_ops() if node.get_type_name() == "Unsqueeze"]
    assert len(into) == 1
    tokens = tokens_of(shape, SIGNED)
    np.testing.assert_array_equal(answer(changed, tokens), sum(layer(tokens) for layer in layers))


def test_what_reads_the_answer_of_a_layer_beside_its_activation_still_does() -> None:
    layer = Layer.drawn(1, OUTPUTS, INPUTS)
    shape = (1, TOKENS, INPUTS)

    def two_readers(tokens: ov.Node) -> ov.Node:
        made = layer.built(rounded(tokens, SIGNED))
        return op.add(op.relu(op.add(made, np.float32(3))), op.multiply(made, np.float32(2)))

    changed = with_convolutions(network(shape, two_readers))
    assert not kinds(changed)["MatMul"]
    tokens = tokens_of(shape, SIGNED)
    made = layer(tokens)
    np.testing.assert_array_equal(answer(changed, tokens), np.maximum(made + 3, 0) + 2 * made)


@pytest.mark.parametrize(
    ("shape", "rank"), [((1, TOKENS, 1), 3), ((TOKENS, OUTPUTS), 3), ((1, 1, OUTPUTS), 3), ((1, 1, 1, OUTPUTS), 4)]
)
def test_a_constant_of_each_token_is_added_to_the_tokens(shape: tuple[int, ...], rank: int) -> None:
    layer = Layer.drawn(1, OUTPUTS, INPUTS)
    more = np.random.default_rng(3).integers(-9, 9, shape).astype(np.float32)
    model = network((1, TOKENS, INPUTS), lambda tokens: op.add(layer.built(rounded(tokens, SIGNED)), more))
    changed = with_convolutions(model)
    assert kinds(changed)["Convolution"] == 1
    tokens = tokens_of((1, TOKENS, INPUTS), SIGNED)
    found = answer(changed, tokens)
    assert found.ndim == rank
    np.testing.assert_array_equal(found, layer(tokens) + more)


def test_what_reads_rounded_tokens_beside_a_layer_still_does() -> None:
    layer, shape = Layer.drawn(1, OUTPUTS, INPUTS), (1, TOKENS, INPUTS)

    def two_readers(tokens: ov.Node) -> ov.Node:
        taken = rounded(tokens, SIGNED)
        return op.concat([layer.built(taken), taken], 2)

    changed = with_convolutions(network(shape, two_readers))
    assert kinds(changed)["Convolution"] == 1
    tokens = tokens_of(shape, SIGNED)
    np.testing.assert_array_equal(answer(changed, tokens), np.concatenate([layer(tokens), tokens], axis=2))


def test_weights_above_zero_have_a_zero_point_a_channel() -> None:
    generator = np.random.default_rng(6)
    w_OI = generator.integers(120, 136, (OUTPUTS, INPUTS)).astype(np.uint8)
    zero_O1 = generator.integers(126, 131, (OUTPUTS, 1)).astype(np.float32)
    shape = (1, TOKENS, INPUTS)

    def one(tokens: ov.Node) -> ov.Node:
        weights = op.multiply(op.subtract(op.convert(op.constant(w_OI), np.float32), zero_O1), np.float32(SCALE))
        return op.matmul(rounded(tokens, UNSIGNED), weights, False, True)

    changed = with_convolutions(network(shape, one))
    assert kinds(changed)["Convolution"] == 1
    tokens = tokens_of(shape, UNSIGNED)
    np.testing.assert_array_equal(answer(changed, tokens), tokens @ ((w_OI - zero_O1) * np.float32(SCALE)).T)


def scaled_by_input(tokens: ov.Node) -> ov.Node:
    weights = op.multiply(
        op.convert(op.constant(np.ones((OUTPUTS, INPUTS), np.int8)), np.float32), np.ones(INPUTS, np.float32)
    )
    return op.matmul(rounded(tokens, SIGNED), weights, False, True)


def plain_weights(tokens: ov.Node) -> ov.Node:
    return op.matmul(rounded(tokens, SIGNED), Layer.drawn(1, OUTPUTS, INPUTS).dense, False, True)


def plain_tokens(tokens: ov.Node) -> ov.Node:
    return Layer.drawn(1, OUTPUTS, INPUTS).built(tokens)


def as_ever(tokens: ov.Node) -> ov.Node:
    return Layer.drawn(1, OUTPUTS, INPUTS).built(rounded(tokens, SIGNED))


@pytest.mark.parametrize(
    ("shape", "make"),
    [
        ((1, TOKENS, INPUTS), plain_weights),
        ((1, TOKENS, INPUTS), plain_tokens),
        ((1, TOKENS, INPUTS), scaled_by_input),
        ((2, TOKENS, INPUTS), as_ever),
        ((-1, TOKENS, INPUTS), as_ever),
        ((1, -1, INPUTS), as_ever),
        ((1, INPUTS), as_ever),
    ],
    ids=["float weights", "float tokens", "weights by input", "two images", "any images", "any tokens", "one token"],
)
def test_others_stay(shape: tuple[int, ...], make: Callable[[ov.Node], ov.Node]) -> None:
    model = network(shape, make)
    changed = with_convolutions(model)
    assert kinds(changed)["Convolution"] == 0
    assert kinds(changed) == kinds(model)
