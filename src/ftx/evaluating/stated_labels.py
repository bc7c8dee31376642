"""What no number shows: that an artifact names the labels, and describes the image path, as its run does.

Truth and predictions are compared as positions in the logits, so names in another order would pass every bound and
still mislead the user. The same is true of what other programs read: Model API the metadata inside a model, timm and
transformers config.json.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from ftx.data.preprocess import Pixels, Preprocess, resize_crop
from ftx.runs.artifacts import DENSE, IR_FILE, Artifact
from ftx.runs.card_json import CARD_FILE
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
    if artifact.metadata_file is not None:
        stated = predictor.model_info
        faults += _metadata_faults(artifact.metadata_file, stated, meaning, preprocess, embedded=artifact.resizes)
    if artifact == DENSE:
        faults += _dense_faults(run, meaning, preprocess)
    return [f"{artifact}: {fault}" for fault in faults]


def metadata_faults(predictor: OpenVinoPredictor) -> list[str]:
    """In words, where the model's own metadata names other labels, or another image path, than its card."""
    card = predictor.card
    return _metadata_faults(IR_FILE, predictor.model_info, card.meaning, card.preprocess, embedded=True)


# Of mean and std as the graph computes them in f32; ten times the rounding of its two products.
_SAME = 1e-5


def preprocessing_faults(predictor: OpenVinoPredictor) -> list[str]:
    """In words, where the graph resizes, crops or normalises differently from its card.

    The graph is given a black and a white image of the size that it does not resize, by which mean and std are
    known, and noise that it resizes: that may be one grey level off.
    """
    pre = predictor.preprocess
    ends_2HW3 = np.stack([np.full((*pre.box, 3), level, np.uint8) for level in (0, 255)])
    ends_23RC = predictor.normalised(ends_2HW3)
    if ends_23RC is None:
        return []
    if ends_23RC.shape[2:] != (pre.height, pre.width):
        height, width = ends_23RC.shape[2:]
        found = f"{pre.height} x {pre.width}"
        return [_differ(f"height and width in {CARD_FILE}", found, f"{height} x {width}", "model")]
    black_3, white_3 = ends_23RC.mean(axis=(2, 3), dtype=np.float64)
    std_3 = 1 / (white_3 - black_3)
    mean_3 = -black_3 * std_3
    faults = [
        _differ(f"the values of {name} in {CARD_FILE}", list(stated), np.round(found_3, 6).tolist(), "model")
        for name, stated, found_3 in (("mean", pre.mean, mean_3), ("std", pre.std, std_3))
        if not np.allclose(found_3, stated, rtol=_SAME, atol=_SAME)
    ]
    noise = _noise(pre)
    resized_13RC = predictor.normalised(np.asarray(noise)[None])
    assert resized_13RC is not None
    levels_RC3 = 255 * (resized_13RC[0] * std_3[:, None, None] + mean_3[:, None, None]).transpose(1, 2, 0)
    off = float(np.abs(levels_RC3 - resize_crop(noise, pre)).max())
    if off > 1.5:  # a level, and the rounding above
        found = f"{pre.interpolation}, {pre.resize}"
        expected = f"others, whose pixels are up to {off:.0f} grey levels off"
        faults.append(_differ(f"interpolation and resize in {CARD_FILE}", found, expected, "model"))
    return faults


def _noise(pre: Preprocess) -> Image.Image:
    """An image that both sides of a resize shrink, by a share that is no whole number. Shape: [H, W, 3]."""
    height, width = (17 * side // 10 + 3 for side in pre.box)
    pixels: Pixels = np.random.default_rng(0).integers(0, 256, (height, width + height // 3, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


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
    # It needs timm for names of architectures, and a device lacks timm.
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


def _differ(what: str, found: object, expected: object, whose: str = "run") -> str:
    return f"{what} are not the {whose}'s: {found} instead of {expected}"
