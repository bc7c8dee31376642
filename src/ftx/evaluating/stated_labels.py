"""What no number shows: that an artifact names the labels, and describes the image path, as its run does.

Truth and answers are compared as positions in the logits, so names in another order would pass every bound and still
tell the user the wrong thing. The same holds of what other readers go by: Model API by the metadata inside a model,
timm and transformers by config.json.
"""

from __future__ import annotations

from collections.abc import Mapping

from ftx.data.preprocess import Preprocess
from ftx.runs.artifacts import DENSE, ONNX_FILE, Artifact
from ftx.runs.card_json import CARD_FILE, IR_FILE
from ftx.runs.run import Run
from ftx.runtimes import Predictor
from ftx.runtimes.model_api import model_info
from ftx.runtimes.openvino import OpenVinoPredictor
from ftx.tasks.output_meaning import Meaning


def identity_faults(run: Run, artifact: Artifact, predictor: Predictor) -> list[str]:
    """In words, where an artifact's own labels or image path are not the run's."""
    meaning, preprocess = run.manifest.meaning, run.manifest.preprocess
    faults: list[str] = []
    if isinstance(predictor, OpenVinoPredictor):
        if predictor.card.meaning != meaning:
            faults.append(_differ(f"the labels of {CARD_FILE}", predictor.card.meaning, meaning))
        if predictor.preprocess != preprocess:
            faults.append(_differ(f"the image path of {CARD_FILE}", predictor.preprocess, preprocess))
        faults += _metadata_faults(IR_FILE, predictor.model_info, meaning, preprocess, embedded=True)
    elif artifact.runtime == "onnx":
        # Opened by ONNX Runtime, which a device lacks.
        from ftx.runtimes.onnx import OnnxPredictor

        assert isinstance(predictor, OnnxPredictor)
        faults += _metadata_faults(ONNX_FILE, predictor.model_info, meaning, preprocess, embedded=False)
    elif artifact == DENSE:
        faults += _dense_faults(run, meaning, preprocess)
    return [f"{artifact}: {fault}" for fault in faults]


def metadata_faults(predictor: OpenVinoPredictor) -> list[str]:
    """In words, where the model's own metadata names other labels, or another image path, than its card."""
    card = predictor.card
    return _metadata_faults(IR_FILE, predictor.model_info, card.meaning, card.preprocess, embedded=True)


def _metadata_faults(
    where: str, stated: Mapping[str, str], meaning: Meaning, preprocess: Preprocess, *, embedded: bool
) -> list[str]:
    """What Model API would read otherwise. A key that an older ftx did not write says nothing; labels must be there."""
    expected = model_info(meaning.open(), preprocess, embedded=embedded)
    return [
        _differ(f"the {key} in {where}", stated.get(key, "none"), value)
        for key, value in sorted(expected.items(), key=lambda item: item[0] != "labels")
        if stated.get(key, "" if key == "labels" else value) != value
    ]


def _dense_faults(run: Run, meaning: Meaning, preprocess: Preprocess) -> list[str]:
    # Timm's names of architectures are asked for in it, and a device lacks timm.
    from ftx.runs.dense import read_dense, read_dense_config

    folder = run.folder(DENSE)
    names = tuple(read_dense_config(folder).label_names or ())
    faults = (
        [] if names == meaning.labels.names else [_differ("the labels of config.json", names, meaning.labels.names)]
    )
    own_preprocess, own_meaning = read_dense(folder)
    if own_meaning != meaning:
        faults.append(_differ("the labels of config.json", own_meaning, meaning))
    if own_preprocess != preprocess:
        faults.append(_differ("the image path of config.json", own_preprocess, preprocess))
    return faults


def _differ(what: str, found: object, expected: object) -> str:
    return f"{what} are not the run's: {found} instead of {expected}"
