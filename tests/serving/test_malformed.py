"""Requests that do not hold: a status and a sentence each, while good ones are answered."""

from __future__ import annotations

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.serving.conftest import Answer, Running, png
from tests.serving.raw_requests import resident_mb, spoken, status_and_sentence

from ftx.serving.protocol import MAX_IMAGES


@pytest.mark.parametrize(
    "sent",
    [
        b"\0\1\2\3\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: " + b"x" * 100_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS to one that speaks none
    ],
)
def test_what_is_no_http(small: Running, sent: bytes) -> None:
    said = spoken(small, sent)
    if said:
        assert status_and_sentence(said)[0] in (400, 408, 415)
    assert small.predict(png()).status == 200


def test_forms_that_do_not_hold(small: Running) -> None:
    form = b'--x\r\ncontent-disposition: form-data; name="a"; filename="%s"\r\n\r\n%s\r\n--x--\r\n'
    for body, kind, status in (
        (b"", "multipart/form-data", 400),
        (b"--y", "multipart/form-data; boundary=x", 400),
        (b"--x\r\n\r\n\r\n--x--", "multipart/form-data; boundary=x", 400),
        (form % (b"a.png", b""), "multipart/form-data; boundary=x", 422),
        (form % (b"../../etc/passwd", b"root"), "multipart/form-data; boundary=x", 422),
        (b"a=b", "application/x-www-form-urlencoded", 415),
        (b"{}", "application/json", 415),
    ):
        said = small.ask("POST", "/predict", body, content_type=kind)
        assert said.status == status, (body, said.body)
        assert said.json["error"]
    kind = "multipart/form-data; boundary=x"
    assert small.ask("POST", "/predict", form % (b"a.png", png()), content_type=kind).status == 200


def test_a_form_holds_as_many_files_as_a_request_may(small: Running) -> None:
    one = b'--x\r\ncontent-disposition: form-data; name="f"; filename="%d.png"\r\n\r\n'

    def answered(files: int) -> Answer:
        form = b"".join(one % number + b"x\r\n" for number in range(files)) + b"--x--\r\n"
        return small.ask("POST", "/predict", form, content_type="multipart/form-data; boundary=x")

    most = answered(MAX_IMAGES)
    assert most.status == 422  # none of them is an image
    assert [image["path"] for image in most.json["images"]] == [f"{number}.png" for number in range(MAX_IMAGES)]
    assert most.json["error"] == f"0.png: {most.json['images'][0]['error']}"
    assert answered(MAX_IMAGES + 1).status == 400


def test_one_broken_file_among_good_ones_is_told_beside_them(small: Running) -> None:
    form = b"".join(
        b'--x\r\ncontent-disposition: form-data; name="f"; filename="%s"\r\n\r\n%s\r\n' % pair
        for pair in ((b"good.png", png(0)), (b"<img src=x>.png", b"<html>"), (b"blue.png", png(2)))
    )
    said = small.ask("POST", "/predict?scores=1", form + b"--x--\r\n", content_type="multipart/form-data; boundary=x")
    assert said.status == 200
    red, broken, blue = said.json["images"]
    assert (red["labels"][0]["name"], blue["labels"][0]["name"]) == ("red", "blue")
    assert set(red["scores"]) == {"red", "green", "blue"}
    assert broken["path"] == "<img src=x>.png"
    assert "an HTML page" in broken["error"]


def test_a_request_is_known_by_its_number(small: Running) -> None:
    assert small.ask("GET", "/v2", x_request_id="order-7").headers["x-request-id"] == "order-7"
    for wrong in ("a b", "x" * 65, "<b>", ""):
        given = small.ask("GET", "/v2", x_request_id=wrong).headers["x-request-id"]
        assert given != wrong
        assert len(given) == 32


def malformed(generator: random.Random) -> tuple[bytes, bytes, str]:
    """A path, a body and its type, of which something is wrong."""
    good = png(seed=generator.randrange(9))
    at = generator.randrange(len(good))
    request = json.dumps(
        {"inputs": [{"name": "image", "shape": [1, 2, 2, 3], "datatype": "UINT8", "data": list(range(12))}]}
    ).encode()
    where = generator.randrange(len(request))
    return generator.choice(
        [
            (b"/predict", good[:at], "image/png"),
            (b"/predict", good[:16] + generator.randbytes(8) + good[24:], "image/png"),
            (b"/predict", generator.randbytes(at), "image/jpeg"),
            (b"/predict", generator.randbytes(at), "multipart/form-data; boundary=x"),
            (b"/v2/models/colour/infer", request[:where], "application/json"),
            (b"/v2/models/colour/infer", request[:where] + b"\xff" + request[where:], "application/json"),
            (b"/v2/models/colour/infer", request[:where] + b"[" + request[where:], "application/json"),
            (b"/v2/models/%00/infer", request, "application/json"),
        ]
    )


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_malformed_requests(colour_server: Running, count: int) -> None:
    """Each gets a status and a sentence, and good ones are answered meanwhile; after many the process has not grown."""
    ended = threading.Event()
    good: list[int] = []

    def ask_good() -> None:
        while not ended.is_set():
            good.append(colour_server.predict(png()).status)

    def ask(first: int) -> list[tuple[int, str]]:
        generator, found = random.Random(first), list[tuple[int, str]]()
        for _ in range(count // 8):
            path, body, kind = malformed(generator)
            said = colour_server.ask("POST", path.decode(), body, content_type=kind)
            found.append((said.status, "" if said.status == 200 else said.json["error"]))
        return found

    asker = threading.Thread(target=ask_good)
    with ThreadPoolExecutor(4) as threads:
        ask(-1)  # all code and caches are loaded
        before = resident_mb()
        asker.start()
        found = [one for some in threads.map(ask, range(8)) for one in some]
        ended.set()
    asker.join()
    assert len(found) == count
    statuses = {status for status, _ in found}
    assert statuses <= {200, 400, 404, 422}  # a picture of which the last bytes are missing may be one
    assert all(sentence for status, sentence in found if status != 200)
    assert set(good) == {200}
    assert len(good) > count // 100
    if count == 10_000:  # of fewer, what each leaves behind is less than noise
        assert resident_mb() - before < 40  # MB: 4 KB a request would be as much
    assert [one for one in colour_server.said if "bug" in one] == []
