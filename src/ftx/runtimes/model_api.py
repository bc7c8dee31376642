"""The metadata by which Model API (``model_api.models.Model.create_model``) opens a model and decodes as we do.

All values are strings. Booleans are written ``True`` and ``False``: ``true`` would be read as False.
Source: openvino-model-api 0.4.7, models/parameters.py and models/types.py.
"""

from __future__ import annotations

import json

from ftx.data.preprocess import Preprocess
from ftx.tasks.base import Task
from ftx.tasks.labels import Labels, spaceless_names

# Our interpolation -> Model API's name for it.
_INTERPOLATIONS = {"bicubic": "CUBIC", "bilinear": "LINEAR", "nearest": "NEAREST"}


def model_info(task: Task, pre: Preprocess, *, embedded: bool) -> dict[str, str]:
    """All keys of ``model_info``, sorted.

    ``embedded``: the graph resizes, crops and normalises by itself. Mean and scale are then left out,
    so that no reader normalises what the graph will normalise again.
    """
    labels = task.labels
    names = spaceless_names(labels.names)
    info = {
        "model_type": "Classification",
        "task_type": "classification",
        "labels": " ".join(names),
        "label_ids": " ".join(str(index) for index in range(len(labels))),
        "label_info": _label_info(labels),
        "output_raw_scores": "True",
        # ftx models take RGB; nothing is to be swapped on the way in.
        "reverse_input_channels": "False",
        "embedded_processing": str(embedded),
    }
    info |= _embedded_size(pre) if embedded else _outside_preprocessing(pre)
    return dict(sorted((info | task.model_info()).items()))


def _label_info(labels: Labels) -> str:
    """The names as the data set has them, in the form that OpenVINO Training Extensions writes and reads."""
    groups = [list(group) for group in labels.groups] + [[name] for name in labels.singles]
    return json.dumps(
        {
            "label_names": list(labels.names),
            "label_ids": [str(index) for index in range(len(labels))],
            "label_groups": groups,
        }
    )


def _embedded_size(pre: Preprocess) -> dict[str, str]:
    return {"orig_height": str(pre.height), "orig_width": str(pre.width)}


def _outside_preprocessing(pre: Preprocess) -> dict[str, str]:
    # "crop" takes the largest centre part of the network's aspect ratio and resizes it: ours exactly in
    # geometry where crop_pct is 1. Model API's own resize still differs from PIL's (0.26 of a normalised
    # unit in the mean), so this describes our preprocessing and does not equal it.
    return {
        "resize_type": "crop",
        "interpolation_mode": _INTERPOLATIONS[pre.interpolation],
        "pad_value": "0",
        "mean_values": " ".join(_level(mean) for mean in pre.mean),
        "scale_values": " ".join(_level(std) for std in pre.std),
    }


def _level(share: float) -> str:
    """A value on the 0..1 scale as one on the 0..255 scale, without digits that are only rounding."""
    return format(share * 255, ".6g")
