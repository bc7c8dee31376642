"""README and pages: every link leads somewhere, the pictures stand alone, and each figure has its source."""

from __future__ import annotations

import ast
import os
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CHANGELOG = ROOT / "CHANGELOG.md"
PROJECT = [README, CHANGELOG, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
# Without those of the repository's root, which the site has too, and without what folders that are links contain.
PAGES = sorted(path for path in (ROOT / "docs" / "pages").rglob("*.md") if path.resolve() == path)
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
ARCHITECTURE = ROOT / "docs" / "pages" / "project" / "architecture.md"
# Where what README.md says was measured, and how.
SOURCES = sorted((ROOT / "docs" / "pages" / "benchmarks").glob("*.md"))
PICTURES = sorted((ROOT / "docs" / "images").glob("*.svg"))
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)|(?:src|srcset)=\"([^\"]+)\"")
# 3.6e-6, 81.2 %, 0.08, 86.40: whatever is measured; and what is no figure, as a version or an address.
FIGURE = re.compile(r"(?<![\w.])\d+\.\d+(?:e-?\d+)?(?![\w.]*\.\d)")
NOT_MEASURED = re.compile(r"Python 3\.\d+|3\.11\+|Apache-2\.0|Extensions 2\.6\.0|https?://\S+")


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def anchors(path: Path) -> set[str]:
    """Of a page's headings, as both GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", text(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [*PROJECT, *PAGES, *DECISIONS], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_a_file_and_a_heading(path: Path) -> None:
    for target, anchor, picture in LINK.findall(text(path)):
        found = (path.parent / (target or picture)).resolve() if target or picture else path
        assert found.exists(), f"{target or picture}"
        # The site has only the folder of the pages, whose ``decisions`` and ``images`` are links.
        if path in PAGES and (target or picture):
            inside = os.path.normpath(path.parent / (target or picture))
            assert inside.startswith(f"{ROOT}/docs/pages/"), f"{target or picture}"
        if anchor:
            assert anchor in anchors(found), f"{target}#{anchor}"


def test_each_entry_of_the_changelog_is_one_line_with_a_link() -> None:
    blocks = re.sub(r"^#.*$", "", text(CHANGELOG), flags=re.MULTILINE).split("\n\n")
    entries = [line for block in blocks if re.match(r"\s*(?:-|1\.) ", block) for line in block.split("\n") if line]
    assert len(entries) > 50
    assert [line for line in entries if not re.fullmatch(r"(?:-|\d+\.) .+ \[[^]]+\]\([^)]+\)", line)] == []


def test_each_figure_of_the_changelog_is_where_it_was_measured() -> None:
    highlights = text(CHANGELOG).partition("### Highlights")[2].partition("###")[0]
    shown = FIGURE.findall(highlights)
    assert shown
    assert set(shown) <= set(FIGURE.findall("\n".join(map(text, SOURCES))))


def test_readme_is_short() -> None:
    prose = re.sub(r"```.*?```", "", text(README), flags=re.DOTALL)
    assert len(prose.split()) < 800
    assert "classify" in prose.partition("\n\n")[2].partition(".")[0]
    assert "classify" in "".join(text(README).splitlines()[:12])
    assert text(README).splitlines().index("    make quickstart") < 40


def test_readme_names_what_ci_calls() -> None:
    assert "make test" in text(ROOT / ".ci" / "run").splitlines()
    assert {"    make quickstart", "    make test"} <= set(text(README).splitlines())


def test_each_figure_of_readme_and_diagram_is_where_it_was_measured() -> None:
    known = set(FIGURE.findall("\n".join(map(text, SOURCES))))
    diagram = re.findall(r">([^<]+)</text>", text(ROOT / "docs" / "images" / "pipeline-light.svg"))
    prose = re.sub(r"```.*?```", "", text(README), flags=re.DOTALL)  # what commands print has figures of its own
    shown = FIGURE.findall(NOT_MEASURED.sub("", prose)) + FIGURE.findall("\n".join(diagram))
    assert len(shown) > 8
    assert [figure for figure in shown if figure not in known] == []


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_a_picture_is_small_and_fetches_nothing(path: Path) -> None:
    drawn = text(path)
    assert len(drawn) < 60_000
    assert re.findall(r"https?://[^\s\"<]+", drawn) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"@import|@font-face|/(?:home|root|tmp|work)/", drawn)


def test_pictures_of_both_themes_say_the_same() -> None:
    def words(name: str) -> list[str]:
        return re.findall(r">([^<]+)</text>", text(ROOT / "docs" / "images" / f"{name}.svg"))

    for name in ("pipeline", "terminal"):
        assert words(f"{name}-light") == words(f"{name}-dark") != []


def test_architecture_is_generated_from_the_code() -> None:
    """Counts, layers and purposes: `.venv/bin/python docs/make_architecture.py` writes them."""
    page = text(ARCHITECTURE)
    assert runpy.run_path(str(ROOT / "docs" / "make_architecture.py"))["filled"](page) == page
    assert page.count("<!-- generated: ") == page.count("<!-- end -->") == 2


def test_architecture_names_functions_that_exist() -> None:
    """Each row `package/file.py`: `function`, ... of the two paths."""
    rows = re.findall(r"^\|.*?`(\w+/\w+\.py)`: ([^|]+)\|", text(ARCHITECTURE), re.MULTILINE)
    assert len(rows) > 20
    for file, functions in rows:
        tree = ast.parse(text(ROOT / "src" / "ftx" / file))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        for name in re.findall(r"`([\w.]+)`", functions):
            assert set(name.split(".")) <= defined, f"{file}: {name}"


def test_no_two_files_import_each_other() -> None:
    """Imports inside functions count too."""
    source = ROOT / "src"
    names = {".".join(path.relative_to(source).with_suffix("").parts): path for path in source.rglob("*.py")}
    imports = {
        name: {
            target
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and node.module
            for target in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        }
        for name, path in names.items()
    }
    pairs = [(one, two) for one, found in imports.items() for two in found if one < two and one in imports.get(two, ())]
    assert pairs == []


def test_files_of_the_source_are_short() -> None:
    lines = {path: text(path).count("\n") for path in (ROOT / "src").rglob("*.py")}
    assert len(lines) > 200
    assert {path.name: count for path, count in lines.items() if count > 350} == {}
