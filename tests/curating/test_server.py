"""The page's server: what it answers to whom, and what it never does."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from tests.curating.lookable import EVIL, class_folders, look_at

from ftx.core.errors import EnvironmentFault
from ftx.curating.server import LookServer
from ftx.curating.thumbnails import Thumbnails


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LookServer]:
    with LookServer(look_at(class_folders(tmp_path / "data"), tmp_path / "t.csv"), 0) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


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
    with pytest.raises(EnvironmentFault, match=f"port {server.server_address[1]} cannot be listened on"):
        LookServer(server.look, server.server_address[1])


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


def test_thumbnails_are_small_bounded_and_follow_the_image_path(tmp_path: Path) -> None:
    for index in range(4):
        Image.effect_noise((1600, 900), 90).convert("RGB").save(tmp_path / f"{index}.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (40, 20), "red").save(tmp_path / "turned.jpg", exif=exif)
    paths = [*(f"{index}.png" for index in range(4)), "turned.jpg", "gone.png"]
    one = Thumbnails(tmp_path, paths).webp(0)
    assert one is not None
    kept = Thumbnails(tmp_path, paths, most_bytes=2 * len(one) + len(one) // 2)
    for number in (0, 1, 2, 3, 0):
        (tmp_path / "made.webp").write_bytes(kept.webp(number) or b"")
        with Image.open(tmp_path / "made.webp") as image:
            assert image.size == (512, 288)
        assert kept.held_bytes <= 2.5 * len(one)
    (tmp_path / "made.webp").write_bytes(kept.webp(4) or b"")
    with Image.open(tmp_path / "made.webp") as image:
        assert image.size == (20, 40)
    assert kept.webp(5) is None
    assert kept.webp(6) is None


@pytest.mark.slow
def test_the_verb_serves_until_ctrl_c_and_says_where_the_table_lies(tmp_path: Path) -> None:
    """It opens a browser only if asked; the one here writes down what it is given."""
    data, opened = class_folders(tmp_path / "data"), tmp_path / "opened.txt"
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\nprintf %s \"$1\" > '{opened}.part' && mv '{opened}.part' '{opened}'\n")
    browser.chmod(0o755)
    for asked in ([], ["--open"]):
        words = ["data", "look", str(data), "--model", "test_vit", "--weights", "none", "--image-size", "32"]
        process = subprocess.Popen(
            [sys.executable, "-m", "ftx", *words, "--port", "0", *asked],
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
        if asked:
            while not opened.exists():
                assert process.poll() is None
            assert opened.read_text() == address
        else:
            assert not opened.exists()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "data-look.csv: 2 label, 1 near-duplicate, 1 unreadable; 0 decided" in rest
