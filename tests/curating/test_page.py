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
from tests.curating.lookable import EVIL, EVIL_FILE, class_folders, contradicting, look_at

from ftx.curating.look import Look
from ftx.curating.server import LookServer

pytestmark = [needs_chromium, pytest.mark.slow]
Scheme = Literal["light", "dark"]


@contextmanager
def served(look: Look) -> Iterator[LookServer]:
    with LookServer(look, 0) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def choices(look: Look) -> list[str]:
    with look.table.path.open(newline="", encoding="utf-8") as stream:
        return [row["choice"] for row in csv.DictReader(stream)]


def said(seen: Visit, text: str) -> None:
    seen.page.get_by_role("status").filter(has_text=text).wait_for()


def test_every_choice_by_the_keyboard(tmp_path: Path) -> None:
    look = look_at(class_folders(tmp_path / "data"), tmp_path / "t.csv")
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
        said(seen, "Not saved. there is no label 'no such'")
        assert choices(look) == ["relabel:blue", "relabel:amber", "drop", ""]
        page.get_by_label("Keys").uncheck()
        page.locator("#review").focus()
        page.keyboard.press("k")
        page.reload()
        assert page.get_by_text("3 of 4 decided").is_visible()
        assert not [error for error in seen.errors if "409" not in error]


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


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_it_is_whole_narrow_and_dark_and_names_stay_text(tmp_path: Path, scheme: Scheme, width: int) -> None:
    data = class_folders(tmp_path / "data")
    # Of the strange class, by its strange name: a near-duplicate held out.
    (data / "val" / EVIL / "<i>twin.png").write_bytes((data / "train" / EVIL / EVIL_FILE).read_bytes())
    look = look_at(data, tmp_path / "t.csv")
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


def test_another_website_cannot_choose(tmp_path: Path) -> None:
    """A page of another origin in the same browser, which even knows the address."""
    look = look_at(class_folders(tmp_path / "data"), tmp_path / "t.csv")
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
