"""The base install on a device: a clean environment without torch predicts with and validates an exported folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest

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
    subprocess.run([*pip, "install", wheel], check=True)
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

    validated = run(device, "validate", colour_model.folder, "--json", cwd=tmp_path)
    assert validated.returncode == 0, validated.stderr
    report = json.loads(validated.stdout)
    assert report["ok"]
    assert {row["runtime"] for row in report["rows"]} == {"openvino"}

    trained = run(device, "train", "--data", colour_model.images, cwd=tmp_path)
    assert trained.returncode == 3, trained.stderr
    assert "ftx-vit[train]" in trained.stderr


@pytest.mark.slow
def test_weights_and_sample_travel_with_the_wheel(device: Path, tmp_path: Path) -> None:
    code = "from ftx.resources import *; print(embedded_weights('dinov2-small').stat().st_size, sample_archive())"
    said = subprocess.run(
        [device.parent / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    size, archive = said.stdout.split()
    assert int(size) > 40_000_000
    assert str(device.parents[1]) in archive
