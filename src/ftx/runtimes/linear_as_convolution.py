"""INT8 linear layers as convolutions of 1 x 1, the tokens of one image as an image of their own.

oneDNN's kernels for linear layers take tokens by 64: of 257, as a ViT has at 224 px, the last one takes as long as
many others. Its kernels for convolutions do not, and on a CPU with AVX2 alone they take half the time (2026.4.1;
``docs/decisions/0025-one-image.md``).

It pays where all shapes are known: OpenVINO then moves nothing for the transposes around a convolution.

Legend: T tokens (or H, W of them), D width, O outputs, I inputs of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from ftx.core.third_parties import no_telemetry

with no_telemetry():
    import openvino as ov
    from openvino import opset13 as ops

_ARITHMETIC: dict[str, Callable[[ov.Output, ov.Output], ov.Node]] = {
    "Add": ops.add,
    "Multiply": ops.multiply,
    "Subtract": ops.subtract,
}


def has_int8_linear_layers(model: ov.Model) -> bool:
    """Whether it multiplies rounded values by weights in 8 bits, of whatever shape."""
    return any(_is_int8_linear(node) for node in model.get_ordered_ops())


def most_tokens(body: ov.Model) -> int:
    """How many tokens of one image the INT8 linear layer with most of them takes; 0 without such a layer."""
    shapes = [list(node.input_value(0).get_shape()) for node in body.get_ordered_ops() if _is_single(node)]
    return max((math.prod(shape[1:-1]) for shape in shapes), default=0)


def with_convolutions(body: ov.Model) -> tuple[ov.Model, int]:
    """The same network of one image with its INT8 linear layers as convolutions, and how many these are.

    What follows a layer number by number goes with it, so that the second of an MLP takes what the first one made as it
    lies.
    Shape: all shapes of the body are known, and its input has one image.
    """
    changed = body.clone()
    spatial: dict[str, ov.Output] = {}  # of an output as tokens the same as an image, by the name of its node
    layers = [(linear, linear.input_value(0)) for linear in changed.get_ordered_ops() if _is_single(linear)]
    for linear, tokens in layers:
        name, rank = tokens.get_node().get_name(), len(tokens.get_partial_shape())
        if name not in spatial:  # queries, keys and values take the same
            spatial[name] = _as_image(tokens)
        weights = _of_one_pixel(_source(linear, 1), transposed=_attributes(linear)["transpose_b"])
        convolution = ops.convolution(spatial[name], weights, [1, 1], [0, 0], [0, 0], [1, 1])
        convolution.set_friendly_name(linear.get_friendly_name())
        last, made = linear, convolution.output(0)
        while (follows := _next(last, made, rank)) is not None:
            last, made = follows
            spatial[last.get_name()] = made
        last.output(0).replace(_as_tokens(made, rank))
    changed.validate_nodes_and_infer_types()
    return changed, len(layers)


def _is_int8_linear(node: ov.Node) -> bool:
    return (
        node.get_type_name() == "MatMul"
        and not _attributes(node)["transpose_a"]
        and _source(node, 0).get_type_name() == "FakeQuantize"
        and _is_int8(_source(node, 1))
    )


def _is_single(node: ov.Node) -> bool:
    """Whether it is such a layer, of tokens that are known to be those of one image."""
    if not _is_int8_linear(node):
        return False
    shape = node.input_value(0).get_partial_shape()
    return shape.is_static and len(shape) in (3, 4) and shape[0].get_length() == 1


def _is_int8(weights: ov.Node) -> bool:
    """Whether it is a matrix of constants in 8 bits, scaled as a whole or by channel."""
    kind = weights.get_type_name()
    if kind == "Constant":
        return weights.get_output_element_type(0) in (ov.Type.i8, ov.Type.u8) and len(weights.get_output_shape(0)) == 2
    if kind in _ARITHMETIC:
        by_what = _source(weights, 1)
        by_what = _source(by_what, 0) if by_what.get_type_name() == "Convert" else by_what
        shape = list(by_what.get_output_shape(0)) if by_what.get_type_name() == "Constant" else None
        return shape is not None and len(shape) in (0, 2) and _is_int8(_source(weights, 0))
    return kind == "Convert" and _is_int8(_source(weights, 0))


def _of_one_pixel(weights: ov.Node, *, transposed: bool) -> ov.Output:
    """Weights as a convolution takes them, made of the same constants. Shape: [O, I] or [I, O] to [O, I, 1, 1]."""
    kind = weights.get_type_name()
    if kind == "Constant":
        values = np.array(cast("ov.op.Constant", weights).data)
        if values.ndim < 2:
            return ops.constant(values).output(0)
        return ops.constant(np.ascontiguousarray(values if transposed else values.T)[..., None, None]).output(0)
    first = _of_one_pixel(_source(weights, 0), transposed=transposed)
    if kind == "Convert":
        return ops.convert(first, weights.get_output_element_type(0)).output(0)
    return _ARITHMETIC[kind](first, _of_one_pixel(_source(weights, 1), transposed=transposed)).output(0)


def _next(tokens: ov.Node, image: ov.Output, rank: int) -> tuple[ov.Node, ov.Output] | None:
    """What alone takes some tokens, if it does the same to each number of a channel; and that done to the image."""
    users = [port.get_node() for port in tokens.output(0).get_target_inputs()]
    if len(users) != 1:
        return None
    (user,) = users
    kind = user.get_type_name()
    if kind == "Gelu":
        return user, ops.gelu(image, _attributes(user)["approximation_mode"]).output(0)
    if kind == "FakeQuantize" and _source(user, 0).get_name() == tokens.get_name():
        ends = [user.input_value(which) for which in range(1, 5)]
        if all(end.get_partial_shape().is_static and math.prod(end.get_shape()) == 1 for end in ends):
            of_image = [ops.reshape(end, np.array([1, 1, 1, 1]), special_zero=False) for end in ends]
            return user, ops.fake_quantize(image, *of_image, _attributes(user)["levels"]).output(0)
    if kind in ("Add", "Multiply"):
        sides = [_source(user, which) for which in (0, 1)]
        others = [_of_each_channel(side, rank) for side in sides if side.get_name() != tokens.get_name()]
        if len(others) == 1 and others[0] is not None:
            return user, _ARITHMETIC[kind](image, others[0]).output(0)
    return None


def _of_each_channel(node: ov.Node, rank: int) -> ov.Output | None:
    """A constant that is the same for all tokens, as an image takes it; None if it is another node.

    Shape: [..., D] of at most the tokens' ``rank`` to [1, D, 1, 1], D as of the tokens or 1.
    """
    if node.get_type_name() == "Convert":
        inner = _of_each_channel(_source(node, 0), rank)
        return None if inner is None else ops.convert(inner, node.get_output_element_type(0)).output(0)
    if node.get_type_name() != "Constant":
        return None
    values = np.array(cast("ov.op.Constant", node).data)
    is_of_channels = values.ndim <= rank and (values.size == 1 or values.shape[-1] == values.size)
    return ops.constant(values.reshape(1, -1, 1, 1)).output(0) if is_of_channels else None


def _as_image(tokens: ov.Output) -> ov.Output:
    """Shape: [1, T, D] or [1, H, W, D] to [1, D, T, 1] or [1, D, H, W]."""
    if len(tokens.get_partial_shape()) == 3:
        tokens = ops.unsqueeze(tokens, np.array([2])).output(0)
    return ops.transpose(tokens, np.array([0, 3, 1, 2])).output(0)


def _as_tokens(image: ov.Output, rank: int) -> ov.Output:
    tokens = ops.transpose(image, np.array([0, 2, 3, 1]))
    return (ops.squeeze(tokens, np.array([2])) if rank == 3 else tokens).output(0)


def _source(node: ov.Node, which: int) -> ov.Node:
    return node.input_value(which).get_node()


def _attributes(node: ov.Node) -> dict[str, Any]:
    return node.get_attributes()
