"""How far the float model moves the decisions of int8 on calibration images: the bound of an int8-checked model.

Shapes: N images, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ftx.core.errors import ExportError
from ftx.core.progress import SILENT, Progress
from ftx.data.image_store import ImageLike
from ftx.evaluating.measure import file_logits
from ftx.runs.certificate_json import Certificate
from ftx.runs.machine import this_machine, this_set
from ftx.runtimes.openvino import OpenVinoPredictor, kernel_paths
from ftx.tasks.decisions import margins, movements
from ftx.tasks.thresholds import Floats


def certify(folder: Path, images: Sequence[ImageLike], source: str, progress: Progress = SILENT) -> list[Certificate]:
    """A certificate for each way in which this machine runs an int8-checked model: many images, and single ones.

    ``images`` must not have trained the model, calibrated or chosen its int8 setting. Nothing is written.
    Raises: ExportError for the folder; ImageError, DataError for an image.
    """
    found: list[Certificate] = []
    paths = kernel_paths(folder, "auto")
    with progress.track("Certifying int8", (len(paths) + 1) * len(images)) as bar:
        exact_NC = file_logits(OpenVinoPredictor(folder, part="fp32"), images, bar)
        for path in paths:
            predictor = OpenVinoPredictor(folder, kernels=path, part="int8")
            found.append(certificate_of(predictor, file_logits(predictor, images, bar), exact_NC, source))
    return found


def certificate_of(predictor: OpenVinoPredictor, logits_NC: Floats, exact_NC: Floats, source: str) -> Certificate:
    """The certificate for the int8 model as it is opened, by its logits and the float model's. Shape: [N, C] each.

    Raises: ExportError if a logit is not finite.
    """
    if not (np.isfinite(logits_NC).all() and np.isfinite(exact_NC).all()):
        raise ExportError(
            "the logits of a model must be finite",
            where=predictor.folder,
            found=f"NaN or infinity on {source}",
            fix="export another precision: --precision fp32",
        )
    task = predictor.task
    bound = max(0.0, float(movements(task, logits_NC, exact_NC).max()))
    same_N = (task.predicted(logits_NC) == task.predicted(exact_NC)).all(axis=1)
    return Certificate(
        machine=this_machine(),
        isa=this_set(),
        compute=predictor.compute,
        kernels=predictor.kernel_path,
        source=source,
        images=len(same_N),
        bound=bound,
        changed=int((~same_N).sum()),
        twice=int((margins(task, logits_NC) <= bound).sum()),
    )
