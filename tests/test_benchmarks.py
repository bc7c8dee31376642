"""What is measured rarely still runs: nobody would see that a benchmark had broken."""

from __future__ import annotations

import csv
import importlib
import io
import subprocess
import sys
import wave
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.benchmarks import datasets
from tests.benchmarks.bench import as_good
from tests.benchmarks.dataset_items import Item, few_of_each_group
from tests.benchmarks.dataset_sources_archives import furniture, surface, surfaces, texture_series
from tests.benchmarks.dataset_sources_drawn import family, languages, script_letters
from tests.benchmarks.footprints import Board, arc, draw
from tests.benchmarks.ldraw import Library, View
from tests.benchmarks.spectrograms import SAMPLES, spectrogram

# One runs inside of a debugger, with its Python.
BENCHMARKS = sorted({path.stem for path in Path(__file__).with_name("benchmarks").glob("*.py")} - {"without_avx512"})


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_finds_what_it_measures(name: str) -> None:
    importlib.import_module(f"tests.benchmarks.{name}")


def test_a_peer_is_as_late_as_the_first_training_that_is_not_just_lucky() -> None:
    """Two seeds; of ours two epochs and more are as good in the mean, and one is in one seed alone."""
    right = {1: (85, 70), 2: (82, 80), 3: (90, 84)}
    points = [
        {"contestant": "ftx", "seed": seed, "epoch": epoch, "kept": kept, "test": 100, "seconds": 10.0 * epoch}
        for epoch, each in right.items()
        for seed, kept in enumerate(each)
    ]
    rows = [{"contestant": "ftx", "seed": seed, "seconds": 30.0, "kept_seconds": 30.0} for seed in (0, 1)]
    rows += [
        {"contestant": name, "seed": seed, "seconds": 100.0, "kept_seconds": 60.0, "accuracy": accuracy}
        for name, accuracies in {"peft": (0.80, 0.81), "full": (0.88, 0.89)}.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    (*_, line) = as_good({"rows": rows, "points": points}).splitlines()
    assert line == "| ftx | 5.0, 3.0 | never |"
    points[4]["kept"] = 70  # three epochs are worse than two: two were lucky
    (*_, line) = as_good({"rows": rows, "points": points}).splitlines()
    assert line == "| ftx | never | never |"


def test_the_data_path_is_measured_on_few_images(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.data_path", str(tmp_path), "--images", "20", "--side", "40"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    images, *each = answer.splitlines()[1].split()
    assert images == "20"
    assert all(int(one) > 0 for one in each[:3])


def test_no_training_image_of_a_data_set_is_nearly_a_test_image(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where a copy and a brighter copy of a test image stand in a group of the training part."""
    noise = np.random.default_rng(0).integers(0, 200, (40, 16, 16), dtype=np.uint8)

    def item(name: str, group: str, pixels_HW: np.ndarray) -> Item:
        return Item(name, "ab"[len(name) % 2], group, lambda: Image.fromarray(pixels_HW))

    source = [item(f"{number:0{2 + number % 2}}", f"group {number // 2}", noise[number]) for number in range(40)]

    def chosen(items: Sequence[Item]) -> dict[str, list[Item]]:
        monkeypatch.setattr(datasets, "items", lambda *_: items)
        parts = datasets.choose("source", datasets.Choice(0.5, most_train=8, least=3), tmp_path)
        return {part: [picture.item for picture in pictures] for part, pictures in parts.items()}

    once = chosen(source)
    groups = {part: {item.group for item in items} for part, items in once.items()}
    assert not groups["train"] & groups["test"]
    assert [sum(item.label == label for item in once["train"]) for label in "ab"] == [8, 8]
    (train, test), pixels_HW = (once["train"][0], once["test"][0]), np.asarray(once["test"][0].draw())
    copies = [item("copy", train.group, pixels_HW), item("brighter", train.group, pixels_HW + 50)]
    again = chosen([*copies, item("equal", test.group, pixels_HW), *source])
    assert [each.name for each in again["train"]] == [each.name for each in once["train"]]
    assert sum(np.array_equal(np.asarray(each.draw()), pixels_HW) for each in again["test"]) == 1


def test_a_source_has_few_items_of_each_group_whatever_their_order() -> None:
    """Of a group's name that two labels have, as of fighters of two races, each label has its own few."""
    source = [
        Item(f"{number}", label, group, lambda: Image.new("RGB", (1, 1)))
        for label, group, count in (("elves", "fighter", 5), ("orcs", "fighter", 4), ("orcs", "archer", 2))
        for number in range(count)
    ]
    few = list(few_of_each_group(source, 3))
    assert Counter((item.label, item.group) for item in few) == {
        ("elves", "fighter"): 3,
        ("orcs", "fighter"): 3,
        ("orcs", "archer"): 2,
    }
    assert {id(item) for item in few_of_each_group(source[::-1], 3)} == {id(item) for item in few}


def test_a_table_keeps_the_groups_of_a_data_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also fewer training images remain where a data set must have images that are less alike."""
    noise = np.random.default_rng(0).integers(0, 200, (40, 16, 16), dtype=np.uint8)
    source = [
        Item(f"{number}", "ab"[number % 2], f"group {number // 4}", partial(Image.fromarray, pixels_HW))
        for number, pixels_HW in enumerate(noise)
    ]
    monkeypatch.setattr(datasets, "items", lambda *_: source)

    def table(most_alike: float) -> list[dict[str, str]]:
        choice = datasets.Choice(0.5, least=1, most_alike=most_alike)
        contents = datasets.grouped_folders("source", choice, tmp_path)
        rows = list(csv.DictReader(io.StringIO(contents["metadata.csv"].decode())))
        assert {row["path"] for row in rows} == contents.keys() - {"metadata.csv"}
        return rows

    rows = table(0.98)
    assert len(rows) == 40
    for row in rows:
        part, label, file = row["path"].split("/")
        number = int(Path(file).stem)
        assert row == {"path": row["path"], "labels": label, "split": part, "group": f"group {number // 4}"}
    strict = table(0.1)
    assert Counter(row["split"] for row in strict)["train"] < Counter(row["split"] for row in rows)["train"]


def test_a_brick_shows_its_nearest_surfaces(tmp_path: Path) -> None:
    """A small red square, which is its own file, before a large one of the part's colour."""
    (tmp_path / "p").mkdir()
    (tmp_path / "parts").mkdir()
    (tmp_path / "LDConfig.ldr").write_text(
        "0 !COLOUR Red CODE 4 VALUE #C80000 EDGE #333333\n0 !COLOUR Blue CODE 1 VALUE #0000C8 EDGE #333333\n"
    )
    (tmp_path / "p" / "square.dat").write_text("4 16 -1 -1 0 1 -1 0 1 1 0 -1 1 0\n")
    (tmp_path / "parts" / "1.dat").write_text(
        "0 Square\n1 4 0 0 -5 3 0 0 0 3 0 0 0 3 SQUARE.DAT\n1 16 0 0 5 9 0 0 0 9 0 0 0 9 Square.dat\n"
    )
    image = Library(tmp_path).draw("1.dat", View(0, 0, colour=1, background=255), 50)
    colours = [image.getpixel(at) for at in ((25, 25), (10, 25), (1, 1))]
    assert [np.argmax(colour) for colour in colours[:2]] == [0, 2]
    assert colours[2] == (255, 255, 255)


FOOTPRINT = """(footprint "Two pads"
    (fp_line (start -4 2) (end 4 2) (stroke (width 0.5) (type solid)) (layer "F.SilkS"))
    (fp_line (start -4 -2) (end 4 -2) (stroke (width 0.5) (type solid)) (layer "F.CrtYd"))
    (pad "1" smd rect (at -3 0 90) (size 1 2) (layers "F.Cu" "F.Mask"))
    (pad "2" thru_hole oval (at 3 0) (size 2 2) (drill 1) (layers "*.Cu"))
    (pad "3" smd rect (at 0 0) (size 1 1) (layers "B.Cu")))"""


def test_a_footprint_shows_copper_over_silkscreen_and_holes_in_copper(tmp_path: Path) -> None:
    """Eight millimetres are 80 of 100 pixels. The first pad is turned, so that it is wider than high."""
    path = tmp_path / "a.kicad_mod"
    path.write_text(FOOTPRINT)
    mask, silkscreen, copper = (0, 100, 0), (250, 250, 250), (200, 150, 50)
    image = draw(path, Board(mask, silkscreen, copper, angle=0, filled=0.8), 100)
    # The drawing reaches from -1 to 2 mm, so its middle is at 0.5 mm.
    places = {(12, 45): copper, (28, 45): copper, (20, 38): mask, (20, 52): mask}
    places |= {(80, 53): copper, (80, 45): (35, 35, 35), (50, 65): silkscreen, (50, 25): mask, (50, 45): mask}
    assert {at: image.getpixel(at) for at in places} == places
    turned = draw(path, Board(mask, silkscreen, copper, angle=np.pi / 2, filled=0.8), 100)
    assert np.abs(np.asarray(turned, dtype=int) - np.rot90(np.asarray(image, dtype=int))).mean() < 2


def test_an_arc_passes_its_middle() -> None:
    """Three quarters of a circle around (1, 1), whose shorter way from the first to the last point is the other one."""
    start, middle, end = np.array([3.0, 1.0]), np.array([-1.0, 1.0]), np.array([1.0, 3.0])
    points_N2 = arc(start, middle, end)
    np.testing.assert_allclose(points_N2[[0, -1]], [start, end], atol=1e-9)
    np.testing.assert_allclose(np.hypot(*(points_N2 - 1).T), 2)
    assert np.hypot(*(points_N2 - middle).T).min() < 0.2


def recording(path: Path, seconds: float, pitch_hz: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 20_000 * np.sin(2 * np.pi * pitch_hz * np.arange(round(8000 * seconds)) / 8000)
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(8000)
        stream.writeframes(tone.astype("<i2").tobytes())


def test_a_spectrogram_is_brightest_at_the_pitch(tmp_path: Path) -> None:
    """1,000 Hz are a quarter of 4,000, counted from the bottom; half a second at the end of 1.6 is on the right."""
    recording(tmp_path / "a.wav", 0.5, 1000)
    grey_FT = np.asarray(spectrogram(tmp_path / "a.wav", place=1))
    assert grey_FT.shape == (128, 128)
    assert (grey_FT[:, -20:].argmax(axis=0) == 127 - 32).all()
    assert grey_FT[:, : round(128 * (SAMPLES / 8000 - 0.6) / 1.6)].max() == 0
    recording(tmp_path / "long.wav", 3, 2000)
    assert (np.asarray(spectrogram(tmp_path / "long.wav", place=0.5)).argmax(axis=0) == 127 - 64).all()


def test_a_message_counts_if_every_language_has_it(tmp_path: Path) -> None:
    """Each is one group, and none of those that consist of silence counts."""
    names = {"en": ("hello", "digits/1", "silence/1", "more"), "it": ("hello", "digits/1", "silence/1")}
    for language, each in names.items():
        for name in each:
            recording(tmp_path / f"{language}/usr/share/asterisk/sounds/{language}_A_f_B/{name}.wav", 0.3, 500)
    found = [(item.label, item.name, item.group) for item in languages(tmp_path / "en", tmp_path / "it")]
    assert found == [(label, name, name) for name in ("digits-1", "hello") for label in ("en", "it")]


def test_letters_of_a_script_are_without_its_marks() -> None:
    table = """0900..0902    ; Devanagari # Mn   [3] DEVANAGARI SIGN INVERTED CANDRABINDU..DEVANAGARI SIGN ANUSVARA
0904..0906    ; Devanagari # Lo  [54] DEVANAGARI LETTER SHORT A..DEVANAGARI LETTER HA
0950          ; Devanagari # Lo       DEVANAGARI OM
0531..0532    ; Armenian # L&  [38] ARMENIAN CAPITAL LETTER AYB..ARMENIAN CAPITAL LETTER BEN
"""
    assert script_letters(table, "Devanagari") == ["\u0904", "\u0905", "\u0906", "\u0950"]
    assert script_letters(table, "Armenian") == ["\u0531", "\u0532"]


def test_names_have_a_family_and_a_series() -> None:
    assert family("CP_Radial_D10.0mm_P5.00mm") == "CP_Radial_D10"
    assert family("QFN-16-1EP_3x3mm") == family("QFN-16-1EP_3x3mm_ThermalVias") != family("QFN-20-1EP_3x3mm")
    assert family("Jack") == "Jack"
    series = {"metall003b": "metall003", "grass_green_a": "grass_green", "bricks_r_2": "bricks_r_2", "wood": "wood"}
    assert {name: texture_series(name) for name in series} == series
    labels = {"metall003b": "metal", "bricks_r_2": "brick", "grass_green_a": "grass", "wood1_nm": None, "woody1": None}
    assert {name: surface(name) for name in labels} == labels


def archive(path: Path, contents: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in contents.items():
            opened.writestr(name, content)


def test_furniture_has_the_category_of_its_own_entry(tmp_path: Path) -> None:
    """Also if the icon comes first; what is transparent becomes white."""
    catalogue = """icon#1=/a/sofa.png
category#1=Living room
category#2=Kitchen
icon#2=/a/pan-02-red.png
category#3=Miscellaneous
icon#3=/a/sofa.png
"""
    icons = {f"a/{name}.png": datasets.png(Image.new("RGBA", (4, 4))) for name in ("sofa", "pan-02-red")}
    path = tmp_path / "usr/share/sweethome3d/furniture/Maker.sh3f"
    archive(path, {"PluginFurnitureCatalog.properties": catalogue.encode("latin-1"), **icons})
    sofa, pan = furniture(tmp_path)
    assert (sofa.name, sofa.label, sofa.group) == ("Maker-sofa", "Living room", "Living room/sofa")
    assert (pan.name, pan.label, pan.group) == ("Maker-pan-02-red", "Kitchen", "Kitchen/pan")
    assert sofa.draw().getpixel((0, 0)) == (255, 255, 255)


def test_a_texture_gives_its_upper_left_and_lower_right_quarter(tmp_path: Path) -> None:
    """None of a file that is too small, that has no contrast or that contains no colours."""
    noise_HW3 = np.random.default_rng(0).integers(0, 255, (200, 128, 3), dtype=np.uint8)
    texture = datasets.png(Image.fromarray(noise_HW3))
    names = {f"textures/tex_a/{name}.png": texture for name in ("wood1b", "wood1_nm", "readme")}
    names["textures/tex_a/rock1.png"] = datasets.png(Image.fromarray(noise_HW3[:100]))
    names["textures/tex_a/tile1.png"] = datasets.png(Image.new("RGB", (128, 128), "red"))
    archive(tmp_path / "usr/share/games/ufoai/base/0textures.pk3", names)
    first, second = surfaces(tmp_path)
    assert (first.name, first.label, first.group) == ("tex_a-wood1b-0", "wood", "tex_a-wood1")
    assert (second.name, second.group) == ("tex_a-wood1b-1", "tex_a-wood1")
    assert np.array_equal(np.asarray(first.draw()), noise_HW3[:100, :64])
    assert np.array_equal(np.asarray(second.draw()), noise_HW3[100:, 64:])
