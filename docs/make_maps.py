"""Draw docs/images/maps.png: collages of photographs, and a map for each label that is predicted.

``python -m docs.make_maps`` trains for six minutes on two cores.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

from docs.make_page_pictures import ROOT, photographs
from PIL import Image, ImageDraw

from ftx.explaining.explain import explain

WORK = ROOT / "build" / "maps"
COLLAGES = 2
SIDE, GAP = 200, 8


def main() -> None:
    """Train if nothing did yet, and draw a row for each of the first test images whose labels are all correct."""
    WORK.mkdir(parents=True, exist_ok=True)
    data, run = photographs("photographs-collages"), WORK / "collages"
    if not run.exists():
        train = f"train --data {data} --task multilabel --method dora --blocks 4 --epochs 8 --lr 1e-3 --image-size 168"
        subprocess.run([sys.executable, "-m", "ftx", *train.split(), "--out", str(run)], check=True)
    report = explain(sorted((data / "test").glob("*.png"))[:60], run, out=WORK / "pictures")
    with (data / "metadata.csv").open(encoding="utf-8", newline="") as table:
        labels = {Path(row["path"]).stem: row["labels"] for row in csv.DictReader(table) if row["split"] == "test"}
    predicted = {one.path: ";".join(sorted(str(each.label) for each in one.pictures)) for one in report.images}
    correct = [one for one in report.images if labels[Path(one.path).stem] == predicted[one.path]]
    several = [one for one in correct if len(one.pictures) == 3][:COLLAGES]
    rows = [[(one.path, ""), *((each.path, str(each.label)) for each in one.pictures)] for one in several]
    step = SIDE + GAP
    sheet = Image.new("RGBA", (step * max(map(len, rows)) - GAP, step * len(rows) - GAP))
    for top, row in enumerate(rows):
        for left, (path, label) in enumerate(row):
            picture = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            ImageDraw.Draw(picture).text((6, 4), label, fill="white", stroke_width=2, stroke_fill="black", font_size=16)
            sheet.paste(picture, (left * step, top * step))
    sheet.quantize(128).save(ROOT / "docs" / "images" / "maps.png", optimize=True)


if __name__ == "__main__":
    main()
