"""The paths that are answered, by FastAPI.

Annotations are objects here, and not text as elsewhere: FastAPI reads them, and what they name is imported in the
functions, as the extra `serve` may be missing.
"""

import asyncio
from collections.abc import Coroutine, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import BaseModel

from ftx.core.errors import shown
from ftx.core.version import __version__
from ftx.evaluating.predict import path_text
from ftx.runtimes.predictor import INPUT, LOGITS, MAPS
from ftx.serving.images import Images, ServedPrediction, Wanted
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
    write_answer,
)
from ftx.serving.refusal import Refused, instead, refusal_of
from ftx.serving.registry import Registry, Version

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

Result = TypeVar("Result")
JSON_LENGTH = "inference-header-content-length"
# What POST /predict may be asked for beside the images.
_QUERY = ("model", "version", "scores", "saliency")


class Predictions(BaseModel):
    """What ``POST /predict`` answers: which model, and each image's labels, in the order in which they were sent.

    ``error`` says so where no image could be read.
    """

    model: str
    version: int
    images: list[ServedPrediction]
    error: str | None = None


@dataclass(frozen=True)
class Parts:
    """What the paths are answered by."""

    registry: Registry
    images: Images
    limits: Limits
    metrics: Metrics


def build(parts: Parts) -> "FastAPI":
    """The application, without the guard before it."""
    from fastapi import FastAPI

    app = FastAPI(title="ftx serve", version=__version__, docs_url=None, redoc_url=None)  # these load from a CDN
    _add_errors(app)
    _add_server(app, parts)
    _add_model(app, parts)
    _add_infer(app, parts)
    _add_predict(app, parts)
    _add_page(app, parts)
    return app


