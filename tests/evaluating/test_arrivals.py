"""Images that come one after the other: on standard input, and in a folder that is watched."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ftx.core.errors import EnvironmentFault, InputError
from ftx.evaluating.arrivals import MOST_AT_ONCE, PREDICTED_FILE, WatchedFolder, named_on


def test_paths_come_in_order_and_a_few_at_a_time() -> None:
    names = [f"{number}.png" for number in range(3 * MOST_AT_ONCE + 5)]
    batches = list(named_on(io.StringIO("\n".join(names))))
    assert [name for batch in batches for name in batch] == names
    assert max(map(len, batches)) <= MOST_AT_ONCE
    assert list(named_on(io.StringIO(""))) == []
    assert list(named_on(io.StringIO("\n\na.png\r\n\n"))) == [["a.png"]]


def test_a_path_is_handed_on_before_the_next_is_there() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as stream, os.fdopen(writing, "w", buffering=1) as sender:
        arriving = named_on(stream)
        sender.write("one.png\n")
        assert next(arriving) == ["one.png"]
        sender.write("two.png\n")
        assert next(arriving) == ["two.png"]
        sender.close()
        assert list(arriving) == []


def test_a_name_on_standard_input_may_be_no_text() -> None:
    stream = io.TextIOWrapper(io.BytesIO(b"caf\xe9.png\nb.png\n"), encoding="utf-8", errors="strict")
    assert [os.fsencode(name) for batch in named_on(stream) for name in batch] == [b"caf\xe9.png", b"b.png"]


def test_standard_input_that_breaks_ends_in_an_error() -> None:
    def lines() -> Any:
        yield "a.png\n"
        raise OSError(5, "Input/output error")

    arriving = named_on(lines())
    with pytest.raises(EnvironmentFault, match="standard input cannot be read"):
        assert [name for batch in arriving for name in batch] == ["a.png"]


class Polls:
    """Stands for the time between two looks: something happens in each, and then no more."""

    def __init__(self, *happens: Any) -> None:
        self.left = list(happens)

    def __call__(self, seconds: float) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left.pop(0)()


def watched(folder: Path, *happens: Any) -> list[list[str]]:
    """The names of what came, each answered."""
    watch = WatchedFolder(folder, sleep=Polls(*happens))
    batches: list[list[str]] = []
    with suppress(KeyboardInterrupt):  # as it ends for a user
        for batch in watch:
            batches.append([path.name for path in batch])
            for path in batch:
                watch.predicted(str(path))
    return batches


def nothing() -> None:
    pass


def test_each_image_comes_once_and_after_a_restart_no_more(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"1")
    (tmp_path / "letter.txt").write_text("dear")

    def arrives() -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.JPG").write_bytes(b"2")

    assert watched(tmp_path, nothing, arrives, nothing, nothing, nothing) == [["b.png"], ["a.JPG"]]
    (tmp_path / "c.png").write_bytes(b"3")
    assert watched(tmp_path, nothing, nothing) == [["c.png"]]
    assert len((tmp_path / PREDICTED_FILE).read_text().splitlines()) == 3


def test_one_that_grows_is_waited_for_and_one_that_is_written_anew_comes_again(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"1")

    def grows() -> None:
        path.write_bytes(path.read_bytes() + b"1")

    assert watched(tmp_path, grows, grows, nothing, nothing) == [["a.png"]]
    grows()
    assert watched(tmp_path, nothing, nothing) == [["a.png"]]


def test_what_was_not_answered_comes_again(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    for _ in range(2):
        assert next(iter(WatchedFolder(tmp_path, sleep=Polls(nothing)))) == [tmp_path / "a.png"]


@pytest.mark.parametrize("name", ["a\u2028b.png", "c\rd.png", "e\nf.png"])
def test_a_name_of_several_lines_comes_once(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"1")
    assert watched(tmp_path, nothing, nothing) == [[name]]
    assert watched(tmp_path, nothing, nothing) == []


def test_a_line_that_was_torn_does_not_swallow_the_next(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    (tmp_path / PREDICTED_FILE).write_bytes(b"z.png\t1\t2\nb.pn")
    assert watched(tmp_path, nothing, nothing) == [["a.png"]]
    assert watched(tmp_path, nothing, nothing) == []


def test_a_folder_that_goes_away_ends_the_watch(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    with pytest.raises(EnvironmentFault, match="cannot be read any more"):
        next(iter(WatchedFolder(inbox, sleep=Polls(nothing, lambda: shutil.rmtree(inbox), nothing))))


def test_a_name_that_is_no_text_comes_once(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(b"1")
    watch = WatchedFolder(tmp_path, sleep=Polls(nothing, nothing))
    (found,) = next(iter(watch))
    watch.predicted(str(found).encode(errors="surrogateescape").decode(errors="replace"))
    assert watched(tmp_path, nothing, nothing) == []


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--watch must be a folder"):
        WatchedFolder(tmp_path / "none")


@pytest.mark.slow
def test_the_verb_watches_until_it_is_stopped_and_goes_on(colour_model: Any, tmp_path: Path) -> None:
    images = sorted(colour_model.images.rglob("*.png"))
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    words = [sys.executable, "-m", "ftx", "predict", "--watch", inbox, "--artifact", colour_model.folder, "--json"]

    def answers(how: signal.Signals, *arriving: int) -> list[str]:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        found = []
        for number in arriving:
            shutil.copy(images[number], inbox / f"{number}.png")
            found.append(Path(json.loads(process.stdout.readline())["path"]).name)
        time.sleep(1)
        process.send_signal(how)
        rest, _ = process.communicate(timeout=20)
        assert process.returncode == 0  # there is no other end
        return found + rest.splitlines()

    assert answers(signal.SIGINT, 0, 5) == ["0.png", "5.png"]
    assert answers(signal.SIGTERM, 9) == ["9.png"]


@pytest.mark.representative
def test_what_nobody_has_read_is_answered_again(colour_model: Any, tmp_path: Path) -> None:
    """The reader has gone before its image came."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    shutil.copy(min(colour_model.images.rglob("*.png")), inbox / "a.png")
    words = [sys.executable, "-m", "ftx", "predict", "--watch", inbox, "--artifact", colour_model.folder, "--json"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.close()
    process.wait(timeout=60)
    assert watched(inbox, nothing, nothing) == [["a.png"]]


@pytest.mark.representative
def test_the_verb_reads_paths_from_standard_input(colour_model: Any, tmp_path: Path) -> None:
    paths = [*map(str, sorted(colour_model.images.rglob("*.png"))[:3]), str(tmp_path / "none.png")]
    words = [sys.executable, "-m", "ftx", "predict", "-", "--artifact", colour_model.folder, "--json"]
    done = subprocess.run(words, input="\n".join(paths), capture_output=True, text=True, check=False)
    assert done.returncode == 4
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["path"] for line in lines] == paths
    assert ["error" in line for line in lines] == [False, False, False, True]
    done = subprocess.run(words, input="\n", capture_output=True, text=True, check=False)
    assert done.returncode == 2
    done = subprocess.run([*words, paths[0]], input="", capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cannot be combined with other paths" in done.stderr


@pytest.mark.slow
def test_processes_end_by_themselves_when_all_is_answered(colour_model: Any) -> None:
    """A Python callback in OpenVINO's thread, not yet over when the interpreter ends, aborted one of 25."""
    image = str(next(colour_model.images.rglob("*.png")))
    words = [sys.executable, "-m", "ftx", "predict", image, image, "--artifact", colour_model.folder]
    for _ in range(4):  # more at a time than there are cores: threads are late then
        running = [subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(8)]
        assert [process.wait(timeout=60) for process in running] == [0] * 8
