"""The program as a whole: where it listens, who may ask, and how it ends."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import Histogram
from tests.conftest import Listener
from tests.serving.conftest import Answer, Running, png, running

from ftx.core.errors import EnvironmentFault, InputError
from ftx.serving.limits import Limits
from ftx.serving.listening import Endpoint, bound
from ftx.serving.registry import ModelSource
from ftx.serving.server import read_token, serve, sources_of

TOKEN = "0123456789abcdef0123456789abcdef"
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


@contextmanager
def program(*words: object) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """``ftx serve`` in a process of its own, at a free port, and what it said once it answered."""
    command = [sys.executable, "-m", "ftx", "serve", *map(str, words), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            text = ""
            while "}\n" not in text or not text.endswith("\n}\n"):
                line = process.stdout.readline()
                assert line, process.stderr.read() if process.stderr else ""
                text += line
            yield process, json.loads(text)
        finally:
            process.kill()


def ask(address: str, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
    connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
    response = connection.getresponse()
    found = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    connection.close()
    return found


@pytest.mark.representative
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_has_begun_be_answered(colour_ir: Path, number: int) -> None:
    with program(colour_ir, "--name", "c") as (process, said):
        assert (said["verb"], said["ok"]) == ("serve", True)
        (model,) = said["models"]
        assert (model["name"], model["version"]) == ("c", 1)
        host, port = said["address"].removeprefix("http://").split(":")
        assert host == "127.0.0.1"
        image = png()
        head = (
            f"POST /predict HTTP/1.1\r\nhost: {host}\r\ncontent-type: image/png\r\ncontent-length: {len(image)}\r\n\r\n"
        )
        with socket.create_connection((host, int(port)), timeout=10) as half:
            half.sendall(head.encode() + image[:100])
            time.sleep(0.2)
            process.send_signal(number)
            time.sleep(0.3)
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((host, int(port)), timeout=10)
            half.sendall(image[100:])
            answer = b""
            while some := half.recv(1 << 16):
                answer += some
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"green" in answer
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


@pytest.mark.representative
def test_a_second_signal_waits_for_nobody(colour_ir: Path) -> None:
    with program(colour_ir) as (process, said):
        host, port = said["address"].removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as half:
            half.sendall(
                b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\ncontent-length: 9\r\n\r\n"
            )
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0


@pytest.mark.slow
def test_what_does_not_hold_ends_before_a_model_is_opened(colour_ir: Path, tmp_path: Path) -> None:
    def status(*words: object) -> tuple[int, str]:
        command = [sys.executable, "-m", "ftx", "serve", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stderr

    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, said = status(colour_ir, "--port", taken.getsockname()[1])
        assert (code, "is used by another program" in said, "--port" in said) == (3, True, True)
    for words, sentence in (
        ((tmp_path / "none",), "the path must be a run or an exported model"),
        ((colour_ir, "--host", "300.1.1.1"), "a known name"),
        ((colour_ir, "--host", "192.0.2.1"), "--host must be an address"),
        ((colour_ir, "--tls-cert", colour_ir / "card.json"), "--tls-cert and --tls-key must be given together"),
        ((colour_ir, "--token-file", tmp_path / "none"), "--token-file cannot be read"),
        ((colour_ir, "--name", "a", "--name", "b"), "--name must be given at most once"),
        ((colour_ir, "--port", "70000"), "65535"),
        ((colour_ir, "--timeout-s", "inf"), "--timeout-s must be a number above 0"),
        ((colour_ir, "--timeout-s", "nan"), "--timeout-s"),
        ((colour_ir, "--max-body-mb", "inf"), "--max-body-mb must be a number above 0"),
    ):
        code, said = status(*words)
        assert (code, sentence in said) == (2, True), said


def test_two_that_start_together_do_not_both_have_the_port() -> None:
    with bound(Endpoint(port=0), 1) as first:
        port = first.getsockname()[1]
        with pytest.raises(EnvironmentFault, match="is used by another program"), bound(Endpoint(port=port), 1):
            pass


def test_names_and_paths(colour_ir: Path, tmp_path: Path) -> None:
    run = tmp_path / "garments" / "openvino"
    run.mkdir(parents=True)
    ir = Path(shutil.copytree(colour_ir, run / "fp32"))
    told = sources_of([str(ir), f"named={ir}", str(ir / "model.xml"), str(run)], ["first"])
    assert [target.name for target in told] == ["first", "named", "garments", "garments"]
    assert [target.path for target in told] == [ir, ir, ir, run]
    odd = Path(shutil.copytree(colour_ir, tmp_path / "a=b"))
    assert sources_of([str(odd)], []) == [ModelSource("a=b", odd)]
    with pytest.raises(InputError, match="must have one name"):
        sources_of([f"named={ir}"], ["first"])
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"")
    with pytest.raises(InputError, match="must be a folder that `ftx export` wrote") as caught:
        sources_of([str(photo)], [])
    assert caught.value.where == str(photo)


def test_a_token_is_asked_for(colour_ir: Path) -> None:
    with running(ModelSource("colour", colour_ir), token=TOKEN) as server:
        for path in ("/predict", "/v2/models/colour/infer", "/v2/repository/index"):
            for given in (
                {},
                {"authorization": "Bearer wrong"},
                {"authorization": TOKEN},
                {"authorization": "Bearer "},
            ):
                said = server.ask("POST", path, b"", **given)
                assert (said.status, said.headers["www-authenticate"]) == (401, "Bearer")
                assert "token" in said.json["error"]
        for path in ("/metrics", "/v2", "/v2/models/colour", "/openapi.json", "/nothing"):
            assert server.ask("GET", path).status == 401
            assert server.ask("GET", path, authorization=f"Bearer {TOKEN}").status in (200, 404)
        for path in ("/", "/v2/health/live", "/v2/health/ready"):
            assert server.ask("GET", path).status == 200
        answer = server.ask("POST", "/predict", png(), content_type="image/png", authorization=f"bearer {TOKEN}")
        assert answer.status == 200
        assert b"colour" not in server.ask("GET", "/").body  # the page asks for names, with the token


def test_a_token_file_holds_one_that_cannot_be_guessed(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_token(file) == TOKEN
    for text in (
        "",
        "short",
        "two words that are long enough",
        "ümlaut-ümlaut-ümlaut",
        "x" * 5000,
        "x" * 16,
        "ab" * 20,
    ):
        file.write_text(text)
        with pytest.raises(InputError):
            read_token(file)
    with pytest.raises(InputError):
        read_token(tmp_path)


def test_a_network_is_warned_of(colour_ir: Path, tmp_path: Path) -> None:
    """Told before anything is served: the server is stopped by the one who is told that it is ready."""
    token = tmp_path / "token"
    token.write_text(TOKEN)

    class Stop(Exception):
        pass

    def told(**address: Any) -> str:
        def ready(_report: object) -> None:
            raise Stop

        listener = Listener()
        with pytest.raises(Stop):
            serve([str(colour_ir)], endpoint=Endpoint(port=0, **address), ready=ready, progress=listener)
        return " ".join(listener.said)

    assert "require a token" in told(host="0.0.0.0")
    assert "the token and the images are sent to" in told(host="0.0.0.0", token_file=token)
    assert "token" not in told()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run([*make.split(), *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


@needs_openssl
def test_tls(colour_ir: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    with running(ModelSource("colour", colour_ir), endpoint=Endpoint(port=0, tls_cert=cert, tls_key=key)) as server:
        trusted = ssl.create_default_context(cafile=str(cert))
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=trusted, timeout=10)
        connection.request("POST", "/predict", png(), {"content-type": "image/png"})
        response = connection.getresponse()
        assert response.status == 200
        assert b"green" in response.read()
        connection.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context().wrap_socket(
                socket.create_connection(("127.0.0.1", server.port), timeout=10), server_hostname="127.0.0.1"
            )
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            server.ask("GET", "/v2")  # plain HTTP


@needs_openssl
def test_hands_that_are_never_shaken(
    colour_ir: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def connected(server: Running) -> socket.socket:
        return socket.create_connection(("127.0.0.1", server.port), timeout=20)

    cert, key = certificate
    endpoint = Endpoint(port=0, tls_cert=cert, tls_key=key)
    monkeypatch.setattr("ftx.serving.http_server.HEAD_S", 1.0)
    with running(ModelSource("colour", colour_ir), endpoint=endpoint) as server, connected(server) as line:
        assert line.recv(1) == b""  # asyncio by itself waits for a minute
    monkeypatch.setattr("ftx.serving.http_server.HEAD_S", 60.0)
    monkeypatch.setattr("ftx.serving.limits.SPARE_CONNECTIONS", 1)
    monkeypatch.setattr("ftx.serving.listening.SPARE_SOCKETS", 1)
    limits = Limits(max_concurrency=1)
    with running(ModelSource("colour", colour_ir), limits=limits, endpoint=endpoint) as server:
        lines = [connected(server) for _ in range(3)]
        with connected(server) as fourth:
            assert fourth.recv(1) == b""
        for line in lines:
            line.close()


def test_no_other_website_leads_a_browser_here(colour_ir: Path) -> None:
    with running(ModelSource("colour", colour_ir)) as server:
        own = f"localhost:{server.port}"
        for headers, status in (
            ({"host": own}, 200),
            ({"host": own, "origin": f"http://{own}"}, 200),
            ({"host": f"evil.example:{server.port}"}, 403),
            ({"host": own, "origin": "http://evil.example"}, 403),
            ({"host": own, "origin": "null"}, 403),
        ):
            said = server.ask("POST", "/predict", png(), content_type="image/png", **headers)
            assert said.status == status, headers
            assert server.ask("GET", "/", **headers).status == status
        assert "--token-file" in said.json["error"]
    with running(ModelSource("colour", colour_ir), token=TOKEN) as server:
        given = {"authorization": f"Bearer {TOKEN}", "host": "behind.a.proxy", "origin": "https://behind.a.proxy"}
        assert server.ask("GET", "/v2", **given).status == 200


@needs_openssl
def test_a_certificate_that_does_not_hold(colour_ir: Path, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    other, locked = tmp_path / "other.pem", tmp_path / "locked.pem"
    make = "openssl ecparam -name prime256v1 -genkey -noout"
    subprocess.run([*make.split(), "-out", other], check=True, capture_output=True)
    lock = ["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", locked]
    subprocess.run(lock, check=True, capture_output=True)
    for pair, sentence in (
        ((cert, other), "must be one pair"),
        ((key, key), "must be one pair"),
        ((cert, colour_ir / "card.json"), "must be one pair"),
        ((cert, tmp_path / "none"), "must be files"),
        ((cert, locked), "must have no password"),
        ((cert, None), "--tls-cert and --tls-key must be given together"),
    ):
        with pytest.raises(InputError, match=sentence):
            serve([str(colour_ir)], endpoint=Endpoint(port=0, tls_cert=pair[0], tls_key=pair[1]))


def test_metrics_count_what_was_asked(colour_ir: Path) -> None:
    with running(ModelSource("colour", colour_ir)) as server:
        for _ in range(3):
            server.predict(png())
        server.predict(b"none")
        server.ask("GET", "/<script>")
        text = server.ask("GET", "/metrics").body.decode()
    assert 'ftx_requests_total{route="/predict",status="200"} 3.0' in text
    assert 'ftx_requests_total{route="/predict",status="422"} 1.0' in text
    assert 'ftx_requests_total{route="none",status="404"} 1.0' in text
    assert "<script" not in text
    assert "ftx_batch_images_sum 3.0" in text
    assert "ftx_images_waiting 0.0" in text
    assert "process_resident_memory_bytes" in text


@contextmanager
def streams_stopped(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    """Let each stream stop behind its first batch, which it counts by then; how many did."""
    stopped, goes_on, really = threading.Semaphore(0), threading.Event(), Histogram.observe

    def observe(self: Histogram, *given: Any, **more: Any) -> None:
        if threading.current_thread().name.startswith("ftx-stream"):
            stopped.release()
            assert goes_on.wait(30)
        really(self, *given, **more)

    monkeypatch.setattr(Histogram, "observe", observe)
    try:
        yield stopped
    finally:
        goes_on.set()


def test_images_that_wait_are_shown_and_told_in_time_that_they_wait(
    colour_ir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waiting(server: Running) -> float:
        return float(server.ask("GET", "/metrics").body.decode().partition("\nftx_images_waiting ")[2].split()[0])

    with (
        running(ModelSource("colour", colour_ir), limits=Limits(timeout_s=0.5)) as server,
        streams_stopped(monkeypatch) as stopped,
    ):
        version = server.server.registry.find("colour")
        for _ in range(version.predictor.streams):  # all of them are busy, each with one image
            version.batcher.submit(np.zeros((16, 16, 3), np.uint8))
            assert stopped.acquire(timeout=30)
        version.batcher.submit(np.zeros((16, 16, 3), np.uint8))
        assert waiting(server) == 1
        request = {"inputs": [{"name": "image", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [1, 2, 3]}]}
        for said in (server.predict(png()), server.infer(request)):
            assert (said.status, said.headers["retry-after"]) == (503, "1")
            assert said.json["error"] == "the response took too long: the server is busy"
        assert waiting(server) == 3
    assert server.server.registry.waiting == 0


def test_every_thread_ends_with_the_server(colour_ir: Path) -> None:
    with running(ModelSource("colour", colour_ir)) as server:
        server.predict(png())
        assert any(thread.name.startswith("ftx-stream") for thread in threading.enumerate())
    ends = time.monotonic() + 10
    while any(thread.name.startswith("ftx-") for thread in threading.enumerate()):
        assert time.monotonic() < ends
        time.sleep(0.05)
