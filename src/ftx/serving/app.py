"""The paths of the server, with FastAPI."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel

from ftx.core.errors import shown
from ftx.core.version import __version__
from ftx.evaluating.predict import path_text
from ftx.runtimes.predictor import INPUT, LOGITS, MAPS
from ftx.serving.http_error import HttpError, http_error_of, suggestion
from ftx.serving.images import Images, ServedPrediction
from ftx.serving.limits import Limits, bug_sentence
from ftx.serving.metrics import Metrics
from ftx.serving.page import read_page
from ftx.serving.protocol import (
    EXTENSIONS,
    JSON_TIMES,
    MAX_IMAGES,
    json_length,
    known_outputs,
    read_request,
    write_response,
)
from ftx.serving.registry import Registry

_T = TypeVar("_T")
JSON_LENGTH = "inference-header-content-length"
# Parameters of POST /predict.
_QUERY = ("model", "version", "scores", "saliency")


class Predictions(BaseModel):
    """The response of ``POST /predict``: which model, and each image's labels, in the order of the images.

    ``error`` is set if no image could be read.
    """

    model: str
    version: int
    images: list[ServedPrediction]
    error: str | None = None


@dataclass(frozen=True)
class AppState:
    """What the paths use."""

    registry: Registry
    images: Images
    limits: Limits
    metrics: Metrics


def build(state: AppState) -> FastAPI:
    """The application, without its guard."""
    app = FastAPI(title="ftx serve", version=__version__, docs_url=None, redoc_url=None)  # these load from a CDN
    _add_errors(app)
    _add_server(app, state)
    _add_model(app, state)
    _add_infer(app, state)
    _add_predict(app, state)
    page = read_page()

    @app.get("/", response_class=HTMLResponse)
    async def root() -> HTMLResponse:
        return HTMLResponse(page.html, headers=dict(page.headers))

    return app


def _add_errors(app: FastAPI) -> None:
    def described(request: Request, error: Exception) -> tuple[str, int]:
        if isinstance(error, RequestValidationError):
            first = error.errors()[0]
            return f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}", 400
        status = getattr(error, "status_code", 500)
        if status == 400:
            return f"the body cannot be read: {getattr(error, 'detail', error)}", status
        if status in (404, 405):
            what = "there is nothing at this path" if status == 404 else f"this path does not support {request.method}"
            return f"{what}: the paths are /predict, /v2/models, /metrics, and the page at /", status
        return bug_sentence(request.state.request_id), 500  # the guard logs it

    async def respond(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, HttpError):
            return JSONResponse({"error": error.sentence}, error.status, dict(error.headers))
        sentence, status = described(request, error)
        return JSONResponse({"error": sentence}, status)

    for kind in (Exception, HttpError, RequestValidationError, 400, 404, 405):
        app.add_exception_handler(kind, respond)


def _add_server(app: FastAPI, state: AppState) -> None:
    @app.get("/v2/health/live", status_code=200)
    async def live() -> Response:
        return Response()

    @app.get("/v2/health/ready", status_code=200)
    async def ready() -> Response:
        return Response(status_code=200 if state.registry.ready else 503)

    @app.get("/v2")
    async def server() -> JSONResponse:
        return JSONResponse({"name": "ftx", "version": __version__, "extensions": list(EXTENSIONS)})

    @app.post("/v2/repository/index")
    async def index() -> JSONResponse:
        rows = [
            {"name": name, "version": str(number), "state": "READY", "reason": ""}
            for name, model in state.registry.models.items()
            for number in sorted(model.versions, reverse=True)
        ]
        return JSONResponse(rows)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_model(app: FastAPI, state: AppState) -> None:
    @app.get("/v2/models/{name}/versions/{version}/ready")
    @app.get("/v2/models/{name}/ready")
    async def ready(name: str, version: int | None = None) -> Response:
        state.registry.find(name, version)
        return Response()

    @app.get("/v2/models/{name}/versions/{version}")
    @app.get("/v2/models/{name}")
    async def metadata(name: str, version: int | None = None) -> JSONResponse:
        found = state.registry.find(name, version)
        outputs = known_outputs(found.predictor)
        task = found.predictor.task
        return JSONResponse(
            {
                "name": name,
                "versions": [str(number) for number in sorted(state.registry.models[name].versions)],
                "platform": "openvino",
                "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
                "outputs": [
                    {"name": output, "datatype": datatype, "shape": shape}
                    for output, (datatype, shape) in outputs.items()
                ],
                # In addition to the protocol: what identifies an update, and what the logits are of.
                "parameters": {
                    "version": str(found.number),
                    "digest": found.digest,
                    "task": found.predictor.card.task,
                    "labels": list(task.labels.names),
                    "maps": MAPS in outputs,
                },
            }
        )


def _add_infer(app: FastAPI, state: AppState) -> None:
    images = state.images

    @app.post("/v2/models/{name}/versions/{version}/infer")
    @app.post("/v2/models/{name}/infer")
    async def infer(request: Request, name: str, version: int | None = None) -> Response:
        state.registry.find(name, version)  # before the body is read
        body = await request.body()
        with _http_errors(), state.registry.lease(name, version) as found:
            async with asyncio.timeout(state.limits.timeout_s):
                json_bytes = json_length(body, request.headers.get(JSON_LENGTH))
                async with images.memory.holding(JSON_TIMES * json_bytes):
                    call = await images.in_thread(read_request, body, json_bytes, found.predictor)
                kept = {LOGITS, *(one.name for one in call.outputs)}
                async with images.memory.holding(call.pixel_bytes):
                    rows = await _together([images.outputs(found, image, kept) for image in call.images])
                    stacked = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
                    written = (call, stacked, found.predictor, name, found.number)
                    content, length = await images.in_thread(write_response, *written)
        if length is None:
            return Response(content, media_type="application/json")
        return Response(content, headers={JSON_LENGTH: str(length)}, media_type="application/octet-stream")


def _add_predict(app: FastAPI, state: AppState) -> None:
    @app.post("/predict")
    async def predict(
        request: Request,
        model: str | None = None,
        version: int | None = None,
        scores: bool = False,
        saliency: bool = False,
    ) -> JSONResponse:
        name = next(iter(state.registry.models)) if model is None else model
        _check_query(request.query_params)
        if saliency and MAPS not in known_outputs(state.registry.find(name, version).predictor):
            raise HttpError(400, f"the model '{name}' has no maps: remove saliency, or export it again with --explain")
        files = await _files(request)
        with _http_errors(), state.registry.lease(name, version) as found:
            async with asyncio.timeout(state.limits.timeout_s):
                work = [
                    state.images.prediction(found, path, content, scores=scores, saliency=saliency)
                    for path, content in files
                ]
                predictions = await _together(work)
        response = Predictions(model=name, version=found.number, images=predictions)
        if all(one.error is not None for one in predictions):
            response.error = f"{predictions[0].path}: {predictions[0].error}"
        status = 200 if response.error is None else 422
        return JSONResponse(response.model_dump(exclude_none=True), status)


def _check_query(given: Iterable[str]) -> None:
    """Raise HttpError for an unknown parameter, which would have no effect."""
    for word in given:
        if word not in _QUERY:
            raise HttpError(400, f"there is no parameter {shown(word)}: {suggestion(word, _QUERY)}")


async def _files(request: Request) -> Sequence[tuple[str, bytes]]:
    """The images of a request, with their names: the files of a form, or the body itself.

    Raises: HttpError.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind == "application/octet-stream":
        return [("<bytes 1>", await request.body())]
    if kind != "multipart/form-data":
        raise HttpError(415, "send images as files of a form (multipart/form-data), or one as the body (image/*)")
    try:
        form = await request.form(max_files=MAX_IMAGES, max_fields=MAX_IMAGES)
    except ValueError as error:  # of python-multipart; newer releases of starlette respond themselves
        raise HttpError(400, f"the body cannot be read: {error}") from error
    try:
        files = [value for _, value in form.multi_items() if not isinstance(value, str)]
        if not files:
            raise HttpError(400, "the form must contain at least one file")
        return [
            (path_text(one.filename or f"<bytes {number}>")[:255], await one.read())
            for number, one in enumerate(files, start=1)
        ]
    finally:
        await form.close()


@contextmanager
def _http_errors() -> Generator[None, None, None]:
    """Turn what the block raises into errors for the client.

    Raises: HttpError.
    """
    try:
        yield
    except TimeoutError:
        raise HttpError(503, "the response took too long: the server is busy", retry_after_s=1) from None
    except Exception as error:
        known = http_error_of(error)
        if known is None:
            raise
        raise known from error


async def _together(work: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Run all, and return their results in order. If one raises, so does this, and the others end."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
