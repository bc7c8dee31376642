"""The base install on a device: a clean environment without torch predicts with and validates an exported folder.

The extra `datumaro` joins it last: that package holds Pillow back, so the tests' own environment does without.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


class ColourModel(Protocol):
    folder: Path
    images: Path


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of a new virtual environment that holds the built wheel and what it requires."""
    root = tmp_path_factory.mktemp("device")
    subprocess.run([sys.executable, "-m", "venv", root / "venv"], check=True)
    pip = [root / "venv" / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", root, ROOT], check=True)
    (wheel,) = root.glob("ftx_vit-*.whl")
    # Without bytecode of modules that nobody imports, which takes as long as all the rest.
    subprocess.run([*pip, "install", "--no-compile", wheel], check=True)
    return root / "venv" / "bin" / "ftx"


def run(device: Path, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([device, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_device_without_torch(device: Path, colour_model: ColourModel, tmp_path: Path) -> None:
    python = device.parent / "python"
    absent = "import importlib.util as u; print([n for n in ('torch', 'timm', 'nncf', 'onnx') if u.find_spec(n)])"
    assert subprocess.run([python, "-c", absent], capture_output=True, text=True, check=True).stdout == "[]\n"

    predicted = run(device, "predict", colour_model.images, "--artifact", colour_model.folder, "--json", cwd=tmp_path)
    assert predicted.returncode == 0, predicted.stderr
    lines = [json.loads(line) for line in predicted.stdout.splitlines()]
    assert len(lines) == 12
    assert all(Path(line["path"]).parent.name == line["labels"][0]["name"] for line in lines)

    folder = shutil.copytree(colour_model.folder, tmp_path / "fp32")  # a validation writes its proof there
    validated = run(device, "validate", folder, "--json", cwd=tmp_path)
    assert validated.returncode == 0, validated.stderr
    report = json.loads(validated.stdout)
    assert report["ok"]
    assert {row["runtime"] for row in report["rows"]} == {"openvino"}

    listed = run(device, "models", "swin_tiny_patch4_window7_224", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "48 layers in 12 blocks" in listed.stdout

    trained = run(device, "train", "--data", colour_model.images, cwd=tmp_path)
    assert trained.returncode == 3, trained.stderr
    assert "ftx-vit[train]" in trained.stderr


@pytest.mark.slow
def test_weights_and_sample_travel_with_the_wheel(device: Path, tmp_path: Path) -> None:
    code = "from ftx.core.resources import *; print(embedded_weights('dinov2-small').stat().st_size, sample_file('"
    code += "fashion-mnist.zip'))"
    said = subprocess.run(
        [device.parent / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    size, archive = said.stdout.split()
    assert int(size) > 40_000_000
    assert str(device.parents[1]) in archive


VOC = """<annotation><filename>{name}.jpg</filename><size><width>16</width><height>16</height><depth>3</depth></size>
<object><name>{label}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>
</annotation>"""


@pytest.mark.slow
def test_a_format_that_the_datumaro_package_reads(device: Path, tmp_path: Path) -> None:
    refused = run(device, "data", "check", tmp_path, "--format", "voc", cwd=tmp_path)
    assert refused.returncode == 3
    assert "pip install 'ftx-vit[datumaro]'" in refused.stderr
    (wheel,) = device.parents[2].glob("ftx_vit-*.whl")
    pip = [device.parent / "python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-compile", f"{wheel}[datumaro]"], check=True)
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / folder).mkdir(parents=True)
    for side, numbers in {"train": range(8), "val": range(8, 12)}.items():
        (tmp_path / "ImageSets" / "Main" / f"{side}.txt").write_text("".join(f"{number}\n" for number in numbers))
        for number in numbers:
            annotation = VOC.format(name=number, label="cat" if number % 2 else "dog")
            (tmp_path / "Annotations" / f"{number}.xml").write_text(annotation)
            pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "JPEGImages" / f"{number}.jpg")
    said = run(device, "data", "check", tmp_path, "--format", "voc", "--json", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    report = json.loads(said.stdout)
    assert report["images"] == {"train": 8, "val": 4}
    assert report["counts"] == {"cat": {"train": 4, "val": 2}, "dog": {"train": 4, "val": 2}}
    unknown = run(device, "data", "check", tmp_path, "--format", "vocc", cwd=tmp_path)
    assert "did you mean voc" in unknown.stderr
