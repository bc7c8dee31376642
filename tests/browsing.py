"""Pages as people meet them: in headless Chromium (Debian's package `chromium`), with axe-core's judgement of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: chromium)")


@dataclass
class Visit:
    """One page opened, and what the browser said of it: errors on its console, and every address that it asked for."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def violations(self) -> list[str]:
        """What axe-core finds wrong for those who see or move otherwise: rule and element."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [f"{one['id']}: {node['html'][:120]}" for one in found for node in one["nodes"]]

    def sideways(self) -> int:
        """Pixels by which the page is wider than the window: none is right."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@contextmanager
def visit(
    address: str,
    *,
    scheme: str = "light",
    width: int = 1280,
    height: int = 900,
    before: Callable[[Page], None] = lambda page: None,
) -> Iterator[Visit]:
    """Open an address (http, https or file) in a window of this size; `before` prepares it, for one that is slow."""
    with sync_playwright() as playwright:
        # Without a sandbox: tests may run as root, where Chromium has none.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        page = context.new_page()
        seen = Visit(page)
        page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("request", lambda request: seen.requests.append(request.url))
        try:
            before(page)
            page.goto(address)
            yield seen
        finally:
            browser.close()
