"""Shards of another machine: the same images, fetched once, and one clear error where they cannot be had."""

from __future__ import annotations

import io
import os
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from tests.data.test_shards import source, surveyed, told

from ftx.core.addresses import Address, typed
from ftx.core.errors import DataError, EnvironmentFault
from ftx.data.image_store import ImageStore, open_hashed
from ftx.data.shards import fetched
from ftx.data.shards.write import write_shards
from ftx.data.sources import list_images
from ftx.scaling.parts import JobPart


class Handler(SimpleHTTPRequestHandler):
    """A folder over HTTP, which counts what is asked for, and fails as often as it is told to."""

    asked: ClassVar[Counter[str]] = Counter()
    failures: ClassVar[list[int]] = []
    forbidden: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        if self.path in self.forbidden:
            self.send_error(403)
        elif self.failures:
            self.send_error(self.failures.pop())
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        if self.failures:
            self.send_error(self.failures.pop())
        else:
            super().do_HEAD()

    def log_message(self, format: str, *args: object) -> None:
        pass


def copies_may_take(size_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a disk of which copies may have all that is free, that many bytes with what they have already."""

    def usage(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(
            free=size_bytes - sum(one.stat().st_size for one in folder.iterdir() if len(one.name) == 64)
        )

    monkeypatch.setattr(fetched, "_FRACTION_OF_FREE", 1)
    monkeypatch.setattr("ftx.data.shards.fetched.shutil.disk_usage", usage)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of shards of 24 images, five in each."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fetched, "_WAITS_S", (0.01, 0.01))
    write_shards(source(tmp_path / "data"), tmp_path / "out", per_shard=5)
    Handler.asked.clear()
    Handler.failures.clear()
    Handler.forbidden.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "out")))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_shards_of_another_machine_are_those_of_this_one(tmp_path: Path, host: str) -> None:
    near, far = surveyed(tmp_path / "out"), surveyed(Path(host))
    assert told(far) == told(near)
    assert [entry.path for entry in far.dataset.entries] == [entry.path for entry in near.dataset.entries]
    assert surveyed(Path(f"{host}/{{0000..0004}}.tar")).dataset.entries == far.dataset.entries
    store = ImageStore(far.dataset.root)
    assert all(open_hashed(store[entry])[1] == entry.sha256 for entry in far.dataset.entries)
    # Each shard came over the network once.
    assert {path: n for path, n in Handler.asked.items() if path.endswith(".tar")} == {
        f"/{n:04d}.tar": 1 for n in range(5)
    }


def test_a_shard_that_is_another_by_now_is_fetched_anew(tmp_path: Path, host: str) -> None:
    surveyed(Path(host))
    write_shards(source(tmp_path / "more"), tmp_path / "new", per_shard=6)
    for path in (tmp_path / "new").iterdir():
        path.replace(tmp_path / "out" / path.name)
    assert told(surveyed(Path(f"{host}/{{0000..0003}}.tar"))) == told(surveyed(tmp_path / "out" / "{0000..0003}.tar"))


def test_a_copy_that_is_damaged_by_now_is_fetched_anew(tmp_path: Path, host: str) -> None:
    """The shards are still those that shards.json speaks of; what was kept of them here is not."""
    expected = told(surveyed(Path(host)))
    copies = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size > 2000]
    assert copies
    for copy in copies:
        content, status = bytearray(copy.read_bytes()), copy.stat()
        content[content.index(b"IDAT") + 8] ^= 1  # in the first image
        copy.write_bytes(content)
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert told(surveyed(Path(host))) == expected


@pytest.mark.parametrize("failures", [[503], [503, 403, 500, 503]])
def test_a_server_that_fails_for_a_moment(host: str, failures: list[int]) -> None:
    Handler.failures[:] = failures  # of what is asked first: whether there is a shards.json
    found = surveyed(Path(host))
    assert len(found.dataset.entries) == 24
    assert not Handler.failures


def test_a_server_that_fails_is_not_one_that_has_no_such_file(host: str, tmp_path: Path) -> None:
    """What shards.json says of labels is not done without because a server fails."""
    Handler.failures[:] = [503] * 100
    with pytest.raises(EnvironmentFault, match="the file cannot be downloaded"):
        list_images(typed(f"{host}/0000.tar"))
    Handler.failures.clear()
    part = JobPart(archive=typed(f"{host}/0000.tar"))
    predictor: Any = None
    Handler.failures[:] = [503] * 100
    with pytest.raises(EnvironmentFault):  # and no answer for its images
        part.predictions(predictor, scores=False)


def test_archives_of_a_store_that_does_not_say_what_it_has_not(host: str) -> None:
    """S3 answers 403 for what is not there, unless one may list the bucket."""
    Handler.forbidden.update(("/shards.json", "/0001.tar"))
    with pytest.raises(EnvironmentFault, match="the file cannot be downloaded"):
        list_images(typed(f"{host}/0001.tar"))
    Handler.forbidden.remove("/0001.tar")
    assert len(surveyed(Path(f"{host}/{{0000..0004}}.tar")).dataset.entries) == 24
    with pytest.raises(DataError):
        list_images(typed(host))  # which only shards.json could list


def test_a_full_disk_is_no_fault_of_the_network(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ftx.data.shards.fetched._copied", full)
    with pytest.raises(EnvironmentFault, match="the disk is full"):
        fetched.fetched(Address(f"{host}/0000.tar"))


def test_a_server_that_is_not_there_or_has_no_such_file(host: str, tmp_path: Path) -> None:
    (tmp_path / "out" / "shards.json").unlink()
    for wrong in ("http://127.0.0.1:9/0000.tar", f"{host}/0005.tar", "http://127.0.0.1:9/", host):
        with pytest.raises((EnvironmentFault, DataError)) as error:
            list_images(typed(wrong))
        # Whether there is a shards.json is asked first.
        there = wrong.startswith(host) and wrong.endswith(".tar")
        assert error.value.where == (
            wrong if there else f"{wrong.removesuffix('0000.tar').removesuffix('/')}/shards.json"
        )
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and not path.suffix]


def test_an_address_that_nothing_reads() -> None:
    with pytest.raises(EnvironmentFault, match="no installed package reads this kind of URL") as error:
        list_images(typed("s3://bucket/0.tar"))
    assert error.value.where == "s3://bucket/shards.json"  # which is asked for first


def test_copies_have_a_share_of_the_disk(tmp_path: Path, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not asked for since longest goes; what was read stays right, as it is fetched again."""
    size = (tmp_path / "out" / "0000.tar").stat().st_size
    for number in range(5):
        os.utime(fetched.fetched(Address(f"{host}/{number:04d}.tar")), (number, number))
    folder = next((tmp_path / "cache").rglob("files"))
    copies_may_take(3 * size, monkeypatch)
    (tmp_path / "out" / "0005.tar").write_bytes((tmp_path / "out" / "0004.tar").read_bytes())
    fetched.fetched(Address(f"{host}/0005.tar"))
    copies = [path for path in folder.iterdir() if len(path.name) == 64]
    assert sum(copy.stat().st_size for copy in copies) <= 3 * size
    fetched.fetched(Address(f"{host}/0003.tar"))
    assert Handler.asked["/0003.tar"] <= 2
    fetched.fetched(Address(f"{host}/0000.tar"))
    assert Handler.asked["/0000.tar"] == 2


class Short:
    """A store as fsspec has them, which says how large a file is and gives less of it, so many times."""

    def __init__(self, content: bytes, times: int) -> None:
        self.content, self.times = content, times

    def info(self, path: str) -> dict[str, object]:
        return {"size": len(self.content)}

    def open(self, path: str, mode: str) -> io.BytesIO:
        self.times -= 1
        return io.BytesIO(self.content if self.times < 0 else self.content[: len(self.content) // 2])


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_download_that_was_cut_short_is_not_kept(
    times: int, tmp_path: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no word of it by the store. There are three attempts."""
    address, whole = Address("s3://bucket/0001.tar"), (tmp_path / "out" / "0001.tar").read_bytes()
    store = Short(whole, times)
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda url: (store, "bucket/0001.tar"))
    if times == 3:
        with pytest.raises(EnvironmentFault, match="the file cannot be downloaded") as error:
            fetched.fetched(address)
        assert error.value.found == f"{len(whole) // 2:,} bytes arrived, of {len(whole):,}"
        folder = next((tmp_path / "cache").rglob("files"))
        assert not [path for path in folder.iterdir() if path.suffix != ".lock"]
    assert fetched.fetched(address).read_bytes() == whole
    assert store.times == -1


def test_files_of_one_size_at_two_addresses_are_two_copies(tmp_path: Path, host: str) -> None:
    """Of a server that tells nothing but the size."""
    content = {"a.tar": b"a" * 3000, "b.tar": b"b" * 3000}
    for name, each in content.items():
        (tmp_path / "out" / name).write_bytes(each)
        os.utime(tmp_path / "out" / name, (1, 1))
    copies = {name: fetched.fetched(Address(f"{host}/{name}")) for name in content}
    assert {name: copy.read_bytes() for name, copy in copies.items()} == content
    states = {fetched.state_of(Address(f"{host}/{name}")) for name in content}
    assert len(states) == 2


def test_copies_that_go_are_no_more_than_must(tmp_path: Path, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of the five have room beside what comes: of them stay those that were asked for last."""
    sizes = {number: (tmp_path / "out" / f"{number:04d}.tar").stat().st_size for number in range(5)}
    for number in range(4):
        os.utime(fetched.fetched(Address(f"{host}/{number:04d}.tar")), (number, number))
    fetched.fetched(Address(f"{host}/0000.tar"))  # not copied again, and asked for just now
    # Exactly as much as these three and the one that comes have.
    copies_may_take(sizes[0] + sizes[3] + sizes[2] + sizes[4], monkeypatch)
    fetched.fetched(Address(f"{host}/0004.tar"))
    Handler.asked.clear()
    for number in (0, 2, 3, 4):
        fetched.fetched(Address(f"{host}/{number:04d}.tar"))
    assert not Handler.asked
    fetched.fetched(Address(f"{host}/0001.tar"))
    assert Handler.asked == {"/0001.tar": 1}
