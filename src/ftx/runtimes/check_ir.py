"""What the files of an exported folder must contain, and the facts that are read from its IR."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftx.core.errors import ExportError, listed
from ftx.runs.artifacts import FLOAT_IR_FILE, FLOAT_IR_WEIGHTS, IR_FILE, IR_INT8_CHECKED, IR_WEIGHTS
from ftx.runs.card_json import REFERENCE_FILE, Card
from ftx.runtimes.compiled_network import EXPORT_AGAIN
from ftx.runtimes.predictor import LOGITS

if TYPE_CHECKING:
    import openvino


def check_complete(folder: Path, card: Card) -> None:
    """Raise ExportError unless the card has a hash of each file that the model needs."""
    needed = (IR_FILE, IR_WEIGHTS, REFERENCE_FILE)
    if card.artifact == IR_INT8_CHECKED:
        needed += (FLOAT_IR_FILE, FLOAT_IR_WEIGHTS)
    unlisted = [name for name in needed if name not in card.files]
    if unlisted:
        raise ExportError(
            "card.json must contain a hash of each file",
            where=folder,
            found=f"no hash of {', '.join(unlisted)}",
            fix=EXPORT_AGAIN,
        )


def check_ports(model: openvino.Model, path: Path) -> None:
    """Raise ExportError unless the input is images of uint8 and the first output is rows of logits."""
    inputs = [
        (str(port.get_element_type().to_string()), len(port.get_partial_shape()))
        for port in model.inputs
        if port.get_partial_shape().rank.is_static
    ]
    outputs = [len(port.get_partial_shape()) for port in model.outputs[:1] if port.get_partial_shape().rank.is_static]
    if inputs != [("u8", 4)] or len(model.inputs) != 1 or outputs != [2]:
        raise ExportError(
            "the model must take images in uint8, and its first output must be their logits",
            where=path,
            found=f"inputs {listed([str(port) for port in model.inputs])[:200] or 'none'}; "
            f"outputs {listed([str(port) for port in model.outputs])[:200] or 'none'}",
            fix=EXPORT_AGAIN,
        )


def check_width(model: openvino.Model, path: Path, labels: int) -> None:
    """Raise ExportError unless there is a logit for each label."""
    width = model.output(0).get_partial_shape()[1]
    if not width.is_static or width.get_length() != labels:
        raise ExportError(
            "the model must have a logit for each label of its card",
            where=path,
            found=f"{width} logits, {labels} labels",
            fix=EXPORT_AGAIN,
        )


def output_shapes(model: openvino.Model) -> Mapping[str, tuple[int, ...]]:
    """The shapes of the outputs, logits first; -1 is a dimension that is not known before."""
    shapes = [
        tuple(side.get_length() if side.is_static else -1 for side in port.get_partial_shape())
        for port in model.outputs
    ]
    names = [LOGITS, *(port.get_any_name() for port in model.outputs[1:])]
    return dict(zip(names, shapes, strict=True))


def model_info_of(model: Any) -> dict[str, str]:
    """The model's own metadata of its labels and preprocessing (Model API's)."""
    entries: Any = model.get_rt_info(["model_info"]).value if model.has_rt_info(["model_info"]) else None
    items = entries.items() if isinstance(entries, dict) else ()
    return {name: str(getattr(value, "value", value)) for name, value in items}
