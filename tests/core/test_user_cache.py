"""What can be made again, in the user's cache."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from filelock import FileLock

from ftx.core.user_cache import KEPT, cache_folder, forget, free_space


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_a_digest_has_a_folder_of_the_users_own(home: Path) -> None:
    folder = cache_folder("openvino", "abc")
    assert folder == home / "ftx" / "openvino" / "abc"
    assert folder.stat().st_mode & 0o077 == 0
    forget(folder)
    assert not folder.exists()
    forget(folder)


def test_the_least_used_go(home: Path) -> None:
    for number in range(KEPT + 2):
        assert cache_folder("openvino", str(number))
        time.sleep(0.01)
        assert cache_folder("openvino", "0")
        time.sleep(0.01)
    left = {path.name for path in (home / "ftx" / "openvino").iterdir()}
    assert left == {"0", *map(str, range(3, KEPT + 2))}


@pytest.mark.parametrize("keep", [KEPT, 2])
def test_what_is_asked_for_stays_however_old_it_is(keep: int, home: Path) -> None:
    """Made first and asked for last: it is the oldest folder, and not the least used."""
    above = home / "ftx" / "openvino"
    for second in range(keep):
        folder = cache_folder("openvino", str(second), keep=keep)
        assert folder is not None
        (folder / "model").touch()
        os.utime(folder, (second + 1, second + 1))
    assert cache_folder("openvino", "0", keep=keep) == above / "0"
    assert cache_folder("openvino", "new", keep=keep) == above / "new"
    left = {path.name for path in above.iterdir()}
    assert left == {"0", "new", *map(str, range(2, keep))}
    assert (above / "0" / "model").exists()


def test_room_is_made_by_taking_the_least_used_away(home: Path) -> None:
    folders = {}
    for number in range(KEPT + 2):
        folder = folders[number] = cache_folder("features", str(number), keep=None)
        assert folder is not None
        (folder / "content").write_bytes(bytes(100))
        time.sleep(0.01)
    last = KEPT + 1

    def left() -> set[int]:
        return {number for number, folder in folders.items() if folder.exists()}

    free_space(folders[0], 0, most_bytes=1e9)
    assert left() == set(folders)
    free_space(folders[0], 250, most_bytes=450)  # 250 are its own, though it has but 100 now
    assert left() == {0, last, last - 1}
    free_space(folders[0], 0, most_bytes=10)  # whatever it has itself
    assert left() == {0}
    free_space(home / "none", 0, 0)


def test_what_a_process_writes_in_is_not_taken_away(home: Path) -> None:
    own, busy, left = (cache_folder("features", name, keep=None) for name in ("own", "busy", "left"))
    assert own is not None
    assert busy is not None
    assert left is not None
    for folder in (busy / "rank-1", left / "rank-1"):
        folder.mkdir()
        (folder / "content").write_bytes(bytes(100))
        (folder / ".lock").touch()
    with FileLock(busy / "rank-1" / ".lock"):
        free_space(own, 0, most_bytes=10)
        assert (busy / "rank-1" / "content").is_file()
        assert not left.exists()
    free_space(own, 0, most_bytes=10)
    assert not busy.exists()


def test_without_a_place_there_is_none(home: Path) -> None:
    (home / "ftx").write_text("in the way")
    assert cache_folder("openvino", "abc") is None


def test_without_the_variable_it_is_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("openvino", "abc") == tmp_path / ".cache" / "ftx" / "openvino" / "abc"
    assert os.environ["HOME"] == str(tmp_path)