def _add_errors(app: "FastAPI") -> None:
    from fastapi import Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse

    async def refused(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refused)
        return JSONResponse({"error": error.sentence}, error.status, dict(error.headers))

    async def unknown(request: Request, error: Exception) -> JSONResponse:
        status = getattr(error, "status_code", 404)
        what = "there is nothing at this path" if status == 404 else f"this path does not take {request.method}"
        return JSONResponse({"error": f"{what}: it is /predict, /v2/models, /metrics, or the page at /"}, status)

    async def broken(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": f"the body cannot be read: {getattr(error, 'detail', error)}"}, 400)

    async def invalid(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return JSONResponse({"error": f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}"}, 400)

    async def bug(request: Request, _error: Exception) -> JSONResponse:
        return JSONResponse({"error": bug_sentence(request.state.request_id)}, 500)  # the guard notes it

    app.add_exception_handler(Exception, bug)
    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(404, unknown)
    app.add_exception_handler(405, unknown)
    app.add_exception_handler(400, broken)
    app.add_exception_handler(RequestValidationError, invalid)


def _add_server(app: "FastAPI", parts: Parts) -> None:
    from fastapi import Response
    from fastapi.responses import JSONResponse

    @app.get("/v2/health/live", status_code=200)
    async def live() -> Response:
        return Response()

    @app.get("/v2/health/ready", status_code=200)
    async def ready() -> Response:
        return Response(status_code=200 if parts.registry.ready else 503)

    @app.get("/v2")
    async def server() -> JSONResponse:
        return JSONResponse({"name": "ftx", "version": __version__, "extensions": list(EXTENSIONS)})

    @app.post("/v2/repository/index")
    async def index() -> JSONResponse:
        rows = [
            {"name": name, "version": str(number), "state": "READY", "reason": ""}
            for name, model in parts.registry.models.items()
            for number in sorted(model.versions, reverse=True)
        ]
        return JSONResponse(rows)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(parts.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_model(app: "FastAPI", parts: Parts) -> None:
    from fastapi import Response
    from fastapi.responses import JSONResponse

    @app.get("/v2/models/{name}/versions/{version}/ready")
    @app.get("/v2/models/{name}/ready")
    async def ready(name: str, version: int | None = None) -> Response:
        parts.registry.find(name, version)
        return Response()

    @app.get("/v2/models/{name}/versions/{version}")
    @app.get("/v2/models/{name}")
    async def metadata(name: str, version: int | None = None) -> JSONResponse:
        found = parts.registry.find(name, version)
        outputs = known_outputs(found.predictor)
        task = found.predictor.task
        return JSONResponse(
            {
                "name": name,
                "versions": [str(number) for number in sorted(parts.registry.models[name].versions)],
                "platform": "openvino",
                "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
                "outputs": [
                    {"name": output, "datatype": datatype, "shape": shape}
                    for output, (datatype, shape) in outputs.items()
                ],
                # Beside the protocol's: what tells one update from another, and what the logits are of.
                "parameters": {
                    "version": str(found.number),
                    "digest": found.digest,
                    "task": found.predictor.card.task,
                    "labels": list(task.labels.names),
                    "maps": MAPS in outputs,
                },
            }
        )


def _add_infer(app: "FastAPI", parts: Parts) -> None:
    from fastapi import Request, Response

    images = parts.images

    @app.post("/v2/models/{name}/versions/{version}/infer")
    @app.post("/v2/models/{name}/infer")
    async def infer(request: Request, name: str, version: int | None = None) -> Response:
        parts.registry.find(name, version)  # before the body is read
        body = await request.body()
        with _answering(), parts.registry.lease(name, version) as found:
            async with asyncio.timeout(parts.limits.timeout_s):
                json_bytes = json_length(body, request.headers.get(JSON_LENGTH))
                async with images.room.holding(JSON_TIMES * json_bytes):
                    asked = await images.in_thread(read_request, body, json_bytes, found.predictor)
                kept = {LOGITS, *(one.name for one in asked.outputs)}
                async with images.room.holding(asked.pixel_bytes):
                    rows = await _together([images.outputs(found, image, kept) for image in asked.images])
                    stacked = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
                    written = (asked, stacked, found.predictor, name, found.number)
                    content, length = await images.in_thread(write_answer, *written)
        if length is None:
            return Response(content, media_type="application/json")
        return Response(content, headers={JSON_LENGTH: str(length)}, media_type="application/octet-stream")


def _add_predict(app: "FastAPI", parts: Parts) -> None:
    from fastapi import Request
    from fastapi.responses import JSONResponse

    @app.post("/predict")
    async def predict(
        request: Request,
        model: str | None = None,
        version: int | None = None,
        scores: bool = False,
        saliency: bool = False,
    ) -> JSONResponse:
        name = next(iter(parts.registry.models)) if model is None else model
        _refuse_unknown(request.query_params)
        if saliency and MAPS not in known_outputs(parts.registry.find(name, version).predictor):
            raise Refused(400, f"the model '{name}' draws no maps: leave saliency out, or ftx export --explain")
        files = await _files(request)
        with _answering(), parts.registry.lease(name, version) as found:
            async with asyncio.timeout(parts.limits.timeout_s):
                answers = await _predicted(parts.images, found, files, Wanted(scores, saliency))
        answer = Predictions(model=name, version=found.number, images=answers)
        if all(one.error is not None for one in answers):
            answer.error = f"{answers[0].path}: {answers[0].error}"
        status = 200 if answer.error is None else 422
        return JSONResponse(answer.model_dump(exclude_none=True), status)


def _add_page(app: "FastAPI", parts: Parts) -> None:
    from fastapi.responses import HTMLResponse

    page = read_page()

    @app.get("/", response_class=HTMLResponse)
    async def root() -> HTMLResponse:
        return HTMLResponse(page.html, headers=dict(page.headers))


async def _predicted(
    images: Images, version: Version, files: Sequence[tuple[str, bytes]], wanted: Wanted
) -> list[ServedPrediction]:
    return await _together([images.prediction(version, name, content, wanted) for name, content in files])


def _refuse_unknown(asked: Iterable[str]) -> None:
    """Raise Refused for a word of the query that nothing is known of: it would be asked for in vain."""
    for word in asked:
        if word not in _QUERY:
            raise Refused(400, f"there is no parameter {shown(word)}: {instead(word, _QUERY)}")


async def _files(request: "Request") -> Sequence[tuple[str, bytes]]:
    """The images of a request, with their names: the files of a form, or the body itself.

    Raises: Refused.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind == "application/octet-stream":
        return [("<bytes 1>", await request.body())]
    if kind != "multipart/form-data":
        raise Refused(415, "images are sent as files of a form (multipart/form-data), or one as the body (image/*)")
    try:
        form = await request.form(max_files=MAX_IMAGES, max_fields=MAX_IMAGES)
    except ValueError as error:  # of python-multipart; by newer releases of starlette an answer of their own
        raise Refused(400, f"the body cannot be read: {error}") from error
    try:
        files = [value for _, value in form.multi_items() if not isinstance(value, str)]
        if not files:
            raise Refused(400, "the form holds no file")
        return [
            (path_text(one.filename or f"<bytes {number}>")[:255], await one.read())
            for number, one in enumerate(files, start=1)
        ]
    finally:
        await form.close()


@contextmanager
def _answering() -> Generator[None, None, None]:
    """What goes wrong in the block, as an answer.

    Raises: Refused.
    """
    try:
        yield
    except TimeoutError:
        raise Refused(503, "the answer took too long: the server is busy", retry_after_s=1) from None
    except Exception as error:
        refused = refusal_of(error)
        if refused is None:
            raise
        raise refused from error


async def _together(work: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """The answers in order; what the first that fails says, and the others end.

    Raises: what one raises.
    """
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
