"""The page, until Ctrl-C."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable

from ftx.core.errors import Termination
from ftx.curating.look import Look
from ftx.curating.server import PORT, LookServer


def serve(look: Look, *, port: int = PORT, open_browser: bool = False, announce: Callable[[str], None]) -> None:
    """Serve the page of a look, whose address is announced; every choice is on disk when it is answered.

    Raises: EnvironmentFault if the port is taken; Termination where the system ends the program.
    """
    with LookServer(look, port) as server:
        announce(server.address)
        if open_browser:
            webbrowser.open(server.address)
        try:
            server.serve_forever()
        except Termination:
            raise
        except KeyboardInterrupt:  # how one ends it
            return
