"""The two distributions: what they declare is what their sources import, and models are found wherever they are."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import ftx

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "ftx"
MODELS = ROOT / "models" / "ftx_models"
PROJECT: Mapping[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# The extras whose packages ftx imports, and of these what it does not import itself: torch's export to ONNX does, timm
# does, one is looked for as a folder, and the last is fastapi's.
NEEDED = ("train", "serve", "tune", "shards", "ray", "parquet")
NOT_IMPORTED = {"onnxscript", "torchvision", "ftx-vit-models", "python-multipart"}


def canonical(name: str) -> str:
    """A distribution's name as an index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    return {canonical(re.split(r"[^A-Za-z0-9_.-]", one)[0]) for one in requirements}


BASE = names(PROJECT["project"]["dependencies"])
EXTRAS = {extra: names(listed) for extra, listed in PROJECT["project"]["optional-dependencies"].items()}
DEVELOPMENT = names(PROJECT["dependency-groups"]["dev"])


@cache
def providers() -> Mapping[str, list[str]]:
    return packages_distributions()


def distributions(package: str) -> set[str]:
    """Those that install a package of this name; one that is not installed is called as its package."""
    return {canonical(name) for name in providers().get(package, [package])}


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """The packages of others that these statements import."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    ours = {"ftx", "tests", *(path.stem for folder in ("models", "docs") for path in (ROOT / folder).glob("*.py"))}
    return found - sys.stdlib_module_names - ours


@cache
def trees(folder: Path) -> Mapping[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in folder.rglob("*.py")}


def imported_below(*folders: Path) -> set[str]:
    return set[str]().union(*(imported(ast.walk(tree)) for folder in folders for tree in trees(folder).values()))


def test_what_the_source_imports_is_declared_and_the_other_way_round() -> None:
    packages = imported_below(SOURCES)
    allowed = BASE.union(*EXTRAS.values())
    assert [name for name in sorted(packages) if not distributions(name) & allowed] == []
    used = set[str]().union(*map(distributions, packages))
    assert BASE.union(*(EXTRAS[extra] for extra in NEEDED)) - used == NOT_IMPORTED


def test_what_the_tests_and_scripts_import_is_declared() -> None:
    packages = imported_below(ROOT / "tests", ROOT / "models") - {"gdb"}  # a debugger's own, in a script that it runs
    allowed = BASE | EXTRAS["train"] | EXTRAS["serve"] | DEVELOPMENT
    assert [name for name in sorted(packages) if not distributions(name) & allowed] == []


def test_a_device_imports_what_the_base_install_declares() -> None:
    (contract,) = (
        one for one in PROJECT["tool"]["importlinter"]["contracts"] if one["name"].startswith("What a device runs")
    )
    packages = tuple(contract["source_modules"])
    checked = 0
    for path, tree in trees(SOURCES).items():
        module = ".".join(path.relative_to(SOURCES.parent).with_suffix("").parts).removesuffix(".__init__")
        if f"{module}.".startswith(tuple(f"{package}." for package in packages)):
            checked += 1
            # The files of the server that import its extra are themselves imported inside of functions.
            allowed = BASE | EXTRAS["serve"] if module.startswith("ftx.serving.") else BASE
            spare = [name for name in imported(iter(tree.body)) if not distributions(name) & allowed]
            assert spare == [], module
    assert checked > len(packages)
    # The names of the extra stand where an import fails, and where one is forbidden.
    extra = {
        name.replace("-", "_")
        for name in (EXTRAS["train"] | EXTRAS["serve"] | EXTRAS["tune"] | EXTRAS["shards"] | EXTRAS["ray"])
        - {"ftx-vit-models"}
    }
    assert extra == set(ftx._EXTRAS)
    assert all({package, package.replace("_", "-")} & EXTRAS[of] for package, of in ftx._EXTRAS.items())
    assert set(contract["forbidden_modules"]) == extra


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
    shutil.copytree(SOURCES / "core", tmp_path / "ftx" / "core", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(SOURCES / "__init__.py", tmp_path / "ftx")

    def ask(question: str) -> str:
        code = (
            f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom ftx.core import shipped_files as r, errors as e\n"
        )
        code += f"try: print({question})\nexcept e.FtxError as error: print(error.exit_code, error)"
        # Without the environment's packages: neither these nor the checkout are in its way.
        command = [sys.executable, "-I", "-S", "-B", "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    for question in ("r.bundled_weights('dinov2-small')", "r.sample_file('fashion-mnist.zip')"):
        said = ask(question)
        assert said.startswith("3 the bundled weights and sample must be installed")
        assert "with the extra train, as README.md says" in said
    assert ask("r.bundled_weights('vit_tiny_patch16_224')") == "None"
    assert ask("len(r.recipe_names())") == str(len(list((SOURCES / "core/shipped/recipes").glob("*.yaml"))))
    assert ask("r.architecture_table().is_file()") == "True"

    package = tmp_path / "ftx_models"
    (package / "sample").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "sample" / "fashion-mnist.zip").touch()
    assert ask("r.sample_file('fashion-mnist.zip')") == str(package / "sample" / "fashion-mnist.zip")
    said = ask("r.bundled_weights('dinov2-small')")
    assert said.startswith("3 this installation of ftx lacks model.safetensors")
    assert "install ftx and its models again" in said
