"""The page in a browser: a picture is dropped, labels are seen, names stay text, and no one else is asked."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from playwright.sync_api import FileChooser, Page, Route, TimeoutError
from tests.browsing import Visit, needs_chromium, visit
from tests.conftest import calibrate, write_colour_ir
from tests.serving.conftest import Running, flat, png, running, write_named_ir

from ftx.serving.registry import ModelSource

EVIL = '<img src=x onerror="document.title=1">'
TOKEN = "0123456789abcdef0123456789abcdef"
# A drop as a hand does it: the file comes with the event.
DROP = """([name, encoded]) => {
  const bytes = Uint8Array.from(atob(encoded), (one) => one.charCodeAt(0));
  const carried = new DataTransfer();
  carried.items.add(new File([bytes], name, { type: "image/png" }));
  for (const kind of ["dragenter", "dragover", "drop"])
    document.getElementById("drop").dispatchEvent(new DragEvent(kind, { dataTransfer: carried, bubbles: true }));
}"""

pytestmark = needs_chromium


@pytest.mark.representative
def test_prediction_sets_are_returned_and_seen(tmp_path: Path) -> None:
    """A picture that is hardly greener than red: both are in the set, of another only green."""
    write_colour_ir(tmp_path)
    calibrate(tmp_path, [0.6, 0.7, 0.8, 0.85, 0.9, 0.95])  # the second is the threshold
    plain, between = png(1), flat(130, 140, 40)
    with running(ModelSource("colour", tmp_path)) as server:
        images = [server.predict(image).json["images"][0] for image in (plain, between)]
        assert [one["set"] for one in images] == [["green"], ["green", "red"]]
        with visit(f"http://{server.url}/", width=390) as seen:
            drop(seen, "meadow.png", between)
            said = seen.page.get_by_text("Prediction set:")
            said.wait_for()
            assert said.inner_text() == "Prediction set: green, red"


def drop(seen: Visit, name: str, content: bytes) -> None:
    seen.page.evaluate(DROP, [name, base64.b64encode(content).decode()])


@pytest.mark.representative
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_picture_is_dropped_and_its_labels_are_seen(colour_server: Running, scheme: str) -> None:
    address = f"http://{colour_server.url}/"
    with visit(address, scheme="dark" if scheme == "dark" else "light", width=390) as seen:
        drop(seen, "meadow.png", png(1))
        lines = seen.page.locator(".scores li")
        lines.first.wait_for()
        assert lines.count() == 3
        assert lines.first.inner_text().split()[0] == "green"
        assert re.search(r"9\d\.\d %", lines.first.inner_text())
        maps = seen.page.locator(".pictures img")
        maps.nth(1).wait_for()
        assert maps.count() == 2
        assert maps.nth(1).get_attribute("alt") == "meadow.png, bright where it supports green"
        assert maps.nth(1).evaluate("one => one.complete && one.naturalWidth > 0")
        drop(seen, "broken.png", b"<html>")
        seen.page.locator(".message.bad").wait_for()
        assert "an HTML page" in seen.page.locator(".message.bad").inner_text()
        assert seen.violations() == []
        assert seen.sideways() == 0
        assert [one for one in seen.errors if "422" not in one] == []
        assert [one for one in seen.requests if not one.startswith((address, "data:", "blob:"))] == []


@pytest.mark.slow
def test_a_picture_that_is_dropped_before_the_models_are_known_gets_its_map(colour_server: Running) -> None:
    with visit(f"http://{colour_server.url}/", before=_list_late) as seen:
        drop(seen, "meadow.png", png(1))
        assert seen.page.locator("#model option").count() == 0
        seen.page.locator(".pictures img").nth(1).wait_for()
        assert seen.errors == []


def _list_late(page: Page) -> None:
    """The browser hears of the models one second after it asked."""

    def answered_late(route: Route) -> None:
        answer = route.fetch()
        page.wait_for_timeout(1000)
        route.fulfill(response=answer)

    page.route("**/v2/repository/index", answered_late)


@pytest.mark.slow
def test_it_is_used_by_keyboard(colour_server: Running) -> None:
    with visit(f"http://{colour_server.url}/") as seen:
        seen.page.locator("#model-row").wait_for()
        seen.page.keyboard.press("Tab")  # past the link to the content
        seen.page.keyboard.press("Tab")
        assert seen.page.evaluate("document.activeElement.id") == "model"
        seen.page.keyboard.press("Tab")
        assert seen.page.evaluate("document.activeElement.id") == "files"
        _chooser(seen).set_files({"name": "sky.png", "mimeType": "image/png", "buffer": png(2)})
        seen.page.locator(".scores li").first.wait_for()
        assert seen.page.locator(".scores .predicted").inner_text() == "blue"


def _chooser(seen: Visit) -> FileChooser:
    """What Enter opens; Chromium drops a key now and then on a page that it has just painted."""
    for _ in range(5):
        try:
            with seen.page.expect_file_chooser(timeout=3000) as chosen:
                seen.page.keyboard.press("Enter")
        except TimeoutError:
            continue
        return chosen.value
    raise AssertionError("Enter opens no chooser of files")


@pytest.mark.slow
def test_names_with_html_in_them_stay_text(tmp_path: Path) -> None:
    folder = write_named_ir(tmp_path / "model", (EVIL, "b", "c"), maps=True)
    with running(ModelSource(EVIL, folder)) as server, visit(f"http://{server.url}/") as seen:
        seen.page.locator("#model-row").wait_for()
        drop(seen, EVIL, png(0))
        seen.page.locator(".scores li").first.wait_for()
        assert seen.page.locator(".scores .predicted").inner_text() == EVIL
        assert seen.page.locator("#predictions h2").inner_text() == EVIL
        assert seen.page.locator("#model option").inner_text() == EVIL
        assert seen.page.title() == "ftx: try a model"
        assert seen.page.locator("img[src=x]").count() == 0
        assert seen.errors == []


@pytest.mark.slow
def test_it_asks_for_the_token(colour_ir: Path) -> None:
    with running(ModelSource("colour", colour_ir), token=TOKEN) as server, visit(f"http://{server.url}/") as seen:
        field = seen.page.get_by_label("This server requires a token")
        field.wait_for()
        field.fill("wrong")
        field.press("Enter")
        seen.page.get_by_text("This token is wrong.").wait_for()
        field.fill(TOKEN)
        field.press("Enter")
        seen.page.locator("#model-row").wait_for()
        assert seen.page.locator("#token-form").is_hidden()
        drop(seen, "a.png", png(0))
        seen.page.locator(".scores li").first.wait_for()
        assert [one for one in seen.errors if "401" not in one] == []


@pytest.mark.slow
def test_the_policy_is_strict(colour_server: Running) -> None:
    headers = colour_server.ask("GET", "/").headers
    policy = headers["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    for part in ("connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"):
        assert part in policy
    assert headers["cache-control"] == "no-store"
    with visit(f"http://{colour_server.url}/") as seen:
        seen.page.locator("#model-row").wait_for()
        injected = (
            "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.taken = 1'}))"
        )
        seen.page.evaluate(injected)
        assert seen.page.evaluate("window.taken") is None
