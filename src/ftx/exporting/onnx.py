"""``onnx/model.onnx``: float32, normalised image in, logits out; for runtimes other than OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor
from torch._ops import OperatorBase
from torch.export import ExportedProgram
from torch.nn.functional import scaled_dot_product_attention

from ftx.core.errors import ExportError
from ftx.core.third_parties import quiet_third_parties
from ftx.runs.artifacts import EXPORT_IR, ONNX_FILE
from ftx.runtimes.predictor import INPUT, OUTPUTS

# 20 is the first with Gelu as one operator (18 spells it out as Div, Erf, Add, Mul, Mul), and every runtime of
# the last two years reads it. From 23 on each block has one Attention operator, which few runtimes support.
OPSET = 20

# A protobuf message ends at 2 GiB. Larger weights go to a file next to the graph; the graph itself
# takes less than the rest.
EMBEDDED_WEIGHTS_MAX_BYTES = 2**31 - 2**26

_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
_SORT = torch.ops.aten.sort.stable


def write_onnx(program: ExportedProgram, info: Mapping[str, str], folder: Path) -> None:
    """Write ``model.onnx`` and, for models above 2 GB, ``model.onnx.data`` next to it.

    Raises: ExportError if torch or ONNX's own checker fails.
    """
    path = folder / ONNX_FILE
    try:
        with quiet_third_parties():
            made = torch.onnx.export(
                _in_known_operations(program),
                dynamo=True,
                input_names=[INPUT],
                output_names=OUTPUTS[: len(program.graph_signature.user_outputs)],
                opset_version=OPSET,
                verbose=False,
            )
            if made is None:
                raise AssertionError("torch.onnx.export returns a program with dynamo=True")
            made.save(path, external_data=_weights_bytes(program) > EMBEDDED_WEIGHTS_MAX_BYTES)
        # Only the graph: weights in a separate file stay unchanged.
        model = onnx.load(path, load_external_data=False)
        _strip(model)
        _name_batch(model.graph)
        _check_opset(model)
        onnx.helper.set_model_props(model, {f"model_info {name}": value for name, value in info.items()})
        onnx.save(model, path)
        onnx.checker.check_model(path, full_check=True)
    except (torch.onnx.errors.OnnxExporterError, onnx.checker.ValidationError) as error:
        raise ExportError(
            "this model cannot be written as ONNX",
            found=str(error).partition("\n")[0],
            fix=f"export it for OpenVINO: {EXPORT_IR}",
        ) from error


def _in_known_operations(program: ExportedProgram) -> ExportedProgram:
    """The program in operations that torch's exporter supports.

    It supports attention over four dimensions: samvit's has three; hiera's, nest's and twins', with windows next to the
    heads, have five. And it does not support a stable sort.
    """
    nodes = program.graph.nodes
    others = any(node.target is _ATTENTION and node.args[0].meta["val"].ndim != 4 for node in nodes)
    table: dict[OperatorBase, Callable[..., Any]] = {_ATTENTION: _attention} if others else {}
    if any(node.target is _SORT for node in nodes):
        table[_SORT] = _stable_sort
    return program.run_decompositions(table) if table else program


def _stable_sort(x: Tensor, *, stable: bool, dim: int, descending: bool) -> tuple[Tensor, Tensor]:
    """ONNX's TopK of all is one: its specification puts the lower index first among equal numbers."""
    assert stable
    return torch.topk(x, x.shape[dim], dim, largest=descending, sorted=True)


def _attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *rest: Any, **named: Any) -> Tensor:
    """Shape: [..., tokens, width], computed as [1, all leading dimensions, tokens, width]."""
    if q.ndim == 4:
        return NotImplemented  # stays as it is
    mask = None
    if attn_mask is not None:
        mask = _as_heads(attn_mask.expand(*q.shape[:-1], k.shape[-2]))
    flat = scaled_dot_product_attention(_as_heads(q), _as_heads(k), _as_heads(v), mask, *rest, **named)
    return flat.reshape(*q.shape[:-1], v.shape[-1])


def _as_heads(tensor: Tensor) -> Tensor:
    return tensor.reshape(1, -1, *tensor.shape[-2:])


def _weights_bytes(program: ExportedProgram) -> int:
    tensors = [*program.state_dict.values(), *program.constants.values()]
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))


def _strip(model: onnx.ModelProto) -> None:
    """Remove what torch adds for its own debugging: stack traces with this machine's paths, among others."""
    graph = model.graph
    del model.metadata_props[:]
    del graph.metadata_props[:]
    model.doc_string = graph.doc_string = ""
    annotated: list[Iterable[Any]] = [graph.node, graph.input, graph.output, graph.value_info, graph.initializer]
    for items in annotated:
        for item in items:
            del item.metadata_props[:]
            item.doc_string = ""


def _name_batch(graph: onnx.GraphProto) -> None:
    """Name the free dimension ``batch``; torch names it after one of its own symbols."""
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == symbol:
                dim.dim_param = "batch"


def _check_opset(model: onnx.ModelProto) -> None:
    """Raise ExportError if torch wrote another version than the requested one, which it does without a warning."""
    found = {entry.domain: entry.version for entry in model.opset_import}
    if found != {"": OPSET}:
        raise ExportError(
            f"torch must write ONNX operator set {OPSET}",
            found=str(found),
            fix="report this as a bug in ftx, with your version of torch",
        )
