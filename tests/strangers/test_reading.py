"""Only regular files are opened: what is none is refused at once, with its kind."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest

from ftx.cli.merge import _names as names_of
from ftx.core.errors import AdapterError, InputError, RecipeError
from ftx.core.untrusted_input import IrregularFile, open_file, read_file, require_file
from ftx.recipe.schema import Recipe


def irregular(folder: Path, kind: str) -> Path:
    """A path of such a kind, with the ending of an image."""
    path = folder / "stranger.png"
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        with chdir(folder), socket.socket(socket.AF_UNIX) as one:  # a socket's path may have 107 bytes
            one.bind(path.name)
    return path


KINDS = ("a named pipe", "a folder", "a device", "a socket")


@pytest.mark.parametrize("read", [require_file, open_file, read_file])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_refused_with_its_kind(tmp_path: Path, kind: str, read: Callable[[Path], object]) -> None:
    path = irregular(tmp_path, kind)
    with pytest.raises(IrregularFile) as caught:
        read(path)
    assert caught.value.exit_code == 2
    assert (caught.value.where, caught.value.found) == (str(path), kind)
    # Readers that turn the system's refusals into errors of their own find its words.
    assert isinstance(caught.value, OSError)
    assert caught.value.strerror == f"{kind}, not a regular file"


def test_a_pipe_that_takes_the_files_place_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = irregular(tmp_path, "a named pipe")
    monkeypatch.setattr("ftx.core.untrusted_input.require_file", lambda path: None)
    with pytest.raises(IrregularFile, match="regular"):
        open_file(pipe)


def test_a_file_and_a_link_to_it_are_read(tmp_path: Path) -> None:
    path = tmp_path / "some.bin"
    path.write_bytes(bytes(range(256)))
    (tmp_path / "link.bin").symlink_to(path)
    for one in (path, tmp_path / "link.bin"):
        require_file(one)
        assert read_file(one) == read_file(one, most_bytes=256) == bytes(range(256))
        with open_file(one) as stream:
            assert stream.read(3) == b"\0\1\2"
    with pytest.raises(InputError, match="too large"):
        read_file(path, most_bytes=255)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "missing.bin")


def test_a_pipe_for_a_recipe_or_an_adapter_is_no_file(tmp_path: Path) -> None:
    from ftx.adapters.peft_file import WEIGHTS, stored_shapes

    recipe, weights = tmp_path / "recipe.yaml", tmp_path / WEIGHTS
    os.mkfifo(recipe)
    os.mkfifo(weights)
    with pytest.raises(RecipeError) as refused:
        Recipe.load(recipe)
    assert refused.value.found == "a named pipe, not a regular file"
    with pytest.raises(AdapterError) as caught:
        stored_shapes(tmp_path)
    assert (caught.value.where, caught.value.found) == (str(weights), "this must be a regular file: a named pipe")


def test_a_pipe_for_labels_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels.txt")
    with pytest.raises(InputError, match="--labels: the file cannot be read"):
        names_of(str(tmp_path / "labels.txt"))
