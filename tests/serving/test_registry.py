"""Which versions are served after each look at the disk, when what failed is tried again, and who keeps an old one."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.conftest import Listener, write_colour_ir
from tests.serving.conftest import pixels, write_named_ir

from ftx.runs.artifacts import IR_FILE, IR_WEIGHTS
from ftx.runs.card_json import CARD_FILE, PROOF_FILE, REFERENCE_FILE, TUNING_FILE
from ftx.runs.parity_json import PARITY_FILE
from ftx.runs.run_json import MANIFEST_FILE
from ftx.serving import registry
from ftx.serving.registry import ModelSource, Registry, Version, signature, versions_in

OLD, NEW = ("old red", "old green", "old blue"), ("new red", "new green", "new blue")


@pytest.fixture(autouse=True)
def looks_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "LOOK_S", 1e6)


class Outcomes(Listener):
    """What is noted, and of each exchange whether the new model was taken."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[tuple[str, bool]] = []

    def reloaded(self, name: str, taken: bool) -> None:
        self.taken.append((name, taken))


@contextmanager
def opened(
    *targets: ModelSource, counted: Callable[[int], None] = lambda images: None
) -> Iterator[tuple[Registry, Outcomes]]:
    outcomes = Outcomes()
    made = Registry(targets, outcomes, counted=counted, reloaded=outcomes.reloaded, options={})
    try:
        yield made, outcomes
    finally:
        made.close()
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith(("ftx-stream", "ftx-reload"))]
    assert left == []  # of no version


def looked(made: Registry, times: int = 2) -> None:
    """As often as it takes to see that what has changed has stopped changing."""
    for _ in range(times):
        made.look()


def names(version: Version) -> tuple[str, ...]:
    return tuple(version.predictor.task.labels.names)


def test_a_version_that_was_moved_away_is_served_again_when_it_is_put_back(tmp_path: Path) -> None:
    """Unchanged, with the inodes and times that it had."""
    root = tmp_path / "shop"
    write_named_ir(root / "1", OLD)
    write_named_ir(root / "3", NEW)
    with opened(ModelSource("shop", root)) as (made, outcomes):
        for _ in range(2):
            (root / "3").rename(tmp_path / "away")
            looked(made)
            assert names(made.find("shop")) == OLD
            assert sorted(made.models["shop"].versions) == [1]
            (tmp_path / "away").rename(root / "3")
            looked(made)
            assert names(made.find("shop")) == NEW
            assert names(made.find("shop", 1)) == OLD
    assert outcomes.taken == [("shop", True)] * 2
    assert len([text for text in outcomes.said if text == "shop: version 3 was removed"]) == 2


def test_each_version_is_exchanged_by_itself(tmp_path: Path) -> None:
    """Of two versions of one model, and of two models, only that whose files have changed."""
    root, other = tmp_path / "shop", write_named_ir(tmp_path / "other", ("x", "y", "z"))
    write_named_ir(root / "1", OLD)
    write_named_ir(root / "3", NEW)
    with opened(ModelSource("shop", root), ModelSource("other", other)) as (made, outcomes):
        stays = [made.find("shop", 3), made.find("other")]
        shutil.rmtree(root / "1")
        write_named_ir(root / "1", ("a", "b", "c"))
        looked(made, 3)
        assert names(made.find("shop", 1)) == ("a", "b", "c")
        assert [made.find("shop"), made.find("other")] == stays
        assert not any(version.retired for version in stays)
    assert outcomes.taken == [("shop", True)]


def test_files_that_still_change_are_not_opened(tmp_path: Path) -> None:
    served = write_named_ir(tmp_path / "model", OLD)
    with opened(ModelSource("model", served)) as (made, outcomes):
        first = made.find("model")
        for second in range(5):
            os.utime(served / IR_WEIGHTS, (1e9 + second, 1e9 + second))
            looked(made, 1)
            assert made.find("model") is first
        looked(made, 1)
        assert made.find("model") is not first
        looked(made, 3)  # and once
    assert outcomes.taken == [("model", True)]


@pytest.mark.parametrize(
    "name", [CARD_FILE, IR_FILE, IR_WEIGHTS, REFERENCE_FILE, PROOF_FILE, TUNING_FILE, MANIFEST_FILE, str(PARITY_FILE)]
)
def test_a_change_of_each_file_is_seen(name: str, tmp_path: Path) -> None:
    write_colour_ir(tmp_path)
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"one")
    seen = [signature(tmp_path)]
    file.unlink()
    seen.append(signature(tmp_path))
    file.write_bytes(b"one")
    os.utime(file, (1e9, 1e9))
    seen.append(signature(tmp_path))
    os.utime(file, (1e9 + 1, 1e9 + 1))  # the same bytes, written again
    seen.append(signature(tmp_path))
    with file.open("ab") as stream:
        stream.write(b"more")
    os.utime(file, (1e9 + 1, 1e9 + 1))  # longer, at the same time
    seen.append(signature(tmp_path))
    other = tmp_path / "other"
    other.write_bytes(file.read_bytes())
    os.utime(other, (1e9 + 1, 1e9 + 1))
    other.replace(file)  # another file, as long and as old
    seen.append(signature(tmp_path))
    assert all(before != after for before, after in pairwise(seen))
    assert signature(tmp_path) == seen[-1]


