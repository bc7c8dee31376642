"""What each flag of ``ftx serve`` does, asked over a socket."""

from __future__ import annotations

import io
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from tests.effects.lab import Lab
from tests.effects.of_artifacts import with_verdict

IMAGE = "hues/red/0.png"


@contextmanager
def _served(lab: Lab, *words: object) -> Iterator[Any]:
    """A server at a free port, and what it said once it answered."""
    plain = () if "--port" in words else ("--port", 0)
    command = [sys.executable, "-m", "ftx", "serve", *map(str, (_ir(lab), *words, *plain))]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline()]
        while lines[-1] not in ("}\n", ""):
            lines.append(process.stdout.readline())
        try:
            yield json.loads("".join(lines))
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, process.stderr.read()


def _ir(lab: Lab) -> Path:
    return lab.exported[0] / "openvino" / "fp32"


def _ask(lab: Lab, address: str, content: bytes | None = None, **headers: str) -> tuple[int, Any]:
    """The status and the JSON that an image is answered with."""
    content = content or (lab.root / IMAGE).read_bytes()
    asked = urllib.request.Request(f"{address}/predict", content, {"content-type": "image/png", **headers})
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(asked, timeout=30, context=context) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def targets(lab: Lab, flag: str, value: str) -> None:
    run = lab.exported[0]
    with _served(lab, run, f"named={_ir(lab)}", "--name", "first") as said:
        assert [one["name"] for one in said["models"]] == ["first", "exported", "named"]
        assert _ask(lab, said["address"])[1]["model"] == "first"
    assert lab.call("serve", lab.train().path).status == 2  # it has no OpenVINO model


def device(lab: Lab, flag: str, value: str) -> None:
    assert lab.call("serve", _ir(lab), flag, value).status == 3


def require_proof(lab: Lab, flag: str, value: str) -> None:
    folder = with_verdict(lab, "unproved-served", "unproved")
    assert lab.call("serve", folder, flag, "--port", "0").status == 1
    with _served(lab, folder) as said:
        assert _ask(lab, said["address"])[0] == 200


def allow_failed(lab: Lab, flag: str, value: str) -> None:
    folder = with_verdict(lab, "failed-served", "failed")
    assert lab.call("serve", folder, "--port", "0").status == 1
    with _served(lab, folder, flag) as said:
        assert _ask(lab, said["address"])[0] == 200


def host(lab: Lab, flag: str, value: str) -> None:
    with _served(lab, flag, value) as said:
        assert said["address"].startswith(f"http://{value}:")
        assert _ask(lab, said["address"].replace(value, "127.0.0.2"))[0] == 200  # another of this machine
    assert lab.call("serve", _ir(lab), flag, "192.0.2.1").status == 2


def port(lab: Lab, flag: str, value: str) -> None:
    with _served(lab, flag, 0) as said:
        taken = said["address"].rpartition(":")[2]
        assert _ask(lab, said["address"])[0] == 200
        assert lab.call("serve", _ir(lab), flag, taken).status == 3


def name(lab: Lab, flag: str, value: str) -> None:
    with _served(lab, flag, value) as said:
        assert _ask(lab, said["address"])[1]["model"] == value


def token_file(lab: Lab, flag: str, value: str) -> None:
    token = "0123456789abcdef" * 2
    (lab.root / value).write_text(token)
    with _served(lab, flag, lab.root / value) as said:
        assert _ask(lab, said["address"])[0] == 401
        assert _ask(lab, said["address"], Authorization=f"Bearer {token}")[0] == 200


def tls(lab: Lab, flag: str, value: str) -> None:
    if shutil.which("openssl") is None:
        return
    cert, key = lab.root / "cert.pem", lab.root / "key.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    subprocess.run([*make.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    with _served(lab, "--tls-cert", cert, "--tls-key", key) as said:
        assert said["address"].startswith("https://")
        assert _ask(lab, said["address"])[0] == 200
    assert lab.call("serve", _ir(lab), flag, lab.root / value).status == 2


def max_body_mb(lab: Lab, flag: str, value: str) -> None:
    with _served(lab, flag, value) as said:
        assert _ask(lab, said["address"])[0] == 413


def max_pixels(lab: Lab, flag: str, value: str) -> None:
    with _served(lab, flag, value) as said:
        status, answer = _ask(lab, said["address"])
        assert (status, "too large" in answer["error"]) == (422, True)


@contextmanager
def _half(address: str) -> Iterator[socket.socket]:
    """A request whose body does not come."""
    found = address.removeprefix("http://").split(":")
    with socket.create_connection((found[0], int(found[1])), timeout=10) as line:
        line.sendall(
            b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\ncontent-length: 9\r\n\r\n"
        )
        time.sleep(0.2)
        yield line


def max_concurrency(lab: Lab, flag: str, value: str) -> None:
    large = io.BytesIO()
    Image.new("RGB", (3000, 3000)).save(large, "PNG")

    def statuses(address: str) -> set[int]:
        with ThreadPoolExecutor(8) as threads:
            return {status for status, _ in threads.map(lambda _: _ask(lab, address, large.getvalue()), range(8))}

    with _served(lab, flag, value) as said:
        assert statuses(said["address"]) == {200, 503}
    with _served(lab) as said:
        assert statuses(said["address"]) == {200}


def timeout_s(lab: Lab, flag: str, value: str) -> None:
    with _served(lab, flag, value) as said, _half(said["address"]) as line:
        assert line.recv(100).startswith(b"HTTP/1.1 408")


def as_json(lab: Lab, flag: str, value: str) -> None:
    with _served(lab) as said:  # which asks for it
        assert (said["verb"], said["ok"], said["run"]) == ("serve", True, None)
        assert {"name", "version", "path", "digest"} == set(said["models"][0])
