"""The pages: their commands run, most on a tiny network; generated pages are up to date; the others are short."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from tests.effects.lab import call

from ftx.cli.app import app
from ftx.data.bundled_sample import place_sample

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "pages"
sys.path.insert(0, str(ROOT / "docs"))

from likely_errors import LIKELY  # noqa: E402
from make_transcripts import SETUP, Folders, blocks, files, printed_by  # noqa: E402
from reference_errors import messages  # noqa: E402

FILES = [path for path in files() if path != ROOT / "README.md"]
# In place of the bundled model, which takes minutes; of a flag that is given twice the last one counts.
TINY, EPOCH = "--model test_vit --weights none --image-size 32".split(), ("--epochs", "1")
# Pages that run only as they stand there: on the bundled model, or on a proof.
ONLY_REAL = {
    *("get-started/quickstart", "explanation/adapters", "explanation/token-dropping", "how-to/deploy/ci"),
    *("how-to/deploy/update-devices", "how-to/train/peft", "reference/python-api", "tutorials/from-python"),
}
# Longer than 10 seconds even so: int8, updates, or several trainings.
LONG = re.compile(r"int8|ftx (?:apply|run|tune|quickstart)\b")


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def setup(path: Path) -> list[str]:
    """The commands that run before those of a page."""
    found = SETUP.search(text(path))
    return found[1].splitlines() if found else []


def steps(path: Path) -> list[str]:
    """All commands and blocks of Python of a page."""
    found = [[block.code] if block.code else [one.line for one in block.commands] for block in blocks(text(path))]
    return [one for some in found for one in some]


def name(path: Path) -> str:
    return str(path.relative_to(PAGES).with_suffix(""))


def marked(path: Path) -> Any:
    mark = pytest.mark.slow if LONG.search("\n".join([*setup(path), *steps(path)])) else pytest.mark.representative
    return pytest.param(path, marks=mark, id=name(path))


def option_names(words: list[str]) -> tuple[set[str], str]:
    """The options of the command that a line begins with, and its name."""
    program: Any = typer.main.get_command(app)
    context = program.make_context("ftx", [], resilient_parsing=True)
    command = program.get_command(context, words[1])
    assert command is not None, words[1]
    title = words[1]
    if hasattr(command, "list_commands") and len(words) > 2:
        inner = command.make_context(words[1], [], parent=context, resilient_parsing=True)
        command, title = command.get_command(inner, words[2]), f"{title} {words[2]}"
        assert command is not None, title
    own = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    return own | {"--help", "-h", "-v", "--verbose", "--debug"}, title


@pytest.mark.parametrize("path", sorted(PAGES.rglob("*.md")), ids=name)
def test_commands_in_the_text_of_a_page_exist_with_their_options(path: Path) -> None:
    if "decisions" in path.parts or path.is_symlink():
        return
    fences = re.findall(r"^```(?:sh|console)\n(.*?)^```", text(path), re.MULTILINE | re.DOTALL)
    fenced = re.findall(r"^(?:\$ )?(ftx [a-z].*)$", "\n".join(fences), re.MULTILINE)
    inline = re.findall(r"`(ftx [a-z][^`\n]*)`", re.sub(r"^```.*?^```", "", text(path), flags=re.DOTALL | re.MULTILINE))
    for line in [*inline, *fenced]:
        words = [word for word in shlex.split(line) if word != "..."]
        options, title = option_names(words)
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert given <= options, f"{title}: {line}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """The folder that a page begins with; pages with the same set-up share what it makes."""
    made: dict[str, Path] = {}

    def folder(path: Path) -> Path:
        key = "\n".join(setup(path))
        if key not in made:
            fresh = tmp_path_factory.mktemp("page")
            place_sample("multiclass", fresh).rename(fresh / "photos")
            thin_out(fresh)
            for line in setup(path):
                run(line, fresh)
            made[key] = fresh
        return made[key]

    return folder


def run(line: str, folder: Path) -> None:
    """A command as a page has it, but for a tiny network and one epoch."""
    words = shlex.split(line)[1:]
    if (words[0] == "train" and not {"--resume", "--from", "--model"} & set(words)) or words[:2] == ["data", "look"]:
        words += TINY
    if words[0] == "train" and "--epochs" in words:
        words += EPOCH
    with chdir(folder):
        done = call(*words)
    assert done.status == 0, f"{line}\n{done.err[-2000:]}"
    if words[:2] == ["data", "sample"]:
        thin_out(folder)


@pytest.mark.parametrize("path", [marked(path) for path in FILES if name(path) not in ONLY_REAL])
def test_the_commands_of_a_page_follow_each_other(path: Path, folders: Callable[[Path], Path], tmp_path: Path) -> None:
    """On a tiny network and a fraction of the images: each command finds what the one before has left."""
    torch.set_num_threads(1)
    shutil.copytree(folders(path), tmp_path, symlinks=True, dirs_exist_ok=True)
    names: dict[str, Any] = {}
    for step in steps(path):
        if step.startswith("ftx "):
            run(step, tmp_path)
        else:
            with chdir(tmp_path):
                exec(step, names)


@pytest.fixture(scope="module")
def real_folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(tmp_path_factory.mktemp("real"))


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(ONLY_REAL))
def test_the_commands_of_a_page_follow_each_other_as_they_stand(
    page: str, real_folders: Folders, tmp_path: Path
) -> None:
    written = text(PAGES / f"{page}.md")
    assert len(printed_by(written, tmp_path / "page", real_folders)) == len(blocks(written))


def thin_out(data: Path) -> None:
    """Keep every sixth image, those that pages name, and the lines of tables whose image is left."""
    named = {found for path in FILES for found in re.findall(r"/([^/\s]+\.png)", "\n".join(steps(path)))}
    for number, image in enumerate(sorted(data.rglob("*.png"))):
        if number % 6 and image.name not in named:
            image.unlink()
    for table in data.rglob("*.csv"):
        header, *lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
        left = [line for line in lines if (table.parent / line.partition(",")[0]).exists()]
        table.write_text("".join([header, *left]), encoding="utf-8")


def test_the_most_frequent_errors_are_errors_of_the_source() -> None:
    texts = [text for rows in messages().values() for text in rows]
    likely = [message for rows in LIKELY.values() for message in rows]
    assert len(likely) >= 50
    assert [message for message in likely if not any(text.startswith(message) for text in texts)] == []


@pytest.mark.representative
@pytest.mark.parametrize("made", ["commands", "recipe_keys", "json_fields", "error_list", "cookbook", "decisions"])
def test_a_generated_page_is_what_the_program_knows(made: str) -> None:
    """`.venv/bin/python docs/make_reference.py` writes them."""
    program = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))
    page = program["PLACES"][made]
    assert text(page) == program[made]().rstrip() + "\n"


def test_pages_are_short() -> None:
    """By hand at most 25,000 words, of a page 1,500; output and generated pages are not counted."""
    counts: dict[str, int] = {}
    for path in (*PAGES.rglob("*.md"), *(ROOT / "docs" / "decisions").glob("*.md")):
        if path.is_symlink() or "generated by docs/make_reference.py" in text(path):
            continue
        prose = re.sub(r"```.*?```|<!-- setup.*?-->|<!-- generated: .*?<!-- end -->", "", text(path), flags=re.DOTALL)
        counts[str(path)] = len(re.findall(r"\S*\w\S*", prose))
    assert {path: count for path, count in counts.items() if count > 1500} == {}
    assert 15_000 < sum(counts.values()) <= 25_000
