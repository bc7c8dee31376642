"""``ftx serve``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftx.cli import console
from ftx.cli.shared_options import AllowFailedFlag, DeviceOption, JsonFlag, RequireVerifiedFlag
from ftx.runs.machine import CPU

if TYPE_CHECKING:
    from ftx.serving.server import ServeReport


def command(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|IR",
            show_default=False,
            help="Runs, exported OpenVINO folders (IR, Intermediate Representation), or folders of versions (1/, 2/, "
            "...). NAME=PATH sets the name of a model.  [default: your newest run, runs/latest]",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="HOST", help="The address to listen on; 0.0.0.0: all networks.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, metavar="N", help="The port; 0: any free port.")
    ] = 8000,
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="The name of the model for clients; repeat this option for several models.  [default: the name of the "
            "folder]",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="Accept only requests with the token in this file (Authorization: Bearer).",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="Use HTTPS, with this certificate (PEM).")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", help="The key of the certificate (PEM).")
    ] = None,
    max_body_mb: Annotated[
        float, typer.Option("--max-body-mb", min=0.001, metavar="MB", help="The largest request, in megabytes.")
    ] = 32.0,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", min=1, metavar="N", help="The largest image; larger ones are not decoded.")
    ] = 50_000_000,
    max_concurrency: Annotated[
        int,
        typer.Option(
            "--max-concurrency",
            min=1,
            metavar="N",
            help="The maximum number of simultaneous requests. Further requests get status 503.",
        ),
    ] = 64,
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout-s",
            min=0.1,
            metavar="S",
            help="Time limit in seconds for a request to arrive, and the same limit again for its response.",
        ),
    ] = 30.0,
    device: DeviceOption = CPU,
    require_proof: RequireVerifiedFlag = False,
    allow_failed: AllowFailedFlag = False,
    json: JsonFlag = False,
) -> int:
    """Predict over HTTP, with a page to try it: open the address in a browser and drag an image onto the page.

    Programs use POST /predict, or the Open Inference Protocol v2. If `ftx apply` writes a newer model, the server loads
    it without losing a request. Ctrl-C or SIGTERM stops the server after it has finished the open requests. With
    --json, ftx prints one JSON object with the address.
    """
    from ftx.serving.limits import Limits
    from ftx.serving.listening import Endpoint
    from ftx.serving.server import serve

    def ready(report: ServeReport) -> None:
        console.show(report, _print, json=json)

    serve(
        targets or (),
        names=name or (),
        endpoint=Endpoint(host, port, token_file, tls_cert, tls_key),
        limits=Limits(max_body_mb, max_pixels, max_concurrency, timeout_s),
        ready=ready,
        progress=console.TerminalProgress(),
        device=device,
        require_proof=require_proof,
        allow_failed=allow_failed,
    )
    return 0


def _print(report: ServeReport) -> None:
    for one in report.models:
        console.print_note(f"{one.name}, version {one.version}: {one.path}")
    console.print_note(f"{report.address} is ready; Ctrl-C ends it", "good")
