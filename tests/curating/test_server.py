"""The page's server: what it answers to whom, and what it never does."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from urllib.request import url2pathname

import pytest
from PIL import Image
from tests.curating.lookable import EVIL, class_folders, look_at, undecided
from tests.zygote import Zygote

from ftx.core.errors import EnvironmentFault, InputError, Termination
from ftx.curating.choices import claimed
from ftx.curating.look import Look
from ftx.curating.server import LookServer, serve
from ftx.curating.thumbnails import Thumbnails


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Look:
    root = tmp_path_factory.mktemp("server")
    return look_at(class_folders(root / "data"), root / "t.csv")


@contextmanager
def served(look: Look, notes: list[str]) -> Iterator[LookServer]:
    with LookServer(0, note=notes.append) as made:
        made.show(look)
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()


@pytest.fixture
def server(found: Look, tmp_path: Path) -> Iterator[LookServer]:
    notes: list[str] = []
    with served(undecided(found, tmp_path / "t.csv"), notes) as made:
        yield made
    assert not notes


def ask(
    server: LookServer, path: str, body: bytes | None = None, secret: str | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    own = f"127.0.0.1:{server.server_address[1]}"
    sent = {"Host": own, "Origin": f"http://{own}", "Content-Type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {name: value for name, value in sent.items() if value}
    where = f"/{server.secret if secret is None else secret}/{path}"
    connection.putrequest("GET" if body is None else "POST", where, skip_host=True, skip_accept_encoding=True)
    for name, value in sent.items():
        connection.putheader(name, value)
    if body is not None and "Content-Length" not in sent:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return found


def choice(number: int = 0, choice: str = "keep") -> bytes:
    return json.dumps({"number": number, "choice": choice}).encode()


def test_it_listens_to_this_machine_alone(server: LookServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(EnvironmentFault, match=f"port {server.server_address[1]} cannot be used"):
        LookServer(server.server_address[1])


@pytest.mark.parametrize("how", [KeyboardInterrupt, Termination])
def test_its_user_ends_it_well_and_the_system_does_not(
    found: Look, tmp_path: Path, how: type[KeyboardInterrupt], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(_server: LookServer) -> None:
        raise how

    monkeypatch.setattr(LookServer, "serve_forever", stopped)
    look, addresses = undecided(found, tmp_path / "t.csv"), list[str]()
    ending = pytest.raises(Termination) if how is Termination else nullcontext()
    with LookServer(0, note=addresses.append) as server, ending:
        serve(server, look, announce=addresses.append)
    assert addresses == [server.address]


def test_the_page_is_one_file_of_text(server: LookServer) -> None:
    status, headers, content = ask(server, "")
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert EVIL.encode() not in content
    assert b"<b onclick" not in content


def test_a_choice_from_the_page_is_on_disk(server: LookServer) -> None:
    status, _, content = ask(server, "choices", choice())
    assert (status, json.loads(content)["choice"]) == (200, "keep")
    rows = server.look.table.path.read_text(encoding="utf-8").splitlines()
    assert rows[1].endswith(",keep")
    status, headers, content = ask(server, "table.csv")
    assert (status, content) == (200, server.look.table.path.read_bytes())
    assert headers["content-disposition"] == 'attachment; filename="t.csv"'


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1:1"},
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Host": "evil.example"},
        {"Host": ""},
        {"secret": "x" * 32},
        {"secret": ""},
    ],
    ids=str,
)
def test_no_other_website_can_choose(server: LookServer, headers: dict[str, str]) -> None:
    before = server.look.table.path.read_bytes()
    secret = headers.pop("secret", None)
    status, _, content = ask(server, "choices", choice(), secret=secret, **headers)
    assert 400 <= status < 500
    assert server.secret.encode() not in content
    assert server.look.table.path.read_bytes() == before


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"secret": "x"}, {"secret": ""}], ids=str)
def test_no_other_website_or_user_can_read(server: LookServer, headers: dict[str, str]) -> None:
    secret = headers.pop("secret", None)
    for path in ("", "table.csv", "images/0"):
        status, sent, content = ask(server, path, secret=secret, **headers)
        assert status in (403, 404)
        assert len(content) < 100
        assert "access-control-allow-origin" not in sent


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[1]", 400),
        (b'{"number": "0", "choice": "keep"}', 400),
        (b'{"number": true, "choice": "keep"}', 400),
        (b'{"number": 0}', 400),
        (choice(10_000), 409),
        (choice(-1), 409),
        (choice(0, "relabel:dgo"), 409),
        (choice(0, "<script>"), 409),
    ],
)
def test_what_is_no_choice_is_refused_in_words(server: LookServer, body: bytes, status: int) -> None:
    before = server.look.table.path.read_bytes()
    found, headers, content = ask(server, "choices", body)
    assert found == status
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert content
    assert server.look.table.path.read_bytes() == before


def test_a_body_without_end_is_not_read(server: LookServer) -> None:
    assert ask(server, "choices", b"", Content_Length=str(1 << 40))[0] == 413
    assert ask(server, "choices", b"", Content_Length="-1")[0] == 413
    assert ask(server, "")[0] == 200


@pytest.mark.parametrize(
    "path", ["images/99", "images/-1", "images/", "images/..%2f..", "images/%00", "../t.csv", "x", "images/%C2%B2"]
)
def test_nothing_but_its_images_is_given_out(server: LookServer, path: str) -> None:
    assert ask(server, path)[0] == 404


def test_through_a_tunnel_the_port_is_another(server: LookServer) -> None:
    """As of `ssh -L 9000:localhost:8765`; the port that a browser knows by itself (80) is left out."""
    for host in ("localhost:9000", "127.0.0.1"):
        assert ask(server, "", Host=host, Origin="")[0] == 200
        assert ask(server, "choices", choice(), Host=host, Origin=f"http://{host}")[0] == 200


def test_what_fails_is_answered_and_told(found: Look, tmp_path: Path) -> None:
    """A report that the page cannot be made of, and an image whose path is no text."""
    look = undecided(found, tmp_path / "t.csv")
    broken = replace(look, report=look.report.model_copy(update={"labels": None}))
    notes: list[str] = []
    with served(broken, notes) as server:
        server.thumbnails = Thumbnails(tmp_path, [7])
        for path in ("", "images/0"):
            status, headers, content = ask(server, path)
            assert status == 500
            assert headers["content-type"] == "text/plain; charset=utf-8"
            assert b"the terminal" in content
        assert ask(server, "choices", choice())[0] == 200
    assert len(notes) == 2
    assert "TypeError" in notes[0]
    assert "images/0" in notes[1]
    assert not any(server.secret in note for note in notes)


def test_a_browser_that_goes_away_is_no_error(server: LookServer) -> None:
    """Checked by the fixture: nothing was told."""
    with socket.create_connection(server.server_address[:2]) as connection:
        connection.sendall(b"POST /")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset
    assert ask(server, "")[0] == 200


def test_thumbnails_are_small_and_follow_the_image_path(tmp_path: Path) -> None:
    for index in range(4):
        Image.effect_noise((640, 360), 90).convert("RGB").save(tmp_path / f"{index}.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (40, 20), "red").save(tmp_path / "turned.jpg", exif=exif)
    paths = [*(f"{index}.png" for index in range(4)), "turned.jpg", "gone.png"]
    kept = Thumbnails(tmp_path, paths, kept=2)
    for number in (0, 1, 2, 3, 0):
        (tmp_path / "made.webp").write_bytes(kept.webp(number) or b"")
        with Image.open(tmp_path / "made.webp") as image:
            assert image.size == (512, 288)
    (tmp_path / "made.webp").write_bytes(kept.webp(4) or b"")
    with Image.open(tmp_path / "made.webp") as image:
        assert image.size == (20, 40)
    assert kept.webp(5) is None
    assert kept.webp(6) is None


@pytest.mark.slow
def test_the_verb_serves_until_ctrl_c_and_says_where_the_table_lies(tmp_path: Path) -> None:
    """It opens a browser with a file of its own user; the browser here writes down what it is given."""
    data, opened = class_folders(tmp_path / "data"), tmp_path / "opened.txt"
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\nprintf %s \"$1\" > '{opened}.part' && mv '{opened}.part' '{opened}'\n")
    browser.chmod(0o755)
    words = ["data", "look", str(data), "--model", "test_vit", "--weights", "none", "--image-size", "32"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ftx", *words, "--port", "0", "--open"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "BROWSER": f"{browser} %s", "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    address = next(line for line in process.stdout if line.startswith("page")).split()[1]
    assert (tmp_path / "data-look.csv").is_file()
    host, _, secret = address.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request("GET", f"/{secret}")
    assert connection.getresponse().status == 200
    connection.close()
    until_s = time.monotonic() + 30
    while not opened.exists():
        assert process.poll() is None
        assert time.monotonic() < until_s, "no browser was started"
        time.sleep(0.02)
    assert secret.strip("/") not in opened.read_text()
    redirect = Path(url2pathname(opened.read_text().removeprefix("file://")))
    assert address in redirect.read_text()
    assert [path.stat().st_mode & 0o777 for path in (redirect, redirect.parent)] == [0o600, 0o700]
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "data-look.csv: 2 label, 1 near-duplicate, 1 unreadable; 0 decided" in rest
    assert not redirect.parent.exists()


@pytest.mark.parametrize("asked", [False, True])
def test_a_browser_is_opened_only_if_asked(found: Look, monkeypatch: pytest.MonkeyPatch, asked: bool) -> None:
    def ctrl_c(server: socketserver.BaseServer) -> None:
        raise KeyboardInterrupt

    opened: list[str] = []
    announced: list[str] = []
    monkeypatch.setattr(socketserver.BaseServer, "serve_forever", ctrl_c)
    monkeypatch.setattr(webbrowser, "open", opened.append)
    with LookServer(0) as server:
        serve(server, found, open_browser=asked, announce=announced.append)
    assert len(announced) == 1
    assert [one.partition(":")[0] for one in opened] == ["file"] * asked


def test_one_page_at_a_time_chooses_in_a_table(found: Look, tmp_path: Path) -> None:
    look = undecided(found, tmp_path / "t.csv")
    with claimed(look.table.path):
        with pytest.raises(InputError, match="another `ftx data look` process already uses"):
            look_at(look.dataset.root, look.table.path)
        with LookServer(0) as server, pytest.raises(InputError, match="another `ftx data look`"):
            serve(server, look, announce=lambda _: None)
    look_at(look.dataset.root, look.table.path)


@pytest.mark.representative
def test_a_port_that_is_taken_costs_no_work(fresh_ftx: Zygote, tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data")
    with LookServer(0) as other:
        port = other.server_address[1]
        said = fresh_ftx("data", "look", data, "--port", str(port), "--out", tmp_path / "t.csv")
    assert said.returncode == 3
    assert f"port {port} cannot be used" in said.stderr
    assert not (tmp_path / "t.csv").exists()
