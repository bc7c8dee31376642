"""The page in a browser: chosen by keyboard, whole for those who see otherwise, and asking nobody but itself."""

from __future__ import annotations

import csv
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from tests.browsing import Visit, needs_chromium, visit
from tests.curating.lookable import EVIL, EVIL_FILE, class_folders, contradicting, look_at, undecided

from ftx.curating.look import Look
from ftx.curating.server import LookServer, redirect_file

pytestmark = needs_chromium
Scheme = Literal["light", "dark"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Look:
    root = tmp_path_factory.mktemp("page")
    return look_at(class_folders(root / "data"), root / "t.csv")


@pytest.fixture
def look(found: Look, tmp_path: Path) -> Look:
    return undecided(found, tmp_path / "t.csv")


@contextmanager
def served(look: Look) -> Iterator[LookServer]:
    with LookServer(0) as made:
        made.show(look)
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()


def choices(look: Look) -> list[str]:
    with look.table.path.open(newline="", encoding="utf-8") as stream:
        return [row["choice"] for row in csv.DictReader(stream)]


def said(seen: Visit, text: str) -> None:
    seen.page.get_by_role("status").filter(has_text=text).wait_for()


@pytest.mark.representative
def test_every_choice_by_the_keyboard(look: Look) -> None:
    with served(look) as server, visit(server.address) as seen:
        page = seen.page
        page.keyboard.press("s")
        said(seen, "train/amber/wrong.png: relabel: blue, saved")
        assert choices(look) == ["relabel:blue", "", "", ""]
        page.keyboard.press("l")  # the field for another label, where letters are letters
        page.keyboard.type("amber")
        page.keyboard.press("Enter")
        said(seen, "train/blue/wrong.png: relabel: amber, saved")
        page.keyboard.press("d")
        said(seen, "val/blue/again.bmp: drop, saved")
        page.keyboard.press("k")
        said(seen, "train/amber/broken.png: keep, saved")
        assert choices(look) == ["relabel:blue", "relabel:amber", "drop", "keep"]
        assert page.get_by_text("4 of 4 decided").is_visible()
        page.keyboard.press("u")
        said(seen, "train/amber/broken.png: undecided, saved")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("l")
        page.keyboard.type("no such")
        page.keyboard.press("Enter")
        said(seen, "train/blue/wrong.png: not saved. there is no label 'no such'")
        assert choices(look) == ["relabel:blue", "relabel:amber", "drop", ""]
        page.get_by_label("Keyboard shortcuts").uncheck()
        page.locator("#review").focus()
        page.keyboard.press("k")
        page.reload()
        assert page.get_by_text("3 of 4 decided").is_visible()
        assert not [error for error in seen.errors if "409" not in error]


# A disk that takes its time; the second argument says which choices never come to it.
SLOW = """([delay, lost]) => {
    const send = window.fetch;
    window.fetch = async (...what) => {
        await new Promise((done) => setTimeout(done, delay));
        if (lost-- > 0) throw new TypeError("gone");
        return send(...what);
    };
}"""


# A key that reaches the page right after the error.
ON_ITS_WAY = """() => {
    const message = document.getElementById("message");
    new MutationObserver((_, observer) => {
        if (message.className !== "wrong") return;
        observer.disconnect();
        document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "d", bubbles: true}));
    }).observe(message, {attributes: true});
}"""


@pytest.mark.slow
def test_what_is_typed_before_a_choice_is_written_is_of_the_next_image(look: Look) -> None:
    with served(look) as server, visit(server.address) as seen:
        page = seen.page
        page.evaluate(SLOW, [100, 0])
        page.keyboard.type("kd")
        page.keyboard.press("l")
        page.keyboard.type("amb")
        said(seen, "train/blue/wrong.png: drop, saved")
        assert page.locator("#label").input_value() == "amb"  # what was written meanwhile leaves it alone
        page.keyboard.press("Escape")
        assert choices(look) == ["keep", "drop", "", ""]
        for _ in range(5):
            page.keyboard.down("d")  # held
        page.keyboard.up("d")
        said(seen, "val/blue/again.bmp: drop, saved")
        for _ in range(3):
            page.keyboard.press("ArrowLeft")
        for count in (1, 2):  # a double click, wherever the button lies by then
            page.get_by_role("button", name="Keep as it is").dispatch_event("click", {"detail": count})
        said(seen, "train/amber/wrong.png: keep, saved")
        page.wait_for_timeout(300)  # two writes more, if there were any
        assert choices(look) == ["keep", "drop", "drop", ""]
        assert not seen.errors


@pytest.mark.slow
def test_after_a_choice_that_was_not_written_one_is_back_at_its_image(look: Look) -> None:
    with served(look) as server, visit(server.address) as seen:
        page = seen.page
        page.evaluate(SLOW, [100, 0])
        page.evaluate(ON_ITS_WAY)
        page.keyboard.press("k")
        page.keyboard.press("l")
        page.keyboard.type("no such")
        page.keyboard.press("Enter")
        page.keyboard.type("dk")
        said(seen, "train/blue/wrong.png: not saved. there is no label 'no such'")
        assert page.get_by_text("2 of 4", exact=True).is_visible()
        assert page.locator("#label").input_value() == "no such"
        page.wait_for_timeout(600)  # beyond REACTION_MS
        assert choices(look) == ["keep", "", "", ""]
        page.evaluate(SLOW, [0, 1])
        page.keyboard.press("d")
        said(seen, "train/blue/wrong.png: not saved. The program in the terminal has ended.")
        page.wait_for_timeout(600)
        page.keyboard.type("dk")
        said(seen, "val/blue/again.bmp: keep, saved")
        assert choices(look) == ["keep", "drop", "keep", ""]


@pytest.mark.slow
def test_filters_and_the_export(tmp_path: Path) -> None:
    look = look_at(contradicting(tmp_path / "data"), tmp_path / "t.csv")
    with served(look) as server, visit(server.address) as seen:
        tiles, page = seen.page.locator("#list button"), seen.page
        assert tiles.count() == len(look.report.issues)
        page.get_by_label("Issue").select_option("contradiction")
        assert tiles.count() == 2
        assert page.locator("#pictures img").count() == 2
        page.get_by_label("Issue").select_option("")
        page.locator("#by-class").select_option(EVIL)
        assert tiles.count() == 1  # suggested for the one in blue
        page.keyboard.press("Escape")
        page.locator("#review").focus()
        page.keyboard.press("k")
        said(seen, "keep, saved")
        page.locator("#by-class").select_option("")
        page.get_by_label("Show").select_option("open")
        assert tiles.count() == len(look.report.issues) - 1
        page.get_by_label("Show").select_option("done")
        assert tiles.count() == 1
        with page.expect_download() as download:
            page.get_by_role("link", name="Export CSV").click()
        assert Path(download.value.path()).read_bytes() == look.table.path.read_bytes()
        assert not seen.errors


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Look:
    """With a near-duplicate held out of the strange class, by its strange name."""
    root = tmp_path_factory.mktemp("strange")
    data = class_folders(root / "data")
    (data / "val" / EVIL / "<i>twin.png").write_bytes((data / "train" / EVIL / EVIL_FILE).read_bytes())
    return look_at(data, root / "t.csv")


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_it_is_whole_narrow_and_dark_and_names_stay_text(strange: Look, scheme: Scheme, width: int) -> None:
    look = strange
    with served(look) as server, visit(server.address, scheme=scheme, width=width) as seen:
        seen.page.wait_for_load_state("networkidle")
        for _ in look.report.issues:
            assert not seen.violations()
            assert seen.sideways() == 0
            seen.page.keyboard.press("ArrowRight")
        text = seen.page.locator("main").inner_text()
        assert EVIL in text
        assert EVIL_FILE in text or any(EVIL_FILE in one.suggested for one in look.report.issues)
        assert seen.page.locator("main b, main i, main [onerror], main [onclick]").count() == 0
        assert not seen.errors
        assert all(one.startswith((server.address, "data:")) for one in seen.requests)
        pictures = seen.page.evaluate("[...document.images].map((one) => one.complete && one.naturalWidth > 0)")
        assert all(pictures)


@pytest.mark.slow
def test_another_website_cannot_choose(look: Look, tmp_path: Path) -> None:
    """A page of another origin in the same browser, which even knows the address."""
    elsewhere = tmp_path / "elsewhere.html"
    elsewhere.write_text("<title>elsewhere</title>")
    ask = """async (address) => {
        const body = JSON.stringify({number: 0, choice: "drop"});
        for (const type of ["application/json", "text/plain"]) {
            try { await fetch(address + "choices", {method: "POST", headers: {"Content-Type": type}, body}); } catch {}
            try { await fetch(address + "choices", {method: "POST", mode: "no-cors", body}); } catch {}
        }
    }"""
    with served(look) as server, visit(elsewhere.as_uri()) as seen:
        seen.page.evaluate(ask, server.address)
        assert any(one.startswith(server.address) for one in seen.requests)
    assert choices(look) == ["", "", "", ""]


@pytest.mark.slow
def test_the_file_that_a_browser_is_started_with_leads_to_the_page(look: Look) -> None:
    with served(look) as server, redirect_file(server.address) as redirect, visit(redirect) as seen:
        seen.page.wait_for_url(server.address)
        assert seen.page.get_by_text("0 of 4 decided").is_visible()


@pytest.mark.slow
def test_nothing_found(tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data")
    for path in ("train/amber/wrong.png", "train/blue/wrong.png", "train/amber/broken.png", "val/blue/again.bmp"):
        (data / path).unlink()
    look = look_at(data, tmp_path / "t.csv")
    assert not look.report.issues
    with served(look) as server, visit(server.address) as seen:
        assert seen.page.get_by_text("Nothing was found that looks wrong.").is_visible()
        assert not seen.violations()
        assert not seen.errors
