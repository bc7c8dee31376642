"""What does not answer as the trained model did never gets its name: not in place of an older one either."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ftx.core.errors import GateFailed
from ftx.core.files import sha256_file
from ftx.data.dataset import Entry
from ftx.exporting import export
from ftx.exporting.chosen_images import CALIBRATION_IMAGES, CHOOSING_IMAGES, calibration_images
from ftx.runs.artifacts import IR_FP16, Format
from ftx.runs.run import Run


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def altered(whole_run: Path, tmp_path: Path) -> Path:
    """A run whose dense model is not what was trained, though its hash holds: a merge that went wrong."""
    run = Path(shutil.copytree(whole_run, tmp_path / "run"))
    path = run / "dense" / "model.safetensors"
    tensors = load_file(path)
    tensors["blocks.5.mlp.fc1.weight"] *= np.float32(1.01)
    save_file(tensors, path, metadata={"format": "pt"})
    document = json.loads((run / "run.json").read_text())
    document["files"]["dense/model.safetensors"] = sha256_file(path)
    (run / "run.json").write_text(json.dumps(document))
    return run


@pytest.mark.parametrize(
    ("form", "artifact"),
    [
        pytest.param("openvino", "openvino/fp32", marks=pytest.mark.representative),
        pytest.param("onnx", "onnx", marks=pytest.mark.slow),
    ],
)
def test_a_model_that_answers_otherwise_is_refused_and_the_older_one_stays(
    altered: Path, form: Format, artifact: str
) -> None:
    before = contents(altered)
    with pytest.raises(GateFailed, match=f"{artifact} predicts differently from the trained model") as caught:
        export(altered, formats=[form])
    assert "a logit is off by" in (caught.value.found or "")
    assert caught.value.exit_code == 1
    after = contents(altered)
    before.pop(".ftx-lock", None)
    after.pop(".ftx-lock", None)
    assert after == before


@pytest.mark.slow
def test_what_is_unproved_is_kept_and_says_so(whole_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole_run, tmp_path / "run"))
    (item,) = export(run, formats=["openvino"], precisions=["fp16"]).artifacts
    # Weights in fp16 change labels, and 64 reference images without a loss prove 4.6 points.
    assert item.verdict == "unproved"
    assert "64 images): 0 lost, 0 gained; 149 images with no further loss would prove at most 2" in item.summary
    assert Run.open(run).require(IR_FP16)


def entry(number: int, label: str, split: str = "train") -> Entry:
    return Entry(f"{label}/{number}.png", f"{number:064x}", (label,), split)  # pyright: ignore[reportArgumentType]


def test_int8_is_chosen_on_training_images_that_did_not_calibrate_it() -> None:
    entries = [entry(number, "abcde"[number % 5]) for number in range(1000)]
    calibration, choosing = calibration_images(entries)
    assert (len(calibration), len(choosing)) == (CALIBRATION_IMAGES, CHOOSING_IMAGES) == (32, 32)
    assert not {one.sha256 for one in calibration} & {one.sha256 for one in choosing}
    for some, least in ((calibration, 6), (choosing, 6)):
        counts = [sum(one.labels == (label,) for one in some) for label in "abcde"]
        assert min(counts) >= least
        assert max(counts) - min(counts) <= 1
    # A copy of an image under another name is the same image.
    copies = [*entries[:100], *(Entry(f"copy/{one.path}", one.sha256, one.labels, one.split) for one in entries[:100])]
    calibration, choosing = calibration_images(copies)
    assert (len(calibration), len(choosing)) == (32, 20)
    assert not {one.sha256 for one in calibration} & {one.sha256 for one in choosing}
    calibration, choosing = calibration_images(entries[:2])
    assert (len(calibration), len(choosing)) == (1, 1)
