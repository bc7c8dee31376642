"""Draw docs/images/maps.png: sheets of the sample, and what speaks for each label of them.

``python docs/make_maps.py`` trains for six minutes on two cores.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageDraw

from ftx.data.bundled_sample import place_sample
from ftx.explaining.explain import explain

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "maps"
SHEETS = ("000", "004")
SIDE, GAP = 200, 8


def main() -> None:
    """Train if nothing did yet, ask about the sheets, and lay the pictures beside each other."""
    WORK.mkdir(parents=True, exist_ok=True)
    data, run = place_sample("multilabel", WORK), WORK / "sheets"
    if not run.exists():
        train = f"train --data {data} --task multilabel --method dora --blocks 4 --epochs 8 --lr 1e-3 --image-size 168"
        subprocess.run([sys.executable, "-m", "ftx", *train.split(), "--out", str(run)], check=True)
    report = explain([data / "test" / f"{name}.png" for name in SHEETS], run, out=WORK / "pictures")
    rows = [[(one.path, ""), *((each.path, str(each.label)) for each in one.pictures)] for one in report.images]
    step = SIDE + GAP
    sheet = Image.new("RGBA", (step * max(map(len, rows)) - GAP, step * len(rows) - GAP))
    for top, row in enumerate(rows):
        for left, (path, label) in enumerate(row):
            picture = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            ImageDraw.Draw(picture).text((6, 4), label, fill="white", font_size=16)
            sheet.paste(picture, (left * step, top * step))
    sheet.quantize(128).save(ROOT / "docs" / "images" / "maps.png", optimize=True)


if __name__ == "__main__":
    main()
