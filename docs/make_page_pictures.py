"""Draw the pictures of ftx's pages from real runs: report-*.png, serve.png and tune.png in docs/images.

``python -m docs.make_page_pictures`` takes about ten minutes on two cores. It needs Chromium (Debian: chromium), and
``apt-get``, from which it gets the photographs: those of Debian's package tuxpaint-stamps-default (GPL-2).
The runs stay in build/page-pictures and are used again: delete the folder to train again.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import FloatRect, Page
from tests.browsing import visit

from ftx.data.bundled_sample import place_sample

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "page-pictures"
FTX = (sys.executable, "-m", "ftx")
PHOTOGRAPHS, COLLAGES, TREE, SEARCH = "runs/photographs", "runs/collages", "runs/tree", "runs/search"
# The data sets of photographs, as tests.benchmarks.datasets names them, and their names here.
DATA = {"photographs": "photos", "photographs-collages": "collages"}

SMALL = "--blocks 4 --image-size 112"
COMMANDS = {
    PHOTOGRAPHS: f"train --data photos --method dora {SMALL} --epochs 5 --lr 1e-3",
    COLLAGES: f"train --data collages --task multilabel --method dora {SMALL} --epochs 6 --lr 3e-3",
    TREE: f"train --data sample-tree.csv --task hierarchical --method lora {SMALL} --epochs 5 --lr 1e-3",
    SEARCH: "tune quickstart-multiclass --data sample-data --space space.yaml --objective metric,latency --trials 8",
}
SPACE = """\
data.image_size: [28, 42, 56, 84, 112, 140]
train.epochs: [2, 3, 5]
"""

# Pixels: the width of a window and of a phone's, and the space above and below what a picture shows.
WIDTH, PHONE, MARGIN = 1180, 390, 16
# The most frequent colours, as those of backgrounds, are kept exactly; the others are chosen to be far from each other.
EXACT, CHOSEN = 96, 96


def photographs(name: str) -> Path:
    """A data set of photographs, made if it does not exist yet."""
    made = ROOT / "build" / "data-sets" / name
    if not made.exists():
        command = [sys.executable, "-m", "tests.benchmarks.datasets", name, str(made.parent)]
        subprocess.run(command, cwd=ROOT, check=True)
    link = WORK / DATA[name]
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(made, link)
    return link


def ftx(*words: str) -> None:
    """Run a command in the folder of the runs, so that pages contain only relative paths."""
    subprocess.run([*FTX, *words], cwd=WORK, check=True)


def make(run: str) -> None:
    """A run or a study, made if it does not exist yet."""
    if not (WORK / run).exists():
        ftx(*COMMANDS[run].split(), "--out", run)
    if run == PHOTOGRAPHS and not (WORK / run / "reports" / "parity.json").exists():
        for command in ("merge", "export --explain", "validate"):
            ftx(*command.split(), run)


def report(run: str) -> str:
    """The address of a run's report, which is written each time."""
    make(run)
    ftx("report", run)
    return (WORK / run / "reports" / "report.html").as_uri()


def save(screenshot: bytes, name: str) -> None:
    """Write a screenshot into docs/images, each pixel in the nearest of a few colours."""
    picture = Image.open(BytesIO(screenshot)).convert("RGB")
    rgb = np.asarray(picture).reshape(-1, 3)
    colours, inverse, pixels = np.unique(rgb, axis=0, return_inverse=True, return_counts=True)
    chosen = np.reshape(picture.quantize(CHOSEN, Image.Quantize.MAXCOVERAGE).getpalette() or [], (-1, 3))
    palette = np.concatenate([colours[np.argsort(-pixels)[:EXACT]], chosen])
    nearest = ((colours[:, None].astype(int) - palette) ** 2).sum(-1).argmin(-1)
    few = Image.fromarray(nearest[inverse].reshape(picture.height, picture.width).astype(np.uint8)).convert("P")
    few.putpalette(palette.astype(np.uint8).tobytes())
    few.save(ROOT / "docs" / "images" / f"{name}.png", optimize=True)


def edges(page: Page, element: str) -> tuple[float, float]:
    """The top and the bottom of an element of a page."""
    box = page.locator(element).first.bounding_box()
    assert box is not None, f"{element} is not visible"
    return box["y"], box["y"] + box["height"]


def draw(
    name: str,
    address: str,
    *,
    first: str = "body",
    last: str,
    scheme: str = "light",
    width: int = WIDTH,
    prepare: Callable[[Page], None] = lambda page: None,
) -> None:
    """Draw a page from the top of the ``first`` element to the bottom of the ``last``."""
    with visit(address, scheme=scheme, width=width) as seen:
        prepare(seen.page)
        top = max(0, edges(seen.page, first)[0] - MARGIN)
        height = edges(seen.page, last)[1] + MARGIN - top
        clip: FloatRect = {"x": 0, "y": top, "width": width, "height": height}
        save(seen.page.screenshot(full_page=True, clip=clip), name)


def draw_serve(run: str) -> None:
    """Draw the page of ``ftx serve`` after two test images were chosen."""
    images = [sorted((WORK / "photos" / "test" / name).iterdir())[0] for name in ("plants", "vehicles")]

    def choose(page: Page) -> None:
        page.locator("#files").set_input_files(images)
        page.get_by_role("status").filter(has_text="Done.").wait_for()
        page.wait_for_load_state("networkidle")

    command = [*FTX, "serve", run, "--port", "0", "--json"]
    with subprocess.Popen(command, cwd=WORK, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            address = next(line for line in server.stdout if '"address"' in line).split('"')[3]
            draw("serve", address, last="body", prepare=choose)
        finally:
            server.terminate()


def draw_trials(study: str) -> None:
    """Draw the plot of a study, twice as large as its SVG."""
    make(study)
    with visit((WORK / study / "trials.svg").as_uri(), width=1008, height=576) as seen:
        seen.page.evaluate("Object.assign(document.documentElement.style, {width: '100%', height: '100%'})")
        save(seen.page.screenshot(), "tune")


def main() -> None:
    """Make the runs that do not exist yet, and draw each page."""
    WORK.mkdir(parents=True, exist_ok=True)
    (WORK / "space.yaml").write_text(SPACE, encoding="utf-8")
    place_sample("hierarchical", WORK)  # with the images of multiclass
    for name in DATA:
        photographs(name)
    photos = report(PHOTOGRAPHS)
    draw("report-light", photos, last=".samples figure:nth-child(6)")
    draw("report-phone", photos, last="#verdict", width=PHONE)
    draw("report-dark", photos, first="#errors", last="#errors .cases li:nth-child(9)", scheme="dark")
    draw("report-curves", report(COLLAGES), first="#classes h3", last="#classes")
    draw("report-tree", report(TREE), first="#classes", last="#classes .tree")
    draw_serve(PHOTOGRAPHS)
    draw_trials(SEARCH)


if __name__ == "__main__":
    main()
