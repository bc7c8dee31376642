"""Write what the code knows into docs/pages/project/architecture.md: the packages, their number, layers and purposes.

The layers come from the import-linter contract in pyproject.toml, the purposes from the docstring of each package.
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "ftx"
PAGE = ROOT / "docs" / "pages" / "project" / "architecture.md"
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def layers() -> list[list[str]]:
    """The packages and modules of each layer, from the top."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (order,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    return [[name.strip() for name in layer.split("|")] for layer in order]


def purpose(name: str) -> str:
    """The first sentence of the docstring of a package or module."""
    path = SOURCE / name / "__init__.py"
    docstring = ast.get_docstring(
        ast.parse((path if path.is_file() else SOURCE / f"{name}.py").read_text(encoding="utf-8"))
    )
    if docstring is None:
        raise ValueError(f"{path}: must begin with a docstring that says what the package is for")
    return " ".join(docstring.split("\n\n")[0].split()).replace("``", "`")


def blocks() -> dict[str, str]:
    """The text of each generated block, by its name."""
    from_top = layers()
    names = [name for layer in from_top for name in layer]
    packages = [name for name in names if (SOURCE / name).is_dir()]
    programs = " and ".join(f"`{name}.py`" for name in names if name not in packages)
    title = {name: f"`{name}/`" if name in packages else f"`{name}.py`" for name in names}
    table = [
        f"| {len(from_top) - at} | {title[name]} | {purpose(name)} |"
        for at, layer in enumerate(from_top)
        for name in layer
    ]
    return {
        "counts": f"`src/ftx` has {len(packages)} packages in {len(from_top)} layers, and {programs} on top of them.\n",
        "layers": "\n".join(["| layer | package | purpose |", "|--:|---|---|", *table]) + "\n",
    }


def filled(page: str) -> str:
    """The page with every generated block as the code has it now."""
    texts = blocks()
    return BLOCK.sub(lambda found: found[1] + "\n" + texts[found[2]] + "\n" + found[3], page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
