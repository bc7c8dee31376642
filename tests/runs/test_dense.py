"""A dense folder says what its images are: each side, each channel, and what is left out of a crop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from ftx.core.errors import ExportError, ModelError
from ftx.data.preprocess import Preprocess, normalise
from ftx.runs.dense import DenseConfig, load_dense, read_dense, require_fit, save_dense
from ftx.runtimes.open_model import load_folder
from ftx.tasks.labels import Labels
from ftx.tasks.output_meaning import Meaning
from ftx.tasks.thresholds import Thresholds

# No two of its numbers are alike.
PRE = Preprocess(32, 48, (36, 54), "bilinear", (0.125, 0.25, 0.375), (0.5, 0.625, 0.75))
SEVERAL = Meaning(
    task="multilabel",
    labels=Labels(("a", "b", "c"), singles=("a", "b", "c")),
    thresholds=Thresholds({"a": 0.25, "c": 0.75}, 0.5),
)


@pytest.fixture(scope="module")
def module() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", img_size=(PRE.height, PRE.width), num_classes=3).eval()


@pytest.fixture
def folder(module: torch.nn.Module, tmp_path: Path) -> Path:
    save_dense(module, DenseConfig("test_vit", SEVERAL, PRE), tmp_path)
    return tmp_path


def test_what_is_written_is_read_back(folder: Path) -> None:
    assert read_dense(folder) == (PRE, SEVERAL)


def test_the_model_is_built_for_each_side_and_answers_as_before(folder: Path, module: torch.nn.Module) -> None:
    images = torch.randn(2, 3, PRE.height, PRE.width, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(load_dense(folder)(images), module(images), rtol=0, atol=0)
    opened = load_folder(folder)
    assert opened.preprocess == PRE
    pixels = np.random.default_rng(0).integers(0, 256, (2, PRE.height, PRE.width, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = module(torch.from_numpy(normalise(pixels, PRE))).numpy()
    np.testing.assert_array_equal(opened.logits(pixels), expected)


def test_timm_reads_the_same_sides_and_channels(folder: Path) -> None:
    config = timm.create_model(f"local-dir:{folder}", pretrained=True).pretrained_cfg
    assert tuple(config["input_size"]) == (3, PRE.height, PRE.width)
    assert (tuple(config["mean"]), tuple(config["std"])) == (PRE.mean, PRE.std)
    assert config["interpolation"] == PRE.interpolation


def test_a_model_of_another_number_of_labels_is_refused(folder: Path, module: torch.nn.Module) -> None:
    require_fit(module, folder, PRE, 3)
    with pytest.raises(ExportError, match="one output per label") as caught:
        require_fit(module, folder, PRE, 4)
    assert caught.value.found == "an output of (1, 3), 4 labels"


def test_weights_of_another_network_are_refused(folder: Path, tmp_path: Path) -> None:
    other = timm.create_model("test_vit", img_size=(PRE.width, PRE.height), num_classes=2)
    (tmp_path / "other").mkdir()
    save_dense(other, DenseConfig("test_vit", None, PRE), tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").rename(folder / "model.safetensors")
    with pytest.raises(ModelError, match="must fit their architecture"):
        load_dense(folder)
