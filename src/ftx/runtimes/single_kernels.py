"""INT8 networks compiled for one image, with its kernels: linear layers as convolutions of 1 x 1.

oneDNN's kernels for linear layers take tokens by 64: of 257, as a ViT has at 224 px, the last one takes as long as
many others. Its kernels for convolutions do not, and on a CPU with only AVX2 they take half the time (2026.4.1;
``docs/decisions/0025-one-image.md``). They are faster only if all shapes are known: OpenVINO then moves nothing for the
transposes around a convolution, and prepares nothing again for each request.

So a model is split: its preprocessing takes any number of images of any size, its body one normalised image.

Legend: N images of H x W pixels; R and C, the rows and columns of the network's input; T tokens (or H, W of them), D
width; O outputs, I inputs of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ftx.core.third_parties import no_telemetry
from ftx.data.preprocess import Preprocess
from ftx.runs.machine import InstructionSet
from ftx.runtimes.graph import constant, node_named, source, users, widened

with no_telemetry():
    import openvino as ov
    from openvino import opset13 as ops

# The name of the normalised images in an exported model, f32 [N, 3, R, C].
NORMALISED = "normalised_images"
# Fewer tokens gain little. Time of one image in DINOv2-small with AVX512-BF16, compared with the full model: 0.86 with
# 257 tokens, 0.84 with 197, 0.97 with 145, 0.94 with 65. Several images one by one then lose much.
ENOUGH_TOKENS = 192
# With only this set convolutions take half the time of linear layers, whatever the tokens, and for many images too.
ALWAYS: InstructionSet = "avx2"
_ARITHMETIC: dict[str, Callable[[ov.Output, ov.Output], ov.Node]] = {
    "Add": ops.add,
    "Multiply": ops.multiply,
    "Subtract": ops.subtract,
}


@dataclass(frozen=True)
class ModelParts:
    """Preprocessing, u8 [N, H, W, 3] to f32 [N, 3, R, C], and a body of f32 [1, 3, R, C], or of [N, 3, R, C]."""

    preprocessing: ov.Model
    body: ov.Model


def single_parts(model: ov.Model, preprocess: Preprocess, isa: InstructionSet | None) -> ModelParts | None:
    """Split an exported model, if that makes it faster; None for others."""
    if not _may_gain(model, isa) or (front := preprocessing(model)) is None:
        return None
    body = single_body(_behind(model), (1, 3, preprocess.height, preprocess.width), isa)
    return None if body is None else ModelParts(front, body)


def device_parts(model: ov.Model, preprocess: Preprocess, *, one_image: bool) -> ModelParts | None:
    """Split an exported model for a device that is no CPU: the CPU computes its preprocessing, as it takes any size.

    The body takes batches, or with ``one_image`` one image, so that all its shapes are known. None if it has no names
    to split it by.
    """
    if (front := preprocessing(model)) is None:
        return None
    body = _behind(model)
    body.reshape([1 if one_image else -1, 3, preprocess.height, preprocess.width])
    return ModelParts(front, body)


def preprocessing(model: ov.Model) -> ov.Model | None:
    """The preprocessing of an exported model; None if its parts have no names, as in those of an early ftx.

    Shape: u8 [N, H, W, 3] to f32 [N, 3, R, C].
    """
    changed = model.clone()
    normalised = node_named(changed, NORMALISED)
    if normalised is None:
        return None
    result = [ops.result(normalised.output(0))]
    return ov.Model(result, changed.get_parameters(), "preprocessing")  # pyright: ignore[reportGeneralTypeIssues]


def single_body(body: ov.Model, shape: tuple[int, ...], isa: InstructionSet | None) -> ov.Model | None:
    """A body of known shapes, its linear layers in 8 bits as convolutions; None if it is faster as it is.

    That is so without such layers, or with few tokens.
    Shape: ``shape`` is that of the one image, [1, 3, R, C].
    """
    if not _may_gain(body, isa):
        return None
    changed = body.clone()
    changed.reshape(list(shape))
    tokens = [math.prod(linear.input_value(0).get_shape()[1:-1]) for linear in _layers_of_one_image(changed)]
    return with_convolutions(changed) if max(tokens, default=0) >= (1 if isa == ALWAYS else ENOUGH_TOKENS) else None


def _may_gain(model: ov.Model, isa: InstructionSet | None) -> bool:
    """Whether it multiplies rounded values by weights in 8 bits, by kernels that were measured.

    CPUs with AMX, or with a set that is unknown here, have other kernels for linear layers.
    """
    return isa not in (None, "amx") and any(_is_int8_linear(node) for node in model.get_ordered_ops())


def _behind(model: ov.Model) -> ov.Model:
    """The body of a model: what follows its preprocessing."""
    changed = model.clone()
    normalised = node_named(changed, NORMALISED)
    assert normalised is not None
    (image,) = changed.get_parameters()
    images = ops.parameter([-1, 3, -1, -1], ov.Type.f32, name=NORMALISED)
    normalised.output(0).replace(images.output(0))
    changed.add_parameters([images])
    changed.remove_parameter(image)
    changed.validate_nodes_and_infer_types()
    return changed


def with_convolutions(body: ov.Model) -> ov.Model:
    """The same network of one image with its INT8 linear layers as convolutions.

    The element-wise operations after a layer are computed on its image too, so that the second layer of an MLP takes
    the output of the first without a transpose.
    Shape: all shapes of the body are known, and its input has one image.
    """
    changed = body.clone()
    spatial: dict[str, ov.Output] = {}  # outputs as images instead of tokens, by the name of their node
    layers = [(linear, linear.input_value(0)) for linear in _layers_of_one_image(changed)]
    for linear, tokens in layers:
        name, rank = tokens.get_node().get_name(), len(tokens.get_partial_shape())
        if name not in spatial:  # queries, keys and values take the same
            spatial[name] = _as_image(tokens)
        weights = _of_one_pixel(source(linear, 1), transposed=_attributes(linear)["transpose_b"])
        convolution = ops.convolution(spatial[name], weights, [1, 1], [0, 0], [0, 0], [1, 1])
        convolution.set_friendly_name(linear.get_friendly_name())
        last, made = linear, convolution.output(0)
        while (follows := _next(last, made, rank)) is not None:
            last, made = follows
            spatial[last.get_name()] = made
        last.output(0).replace(_as_tokens(made, rank))
    changed.validate_nodes_and_infer_types()
    return changed


def _layers_of_one_image(body: ov.Model) -> list[ov.Node]:
    """The INT8 linear layers that are known to take the tokens of one image."""
    layers = [node for node in body.get_ordered_ops() if _is_int8_linear(node)]
    shapes = [node.input_value(0).get_partial_shape() for node in layers]
    return [
        node
        for node, shape in zip(layers, shapes, strict=True)
        if shape.is_static and len(shape) in (3, 4) and shape[0].get_length() == 1
    ]


def _is_int8_linear(node: ov.Node) -> bool:
    return (
        node.get_type_name() == "MatMul"
        and not _attributes(node)["transpose_a"]
        and source(node).get_type_name() == "FakeQuantize"
        and _is_int8(source(node, 1))
    )


def _is_int8(weights: ov.Node) -> bool:
    """Whether it is a matrix of constants in 8 bits, scaled as a whole or by channel."""
    kind = weights.get_type_name()
    if kind == "Constant":
        return weights.get_output_element_type(0) in (ov.Type.i8, ov.Type.u8) and len(weights.get_output_shape(0)) == 2
    if kind in _ARITHMETIC:
        scale = constant(widened(source(weights, 1)))
        return scale is not None and scale.ndim in (0, 2) and _is_int8(source(weights))
    return kind == "Convert" and _is_int8(source(weights))


def _of_one_pixel(weights: ov.Node, *, transposed: bool) -> ov.Output:
    """The weights of a convolution, made of the same constants. Shape: [O, I] or [I, O] to [O, I, 1, 1]."""
    values = constant(weights)
    if values is not None:
        matrix = values if transposed or values.ndim < 2 else values.T
        return ops.constant(np.ascontiguousarray(matrix[..., None, None] if matrix.ndim == 2 else matrix)).output(0)
    kind, first = weights.get_type_name(), _of_one_pixel(source(weights), transposed=transposed)
    if kind == "Convert":
        return ops.convert(first, weights.get_output_element_type(0)).output(0)
    return _ARITHMETIC[kind](first, _of_one_pixel(source(weights, 1), transposed=transposed)).output(0)


def _next(tokens: ov.Node, image: ov.Output, rank: int) -> tuple[ov.Node, ov.Output] | None:
    """The only node that takes some tokens, if it is element-wise; and the same operation on the image."""
    only = users(tokens)
    if len(only) != 1:
        return None
    (user,) = only
    kind = user.get_type_name()
    if kind == "Gelu":
        return user, ops.gelu(image, _attributes(user)["approximation_mode"]).output(0)
    if kind == "FakeQuantize" and source(user).get_name() == tokens.get_name():
        ends = [user.input_value(which) for which in range(1, 5)]
        if all(end.get_partial_shape().is_static and math.prod(end.get_shape()) == 1 for end in ends):
            of_image = [ops.reshape(end, np.array([1, 1, 1, 1]), special_zero=False) for end in ends]
            return user, ops.fake_quantize(image, *of_image, _attributes(user)["levels"]).output(0)
    if kind in ("Add", "Multiply"):
        sides = [source(user, which) for which in (0, 1)]
        others = [_of_each_channel(side, rank) for side in sides if side.get_name() != tokens.get_name()]
        if len(others) == 1 and others[0] is not None:
            return user, _ARITHMETIC[kind](image, others[0]).output(0)
    return None


def _of_each_channel(node: ov.Node, rank: int) -> ov.Output | None:
    """A constant that is the same for all tokens, shaped for an image; None if it is another node.

    Shape: [..., D] of at most the tokens' ``rank`` to [1, D, 1, 1], D as of the tokens or 1.
    """
    values = constant(widened(node))
    if values is None or values.ndim > rank or (values.size != 1 and values.shape[-1] != values.size):
        return None
    channels = ops.constant(values.reshape(1, -1, 1, 1))
    if node.get_type_name() == "Convert":
        channels = ops.convert(channels, node.get_output_element_type(0))
    return channels.output(0)


def _as_image(tokens: ov.Output) -> ov.Output:
    """Shape: [1, T, D] or [1, H, W, D] to [1, D, T, 1] or [1, D, H, W]."""
    if len(tokens.get_partial_shape()) == 3:
        tokens = ops.unsqueeze(tokens, np.array([2])).output(0)
    return ops.transpose(tokens, np.array([0, 3, 1, 2])).output(0)


def _as_tokens(image: ov.Output, rank: int) -> ov.Output:
    tokens = ops.transpose(image, np.array([0, 2, 3, 1]))
    return (ops.squeeze(tokens, np.array([2])) if rank == 3 else tokens).output(0)


def _attributes(node: ov.Node) -> dict[str, Any]:
    return node.get_attributes()
