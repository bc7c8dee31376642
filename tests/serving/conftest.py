"""A server in a thread of the tests, at a free port, and models whose answers are known in numpy."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import Listener, colour_pixels, write_colour_ir

from ftx.runs.card_json import Card, read_card, write_card
from ftx.serving.limits import Limits
from ftx.serving.listening import Endpoint, bound
from ftx.serving.registry import ModelSource
from ftx.serving.server import DEFAULT_LIMITS, ModelServer, serving
from ftx.tasks.labels import Labels


@dataclass(frozen=True)
class Answer:
    """A response, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    port: int
    server: ModelServer
    said: list[str]

    def ask(self, method: str, path: str, body: bytes | str | None = None, **headers: str) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def infer(self, request: object, path: str = "/v2/models/colour/infer", **headers: str) -> Answer:
        body = request if isinstance(request, bytes | str) else json.dumps(request)
        return self.ask("POST", path, body, **headers)

    def predict(self, image: bytes, query: str = "") -> Answer:
        return self.ask("POST", f"/predict{query}", image, content_type="image/png")

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"


ANY_PORT = Endpoint(port=0)


@contextmanager
def running(
    *targets: ModelSource, limits: Limits = DEFAULT_LIMITS, token: str | None = None, endpoint: Endpoint = ANY_PORT
) -> Iterator[Running]:
    listener = Listener()
    with (
        bound(endpoint, limits.max_connections) as listening,
        serving(targets, limits, token, endpoint, listener) as server,
    ):
        started = threading.Event()
        thread = threading.Thread(target=server.run, args=(listening, started.set))
        thread.start()
        assert started.wait(30)
        try:
            yield Running(listening.getsockname()[1], server, listener.said)
        finally:
            server.stop()
            thread.join(60)
            assert not thread.is_alive()


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.02)


def write_named_ir(folder: Path, names: Sequence[str], *, maps: bool = False) -> Path:
    """The colours' model with other names for its labels: by them one tells which of two has answered."""
    folder.mkdir(parents=True)
    write_colour_ir(folder, maps=maps)
    write_card(folder, read_card(folder).model_copy(update={"labels": Labels.multiclass(names)}))
    return folder


def write_wide_ir(folder: Path) -> Path:
    """The colours' model, which looks up a zero in 16 MB for each logit: pages that are read now and then."""
    import openvino
    from openvino import opset13 as op

    folder.mkdir(parents=True)
    write_colour_ir(folder)
    model = openvino.Core().read_model(folder / "model.xml")
    logits = model.output(0).get_node().input_value(0)
    table = op.constant(np.zeros(1 << 22, np.float32))
    places = op.convert(op.multiply(op.relu(logits), np.float32(1e5)), np.int32)
    wide = op.add(logits, op.gather(table, places, np.int32(0)))
    wide.output(0).set_names({"logits"})
    whole = openvino.Model([wide], model.get_parameters(), "wide")
    openvino.save_model(whole, folder / "wide.xml", compress_to_fp16=False)
    del model
    for ending in ("xml", "bin"):
        (folder / f"wide.{ending}").replace(folder / f"model.{ending}")
    write_card(folder, read_card_only(folder))
    return folder


def read_card_only(folder: Path) -> Card:
    """The card, whatever became of the files beside it."""
    return Card.model_validate_json((folder / "card.json").read_text())


def png(colour: int = 1, height: int = 24, width: int = 40, seed: int = 0) -> bytes:
    written = io.BytesIO()
    Image.fromarray(colour_pixels(colour, height, width, seed)).save(written, format="PNG")
    return written.getvalue()


def flat(*colour: int) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (32, 24), colour).save(written, format="PNG")
    return written.getvalue()


def pixels(count: int, height: int = 20, width: int = 30) -> np.ndarray:
    return np.stack([colour_pixels(index % 3, height, width, index) for index in range(count)])


@pytest.fixture(scope="session")
def colour_ir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "colour"
    folder.mkdir()
    write_colour_ir(folder, maps=True)
    return folder


@pytest.fixture(scope="module")
def colour_server(colour_ir: Path) -> Iterator[Running]:
    with running(ModelSource("colour", colour_ir)) as server:
        yield server


@pytest.fixture(scope="module")
def small(colour_ir: Path) -> Iterator[Running]:
    """One that takes little of anything, so that all of it can be asked for."""
    with running(
        ModelSource("colour", colour_ir),
        limits=Limits(max_body_mb=2, max_pixels=1_000_000, max_concurrency=4, timeout_s=1),
    ) as server:
        yield server
