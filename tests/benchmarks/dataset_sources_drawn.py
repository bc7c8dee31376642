"""Pictures drawn from what is no picture: letters of fonts, footprints of electronic parts, recordings of speech.

Labels come from what a package contains: its folders, libraries and tables. None was written by hand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from tests.benchmarks.dataset_items import Item, draws, few_of_each_group, rank
from tests.benchmarks.footprints import Board, Colour, draw
from tests.benchmarks.spectrograms import spectrogram

# Held back: writing systems.

# Those with a sans and a serif font, and letters that stand alone.
SCRIPTS = (
    "Armenian,Bengali,Devanagari,Ethiopic,Georgian,Gujarati,Gurmukhi,Hebrew,Kannada,Khmer,Lao,Malayalam,Myanmar,"
    "Sinhala,Tamil,Telugu,Thai"
).split(",")
FACES = ("Sans", "Serif")
# Letters of a set, which no other picture's set has; sets of a script, and pictures of a set.
SET, SETS, OF_SET = 3, 20, 5
SCRIPT_PIXELS, WIDEST = 96, 84
# Unicode has no such character, so that a font draws what it draws for all letters that it lacks.
NO_LETTER = "\ufffe"


def scripts(fonts: Path, unicode: Path) -> Iterator[Item]:
    """Two or three letters by the script that Unicode has for them; the letters of a set are of one group."""
    table = (unicode / "usr/share/unicode/Scripts.txt").read_text(encoding="utf-8")
    for label in SCRIPTS:
        faces = [fonts / f"usr/share/fonts/truetype/noto/Noto{face}{label}-Regular.ttf" for face in FACES]
        letters = [each for each in script_letters(table, label) if all(has_letter(path, each) for path in faces)]
        letters.sort(key=lambda letter: rank("letter", letter))
        for start in range(0, min(len(letters) // SET, SETS) * SET, SET):
            letter_set = letters[start : start + SET]
            group = "-".join(f"{ord(letter):04X}" for letter in sorted(letter_set))
            for number in range(OF_SET):
                yield Item(f"{group}-{number}", label, group, partial(_word, faces, letter_set, group, number))


def script_letters(table: str, script: str) -> list[str]:
    """The letters of a script without marks and signs, from lines as ``0904..0939 ; Devanagari # Lo [54] NAME``."""
    lines = re.findall(rf"^([0-9A-F]+)(?:\.\.([0-9A-F]+))? +; {script} # L[ol&]", table, re.MULTILINE)
    return [chr(code) for first, last in lines for code in range(int(first, 16), int(last or first, 16) + 1)]


def has_letter(path: Path, letter: str) -> bool:
    """Whether a font draws something for a letter, and not what it draws for all that it lacks."""
    font = ImageFont.truetype(path, 20, layout_engine=ImageFont.Layout.BASIC)
    drawings: list[bytes] = []
    for each in (letter, NO_LETTER, " "):
        image = Image.new("L", (60, 60))
        ImageDraw.Draw(image).text((10, 10), each, font=font, fill=255)
        drawings.append(image.tobytes())
    return drawings[0] not in drawings[1:]


def _word(faces: list[Path], letter_set: list[str], *what: object) -> Image.Image:
    """Some letters of a set on a sheet, in a face, size, place, angle and greys that are drawn."""
    face, count, order, size, angle, across, down, tone = draws("word", *what)
    letters = sorted(letter_set, key=lambda letter: rank(order, letter))[: 2 + count % 2]
    font = _narrow(faces[face % len(faces)], "".join(letters), points=22 + size % 15)
    left, top, right, bottom = font.getbbox("".join(letters))
    ink = Image.new("L", (SCRIPT_PIXELS, SCRIPT_PIXELS), 0)
    free = [max(0, SCRIPT_PIXELS - round(extent)) for extent in (right - left, bottom - top)]
    # In the middle half of the free place, so that turning cuts nothing off.
    x, y = (0.25 * space + 0.5 * space * number / 2**32 for space, number in zip(free, (across, down), strict=True))
    ImageDraw.Draw(ink).text((x - left, y - top), "".join(letters), font=font, fill=255)
    ink = ink.rotate(24 * angle / 2**32 - 12, Image.Resampling.BICUBIC)
    paper, dark = 150 + tone % 106, 10 + tone // 256 % 100
    return Image.composite(Image.new("L", ink.size, dark), Image.new("L", ink.size, paper), ink)


