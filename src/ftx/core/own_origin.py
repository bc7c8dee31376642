"""Who may lead a browser to a server of this machine: its own pages, and no other website.

A website can point its own name at 127.0.0.1 (DNS rebinding) and then ask as if it were the server's own page; the
browser still says that name (Host). And any website may send a form anywhere; the browser says from where (Origin).
"""

from __future__ import annotations

import re

# Port and brackets are as a browser writes them; a request without a host is no browser's.
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::\d*)?")


def own_names(host: str = "127.0.0.1") -> frozenset[str]:
    """What a browser of this machine may call a server that listens at ``host``, without the port."""
    return frozenset({"localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host.lower()})


def refuses(names: frozenset[str], host: str | None, origin: str | None) -> str | None:
    """Why a request is not answered, by its headers Host and Origin; None if it is.

    The port is not compared with the server's own, as it may be forwarded (ssh -L); Origin and Host must have the same.
    """
    if host is None:
        return None if origin is None else "a page that asks says whom (Host)"
    found = _AUTHORITY.fullmatch(host)
    if found is None or found[1].lower() not in names:
        return f"this server is not called {host[:100]!r}: it is {', '.join(sorted(names))}"
    if origin is not None and origin.lower() not in {f"{scheme}://{host.lower()}" for scheme in ("http", "https")}:
        return f"pages of another website ({origin[:100]!r}) are not answered"
    return None
