"""How clearly a model that drops patches chooses them, as one more output of its graph.

Legend: N images, P patches.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from ftx.core.third_parties import no_telemetry

if TYPE_CHECKING:
    from openvino import Model, Node

with no_telemetry():
    from openvino import opset13 as op


def add_choice_margins(model: Model) -> bool:
    """Add the output, after all others; false if the model drops none.

    It is how far the score of the last patch that stays lies above that of the first that goes, as a fraction of its
    score; of several choices, the least. Shape: [N].
    """
    margins = [_margin(node) for node in model.get_ordered_ops() if _chooses(node)]
    if margins:
        model.add_results([op.result(reduce(lambda one, other: op.minimum(one, other), margins))])
    return bool(margins)


def _chooses(node: Node) -> bool:
    """Whether it sorts the scores of patches; the kept patches are sorted again, by their numbers."""
    return node.get_type_name() == "TopK" and node.get_attributes()["mode"] == "max"


def _margin(choice: Node) -> Node:
    """Of scores [N, P] in falling order, of which a slice of the first is used."""
    (used,) = choice.output(1).get_target_inputs()
    kept = used.get_node().output(0).get_partial_shape()[1].get_length()
    scores = choice.output(0)
    last_kept, first_gone = (op.gather(scores, op.constant(at), op.constant(1)) for at in (kept - 1, kept))
    return op.subtract(op.constant(np.float32(1)), op.divide(first_gone, last_kept))
