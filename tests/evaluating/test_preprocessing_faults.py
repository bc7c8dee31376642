"""A card whose image path is not that of the graph beside it: validate fails and names what differs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13 as op
from safetensors.numpy import load_file, save_file

from ftx.cli.app import run
from ftx.data.preprocess import Preprocess, normalise
from ftx.evaluating import validate
from ftx.evaluating.stated_labels import preprocessing_faults
from ftx.exporting.preprocess_graph import embed_preprocessing
from ftx.runs.card_json import REFERENCE_FILE, read_card, write_card
from ftx.runtimes.model_api import model_info
from ftx.runtimes.openvino import OpenVinoPredictor

PRE = Preprocess(16, 20, (18, 24), "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.fixture
def folder(colour_model: Any, tmp_path: Path) -> Path:
    """A graph that resizes, crops and normalises, and answers with the mean of each channel."""
    folder = Path(shutil.copytree(colour_model.folder, tmp_path / "fp32"))
    card = read_card(folder).model_copy(update={"preprocess": PRE})
    images = op.parameter([-1, 3, PRE.height, PRE.width], np.float32, name="images")
    logits = op.reduce_mean(images, np.array([2, 3]), keep_dims=False)
    logits.output(0).set_names({"logits"})
    model = embed_preprocessing(openvino.Model([logits], [images], "means"), PRE)
    for key, value in model_info(card.meaning.open(), PRE, embedded=True).items():
        model.set_rt_info(value, ["model_info", key])
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    tensors = load_file(folder / REFERENCE_FILE)
    pixels = np.random.default_rng(0).integers(0, 256, (12, PRE.height, PRE.width, 3), dtype=np.uint8)
    changed = {**tensors, "images": pixels, "logits": normalise(pixels, PRE).mean(axis=(2, 3))}
    save_file(changed, folder / REFERENCE_FILE, metadata={"paths": '["a"' + ',"a"' * 11 + "]"})
    write_card(folder, card)
    return folder


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "interpolation": ({"interpolation": "bilinear"}, "interpolation and resize"),
    "mean of red": ({"mean": (0.11, 0.2, 0.3)}, "the values of mean"),
    "mean of blue": ({"mean": (0.1, 0.2, 0.3001)}, "the values of mean"),
    "channels of mean": ({"mean": (0.3, 0.2, 0.1)}, "the values of mean"),
    "std of green": ({"std": (0.4, 0.51, 0.6)}, "the values of std"),
    "channels of std": ({"std": (0.6, 0.5, 0.4)}, "the values of std"),
    "resize to more": ({"resize": (20, 26)}, "interpolation and resize"),
    "resize to less": ({"resize": (16, 20)}, "interpolation and resize"),
    "short side for a box": ({"resize": 20}, "interpolation and resize"),
    "height": ({"height": 14}, "height and width"),
    "width": ({"width": 22}, "height and width"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_image_path_that_is_not_the_graphs_is_named(folder: Path, change: str) -> None:
    changes, said = CHANGES[change]
    write_card(folder, read_card(folder).model_copy(update={"preprocess": replace(PRE, **changes)}))
    (fault,) = preprocessing_faults(OpenVinoPredictor(folder))
    assert fault.startswith(f"{said} in card.json are not the model's: ")


def test_the_graphs_own_has_no_fault(folder: Path) -> None:
    assert preprocessing_faults(OpenVinoPredictor(folder)) == []


def test_a_graph_whose_parts_have_no_names_is_not_compared(colour_model: Any) -> None:
    assert preprocessing_faults(OpenVinoPredictor(colour_model.folder)) == []


def test_validate_fails_and_says_the_figures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert validate(folder).ok
    write_card(folder, read_card(folder).model_copy(update={"preprocess": replace(PRE, std=(0.4, 0.5, 0.7))}))
    report = validate(folder)
    assert (report.ok, report.verdicts) == (False, {"openvino/fp32": "failed"})
    assert report.problems == [
        "openvino/fp32: the values of std in card.json are not the model's: [0.4, 0.5, 0.7] instead of [0.4, 0.5, 0.6]"
    ]
    assert run(["validate", str(folder)]) == 1
    assert "the values of std in card.json are not the model's" in " ".join(capsys.readouterr().err.split())
