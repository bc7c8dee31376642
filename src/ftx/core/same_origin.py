"""Which requests of a browser a server on this machine serves: those of its own pages, and of no other website.

A website can point its own name at 127.0.0.1 (DNS rebinding) and then send requests as if it were the server's own
page; the browser still sends that name (Host). And any website may send a form anywhere; the browser sends from where
(Origin).
"""

from __future__ import annotations

import re

# Port and brackets are as a browser writes them; a request without a host is no browser's.
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::\d*)?")


def local_names(host: str = "127.0.0.1") -> frozenset[str]:
    """The names that a browser of this machine may use for a server that listens at ``host``, without the port."""
    return frozenset({"localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host.lower()})


def rejection(names: frozenset[str], host: str | None, origin: str | None) -> str | None:
    """Why a request with these headers Host and Origin is rejected; None if it is served.

    The port is not compared with the server's own, as it may be forwarded (ssh -L); Origin and Host must have the same.
    """
    if host is None:
        return None if origin is None else "a request of a page must have the header Host"
    found = _AUTHORITY.fullmatch(host)
    if found is None or found[1].lower() not in names:
        return f"this server is not named {host[:100]!r}: it is {', '.join(sorted(names))}"
    if origin is not None and origin.lower() not in {f"{scheme}://{host.lower()}" for scheme in ("http", "https")}:
        return f"requests of another website ({origin[:100]!r}) are rejected"
    return None
