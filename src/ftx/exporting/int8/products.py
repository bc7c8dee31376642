"""The products of a network: what each multiplies, and which are rounded to 8 bits.

Legend: N images, T tokens, H heads, d width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ftx.core.third_parties import no_telemetry
from ftx.runtimes.compiled_network import core
from ftx.runtimes.graph import constant, source, sources, users

with no_telemetry():
    import openvino as ov
    from openvino import opset13 as ops

ProductKind = Literal["linear", "convolution", "attention"]
# The end of NNCF's name of what divides activations by the scales of SmoothQuant.
_SMOOTHED = "nncf_smooth_quant"
_MOVING = frozenset("Reshape Transpose Squeeze Unsqueeze Slice StridedSlice Gather Split VariadicSplit Concat".split())
# VNNI adds four products of 8 bits in the time of one of f32.
INT8_WORK = 1 / 4


@dataclass(frozen=True)
class Product:
    """A product by its name in the body, its multiplications for one image, and the fraction that 8 bits leave."""

    name: str
    kind: ProductKind
    multiplications: int
    int8_work: float = INT8_WORK


def products(body: ov.Model) -> list[Product]:
    """Every product that a body's logits need, in topological order.

    It is attention if both sides depend on the image, as queries and keys do. So linear attention without a softmax
    counts, and a softmax that only weights branches does not.
    """
    for_one = body.clone()
    for_one.reshape([1, *body.input(0).partial_shape[1:]])
    varying, extra = set(_varying(for_one)), set(only_for_maps(for_one))
    found: list[Product] = []
    for node in for_one.get_ordered_ops():
        name, kind = node.get_friendly_name(), node.get_type_name()
        if name in extra:
            continue
        if kind == "ScaledDotProductAttention":
            scores = math.prod(node.input(0).get_shape()) * node.input(1).get_shape()[-2]
            # Queries by keys, and softmax by values; NNCF quantizes only the first of the two.
            found.append(Product(name, "attention", 2 * scores, (INT8_WORK + 1) / 2))
        elif kind == "MatMul":
            both = all(one.get_friendly_name() in varying for one in sources(node))
            depth = node.input(0).get_shape()[-2 if node.get_attributes()["transpose_a"] else -1]
            count = math.prod(node.output(0).get_shape()) * depth
            found.append(Product(name, "attention" if both else "linear", count))
        elif kind in ("Convolution", "GroupConvolution"):
            weights = node.input(1).get_shape()
            per_output = math.prod(weights) // math.prod(weights[: 2 if kind == "GroupConvolution" else 1])
            found.append(Product(name, "convolution", math.prod(node.output(0).get_shape()) * per_output))
    return found


def only_for_maps(body: ov.Model) -> list[str]:
    """The names of the operations that maps need and logits do not."""
    needed: set[str] = set()
    waiting = [body.output(0).get_node()]
    while waiting:
        node = waiting.pop()
        if (name := node.get_friendly_name()) not in needed:
            needed.add(name)
            waiting += sources(node)
    operations = [node for node in body.get_ordered_ops() if node.get_type_name() not in ("Constant", "Result")]
    return [name for node in operations if (name := node.get_friendly_name()) not in needed]


def _varying(model: ov.Model) -> Iterator[str]:
    """The names of the nodes that depend on the image."""
    seen: set[str] = set()
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Parameter" or any(one.get_friendly_name() in seen for one in sources(node)):
            seen.add(node.get_friendly_name())
            yield node.get_friendly_name()


def head_of(body: ov.Model) -> str | None:
    """The name of the product that makes the logits, if it is only one."""
    node = body.output(0).get_node()
    while node.get_type_name() != "MatMul":
        variable = [one for one in sources(node) if one.get_type_name() not in ("Constant", "Convert")]
        if len(variable) != 1:
            return None
        node = variable[0]
    return node.get_friendly_name()


def quantized_products(model: ov.Model, known: Collection[str]) -> list[str]:
    """Those of the ``known`` names that have an input rounded to 8 bits."""
    return [
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if node.get_friendly_name() in known and any(_rounded(port) is not None for port in node.inputs())
    ]


def with_exact_inputs(model: ov.Model, names: Collection[str]) -> ov.Model:
    """A quantized model in which some products take activations as they are; their weights stay rounded.

    Other products of the same rounded values, as keys next to queries, still take these.
    """
    changed = model.clone()
    for node in changed.get_ordered_ops():
        for port in node.inputs() if node.get_friendly_name() in names else ():
            if (rounding := _rounded(port)) is None:
                continue
            exact = rounding.input(0).get_source_output()
            if port.get_source_output().get_node().get_friendly_name() == rounding.get_friendly_name():
                port.replace_source_output(exact)
            else:
                rounding.output(0).replace(exact)
    return changed


def only_products_rounded(model: ov.Model, names: Collection[str]) -> ov.Model:
    """A quantized model in which only products, of these ``names``, take rounded values: no sum, mean or activation."""
    changed = model.clone()
    for node in changed.get_ordered_ops():
        if node.get_friendly_name() not in names and node.get_type_name() not in _MOVING:
            for port in node.inputs():
                rounding = port.get_source_output().get_node()
                if rounding.get_type_name() == "FakeQuantize":
                    port.replace_source_output(rounding.input_value(0))
    return changed


def restored(model: ov.Model, body: ov.Model, names: Collection[str]) -> ov.Model:
    """A quantized model in which some products are those of the ``body`` again: inputs, weights and bias.

    That is what NNCF makes if it ignores them from the start, without another calibration. If smoothed values are moved
    before they reach a product, which others may share, only its inputs are exact, as by ``with_exact_inputs``.
    """
    changed = model.clone()
    exact = {node.get_friendly_name(): node for node in body.get_ordered_ops()}
    for node in changed.get_ordered_ops():
        name = node.get_friendly_name()
        if name not in names or (rounding := _rounded(node.input(0))) is None:
            continue
        given = rounding.input(0).get_source_output()
        smoothed = given.get_node().get_friendly_name().endswith(_SMOOTHED)
        if source(node).get_friendly_name() == rounding.get_friendly_name():
            node.input(0).replace_source_output(given.get_node().input_value(0) if smoothed else given)
        else:
            rounding.output(0).replace(given)
            if smoothed:
                continue
        node.input(1).replace_source_output(_computed(exact[name].input_value(1)))
        for user in users(node):
            if user.get_type_name() == "Add" and user.get_friendly_name() in exact:
                _restore_bias(user, exact[user.get_friendly_name()])
    changed.validate_nodes_and_infer_types()
    return changed


def _restore_bias(add: ov.Node, exact: ov.Node) -> None:
    """Undo the correction of a bias."""
    for corrected, given in zip(add.inputs(), exact.inputs(), strict=True):
        bias = constant(given.get_source_output().get_node())
        if bias is not None and constant(corrected.get_source_output().get_node()) is not None:
            corrected.replace_source_output(ops.constant(bias).output(0))


def _computed(value: ov.Output) -> ov.Output:
    """A constant of what a graph computes from constants."""
    known = constant(value.get_node())
    if known is None:
        result = ov.Model([ops.result(value)], [], "constant")  # pyright: ignore[reportGeneralTypeIssues]
        known = core().compile_model(result, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([])[0]
    return ops.constant(np.array(known)).output(0)


def _rounded(port: ov.Input) -> ov.Node | None:
    """What rounds the values of a port, seen through operations that only move them."""
    node = port.get_source_output().get_node()
    while node.get_type_name() in _MOVING:
        node = source(node)
    return node if node.get_type_name() == "FakeQuantize" else None


def int8_fraction(compiled: ov.CompiledModel) -> float:
    """The fraction of a compiled model's linear layers and convolutions that the CPU computes in 8 bits, in [0, 1].

    Linear layers are FullyConnected in the CPU plugin: products with constant weights.
    """
    precisions = [
        node.get_rt_info()["runtimePrecision"].astype(str)
        for node in compiled.get_runtime_model().get_ordered_ops()
        if node.get_rt_info()["layerType"].astype(str) in ("FullyConnected", "Convolution")
    ]
    return sum(precision in ("i8", "u8") for precision in precisions) / max(len(precisions), 1)
