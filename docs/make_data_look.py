"""Draw docs/images/data-look.png: photographs with labels changed on purpose, and the page that shows them.

``python -m docs.make_data_look`` computes features for some minutes, and needs Chromium (Debian: chromium).
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
from docs.make_page_pictures import ROOT, photographs, save
from tests.browsing import visit

from ftx.curating.look import look
from ftx.curating.server import LookServer
from ftx.recipe.schema import Recipe

WORK = ROOT / "build" / "data-look"
SHARE = 0.05


def main() -> None:
    """Move a twentieth of the images into the folder of another class, look, and take the picture."""
    shutil.rmtree(WORK, ignore_errors=True)
    data = Path(shutil.copytree(photographs("photographs"), WORK / "photos"))
    rng = np.random.default_rng(0)
    files = sorted(data.rglob("*.png"))
    for index in rng.choice(len(files), round(SHARE * len(files)), replace=False).tolist():
        path = files[index]
        others = sorted(folder for folder in path.parent.parent.iterdir() if folder != path.parent)
        path.rename(others[int(rng.integers(len(others)))] / f"{path.stem}-moved.png")
    recipe = Recipe.build(None, (), {"data.path": str(data), "data.image_size": 112})
    found = look(recipe, out=WORK / "data-look.csv")
    with LookServer(0) as server:
        server.show(found)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with visit(server.address, width=1180, height=1215) as seen:
            seen.page.keyboard.press("s")
            seen.page.get_by_role("status").filter(has_text="saved").wait_for()
            seen.page.wait_for_load_state("networkidle")
            save(seen.page.screenshot(), "data-look")
        server.shutdown()


if __name__ == "__main__":
    main()
