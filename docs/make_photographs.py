"""Draw docs/images/photographs.jpg: photographs, the predictions of an int8 model, and what they are based on.

The photographs are from Debian's package tuxpaint-stamps-default (GPL-2). Unpack it, make the data set, and draw:

    apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb build/stamps
    python -m tests.benchmarks.datasets photographs build/data-sets
    python docs/make_photographs.py build/data-sets/photographs build/stamps/usr/share/tuxpaint/stamps

Trains as ``ftx train`` does without flags: fifteen minutes on two cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ftx.evaluating.predict import predict
from ftx.explaining.explain import explain

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "photographs"
# Test images that are photographs and predicted correctly, by their path in the package.
CHOSEN = (
    "animals/birds/lark",
    "plants/flowers/anemone_red",
    "food/vegetables/pepper",
    "vehicles/construction/dumper",
    "household/tools/wrench",
)
SIDE, GAP, TEXT, MARGIN = 176, 16, 52, 14


def on_white(path: Path, out: Path) -> Path:
    """A stamp as a square photograph on white."""
    stamp = Image.open(path).convert("RGBA")
    side = round(1.08 * max(stamp.size))
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(stamp, ((side - stamp.width) // 2, (side - stamp.height) // 2))
    square.convert("RGB").resize((2 * SIDE, 2 * SIDE), Image.Resampling.LANCZOS).save(out)
    return out


def ftx(*words: object) -> None:
    """Run a command."""
    subprocess.run([sys.executable, "-m", "ftx", *map(str, words)], check=True)


def model(data: Path) -> Path:
    """A run with its int8 model; made once."""
    run = WORK / "run"
    if not (run / "openvino" / "int8").exists():
        ftx("train", "--data", data, "--out", run)
        ftx("merge", run)
        ftx("export", run, "--precision", "int8")
        ftx("validate", run)
    return run


def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font of Debian's fonts-dejavu, or Pillow's."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return ImageFont.load_default(size)


def main() -> None:
    """Train if nothing did yet, predict, and lay photographs and maps next to each other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the data set")
    parser.add_argument("stamps", type=Path, help="the folder of the unpacked package")
    given = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    run = model(given.data)
    photos = [on_white(given.stamps / f"{name}.png", WORK / f"{Path(name).name}.png") for name in CHOSEN]
    predictions = list(predict(photos, run / "openvino" / "int8"))
    maps = [one.pictures[0].path for one in explain(photos, run, out=WORK / "maps").images]
    step, height = SIDE + GAP, TEXT + 2 * SIDE + GAP
    sheet = Image.new("RGB", (2 * MARGIN + step * len(photos) - GAP, 2 * MARGIN + height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (photo, prediction, drawn) in enumerate(zip(photos, predictions, maps, strict=True)):
        left, label = MARGIN + column * step, prediction.labels[0]
        draw.text((left, MARGIN), label.name, fill="#1f2328", font=font(19, bold=True))
        draw.text((left, MARGIN + 25), f"score {label.score:.2f}", fill="#59636e", font=font(15))
        for row, path in enumerate((photo, drawn)):
            picture = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(picture, (left, MARGIN + TEXT + row * (SIDE + GAP)))
    sheet.save(ROOT / "docs" / "images" / "photographs.jpg", quality=90, optimize=True)


if __name__ == "__main__":
    main()
