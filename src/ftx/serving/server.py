"""``ftx serve``: an address, what may be asked of it and by whom, and models behind it until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from pydantic import BaseModel

from ftx.core.command_report import CommandReport
from ftx.core.errors import TERMINATING, FtxError, InputError
from ftx.core.progress import SILENT, Progress
from ftx.core.same_origin import local_names
from ftx.core.signals import handle_signals_on_own_stack
from ftx.core.untrusted_input import read_file
from ftx.runs.card_json import CARD_FILE
from ftx.runs.latest import latest_run
from ftx.runtimes.openvino import read_into_memory
from ftx.serving.connection import HEAD_S, connection_class, most_connections
from ftx.serving.images import Images
from ftx.serving.limits import Asker, Guard, Limits
from ftx.serving.listening import BACKLOG, Address, bound, is_loopback, url_of
from ftx.serving.metrics import Metrics
from ftx.serving.registry import Registry, Target, versions_in

if TYPE_CHECKING:
    import uvicorn

# Characters of a token, and different ones among them: what is shorter, or one letter again and again, is guessed.
LEAST_TOKEN, LEAST_DIFFERENT = 16, 8
# A connection that is kept alive and says nothing.
IDLE_S = 20


class ServedVersion(BaseModel):
    """A model that answers, as the server began."""

    name: str
    version: int
    path: str
    digest: str


class ServeReport(CommandReport):
    """Where a server is, once it answers, and what it serves."""

    verb: str = "serve"
    address: str
    models: list[ServedVersion]


LOOPBACK, DEFAULT_LIMITS = Address(), Limits()


def serve(
    targets: Sequence[str],
    *,
    names: Sequence[str] = (),
    address: Address = LOOPBACK,
    limits: Limits = DEFAULT_LIMITS,
    ready: Callable[[ServeReport], None] = lambda report: None,
    progress: Progress = SILENT,
) -> None:
    """Answer requests until SIGINT or SIGTERM, then those that have begun; ``ready`` is told once it can be asked.

    Without a target the newest run is served.
    Raises: InputError for a token, certificate or name that does not hold; EnvironmentFault if the address is taken;
    RunError, ExportError, GateFailed for the models.
    """
    token = None if address.token_file is None else read_token(address.token_file)
    _check_tls(address)
    chosen = targets_of(targets, names)
    with bound(address, most_connections(limits)) as listening:
        where = url_of(address, listening)
        if token is None and not is_loopback(address.host):
            progress.note(f"whoever reaches {where} may ask: no token is asked for (--token-file FILE)")
        elif not is_loopback(address.host) and address.tls_cert is None:
            progress.note(f"the token and all images go to {where} as anybody can read them (--tls-cert, --tls-key)")
        with serving(chosen, limits, token, address, progress) as server:
            report = ServeReport(run=_only_run(chosen), address=where, models=server.served())
            server.run(listening, lambda: ready(report))


class Serving:
    """A server that is ready to run."""

    def __init__(self, registry: Registry, server: uvicorn.Server, started: list[Callable[[], None]]) -> None:
        self.registry, self._server, self._started = registry, server, started

    def served(self) -> list[ServedVersion]:
        """The versions of all models."""
        return [
            ServedVersion(name=name, version=number, path=str(version.predictor.folder), digest=version.digest)
            for name, model in self.registry.models.items()
            for number, version in sorted(model.versions.items())
        ]

    def run(self, listening: socket.socket, started: Callable[[], None]) -> None:
        """Answer until a signal comes, or ``stop`` is called."""
        self._started.append(started)
        handle_signals_on_own_stack()
        self._server.run(sockets=[listening])

    def stop(self) -> None:
        """End as a signal would, from another thread."""
        self._server.should_exit = True


@contextmanager
def serving(
    targets: Sequence[Target], limits: Limits, token: str | None, address: Address, progress: Progress
) -> Generator[Serving, None, None]:
    """Models that are opened, and a server before them.

    Raises: as ``serve``.
    """
    from ftx.serving.app import Parts, build

    metrics = Metrics()
    read_into_memory()
    registry = Registry(targets, progress, counted=metrics.batch, reloaded=metrics.reloaded)
    images = Images(limits.max_pixels)
    try:
        metrics.watch_waiting(lambda: registry.waiting)
        # To a server that this machine alone reaches, browsers of this machine are the way for everyone else.
        alone = token is None and is_loopback(address.host)
        asker = Asker(token, local_names(address.host) if alone else None)
        guard = Guard(build(Parts(registry, images, limits, metrics)), limits, asker, metrics, progress)
        started: list[Callable[[], None]] = []
        yield Serving(registry, _uvicorn(guard, limits, address, started), started)
    finally:
        registry.close()
        images.close()


def _uvicorn(guard: Guard, limits: Limits, address: Address, started: list[Callable[[], None]]) -> uvicorn.Server:
    import uvicorn

    made = connection_class(limits)

    class Server(uvicorn.Server):
        """One that tells when it has begun, and ends with status 0 when it was told to: that is how it ends."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            """As uvicorn does, with a bound for TLS: what is accepted and has not shaken hands is no connection yet."""
            assert sockets is not None
            tls = config.ssl
            patience_s = None if tls is None else HEAD_S

            def connection() -> asyncio.Protocol:
                return made(config, self.server_state, {})

            self.servers = [
                await asyncio.get_running_loop().create_server(
                    connection,
                    sock=one,
                    ssl=tls,
                    backlog=BACKLOG,
                    ssl_handshake_timeout=patience_s,
                    ssl_shutdown_timeout=patience_s,
                )
                for one in sockets
            ]
            self.started = True
            for tell in started:
                tell()

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            self.force_exit = self.should_exit  # the second time
            self.should_exit = True

        @contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            if threading.current_thread() is not threading.main_thread():
                yield
                return
            numbers = [one for one in (signal.SIGINT, *TERMINATING) if signal.getsignal(one) is not signal.SIG_IGN]
            before = {number: signal.signal(number, self.handle_exit) for number in numbers}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # the client is told what is wrong with a form
    config = uvicorn.Config(
        guard,  # pyright: ignore[reportArgumentType]  its messages are typed one by one
        http=made,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        log_level="critical",  # what there is to say is said by the guard
        access_log=False,
        server_header=False,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=int(2 * limits.timeout_s) + 1,
        backlog=BACKLOG,
        ssl_certfile=address.tls_cert,
        ssl_keyfile=address.tls_key,
    )
    return Server(config)


def targets_of(given: Sequence[str], names: Sequence[str]) -> list[Target]:
    """What is served under which name: NAME=PATH, a name for each in order, or that of its folder.

    Raises: InputError for more names than there are targets, and what is not there; RunError without any run.
    """
    if len(names) > max(1, len(given)):
        found = f"{len(names)} names, {max(1, len(given))} models"
        raise InputError("there are more names than models", found=found, fix="give --name once for each, in order")
    targets: list[Target] = []
    for index, text in enumerate(given or [str(latest_run())]):
        before, equals, after = text.partition("=")
        named = bool(equals) and not Path(text).exists()
        path = Path(after if named else text)
        if path.is_file():
            if not (path.parent / CARD_FILE).is_file():
                raise InputError(
                    "this file is no model of ftx", where=path, fix="name a run, or a folder of ftx export"
                )
            path = path.parent
        if named and index < len(names):
            raise InputError(
                "a model has two names", found=f"{text}, --name {names[index]}", fix="leave one of them out"
            )
        name = names[index] if index < len(names) else before if named else _own_name(path)
        versions_in(path)
        targets.append(Target(name, path))
    return targets


def _own_name(path: Path) -> str:
    """The name of a run, also of an IR in it; else of the folder."""
    folder = path.resolve()
    inside = folder.parent.name == "openvino" and folder.parents[1].name
    return inside or (folder.parent.name if folder.name == "openvino" else folder.name)


def _only_run(targets: Sequence[Target]) -> str | None:
    from ftx.runs.run_json import is_run

    return str(targets[0].path) if len(targets) == 1 and is_run(targets[0].path) else None


def read_token(path: Path) -> str:
    """The token that a file holds.

    Raises: InputError if there is none, or one that can be guessed.
    """
    try:
        token = read_file(path, 4096).decode("ascii", errors="replace").strip()
    except OSError as error:
        raise InputError("the token cannot be read", where=path, found=error.strerror, fix="name a file") from error
    different = len(set(token))
    plain = token.isascii() and token.isprintable() and " " not in token
    if len(token) < LEAST_TOKEN or different < LEAST_DIFFERENT or not plain:
        raise InputError(
            "this is no token",
            where=path,
            found=f"{len(token)} characters, {different} different ones",
            fix=f"one line of {LEAST_TOKEN} letters and digits or more, {LEAST_DIFFERENT} different ones: "
            f"openssl rand -hex 32 > {path}",
        )
    return token


def _check_tls(address: Address) -> None:
    """Raise InputError unless the certificate and its key hold, before a model is opened."""
    cert, key = address.tls_cert, address.tls_key
    if cert is None and key is None:
        return
    if cert is None or key is None:
        raise InputError("TLS takes a certificate and its key", fix="--tls-cert FILE --tls-key FILE")
    for path in (cert, key):
        if not path.is_file():
            raise InputError("there is no such file", where=path, fix="name a file in PEM")

    def no_password() -> str:
        raise InputError("the key asks for a password", where=key, fix="openssl pkey -in KEY -out PLAIN")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, no_password)
    except FtxError:
        raise
    except (ssl.SSLError, OSError) as error:
        found = getattr(error, "reason", None) or error.strerror or str(error)
        raise InputError(
            "the certificate and its key do not hold",
            where=f"{cert}, {key}",
            found=found,
            fix="both are PEM, of a pair",
        ) from error
