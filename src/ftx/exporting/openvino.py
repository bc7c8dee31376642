"""``openvino/{fp32,fp16,int8}/model.xml``: the IR, with its preprocessing and Model API's metadata.

The body (f32 [N, 3, H, W] -> logits) is converted, compressed or quantized first; the preprocessing is
put before it last, so that neither changes it.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from pathlib import Path

from torch.export import ExportedProgram

from ftx.core.errors import ExportError
from ftx.core.third_parties import no_telemetry, quiet_third_parties
from ftx.data.preprocess import Preprocess
from ftx.runs.artifacts import IR_FILE, ONNX
from ftx.runs.card_json import Card
from ftx.runtimes.model_api import model_info
from ftx.runtimes.predictor import INPUT, OUTPUTS
from ftx.runtimes.single_kernels import NORMALISED

with no_telemetry():
    import openvino as ov
    from openvino.frontend import OpConversionFailure

    from ftx.exporting.preprocess_graph import embed_preprocessing
    from ftx.exporting.separate_qkv import separate_qkv

# A per-process or per-graph counter at the end of a name or of a part of it: Constant_123, linear_4/MatMul.
_COUNTER = re.compile(r"_\d+(?=/|$)")


def convert_body(program: ExportedProgram, pre: Preprocess, name: str) -> ov.Model:
    """The traced model as an OpenVINO model in f32, without preprocessing.

    Its weights are in the traced model's memory, which must live as long.
    Shape: normalised f32 [N, 3, H, W] -> logits [N, C], N free.
    Raises: ExportError if OpenVINO has no counterpart of an operation.
    """
    try:
        with quiet_third_parties(), no_telemetry():
            body = ov.convert_model(program, input=[ov.PartialShape([-1, 3, pre.height, pre.width])])
    except (RuntimeError, OpConversionFailure) as error:
        # Its last line names the operations.
        raise ExportError(
            "OpenVINO cannot convert this model",
            found=str(error).strip().split("\n")[-1],
            fix=f"export it as ONNX: {ONNX.made_by}",
        ) from error
    name_canonically(body, name)
    return body


def compress_to_fp16(body: ov.Model, scratch: Path) -> ov.Model:
    """The same body with its weights in float16; they are widened again when the model is compiled.

    OpenVINO compresses while it saves, so the body goes through a folder below ``scratch``. The
    preprocessing is put before it afterwards and keeps its mean and scale in f32.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        path = Path(folder) / IR_FILE
        ov.save_model(body, path, compress_to_fp16=True)
        # Read into memory and not mapped, as the file goes away.
        return ov.Core().read_model(path, config={"ENABLE_MMAP": False})


def write_ir(body: ov.Model, card: Card, folder: Path) -> None:
    """Put the preprocessing of a card before a body, and write ``model.xml`` and ``model.bin``.

    Shape: the model written takes u8 [N, H, W, 3], RGB, any H and W.
    """
    model = embed_preprocessing(separate_qkv(body), card.preprocess)
    name_canonically(model, card.architecture)
    for key, value in model_info(card.meaning.open(), card.preprocess, embedded=True).items():
        model.set_rt_info(value, ["model_info", key])
    # What should be float16 already is; the default would halve the rest too.
    ov.save_model(model, folder / IR_FILE, compress_to_fp16=False)


def name_canonically(model: ov.Model, name: str) -> None:
    """Name the model and every node by its place, in place.

    OpenVINO numbers nodes through the life of the process (``Constant_9173``); here a name loses its numbers, and is
    numbered again in topological order. Only the input's and the outputs' tensors keep a name, ``image``, ``logits``
    and those of maps. The normalised images keep their node's.
    """
    assert len(model.outputs) in (1, len(OUTPUTS))
    model.set_friendly_name(name)
    seen: Counter[str] = Counter()
    for node in model.get_ordered_ops():
        stem = _COUNTER.sub("", node.get_friendly_name())
        node.set_friendly_name(stem if stem == NORMALISED else f"{stem}_{seen[stem]}")
        seen[stem] += 1
        for output in node.outputs():
            output.get_tensor().set_names(set())
    for port, tensor in ((model.input(0), INPUT), *zip(model.outputs, OUTPUTS, strict=False)):
        port.get_tensor().set_names({tensor})
        port.get_node().set_friendly_name(tensor)
