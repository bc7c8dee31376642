"""The constants of an OpenVINO model, read and replaced by name.

Replaced ones keep their names, so that the file that is written is the one that a server's export would write.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ftx.core.errors import ExportError
from ftx.core.third_parties import no_telemetry
from ftx.runs.artifacts import IR_FILE
from ftx.runtimes.compiled_network import core

with no_telemetry():
    import openvino as ov
    from openvino import opset15 as ops

Floats = NDArray[np.float32] | NDArray[np.float16]


class ConstantsOf:
    """An IR whose constants can be read and replaced, and that is written with other labels."""

    def __init__(self, folder: Path) -> None:
        """Read the model; its weights stay in the file until they are asked for.

        Raises: ExportError if OpenVINO refuses it.
        """
        self._path = folder / IR_FILE
        try:
            self._model = core().read_model(self._path)
        except RuntimeError as error:
            raise ExportError(
                "OpenVINO cannot open this model", where=self._path, found=str(error), fix="copy it again"
            ) from error
        self._nodes = {
            node.get_friendly_name(): node
            for node in self._model.get_ordered_ops()
            if node.get_type_name() == "Constant"
        }

    def __getitem__(self, name: str) -> Floats:
        """The values of one constant, f32 or f16.

        Raises: ExportError if there is none of this name.
        """
        if name not in self._nodes:
            raise ExportError("the card names a constant that the model lacks", where=self._path, found=name)
        values: Floats = self._nodes[name].data
        return values

    def replace(self, name: str, values: NDArray[np.generic]) -> None:
        """Put other values, which may have another shape, in a constant's place, in its own type."""
        old = self._nodes[name]
        new = ops.constant(np.ascontiguousarray(values.astype(self[name].dtype)))
        new.set_friendly_name(name)
        for consumer in old.output(0).get_target_inputs():
            consumer.replace_source_output(new.output(0))
        self._nodes[name] = new

    def save(self, folder: Path, model_info: Mapping[str, str]) -> None:
        """Write ``model.xml`` and ``model.bin`` with this metadata of Model API.

        Raises: ExportError if the new shapes do not go together.
        """
        try:
            self._model.validate_nodes_and_infer_types()
        except RuntimeError as error:
            raise ExportError(
                "the adapter's head does not fit this model", where=self._path, found=str(error).strip()[:200]
            ) from error
        for key, value in model_info.items():
            self._model.set_rt_info(value, ["model_info", key])
        ov.save_model(self._model, folder / IR_FILE, compress_to_fp16=False)
