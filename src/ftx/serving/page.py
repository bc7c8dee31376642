"""The page at `/`: drop a picture, and see its labels, scores and maps."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ftx.core.pages import render
from ftx.core.version import __version__

TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Page:
    """A page and its headers."""

    html: str
    headers: Mapping[str, str]


def read_page() -> Page:
    """Fill the template. Nothing in it comes from a client or a model, as the page requests the models' names.

    The policy permits the page's own style and script, by their hashes, and requests to this server.
    """
    html = render(TEMPLATE, version=__version__)
    script, style = (_hashes(html, tag) for tag in ("script", "style"))
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; img-src data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {"content-security-policy": policy, "referrer-policy": "no-referrer", "cache-control": "no-store"}
    return Page(html, headers)


def _hashes(html: str, tag: str) -> str:
    """Hashes for the policy (CSP 3, 2.3.1), of the exact bytes between the tags."""
    inside = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'" for text in inside)
