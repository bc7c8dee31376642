"""Newer models take the place of older ones while requests are answered, and none is lost."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.serving.conftest import Answer, Running, pixels, png, running, until, write_named_ir, write_wide_ir

from ftx.core.disk import exchange_folders
from ftx.core.errors import ExportError, InputError, RunError
from ftx.serving import registry
from ftx.serving.registry import ModelSource

LOOK_S = 0.1
OLD, NEW = ("old red", "old green", "old blue"), ("new red", "new green", "new blue")


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "LOOK_S", LOOK_S)


@dataclass
class Load:
    """What several clients were answered, in the order in which they asked."""

    statuses: list[int] = field(default_factory=list[int])
    labels: list[str] = field(default_factory=list[str])


@contextmanager
def under_load(server: Running, path: str = "/predict", clients: int = 4) -> Iterator[Load]:
    load, ended = Load(), threading.Event()

    def ask() -> None:
        while not ended.is_set():
            said = server.ask("POST", path, png(1), content_type="image/png")
            load.statuses.append(said.status)
            if said.status == 200:
                load.labels.append(said.json["images"][0]["labels"][0]["name"])

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def label(said: Answer) -> str:
    return said.json["images"][0]["labels"][0]["name"]


def test_a_folder_that_is_exchanged_is_served_without_a_lost_request(tmp_path: Path) -> None:
    served, other = write_named_ir(tmp_path / "model", OLD), write_named_ir(tmp_path / "other", NEW)
    with running(ModelSource("model", served)) as server, under_load(server) as load:
        until(lambda: len(load.labels) > 20)
        for number, expected in enumerate((NEW[1], OLD[1], NEW[1]), start=1):
            exchange_folders(served, other)
            # A client that was slow may bring an older answer meanwhile.
            until(lambda count=number: len([text for text in server.said if "is now" in text]) == count)
            until(lambda name=expected: load.labels[-1] == name)
    assert set(load.statuses) == {200}
    assert set(load.labels) == {OLD[1], NEW[1]}
    assert len([text for text in server.said if "is now" in text]) == 3


def test_what_began_on_the_old_model_ends_on_it(tmp_path: Path) -> None:
    served, other = write_named_ir(tmp_path / "model", OLD), write_named_ir(tmp_path / "other", NEW)
    with running(ModelSource("model", served)) as server:
        with server.server.registry.lease("model") as held:
            exchange_folders(served, other)
            until(lambda: label(server.predict(png(1))) == NEW[1])
            assert held.retired
            answer = held.batcher.submit(pixels(1)[0]).result(10)  # its threads are there still
            assert answer["logits"].shape == (3,)
            assert held.predictor.task.labels.names == OLD
        with pytest.raises(AssertionError):
            held.batcher.submit(pixels(1)[0])


def test_a_model_that_does_not_hold_is_not_taken_until_it_does(tmp_path: Path) -> None:
    served, other = write_named_ir(tmp_path / "model", OLD), write_named_ir(tmp_path / "other", NEW)
    with running(ModelSource("model", served)) as server, under_load(server) as load:
        whole = (other / "model.bin").read_bytes()
        (other / "model.bin").write_bytes(whole + b"more")
        exchange_folders(served, other)
        until(lambda: any("cannot be served" in text for text in server.said))
        assert "has changed since ftx wrote it" in server.said[-1]
        assert server.ask("GET", "/v2/health/ready").status == 200
        assert label(server.predict(png(1))) == OLD[1]
        (served / "model.bin").write_bytes(whole)
        until(lambda: load.labels[-1] == NEW[1])
        metrics = server.ask("GET", "/metrics").body.decode()
    assert set(load.statuses) == {200}
    assert 'ftx_reloads_total{model="model",outcome="refused"} 1.0' in metrics
    assert 'ftx_reloads_total{model="model",outcome="taken"} 1.0' in metrics


def test_a_disk_that_does_not_answer_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system refuses to read the new model three times; its files stay as they are."""
    monkeypatch.setattr(registry, "RETRY_S", 0.05)
    served, other = write_named_ir(tmp_path / "model", OLD), write_named_ir(tmp_path / "other", NEW)
    refusals = iter(range(3))
    really = os.open

    def refusing(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if str(path) == str(served / "model.bin") and next(refusals, None) is not None:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return really(path, flags, mode, dir_fd=dir_fd)

    with running(ModelSource("model", served)) as server:
        monkeypatch.setattr(os, "open", refusing)
        exchange_folders(served, other)
        until(lambda: label(server.predict(png(1))) == NEW[1])
        assert next(refusals, None) is None
        metrics = server.ask("GET", "/metrics").body.decode()
    assert len([text for text in server.said if text.endswith("it is tried again")]) == 1
    assert 'ftx_reloads_total{model="model",outcome="refused"} 1.0' in metrics


@pytest.mark.representative
def test_a_file_that_is_cut_where_it_lies_ends_nothing(tmp_path: Path) -> None:
    """In a process of its own: what is mapped into memory, and is gone, ends one by a signal."""
    write_wide_ir(tmp_path / "model")
    program = f"""
from pathlib import Path
from tests.serving.conftest import ModelSource, png, running
served = Path({str(tmp_path / "model")!r})
with running(ModelSource("model", served)) as server:
    assert server.predict(png(1, 64, 64)).status == 200
    whole = (served / "model.bin").read_bytes()
    (served / "model.bin").write_bytes(b"")
    for _ in range(3):
        assert server.predict(png(1, 64, 64)).status == 200
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_folder_that_goes_leaves_the_model_that_is_open(tmp_path: Path) -> None:
    served = write_named_ir(tmp_path / "model", OLD)
    with running(ModelSource("model", served)) as server:
        shutil.rmtree(served)
        time.sleep(3 * LOOK_S)
        assert label(server.predict(png(1))) == OLD[1]
        write_named_ir(tmp_path / "model", NEW)
        until(lambda: label(server.predict(png(1))) == NEW[1])


def test_versions_come_and_go(tmp_path: Path) -> None:
    root = tmp_path / "shop"
    write_named_ir(root / "1", OLD)
    write_named_ir(root / "3", NEW)
    (root / "notes").mkdir()
    (root / "07").mkdir()
    write_named_ir(root / "before", ("x", "y", "z"))  # has no number, so it is no version
    with running(ModelSource("shop", root)) as server:
        told = server.ask("GET", "/v2/models/shop").json
        assert (told["versions"], told["parameters"]["version"]) == (["1", "3"], "3")
        assert label(server.predict(png(1))) == NEW[1]  # the highest
        assert label(server.predict(png(1), "?version=1")) == OLD[1]
        assert server.predict(png(1), "?version=2").status == 404
        write_named_ir(tmp_path / "10", ("a", "b", "c")).rename(root / "10")
        with under_load(server) as load:
            until(lambda: bool(load.labels) and load.labels[-1] == "b")
            shutil.rmtree(root / "10")
            until(lambda: "shop: version 10 was removed" in server.said)
            until(lambda: load.labels[-1] == NEW[1])
        assert set(load.statuses) == {200}
        assert server.predict(png(1), "?version=10").status == 404
        shutil.rmtree(root / "1")
        shutil.rmtree(root / "3")
        time.sleep(3 * LOOK_S)
        said = server.predict(png(1))  # the last one goes on
        assert (said.status, label(said)) == (200, NEW[1])


def test_each_path_is_of_the_version_that_it_names(tmp_path: Path) -> None:
    root = tmp_path / "shop"
    write_named_ir(root / "1", OLD)
    write_named_ir(root / "3", NEW, maps=True)
    image = {"name": "image", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [0, 200, 0]}
    request = {"inputs": [image], "outputs": [{"name": "logits", "parameters": {"classification": 1}}]}
    with running(ModelSource("shop", root)) as server:
        digests: set[str] = set()
        for path, number, names in (("", "3", NEW), ("/versions/3", "3", NEW), ("/versions/1", "1", OLD)):
            told = server.ask("GET", f"/v2/models/shop{path}").json
            assert (told["versions"], told["parameters"]["version"]) == (["1", "3"], number)
            assert (told["parameters"]["labels"], told["parameters"]["maps"]) == (list(names), number == "3")
            digests.add(told["parameters"]["digest"])
            said = server.infer(request, f"/v2/models/shop{path}/infer").json
            assert (said["model_name"], said["model_version"]) == ("shop", number)
            assert said["outputs"][0]["data"] == [f"4.000000:1:{names[1]}"]  # (200 - 100) / 25
            assert server.ask("GET", f"/v2/models/shop{path}/ready").status == 200
        assert len(digests) == 2
        assert server.ask("GET", "/v2/models/shop/versions/2/ready").status == 404
        rows = server.ask("POST", "/v2/repository/index").json
        assert [(row["name"], row["version"]) for row in rows] == [("shop", "3"), ("shop", "1")]
        served = [(one.name, one.version, one.path) for one in server.server.served()]
        assert served == [("shop", 1, str(root / "1")), ("shop", 3, str(root / "3"))]
        assert {one.digest for one in server.server.served()} == digests
        # Maps are those of the version that is asked.
        assert server.predict(png(1), "?saliency=true").json["images"][0]["saliency"]
        assert server.predict(png(1), "?saliency=true&version=1").status == 400


def test_several_models_have_their_own_names(tmp_path: Path) -> None:
    one, two = write_named_ir(tmp_path / "one", OLD), write_named_ir(tmp_path / "two", NEW)
    evil = "<img src=x onerror=alert(1)>"
    with running(ModelSource("first", one), ModelSource(evil, two)) as server:
        assert label(server.predict(png(1))) == OLD[1]
        assert label(server.predict(png(1), "?model=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E")) == NEW[1]
        said = server.predict(png(1), "?model=second")
        assert (said.status, "choose from first, <img" in said.json["error"]) == (404, True)
        assert said.headers["content-type"] == "application/json"  # not HTML


@pytest.mark.parametrize("name", ["", " ", "a/b", "a\nb", "x" * 201])
def test_names_that_no_path_can_hold(colour_ir: Path, name: str) -> None:
    with pytest.raises(InputError, match="the name of a model must be"), running(ModelSource(name, colour_ir)):
        pass


def test_what_cannot_be_served(colour_ir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two models have the name 'a'"), running(*2 * [ModelSource("a", colour_ir)]):
        pass
    with (
        pytest.raises(InputError, match="the path must be a run or an exported model"),
        running(ModelSource("a", tmp_path / "none")),
    ):
        pass
    with pytest.raises((ExportError, RunError)), running(ModelSource("a", tmp_path)):
        pass


@pytest.mark.slow
def test_many_updates_leave_no_more_memory_than_one(tmp_path: Path) -> None:
    served, other = write_named_ir(tmp_path / "model", OLD), write_named_ir(tmp_path / "other", NEW)
    with running(ModelSource("model", served)) as server:
        sizes: list[int] = []
        for count in range(30):
            exchange_folders(served, other)
            until(lambda number=count: len([text for text in server.said if "is now" in text]) > number)
            server.predict(png(1))
            sizes.append(psutil.Process(os.getpid()).memory_info().rss)
        streams = server.server.registry.models["model"].versions[1].predictor.streams

        def threads() -> list[str]:
            return [thread.name for thread in threading.enumerate() if thread.name.startswith("ftx-stream")]

        until(lambda: len(threads()) == streams)  # those of the version before end a moment after it is gone
    assert sizes[-1] - sizes[9] < 20e6  # a model and its threads take 5 MB and more


@pytest.mark.slow
def test_an_update_by_ftx_apply_is_served_under_load(whole_run: Path, tmp_path: Path) -> None:
    """The base, two updates, the rollback: each is answered from the moment that it is there, and nobody waits."""
    from ftx.exporting.base_ir import export_base, export_update
    from ftx.updating.apply import apply, rollback

    export_base(whole_run, tmp_path / "base")
    export_update(whole_run, tmp_path / "one", tmp_path / "base")
    export_update(whole_run, tmp_path / "two", tmp_path / "base", after=tmp_path / "one")
    served = tmp_path / "device" / "model"
    apply(tmp_path / "one", tmp_path / "base", served)
    with running(ModelSource("model", served)) as server, under_load(server) as load:
        digests = [server.ask("GET", "/v2/models/model").json["parameters"]["digest"]]
        for change in (lambda: apply(tmp_path / "two", tmp_path / "base", served), lambda: rollback(served)):
            change()

            def now() -> str:
                return server.ask("GET", "/v2/models/model").json["parameters"]["digest"]

            until(lambda: now() != digests[-1])
            digests.append(now())
    assert digests[0] == digests[2] != digests[1]
    assert set(load.statuses) == {200}
    assert len(load.statuses) > 50
