"""The base install on a device: a clean environment without torch predicts with and validates an exported folder.

The extra `datumaro` joins it last: that package holds Pillow back, so the tests' own environment does without.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from PIL import Image
from tests.conftest import write_colour_ir

import ftx

ROOT = Path(__file__).parents[1]
# The device's packages are those of its environment: a path to the source under test would hide them.
ALONE = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


class ColourModel(Protocol):
    folder: Path
    images: Path


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The built wheel of each distribution, by its name."""
    folder = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT, ROOT / "models"], check=True)
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


@pytest.fixture(scope="module")
def device(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of a new virtual environment that holds the base wheel and what it requires."""
    root = tmp_path_factory.mktemp("device")
    subprocess.run([sys.executable, "-m", "venv", root / "venv"], check=True)
    pip = [root / "venv" / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
    # Without bytecode of modules that nobody imports, which takes as long as all the rest.
    subprocess.run([*pip, "install", "--no-compile", wheels["ftx_vit"]], check=True)
    return root / "venv" / "bin" / "ftx"


def run(device: Path, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [device, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=ALONE, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_device_without_torch(device: Path, colour_model: ColourModel, tmp_path: Path) -> None:
    python = device.parent / "python"
    absent = "import importlib.util as u; print([n for n in ('torch', 'timm', 'nncf', 'onnx') if u.find_spec(n)])"
    found = subprocess.run([python, "-c", absent], env=ALONE, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"

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

    (tmp_path / "maps").mkdir()
    write_colour_ir(tmp_path / "maps", maps=True)
    for artifact, status in ((tmp_path / "maps", 0), (colour_model.folder, 2)):
        explained = run(device, "explain", colour_model.images, "--artifact", artifact, "--out", "drawn", cwd=tmp_path)
        assert explained.returncode == status, explained.stderr
    assert len(list((tmp_path / "drawn").iterdir())) == 12

    listed = run(device, "models", "swin_tiny_patch4_window7_224", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "48 layers in 12 blocks" in listed.stdout

    recipes = run(device, "recipes", "--json", cwd=tmp_path)
    assert recipes.returncode == 0, recipes.stderr
    assert "multiclass-dora" in {recipe["name"] for recipe in json.loads(recipes.stdout)["recipes"]}

    schema = run(device, "schema", "validate", cwd=tmp_path)
    assert schema.returncode == 0, schema.stderr
    assert json.loads(schema.stdout)["title"] == "ParityReport"

    quickstart = run(device, "quickstart", cwd=tmp_path)
    assert quickstart.returncode == 3, quickstart.stderr
    assert ".whl[train]'" in quickstart.stderr

    trained = run(device, "train", "--data", colour_model.images, cwd=tmp_path)
    assert trained.returncode == 3, trained.stderr
    assert ".whl[train]'" in trained.stderr


def test_a_device_carries_no_weights_and_no_images(wheels: dict[str, Path]) -> None:
    assert wheels["ftx_vit"].stat().st_size < 1_000_000
    with zipfile.ZipFile(wheels["ftx_vit"]) as wheel:
        kinds = {Path(name).suffix for name in wheel.namelist() if name.startswith("ftx/")}
    assert kinds == {".py", ".typed", ".json", ".yaml", ".html", ".css", ".js"}


def test_both_wheels_have_one_version_and_models_their_licences_beside_them(wheels: dict[str, Path]) -> None:
    assert {path.name.split("-")[1] for path in wheels.values()} == {ftx.__version__}
    assert set(wheels) == {"ftx_vit", "ftx_vit_models"}
    with zipfile.ZipFile(wheels["ftx_vit_models"]) as wheel:
        names = set(wheel.namelist())
        folders = {name.rpartition("/")[0] for name in names if name.endswith((".safetensors", ".zip"))}
        assert folders == {"ftx_models/dinov2-small", "ftx_models/sample"}
        for folder in folders:
            assert f"{folder}/README.md" in names
            assert any(name.startswith(f"{folder}/LICENSE") for name in names)
        assert "ftx_models/dinov2-small/NOTICE" in names
        assert not any(name.endswith(".py") for name in names - {"ftx_models/__init__.py"})


@pytest.mark.slow
def test_weights_and_sample_come_with_the_wheel_of_models(
    wheels: dict[str, Path], device: Path, tmp_path: Path
) -> None:
    python = device.parent / "python"
    code = """
from ftx.core.errors import EnvironmentFault
from ftx.core.shipped_files import bundled_weights, sample_file
try:
    print(bundled_weights("dinov2-small").stat().st_size, sample_file("fashion-mnist.zip"))
except EnvironmentFault as fault:
    print(fault.exit_code, fault)
"""

    def ask(**environment: str) -> str:
        done = subprocess.run(
            [python, "-c", code], cwd=tmp_path, env=ALONE | environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    refused = ask()
    assert refused.startswith("3 ")
    assert ".whl[train]'" in refused
    # Beside the device's packages, which the other tests want without models.
    site = tmp_path / "site"
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheels["ftx_vit_models"]], check=True)
    size, archive = ask(PYTHONPATH=str(site)).split()
    assert int(size) > 40_000_000
    assert Path(archive) == site / "ftx_models" / "sample" / "fashion-mnist.zip"


@pytest.mark.slow
def test_the_extra_serve_answers_without_torch(
    wheels: dict[str, Path], device: Path, colour_model: ColourModel, tmp_path: Path
) -> None:
    refused = run(device, "serve", colour_model.folder, "--port", 0, cwd=tmp_path)
    assert refused.returncode == 3
    assert ".whl[serve]'" in refused.stderr
    pip = [device.parent / "python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-compile", f"{wheels['ftx_vit']}[serve]"], check=True)
    command = [device, "serve", colour_model.folder, "--port", "0", "--json"]
    with subprocess.Popen(command, cwd=tmp_path, env=ALONE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        lines = [server.stdout.readline()]
        while lines[-1] not in ("}\n", ""):
            lines.append(server.stdout.readline())
        address = json.loads("".join(lines))["address"]
        content = (colour_model.images / "green" / "2.png").read_bytes()
        form = b'--x\r\ncontent-disposition: form-data; name="a"; filename="a.png"\r\n\r\n%s\r\n--x--\r\n' % content
        headers = {"content-type": "multipart/form-data; boundary=x"}
        with urllib.request.urlopen(urllib.request.Request(f"{address}/predict", form, headers), timeout=30) as answer:
            assert json.load(answer)["images"][0]["labels"][0]["name"] == "green"
        with urllib.request.urlopen(f"{address}/", timeout=30) as answer:
            assert b"Drop pictures here" in answer.read()
        server.terminate()
        assert server.wait(60) == 0


VOC = """<annotation><filename>{name}.jpg</filename><size><width>16</width><height>16</height><depth>3</depth></size>
<object><name>{label}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>
</annotation>"""


@pytest.mark.slow
def test_a_format_that_the_datumaro_package_reads(wheels: dict[str, Path], device: Path, tmp_path: Path) -> None:
    refused = run(device, "data", "check", tmp_path, "--format", "voc", cwd=tmp_path)
    assert refused.returncode == 3
    assert ".whl[datumaro]'" in refused.stderr
    pip = [device.parent / "python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-compile", f"{wheels['ftx_vit']}[datumaro]"], check=True)
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
