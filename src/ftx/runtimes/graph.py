"""Around a node of an OpenVINO graph: what it takes, what takes it, and the constant that it is."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from ftx.core.third_parties import no_telemetry

with no_telemetry():
    import openvino as ov


def source(node: ov.Node, which: int = 0) -> ov.Node:
    """The node of one input."""
    return node.input_value(which).get_node()


def sources(node: ov.Node) -> list[ov.Node]:
    """The nodes of all inputs."""
    return [value.get_node() for value in node.input_values()]


def users(node: ov.Node) -> list[ov.Node]:
    """The nodes that take the first output, each as often as it does."""
    return [port.get_node() for port in node.output(0).get_target_inputs()]


def widened(node: ov.Node) -> ov.Node:
    """The node itself, or what it converts to another type."""
    return source(node) if node.get_type_name() == "Convert" else node


def constant(node: ov.Node) -> NDArray[np.generic] | None:
    """The values of a constant; None for another node."""
    return cast("ov.op.Constant", node).data if node.get_type_name() == "Constant" else None


def node_named(model: ov.Model, name: str) -> ov.Node | None:
    """The node of this name, if there is one."""
    return next((node for node in model.get_ordered_ops() if node.get_friendly_name() == name), None)
