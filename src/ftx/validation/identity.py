"""What no number shows: that an artifact names the labels, and describes the image path, as its run does.

Truth and answers are compared as positions in the logits, so names in another order would pass every
bound and still tell the user the wrong thing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftx.labels import spaceless_names
from ftx.run import Run
from ftx.runtimes import Predictor
from ftx.runtimes.openvino import OpenVinoPredictor
from ftx.strict_json import read_json


def identity_faults(run: Run, artifact: str, predictor: Predictor) -> list[str]:
    """In words, where an artifact's own labels or image path are not the run's."""
    faults: list[str] = []
    if isinstance(predictor, OpenVinoPredictor):
        if predictor.card.meaning != run.manifest.meaning:
            faults.append(_differ("the labels of card.json", predictor.card.meaning, run.manifest.meaning))
        if predictor.preprocess != run.manifest.preprocess:
            faults.append(_differ("the image path of card.json", predictor.preprocess, run.manifest.preprocess))
        faults += metadata_faults(predictor)
    elif artifact == "dense":
        names = _dense_names(run.path / "dense")
        if names != run.manifest.labels.names:
            faults.append(_differ("the labels of config.json", names, run.manifest.labels.names))
    return [f"{artifact}: {fault}" for fault in faults]


def metadata_faults(predictor: OpenVinoPredictor) -> list[str]:
    """In words, where the model's own metadata names other labels than its card."""
    stated = tuple(predictor.model_info.get("labels", "").split())
    expected = spaceless_names(predictor.task.labels.names)
    return [] if stated == expected else [_differ("the labels in model.xml", stated, expected)]


def _dense_names(folder: Path) -> tuple[str, ...]:
    document: Any = read_json(folder / "config.json")  # opened before, so it holds
    return tuple(str(name) for name in document.get("label_names") or ())


def _differ(what: str, found: object, expected: object) -> str:
    return f"{what} are not the run's: {found} instead of {expected}"
