"""How an extra is installed hangs on where ftx came from; no name is looked up where it may be another's."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from ftx.core import packages


@pytest.mark.parametrize(
    ("recorded", "command"),
    [
        ({"url": "file:///src/ftx", "dir_info": {"editable": True}}, "pip install -e '/src/ftx[serve]'"),
        ({"url": "file:///src/ftx", "dir_info": {}}, "pip install '/src/ftx[serve]'"),
        ({"url": "file:///my%20src/a%2Bb", "dir_info": {"editable": True}}, "pip install -e '/my src/a+b[serve]'"),
        (
            {"url": "file:///my%20wheels/ftx_vit-1-py3-none-any.whl", "archive_info": {}},
            "pip install --find-links '/my wheels' '/my wheels/ftx_vit-1-py3-none-any.whl[serve]'",
        ),
        (
            {"url": "https://host/ftx.git", "vcs_info": {"vcs": "git", "commit_id": "1ab"}},
            "pip install 'ftx-vit[serve] @ git+https://host/ftx.git@1ab'",
        ),
        (
            {"url": "ssh://host/all", "vcs_info": {"vcs": "hg", "commit_id": "7"}, "subdirectory": "ftx"},
            "pip install 'ftx-vit[serve] @ hg+ssh://host/all@7#subdirectory=ftx'",
        ),
        (
            {"url": "https://host/ftx.zip", "archive_info": {}},
            "pip install 'ftx-vit[serve] @ https://host/ftx.zip'",
        ),
        (None, "pip install 'ftx-vit[serve]'"),  # of an index
    ],
)
def test_an_extra_comes_from_where_ftx_came(recorded: Any, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = None if recorded is None else json.dumps(recorded)
    monkeypatch.setattr(packages, "distribution", lambda name: SimpleNamespace(read_text=lambda file: text))
    assert packages.install_command("serve") == command


def test_a_checkout_brings_its_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    text = json.dumps({"url": tmp_path.as_uri(), "dir_info": {"editable": True}})
    monkeypatch.setattr(packages, "distribution", lambda name: SimpleNamespace(read_text=lambda file: text))
    words = shlex.split(packages.install_command("train"))
    assert words == ["pip", "install", "-e", f"{tmp_path}/models", "-e", f"{tmp_path}[train]"]


def test_from_its_source_no_index_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> NoReturn:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packages, "distribution", missing)
    assert "pip" not in packages.install_command("serve")
