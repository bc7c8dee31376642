"""Pictures inside of the ZIP archives of unpacked packages: furniture of a planner, surfaces of a game.

Labels come from what a package contains: its catalogues and file names. None was written by hand.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tests.benchmarks.dataset_items import LARGEST, Item, picture

# Held back: furniture.

# The catalogue's categories without Miscellaneous, and without Staircases, of which it has two.
FURNITURE_CLASSES = (
    "Bathroom,Bedroom,Characters,Doors and windows,Exterior,Kitchen,Lights,Living room,Office,Vehicles".split(",")
)


def furniture(folder: Path) -> Iterator[Item]:
    """Pictures of models by the category of the catalogue; models with one name before a number are of one group."""
    for library in sorted((folder / "usr/share/sweethome3d/furniture").glob("*.sh3f")):
        with zipfile.ZipFile(library) as archive:
            catalogue = archive.read("PluginFurnitureCatalog.properties").decode("latin-1")
        entries = dict(re.findall(r"^([a-zA-Z]+#\d+)=(.*?)\s*$", catalogue, re.MULTILINE))
        for key, label in entries.items():
            if not key.startswith("category#") or label not in FURNITURE_CLASSES:
                continue
            icon = entries[key.replace("category", "icon")].lstrip("/")
            stem = Path(icon).stem
            group = f"{label}/{re.split(r'[-_]*[0-9]', stem)[0].lower()}"
            yield Item(f"{library.stem}-{stem}", label, group, partial(inside, library, icon))


def inside(archive: Path, name: str, largest: int = LARGEST) -> Image.Image:
    """A file of an archive as ``picture`` draws it."""
    with zipfile.ZipFile(archive) as opened:
        return picture(io.BytesIO(opened.read(name)), largest=largest)


# Held back: surfaces.

# Materials and things, as file names begin. The names of walls, floors and boxes do not say what they consist of, and
# most wallpapers were made of few photographs.
SURFACE_CLASSES = "brick,carpet,concrete,dirt,door,grass,metal,rock,roof,sign,street,tile,window,wood".split(",")
# The ends of names of files that contain no colours: directions, gloss, glow and roughness.
MAPS = r"_(nm|sm|gm|rm)$"
# Of a texture two quarters are taken, upper left and lower right. One with a shorter side than this is too small.
QUARTERS, SHORTEST = ((0, 0), (1, 1)), 128
LEAST_CONTRAST = 3.0


def surfaces(folder: Path) -> Iterator[Item]:
    """Quarters of the textures of a game by the first word of the name; variants of a texture are of one group."""
    library = folder / "usr/share/games/ufoai/base/0textures.pk3"
    with zipfile.ZipFile(library) as archive:
        for name in sorted(archive.namelist()):
            path = Path(name)
            label = surface(path.stem)
            if label is None or path.suffix not in (".jpg", ".png"):
                continue
            with Image.open(archive.open(name)) as opened:
                if min(opened.size) < SHORTEST:
                    continue
            texture = f"{path.parent.name}-{path.stem}"
            for number, (across, down) in enumerate(QUARTERS):
                draw = partial(_quarter, library, name, across, down)
                if np.asarray(draw().convert("L")).std() >= LEAST_CONTRAST:
                    yield Item(f"{texture}-{number}", label, texture_series(texture), draw)


def texture_series(name: str) -> str:
    """What comes before the letters of a variant: metall003 of metall003b, grass_tall_green of grass_tall_green_a."""
    return re.sub(r"(?<=\d)[a-z_]+$|(_[a-z])+$", "", name)


def surface(stem: str) -> str | None:
    """The class of a texture's name: wood of wood012, brick of bricks_r_2, metal of metall003b."""
    word = re.match(r"[a-z]*", stem)
    if word is None or re.search(MAPS, stem):
        return None
    return next((label for label in SURFACE_CLASSES if word[0] in (label, f"{label}s", f"{label}l")), None)


def _quarter(archive: Path, name: str, across: int, down: int) -> Image.Image:
    image = inside(archive, name, largest=10_000)
    width, height = (side // 2 for side in image.size)
    quarter = image.crop((across * width, down * height, (across + 1) * width, (down + 1) * height))
    quarter.thumbnail((SHORTEST, SHORTEST), Image.Resampling.LANCZOS)
    return quarter
