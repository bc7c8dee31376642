"""Queries, keys and values by three products, as OpenVINO's fused attention takes them.

timm computes them by one linear layer and separates its outputs by a transpose of five dimensions, which OpenVINO runs
in each block; and it scales the keys. The outputs of three layers are in the order that the fused attention reads, and
the scale goes into the weights of the queries. On disk the weights stay one constant, so that what adapters change
keeps its name; it is split when the model is compiled.

Legend: N images (or windows), T tokens, H heads, d width of a head, D = H d.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ftx.core.third_parties import no_telemetry
from ftx.runtimes.graph import constant, source, users, widened

with no_telemetry():
    import openvino as ov
    from openvino import opset13 as ops
    from openvino.passes import ConstantFolding, Manager

_HEADS_FIRST = [2, 0, 3, 1, 4]  # [N, T, 3, H, d] to [3, N, H, T, d]


def separate_qkv(body: ov.Model) -> ov.Model:
    """The same network with three products where one makes queries, keys and values for fused attention.

    The scale rounds nothing if 1 / sqrt(d) is a power of two, as with a d of 64. A network that separates them in
    another way does not change.
    """
    changed = body.clone()
    for joined in list(_joined(changed)):
        joined.separate()
    changed.validate_nodes_and_infer_types()
    return changed


def with_split_weights(body: ov.Model) -> ov.Model:
    """The same network, its weights split as compiling splits them: NNCF needs constants."""
    changed = body.clone()
    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(changed)
    return changed


@dataclass(frozen=True)
class _JoinedProduct:
    """A product of all queries, keys and values, its bias, and what each third of it is used as: [N, H, T, d]."""

    product: ov.Node
    bias: ov.Node
    heads: int
    width: int
    thirds: tuple[ov.Node, ov.Node, ov.Node]

    def separate(self) -> None:
        """Put three products in its place."""
        transposed: bool = self.product.get_attributes()["transpose_b"]
        weights = ops.split(self.product.input_value(1), np.int64(0 if transposed else 1), 3)
        biases = ops.split(self.bias.input_value(1), np.int64(-1), 3)
        name = self.product.get_friendly_name()
        # The constants that they are split into are named after them: a name without a counter of this process.
        weights.set_friendly_name(f"{name}/weights")
        biases.set_friendly_name(f"{name}/biases")
        attention = _scaled_by(self.thirds[0])
        for which, third in enumerate(self.thirds):
            weight, bias = weights.output(which), biases.output(which)
            if which == 0 and attention is not None:
                scale = np.float32(self.width**-0.5)
                weight, bias = ops.multiply(weight, scale).output(0), ops.multiply(bias, scale).output(0)
            product = ops.matmul(self.product.input_value(0), weight, transpose_a=False, transpose_b=transposed)
            joined_NTD = ops.add(product, bias)
            split_NTHd = ops.reshape(joined_NTD, np.array([0, 0, self.heads, self.width]), special_zero=True)
            third.output(0).replace(ops.transpose(split_NTHd, np.array([0, 2, 1, 3])).output(0))
            product.set_friendly_name(f"{name}/{'qkv'[which]}")
        if attention is not None:
            plain = ops.scaled_dot_product_attention(
                *(attention.input_value(which) for which in range(3)), np.float32(0), np.float32(1)
            )
            plain.set_friendly_name(attention.get_friendly_name())
            attention.output(0).replace(plain.output(0))


def _joined(model: ov.Model) -> Iterator[_JoinedProduct]:
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Transpose" or _integers(node, 1) != _HEADS_FIRST:
            continue
        split = source(node)
        shape = split.output(0).get_partial_shape()
        if split.get_type_name() != "Reshape" or len(shape) != 5 or any(shape[axis].is_dynamic for axis in (2, 3, 4)):
            continue
        bias, heads, width = source(split), shape[3].get_length(), shape[4].get_length()
        product = source(bias)
        thirds = _thirds(node)
        if (
            thirds is not None
            and any(user.get_type_name() == "ScaledDotProductAttention" for user in users(thirds[1]))
            and bias.get_type_name() == "Add"
            and product.get_type_name() == "MatMul"
            and len(product.output(0).get_partial_shape()) == 3
            and all(constant(widened(source(one, 1))) is not None for one in (product, bias))
            and bias.input_value(1).get_shape()[-1] == 3 * heads * width
        ):
            yield _JoinedProduct(product, bias, heads, width, thirds)


def _thirds(transpose: ov.Node) -> tuple[ov.Node, ov.Node, ov.Node] | None:
    """What takes the first, second and third of its outputs, without the dimension that separates them."""
    found: dict[int, ov.Node] = {}
    for sliced in users(transpose):
        takers = users(sliced)
        if sliced.get_type_name() != "Slice" or len(takers) != 1 or takers[0].get_type_name() != "Squeeze":
            return None
        start, stop, step, axis = (_integers(sliced, which) for which in range(1, 5))
        if axis != [0] or step != [1] or start is None or stop != [start[0] + 1]:
            return None
        found[start[0]] = takers[0]
    return (found[0], found[1], found[2]) if sorted(found) == [0, 1, 2] else None


def _scaled_by(queries: ov.Node) -> ov.Node | None:
    """The attention that scales the queries, if nothing else takes them (or some of them)."""
    takers = users(queries)
    while len(takers) == 1 and takers[0].get_type_name() == "Slice":
        takers = users(takers[0])
    if (
        len(takers) == 1
        and takers[0].get_type_name() == "ScaledDotProductAttention"
        and takers[0].get_input_size() == 3
    ):
        return takers[0]
    return None


def _integers(node: ov.Node, which: int) -> list[int] | None:
    """The values of a constant input."""
    values = constant(source(node, which))
    return None if values is None else values.reshape(-1).tolist()
