"""``ftx serve``: models behind an address, until a signal ends it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from pydantic import BaseModel

from ftx.core.command_report import CommandReport
from ftx.core.errors import FtxError, InputError, shell_command
from ftx.core.progress import SILENT, Progress
from ftx.core.same_origin import local_names
from ftx.core.signal_stack import handle_signals_on_own_stack
from ftx.core.untrusted_input import read_file
from ftx.runs.card_json import CARD_FILE
from ftx.runs.run_json import is_run
from ftx.runs.runs_folder import latest_run
from ftx.runtimes import LoadOptions
from ftx.runtimes.openvino import read_into_memory
from ftx.serving.images import Images
from ftx.serving.limits import AccessRules, Guard, Limits
from ftx.serving.listening import Endpoint, bound, is_loopback, url_of
from ftx.serving.metrics import Metrics
from ftx.serving.registry import ModelSource, Registry, versions_in

if TYPE_CHECKING:
    from ftx.serving.http_server import HttpServer

# Characters of a token, and distinct ones among them: a shorter token, or one repeated letter, can be guessed.
LEAST_TOKEN, LEAST_DIFFERENT = 16, 8


class ServedVersion(BaseModel):
    """A model that the server offers at its start."""

    name: str
    """The name of the model in addresses."""
    version: int
    """The version of the model."""
    path: str
    """The folder of the model."""
    digest: str
    """The SHA-256 hash of its ``card.json``."""


class ServeReport(CommandReport):
    """The address of a server that is ready, and its models."""

    verb: str = "serve"
    address: str
    """The URL of the server."""
    models: list[ServedVersion]
    """The models, each version by itself."""


LOOPBACK, DEFAULT_LIMITS = Endpoint(), Limits()


def serve(
    targets: Sequence[str],
    *,
    names: Sequence[str] = (),
    endpoint: Endpoint = LOOPBACK,
    limits: Limits = DEFAULT_LIMITS,
    ready: Callable[[ServeReport], None] = lambda report: None,
    progress: Progress = SILENT,
    **options: Unpack[LoadOptions],
) -> None:
    """Respond to requests until SIGINT or SIGTERM, then complete those in progress; call ``ready`` before the first.

    Without a target the newest run is served. ``options`` are those of ``ftx.load``.
    Raises: InputError for an invalid token, certificate or name; EnvironmentFault if the port is in use; RunError,
    ExportError, GateFailed for the models.
    """
    token = None if endpoint.token_file is None else read_token(endpoint.token_file)
    _check_tls(endpoint)
    sources = sources_of(targets, names)
    with bound(endpoint, limits.max_connections) as listening:
        url = url_of(endpoint, listening)
        if token is None and not is_loopback(endpoint.host):
            progress.note(f"anyone who can reach {url} can use it: require a token with --token-file FILE")
        elif not is_loopback(endpoint.host) and endpoint.tls_cert is None:
            progress.note(
                f"the token and the images are sent to {url} unencrypted: use HTTPS with --tls-cert and --tls-key"
            )
        run = str(sources[0].path) if len(sources) == 1 and is_run(sources[0].path) else None
        with serving(sources, limits, token, endpoint, progress, **options) as server:
            report = ServeReport(run=run, address=url, models=server.served())
            server.run(listening, lambda: ready(report))


@dataclass(frozen=True)
class ModelServer:
    """A server that is ready to run."""

    registry: Registry
    http: HttpServer

    def served(self) -> list[ServedVersion]:
        """The versions of all models."""
        return [
            ServedVersion(name=name, version=number, path=str(version.predictor.folder), digest=version.digest)
            for name, model in self.registry.models.items()
            for number, version in sorted(model.versions.items())
        ]

    def run(self, listening: socket.socket, started: Callable[[], None]) -> None:
        """Respond until a signal comes, or ``stop`` is called."""
        self.http.on_started = started
        handle_signals_on_own_stack()
        self.http.run(sockets=[listening])

    def stop(self) -> None:
        """End as a signal would, from another thread."""
        self.http.should_exit = True


@contextmanager
def serving(
    sources: Sequence[ModelSource],
    limits: Limits,
    token: str | None,
    endpoint: Endpoint,
    progress: Progress,
    **options: Unpack[LoadOptions],
) -> Generator[ModelServer, None, None]:
    """Open the models, with a server for them.

    Raises: as ``serve``.
    """
    from ftx.serving.app import AppState, build
    from ftx.serving.http_server import HttpServer

    metrics = Metrics()
    read_into_memory()
    registry = Registry(sources, progress, counted=metrics.count_batch, reloaded=metrics.count_reload, options=options)
    images = Images(limits.max_pixels)
    try:
        metrics.waiting.set_function(lambda: registry.waiting)
        metrics.checked.set_function(lambda: sum(one.images for one in registry.checked))
        metrics.twice.set_function(lambda: sum(one.twice for one in registry.checked))
        metrics.rises.set_function(lambda: sum(one.rises for one in registry.checked))
        # If only this machine reaches the server, a browser on it could be used by any website.
        only_here = token is None and is_loopback(endpoint.host)
        rules = AccessRules(token, local_names(endpoint.host) if only_here else None)
        guard = Guard(build(AppState(registry, images, limits, metrics)), limits, rules, metrics, progress)
        yield ModelServer(registry, HttpServer(guard, limits, endpoint))
    finally:
        registry.close()
        images.close()


def sources_of(given: Sequence[str], names: Sequence[str]) -> list[ModelSource]:
    """The models to serve, and their names: NAME=PATH, else the next of ``names``, else the name of the folder.

    Raises: InputError for more names than models, and for what does not exist; RunError if there is no run.
    """
    if len(names) > max(1, len(given)):
        found = f"{len(names)} names, {max(1, len(given))} models"
        raise InputError(
            "--name must be given at most once for each model",
            found=found,
            fix="give the names in order: --name A --name B",
        )
    sources: list[ModelSource] = []
    for index, text in enumerate(given or [str(latest_run())]):
        before, equals, after = text.partition("=")
        named = bool(equals) and not Path(text).exists()
        path = Path(after if named else text)
        if path.is_file():
            if not (path.parent / CARD_FILE).is_file():
                raise InputError(
                    "the model must be a folder that `ftx export` wrote, or a run",
                    where=path,
                    found=f"a file without {CARD_FILE} next to it",
                    fix="for example: ftx serve runs/flowers",
                )
            path = path.parent
        if named and index < len(names):
            found = f"{text}, --name {names[index]}"
            raise InputError("a model must have one name", found=found, fix="give either NAME=PATH or --name")
        name = names[index] if index < len(names) else before if named else _own_name(path)
        versions_in(path)
        sources.append(ModelSource(name, path))
    return sources


def _own_name(path: Path) -> str:
    """The name of a run, also for an IR in it; else of the folder."""
    folder = path.resolve()
    inside = folder.parent.name == "openvino" and folder.parents[1].name
    return inside or (folder.parent.name if folder.name == "openvino" else folder.name)


def read_token(path: Path) -> str:
    """The token in a file.

    Raises: InputError if there is none, or it can be guessed.
    """
    command = shell_command("openssl rand -hex 32 >", path)
    try:
        token = read_file(path, 4096).decode("ascii", errors="replace").strip()
    except OSError as error:
        raise InputError(
            "--token-file cannot be read",
            where=path,
            found=error.strerror,
            fix=f"check the path and its permissions. To make a new token, run: {command}",
        ) from error
    different = len(set(token))
    plain = token.isascii() and token.isprintable() and " " not in token
    if len(token) < LEAST_TOKEN or different < LEAST_DIFFERENT or not plain:
        raise InputError(
            f"--token-file must contain one line of at least {LEAST_TOKEN} letters and digits, "
            f"{LEAST_DIFFERENT} of them different",
            where=path,
            found=f"{len(token)} characters, {different} different ones",
            fix=f"make a new token: {command}",
        )
    return token


def _check_tls(endpoint: Endpoint) -> None:
    """Raise InputError if the certificate and its key are invalid, before a model is opened."""
    cert, key = endpoint.tls_cert, endpoint.tls_key
    if cert is None and key is None:
        return
    if cert is None or key is None:
        raise InputError("--tls-cert and --tls-key must be given together", fix="add --tls-cert FILE --tls-key FILE")
    for path in (cert, key):
        if not path.is_file():
            raise InputError("--tls-cert and --tls-key must be files", where=path, fix="name a file in PEM format")

    def no_password() -> str:
        raise InputError("--tls-key must have no password", where=key, fix="remove it: openssl pkey -in KEY -out PLAIN")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, no_password)
    except FtxError:
        raise
    except (ssl.SSLError, OSError) as error:
        found = getattr(error, "reason", None) or error.strerror or str(error)
        what, fix = "--tls-cert and --tls-key must be one pair in PEM format", "name a certificate and its own key"
        raise InputError(what, where=f"{cert}, {key}", found=found, fix=fix) from error