def _narrow(path: Path, text: str, points: int) -> ImageFont.FreeTypeFont:
    """A font of ``points``, or of the most with which the text is not wider than WIDEST."""
    font = ImageFont.truetype(path, points, layout_engine=ImageFont.Layout.BASIC)
    left, _, right, _ = font.getbbox(text)
    return font if right - left <= WIDEST else _narrow(path, text, points - 1)


# Held back: footprints of electronic parts.

FOOTPRINT_CLASSES = (
    "Button_Switch_SMD,Button_Switch_THT,Capacitor_SMD,Capacitor_THT,Connector_Molex,Connector_USB,Converter_DCDC,"
    "Crystal,Diode_THT,Fuse,Inductor_SMD,Inductor_THT,Package_BGA,Package_DFN_QFN,Package_DIP,Package_QFP,Package_SO,"
    "Package_TO_SOT_SMD,Package_TO_SOT_THT,Potentiometer_THT,Relay_THT,Resistor_THT,Transformer_THT"
).split(",")
# A family may have dozens of sizes.
MOST_OF_FAMILY = 4
FOOTPRINT_PIXELS = 112
BLACK, WHITE, GOLD, TIN = (20, 20, 20), (235, 235, 235), (205, 170, 90), (190, 195, 200)
# The colours of solder masks: green, blue, red, black, violet and white.
MASKS = ((25, 95, 55), (25, 60, 135), (150, 30, 35), BLACK, (75, 35, 105), WHITE)
# A part lies straight on its board, but the board not quite straight before the camera.
TILT = math.radians(6)


def footprints(folder: Path) -> Iterator[Item]:
    """The parts of KiCad's libraries by library; parts whose names are equal up to the first number are one group."""
    return few_of_each_group(_footprints(folder), MOST_OF_FAMILY)


def _footprints(folder: Path) -> Iterator[Item]:
    for label in FOOTPRINT_CLASSES:
        for path in sorted((folder / f"usr/share/kicad/footprints/{label}.pretty").glob("*.kicad_mod")):
            drawing = partial(draw, path, board(path.stem), FOOTPRINT_PIXELS)
            yield Item(path.stem, label, f"{label}/{family(path.stem)}", drawing)


def family(name: str) -> str:
    """A name up to its first number, as CP_Radial_D10 of CP_Radial_D10.0mm_P5.00mm and QFN-16 of QFN-16-1EP_3x3mm."""
    words = re.match(r"\D*\d*", name)
    assert words is not None
    return words[0]


def board(*what: object) -> Board:
    mask, copper, quarter, tilt, filled, *_ = draws("board", *what)
    colour = MASKS[mask % len(MASKS)]
    return Board(
        mask=colour,
        silkscreen=BLACK if colour == WHITE else WHITE,
        copper=_either(GOLD, TIN, copper),
        angle=quarter % 4 * math.pi / 2 + (2 * tilt / 2**32 - 1) * TILT,
        filled=0.6 + 0.35 * filled / 2**32,
    )


def _either(first: Colour, second: Colour, number: int) -> Colour:
    return first if number % 2 else second


# Held back: languages heard on the telephone.


def languages(*folders: Path) -> Iterator[Item]:
    """Spectrograms of the messages of a telephone system by language; a message is one group in all languages.

    Only messages that every language has, without those that consist of silence. English and Spanish have one speaker.
    """
    voices = [next((folder / "usr/share/asterisk/sounds").glob("*_*_*")) for folder in folders]
    messages = [{path.relative_to(voice) for path in voice.rglob("*.wav")} for voice in voices]
    for message in sorted(set.intersection(*messages)):
        if message.parts[0] == "silence":
            continue
        name = "-".join(message.with_suffix("").parts)
        for voice in voices:
            label = voice.name.split("_")[0]
            yield Item(name, label, name, partial(spectrogram, voice / message, rank("place", label, name)))
