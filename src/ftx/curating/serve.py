"""The page, until Ctrl-C."""

from __future__ import annotations

import os
import tempfile
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from ftx.core.errors import Termination
from ftx.curating.look import Look
from ftx.curating.one_page import claimed
from ftx.curating.server import LookServer


def serve(server: LookServer, look: Look, *, open_browser: bool = False, announce: Callable[[str], None]) -> None:
    """Serve the page of a look, whose address is announced; every choice is on disk when it is answered.

    Raises: InputError if another page chooses in the table; Termination where the system ends the program.
    """
    with (
        claimed(look.table.path),
        redirect_file(server.address) if open_browser else nullcontext("") as redirect,
    ):
        server.show(look)
        announce(server.address)
        if open_browser:
            webbrowser.open(redirect)
        try:
            server.serve_forever()
        except Termination:
            raise
        except KeyboardInterrupt:  # how one ends it
            return


@contextmanager
def redirect_file(address: str) -> Iterator[str]:
    """The URL of a file that leads to the address and that no other user can read; it is gone after the block.

    Every user can read the words that a browser is started with, and the address holds a secret.
    """
    with tempfile.TemporaryDirectory(prefix="ftx-look-") as folder:  # 0700
        path = Path(folder) / "open.html"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            stream.write(
                f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={address}">'
                f'<title>ftx data look</title><a href="{address}">The page</a>\n'
            )
        yield path.as_uri()