def test_the_models_of_a_run_are_looked_at_in_its_folders(tmp_path: Path) -> None:
    """A run's IR lies two folders below, one of a folder of IRs one below."""
    for folder in (tmp_path / "openvino" / "int8", tmp_path / "int8"):
        before = signature(tmp_path)
        folder.mkdir(parents=True)
        (folder / IR_FILE).write_text("x")
        assert signature(tmp_path) != before


def test_numbers_of_versions_are_whole_and_plain(tmp_path: Path) -> None:
    for name in ("1", "12", "007", "0", "-3", "1.5", "x2", "9" * 10):
        write_colour_ir_at(tmp_path / name)
    (tmp_path / "4").mkdir()  # holds no model
    assert dict(versions_in(tmp_path)) == {1: tmp_path / "1", 12: tmp_path / "12"}
    assert dict(versions_in(tmp_path / "12")) == {1: tmp_path / "12"}


def write_colour_ir_at(folder: Path) -> None:
    folder.mkdir()
    (folder / IR_FILE).write_text("x")


def test_pauses_between_tries_grow_to_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk refuses the new model for some minutes; nobody tries it at full speed, and it is told once."""
    served, now, tries = write_named_ir(tmp_path / "model", OLD), [0.0], list[float]()
    really, refusing = os.open, [True]

    def refuses(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if refusing[0] and str(path) == str(served / IR_WEIGHTS):
            if not tries or tries[-1] != now[0]:
                tries.append(now[0])
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return really(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(registry, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with opened(ModelSource("model", served)) as (made, outcomes):
        shutil.rmtree(served)
        write_named_ir(served, NEW)
        monkeypatch.setattr(os, "open", refuses)
        looked(made, 1)
        for second in range(400):
            now[0] = float(second)
            looked(made, 1)
        assert tries == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243, 303, 363]
        assert names(made.find("model")) == OLD
        assert outcomes.taken == [("model", False)]
        refusing[0] = False
        looked(made, 3)
        assert names(made.find("model")) == OLD  # it is not due
        now[0] = 423.0
        looked(made, 3)
        assert names(made.find("model")) == NEW
        # The next failure begins with a short pause again.
        refusing[0] = True
        tries.clear()
        os.utime(served / CARD_FILE, (1e9, 1e9))
        looked(made, 2)
        for second in range(423, 431):
            now[0] = float(second)
            looked(made, 1)
        assert tries == [423, 424, 426, 430]
        # And so does one of other files.
        os.utime(served / CARD_FILE, (1e9 + 1, 1e9 + 1))
        looked(made, 2)
        tries.clear()
        now[0] = 431.0
        looked(made, 1)
        assert tries == [431]
    assert outcomes.taken == [("model", False), ("model", True), ("model", False), ("model", False)]
    assert len([text for text in outcomes.said if text.endswith("it is tried again")]) == 3


def test_an_old_model_ends_with_the_last_of_its_requests(tmp_path: Path) -> None:
    served = write_named_ir(tmp_path / "model", OLD)
    with opened(ModelSource("model", served)) as (made, _), ExitStack() as first, ExitStack() as second:
        old = first.enter_context(made.lease("model"))
        assert second.enter_context(made.lease("model")) is old
        shutil.rmtree(served)
        write_named_ir(served, NEW)
        looked(made, 3)
        with made.lease("model") as new:
            assert names(new) == NEW
        for stack in (first, second):
            assert old.batcher.submit(pixels(1)[0]).result(30)["logits"].shape == (3,)
            stack.close()
        old.batcher.join()
        with pytest.raises(AssertionError):
            old.batcher.submit(pixels(1)[0])
        assert new.batcher.submit(pixels(1)[0]).result(30)["logits"].shape == (3,)  # which nobody leases now


def test_all_images_that_wait_are_counted(tmp_path: Path) -> None:
    """Of each model and each of its versions."""
    root = tmp_path / "shop"
    write_named_ir(root / "1", OLD)
    write_named_ir(root / "3", NEW)
    other = write_named_ir(tmp_path / "other", ("x", "y", "z"))
    entered, goes_on = threading.Semaphore(0), threading.Event()

    def counted(images: int) -> None:
        entered.release()
        assert goes_on.wait(30)

    with opened(ModelSource("shop", root), ModelSource("other", other), counted=counted) as (made, _):
        versions = [made.find("shop", 1), made.find("shop", 3), made.find("other")]
        try:
            assert made.waiting == 0
            for version in versions:  # all of its streams are busy, each with one image
                for _ in range(version.predictor.streams):
                    version.batcher.submit(pixels(1)[0])
                    assert entered.acquire(timeout=30)
            for extra, version in enumerate(versions, start=1):
                for _ in range(extra):
                    version.batcher.submit(pixels(1)[0])
            assert made.waiting == 1 + 2 + 3
        finally:
            goes_on.set()
