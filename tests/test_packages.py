"""The two distributions: one version, licences beside what they cover, and models found wherever they are."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ftx

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "ftx"
MODELS = ROOT / "models" / "ftx_models"
PROJECT: Mapping[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_models_have_the_version_of_ftx_and_the_extra_takes_it() -> None:
    models = tomllib.loads((ROOT / "models" / "pyproject.toml").read_text(encoding="utf-8"))
    path = ROOT / "models" / models["tool"]["hatch"]["version"]["path"]
    assert path.resolve() == ROOT / PROJECT["tool"]["hatch"]["version"]["path"]
    (wanted,) = (one for one in PROJECT["project"]["optional-dependencies"]["train"] if one.startswith("ftx-vit-"))
    found = re.fullmatch(r"ftx-vit-models>=(\d+)\.(\d+),<(\d+)\.(\d+)", wanted)
    assert found is not None
    low, high = (int(found[1]), int(found[2])), (int(found[3]), int(found[4]))
    version = tuple(int(part) for part in ftx.__version__.split(".")[:2])
    assert low <= version < high


def test_each_folder_of_models_says_where_it_comes_from_and_under_which_licence() -> None:
    folders = [path for path in MODELS.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert {path.name for path in folders} == {"dinov2-small", "sample"}
    for folder in folders:
        assert list(folder.glob("LICENSE*")), folder
        assert "licence" in (folder / "README.md").read_text(encoding="utf-8").lower()


def test_the_source_beside_a_package_of_models_finds_it_and_without_says_what_to_install(tmp_path: Path) -> None:
    shutil.copytree(SOURCES, tmp_path / "ftx", ignore=shutil.ignore_patterns("__pycache__"))

    def ask(question: str) -> str:
        code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom ftx.core import resources as r, errors as e\n"
        code += f"try: print({question})\nexcept e.FtxError as error: print(error.exit_code, error)"
        # Without the environment's packages: neither these nor the checkout are in its way.
        command = [sys.executable, "-I", "-S", "-B", "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    for question in ("r.embedded_weights('dinov2-small')", "r.sample_file('fashion-mnist.zip')"):
        said = ask(question)
        assert said.startswith("3 this needs the embedded weights and sample")
        assert "pip install 'ftx-vit[train]'" in said
    assert ask("r.embedded_weights('vit_tiny_patch16_224')") == "None"
    assert ask("len(r.recipe_names())") == str(len(list((SOURCES / "core/shipped/recipes").glob("*.yaml"))))
    assert ask("r.architecture_table().is_file()") == "True"

    package = tmp_path / "ftx_models"
    (package / "sample").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "sample" / "fashion-mnist.zip").touch()
    assert ask("r.sample_file('fashion-mnist.zip')") == str(package / "sample" / "fashion-mnist.zip")
    said = ask("r.embedded_weights('dinov2-small')")
    assert said.startswith("3 this installation of ftx lacks model.safetensors")
    assert "install ftx-vit-models again" in said
