"""ONNX Runtime on the CPU; it computes in the graph's own precision, f32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import cast

from ftx.core.errors import ExportError, ImageError
from ftx.core.third_parties import no_telemetry
from ftx.data.image_store import ImageLike
from ftx.data.preprocess import Pixels, Preprocess, load_pixels, normalise
from ftx.runs.artifacts import ONNX, ONNX_FILE, RuntimeName
from ftx.runs.compute_precision import F32
from ftx.runtimes.predictor import INPUT, LOGITS, MAPS, feed_files
from ftx.runtimes.uncertainty import Uncertainty
from ftx.tasks.base import Task
from ftx.tasks.thresholds import Floats

with no_telemetry():
    import onnxruntime


class OnnxPredictor:
    """``onnx/model.onnx``: normalised f32 images [N, 3, H, W] in, logits out.

    ``has_maps``: whether the model was exported with a map for each label.
    """

    name: RuntimeName = "onnx"
    compute = F32
    uncertainty: Uncertainty | None = None

    def __init__(self, folder: Path, preprocess: Preprocess, task: Task) -> None:
        """Open the model.

        Raises: ExportError if the file is missing or ONNX Runtime cannot read it.
        """
        self.preprocess, self.task = preprocess, task
        path = folder / ONNX_FILE
        if not path.is_file():
            raise ExportError("the folder must contain an ONNX model", where=path, fix=f"run: {ONNX.made_by}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # only errors: its warnings would come between the lines of --json
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a class for each status, all direct subclasses of Exception
            raise ExportError(
                "ONNX Runtime cannot open this model",
                where=path,
                found=str(error),
                fix=f"export it again: {ONNX.made_by}",
            ) from error

        # The keys of Model API's metadata have the prefix "model_info ".
        stated = self._session.get_modelmeta().custom_metadata_map
        self.model_info = {key.removeprefix("model_info "): value for key, value in stated.items()}
        given = [(port.name, port.type, len(port.shape)) for port in self._session.get_inputs()]
        outputs = {port.name: port.shape for port in self._session.get_outputs()}
        self.has_maps = MAPS in outputs
        sides = [port.shape[2:] for port in self._session.get_inputs()]
        if (
            given != [(INPUT, "tensor(float)", 4)]
            or sides != [[preprocess.height, preprocess.width]]
            or list(outputs.get(LOGITS, ()))[1:] != [len(task.labels)]
        ):
            raise ExportError(
                "the ONNX model must have the images and labels of its run",
                where=path,
                found=f"inputs {given} of {sides}, outputs {outputs}",
                fix=f"export it again: {ONNX.made_by}",
            )

    def logits(self, pixels_NHWC: Pixels) -> Floats:
        (logits_NC,) = self._session.run([LOGITS], {INPUT: normalise(pixels_NHWC, self.preprocess)})
        return cast("Floats", logits_NC)

    def explain(self, pixels_NHWC: Pixels) -> tuple[Floats, Floats]:
        """Logits, and the map of each label in [0, 1]. Shape: [N, H, W, 3] to [N, C] and [N, C, h, w]."""
        logits_NC, maps_NChw = self._session.run([LOGITS, MAPS], {INPUT: normalise(pixels_NHWC, self.preprocess)})
        return cast("Floats", logits_NC), cast("Floats", maps_NChw)

    def logits_from_files(self, images: Iterable[ImageLike | ImageError]) -> Iterator[Floats | ImageError]:
        """By the preprocessing of the training, as the file contains none."""
        return feed_files(images, partial(load_pixels, pre=self.preprocess), self.logits)
