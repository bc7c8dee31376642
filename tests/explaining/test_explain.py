"""``ftx explain``: pictures of runs and of exported models, and what becomes of what cannot be explained."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import timm
from model_api.models import ClassificationModel
from PIL import Image
from tests.conftest import COLOURS, Listener, write_marks_ir

from ftx.core.errors import EnvironmentFault, ExportError, InputError
from ftx.data.image_store import EncodedImage, Item
from ftx.data.preprocess import Preprocess, load_pixels
from ftx.explaining.explain import _explained, _Names, explain, open_explainer
from ftx.explaining.overlay import overlay
from ftx.explaining.reciprocam import explained
from ftx.exporting import export
from ftx.exporting.chosen_images import calibration_images
from ftx.exporting.export_source import NormalisedImages, Source, trace
from ftx.exporting.int8.products import only_for_maps, products, quantized_products
from ftx.exporting.int8.quantize import Int8Setting, compress_weights, logits_of, quantize
from ftx.exporting.openvino import convert_body
from ftx.runs.artifacts import IR_FP32
from ftx.runs.run import Run
from ftx.runtimes import load_folder
from ftx.runtimes.openvino import OpenVinoPredictor, default_compute


@pytest.fixture(scope="module")
def with_maps(whole_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run, its IR and its ONNX file exported anew with maps."""
    root = tmp_path_factory.mktemp("maps")
    run = Run.open(shutil.copytree(whole_run, root / "run", symlinks=True))
    export(run, formats=["onnx", "openvino"], explain=True)
    return run


@pytest.fixture(scope="module")
def marks_ir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("marks")
    write_marks_ir(folder)
    return folder


def flat(path: Path, *colour: int, size: tuple[int, int] = (32, 24)) -> Path:
    """An image of one colour, of which that model's logits are (colour - 100) / 25."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def scores_of(*colour: int) -> dict[str, float]:
    return {name: 1 / (1 + math.exp((100 - value) / 25)) for name, value in zip(COLOURS, colour, strict=True)}


def shows(picture: Path, image: Path, score: float) -> bool:
    """Whether a picture is of a map that has one value; to a step of 255, as the model's own sums are in f32."""
    pre = Preprocess(16, 16, 16, "bicubic", (0, 0, 0), (1, 1, 1))
    with Image.open(image) as opened, Image.open(picture) as drawn:
        expected = np.asarray(overlay(opened, np.full((2, 2), score), pre)).astype(int)
        return np.abs(np.asarray(drawn).astype(int) - expected).max() <= 1


def test_each_label_that_is_called_has_its_map_and_its_score(marks_ir: Path, tmp_path: Path) -> None:
    image, other = flat(tmp_path / "a.png", 150, 40, 125), flat(tmp_path / "b.png", 100, 20, 60)
    listener = Listener()
    report = explain([image, other], marks_ir, out=tmp_path / "out", progress=listener)
    assert (report.run, report.artifact, report.method) == (None, str(marks_ir), "reciprocam")
    assert (listener.descriptions, listener.total, listener.steps) == (["Explaining"], 2, 2)
    several, none = report.images
    scores = scores_of(150, 40, 125)  # 0.88 is too few for red, 0.08 enough for green
    assert [label.name for label in several.labels] == ["blue", "green"]
    assert [picture.label for picture in several.pictures] == ["blue", "green"]
    for picture in several.pictures:
        assert picture.score == pytest.approx(scores[str(picture.label)], abs=1e-6)  # f32
        assert Path(picture.path).name == f"a.png.{picture.label}.png"
        assert shows(Path(picture.path), image, scores[str(picture.label)])
    # Of an image that is given no label the one that is nearest to it: by its score, not by what it lacks.
    assert none.labels == []
    assert [(one.label, one.score) for one in none.pictures] == [("red", pytest.approx(0.5, abs=1e-6))]
    assert (none.path, Path(none.pictures[0].path).name) == (str(other), "b.png.red.png")


def test_labels_that_are_named_are_drawn_in_their_order_once(marks_ir: Path, tmp_path: Path) -> None:
    image = flat(tmp_path / "a.png", 150, 40, 125)
    report = explain(image, marks_ir, out=tmp_path / "out", labels=["green", "red", "green"])
    scores = scores_of(150, 40, 125)
    (only,) = report.images
    assert [label.name for label in only.labels] == ["blue", "green"]  # what it is given stays
    drawn = [(picture.label, picture.score) for picture in only.pictures]
    assert drawn == [(name, pytest.approx(scores[name], abs=1e-6)) for name in ("green", "red")]
    for picture in only.pictures:
        assert shows(Path(picture.path), image, scores[str(picture.label)])


def test_an_answer_that_is_no_number_is_told_and_has_no_picture(marks_ir: Path, tmp_path: Path) -> None:
    """Of one image of three; the others keep their places."""
    images = [flat(tmp_path / f"{number}.png", 150, 40, 100 + number) for number in range(3)]
    explainer = open_explainer(marks_ir, "reciprocam", Listener())

    def ask(pixels_NHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits_NC, maps_NChw = explainer.explain(pixels_NHWC)
        return (logits_NC * np.nan if pixels_NHWC[0, 0, 0, 2] == 101 else logits_NC), maps_NChw

    names = _Names(tmp_path / "out", [str(image) for image in images], COLOURS)
    answers = [
        _explained(Item.of(EncodedImage.of(image)), dataclasses.replace(explainer, explain=ask), ["blue"], names)
        for image in images
    ]
    assert [one.path for one in answers] == [str(image) for image in images]
    assert [bool(one.error) for one in answers] == [False, True, False]
    assert [len(one.pictures) for one in answers] == [1, 0, 1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png.blue.png", "2.png.blue.png"]


def test_a_disk_that_is_full_leaves_no_half_picture(
    marks_ir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = flat(tmp_path / "a.png", 150, 40, 125)
    (before,) = explain(image, marks_ir, out=tmp_path / "out", labels=["red"]).images[0].pictures
    drawn, really = Path(before.path).read_bytes(), Image.Image.save

    def half(self: Image.Image, to: Path, **more: object) -> None:
        really(self, to, **more)
        to.write_bytes(to.read_bytes()[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(to))

    monkeypatch.setattr(Image.Image, "save", half)
    for label in ("red", "green"):
        with pytest.raises(EnvironmentFault):
            explain(image, marks_ir, out=tmp_path / "out", labels=[label])
    assert [path.read_bytes() for path in (tmp_path / "out").iterdir()] == [drawn]


def test_pictures_in_a_folder_that_is_a_link_are_not_explained_either(marks_ir: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    flat(photos / "a.png", 150, 40, 125)
    (photos / "maps").mkdir()
    (tmp_path / "link").symlink_to(photos / "maps")
    (tmp_path / "album").symlink_to(photos)
    drawn = sorted(f"a.png.{name}.png" for name in ("blue", "green"))
    for named, out in ((photos, "link"), (tmp_path / "album", "photos/maps"), (photos, "photos/../link/.")):
        report = explain(named, marks_ir, out=tmp_path / out)
        assert [one.path for one in report.images] == [str(named / "a.png")]
        assert sorted(path.name for path in (photos / "maps").iterdir()) == drawn


@pytest.fixture
def images(with_maps: Run) -> list[Path]:
    entries = with_maps.entries("test")
    return [with_maps.data_root() / entries[place].path for place in (0, 1, -1)]


def test_a_run_and_its_ir_draw_the_same(with_maps: Run, images: list[Path], tmp_path: Path) -> None:
    by_run = explain(images, with_maps, out=tmp_path / "run")
    by_ir = explain(images, with_maps.folder(IR_FP32), out=tmp_path / "ir")
    assert [one.labels[0].name for one in by_run.images] == [one.labels[0].name for one in by_ir.images]
    # The merged model of a run: it is whole, where the trained one needs the base model's weights as well.
    assert (by_run.run, by_run.artifact) == (str(with_maps.path), "dense")
    assert (by_ir.run, by_ir.artifact) == (None, str(with_maps.folder(IR_FP32)))
    for one, other in zip(by_run.images, by_ir.images, strict=True):
        (drawn,), (exported,) = one.pictures, other.pictures
        assert drawn.label == exported.label == one.labels[0].name
        assert drawn.score == pytest.approx(one.labels[0].score)
        ours, theirs = (np.asarray(Image.open(path)).astype(int) for path in (drawn.path, exported.path))
        # bf16 where the CPU has it moves a map of [0, 1] by hundredths, of which a picture shows two thirds: by 10.8 of
        # 255 with AVX512-BF16.
        assert np.abs(ours - theirs).mean() < (16 if default_compute().dtype == "bf16" else 2)
    assert sorted(path.suffix for path in (tmp_path / "run").iterdir()) == [".png"] * 3
    by_onnx = explain(images, with_maps.path / "onnx", out=tmp_path / "onnx")
    for one, other in zip(by_run.images, by_onnx.images, strict=True):
        ours, theirs = (np.asarray(Image.open(each.pictures[0].path)).astype(int) for each in (one, other))
        assert np.abs(ours - theirs).max() <= 2  # f32 in another order, and rounded to grey levels


def test_the_exported_map_is_the_networks_and_its_logits_are_those_without(
    with_maps: Run, whole_run: Path, images: list[Path]
) -> None:
    own = open_explainer(with_maps, "reciprocam", Listener())
    exported = OpenVinoPredictor(with_maps.folder(IR_FP32), "f32")
    plain = OpenVinoPredictor(whole_run / "openvino" / "fp32", "f32")
    assert (exported.has_maps, plain.has_maps) == (True, False)
    for image in images:
        pixels = load_pixels(image, exported.preprocess)[None]
        logits, found = exported.explain(pixels)
        expected_logits, expected = own.explain(pixels)
        assert found.shape == expected.shape == (1, len(with_maps.task.labels), *expected.shape[2:])
        assert (found.min(), found.max()) == (0, 1)
        # f32 in another order, scaled by what the scores of one label differ in.
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
        np.testing.assert_allclose(logits, expected_logits, rtol=0, atol=1e-4)
        np.testing.assert_allclose(logits, plain.logits(pixels), rtol=0, atol=1e-5)


def test_model_api_reads_the_map_and_the_features(with_maps: Run, images: list[Path]) -> None:
    path = with_maps.folder(IR_FP32) / "model.xml"
    pixels = load_pixels(images[0], with_maps.manifest.preprocess)
    config = {"embedded_processing": True, "orig_height": pixels.shape[0], "orig_width": pixels.shape[1]}
    model = ClassificationModel.create_model(str(path), preload=True, configuration=config)
    answer = model(pixels)
    compiled = ov.Core().compile_model(path, "CPU")
    raw = compiled(pixels[None], share_inputs=False)
    np.testing.assert_allclose(answer.saliency_map, raw["saliency_map"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(answer.feature_vector, raw["feature_vector"], rtol=0, atol=1e-6)
    assert raw["feature_vector"].shape == (1, 64)


def test_maps_of_several_images_are_those_of_each(with_maps: Run, images: list[Path]) -> None:
    exported = load_folder(with_maps.folder(IR_FP32))
    assert isinstance(exported, OpenVinoPredictor)
    pixels = np.stack([load_pixels(image, exported.preprocess) for image in images])
    together = exported.explain(pixels)[1]
    alone = np.concatenate([exported.explain(one[None])[1] for one in pixels])
    np.testing.assert_allclose(together, alone, rtol=0, atol=0.05)  # products of another size, in bf16 where it is


def test_labels_are_drawn_as_they_are_asked_for(with_maps: Run, images: list[Path], tmp_path: Path) -> None:
    names = with_maps.task.labels.names
    report = explain(images[0], with_maps, out=tmp_path, labels=names)
    assert [picture.label for picture in report.images[0].pictures] == list(names)
    assert len({Path(picture.path).read_bytes() for picture in report.images[0].pictures}) > 1
    with pytest.raises(InputError, match=f"did you mean '{names[0]}'"):
        explain(images[0], with_maps, out=tmp_path / "none", labels=[f"{names[0]}s"])
    with pytest.raises(InputError, match="--label must not be given"):
        explain(images[0], with_maps, out=tmp_path / "none", labels=names, method="rollout")
    with pytest.raises(InputError, match="--map must be reciprocam or rollout"):
        explain(images[0], with_maps, out=tmp_path / "none", method="rolout")  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "none").exists()


def test_two_images_of_one_name_have_two_pictures(with_maps: Run, images: list[Path], tmp_path: Path) -> None:
    twins: list[Path] = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        twins.append(Path(shutil.copy(images[0], tmp_path / str(number) / "<b>a.png")))
    report = explain(twins, with_maps, out=tmp_path / "out")
    paths = [Path(one.pictures[0].path) for one in report.images]
    label = report.images[0].labels[0].name
    assert all(re.fullmatch(rf"_b_a\.png-[0-9a-f]{{8}}\.{label}\.png", path.name) for path in paths)
    assert sorted((tmp_path / "out").iterdir()) == sorted(paths)
    assert len(set(paths)) == 2
    # By itself, and twice, the second has the name that it had beside the first.
    again = explain([twins[1], twins[1]], with_maps, out=tmp_path / "out")
    assert [Path(one.pictures[0].path) for one in again.images] == [paths[1]] * 2


@pytest.mark.parametrize("labels", [("a/b", "a_b", "A_B", "..", "Ä", "x" * 300)])
def test_each_label_has_a_name_of_its_own_that_stays(labels: tuple[str, ...], tmp_path: Path) -> None:
    names = _Names(tmp_path, ["photo.jpg"], labels)
    paths = [names.of("photo.jpg", label) for label in (*labels, None)]
    assert len({path.name.casefold() for path in paths}) == len(paths)
    assert all(path.parent == tmp_path and len(path.name.encode()) < 255 for path in paths)
    assert names.of("photo.jpg", "Ä").name == "photo.jpg.Ä.png"
    assert paths[-1].name == "photo.jpg.rollout.png"
    assert paths[0] == _Names(tmp_path, ["photo.jpg"], labels[:1]).of("photo.jpg", "a/b")


@pytest.mark.parametrize(
    "image", ["\N{CYRILLIC SMALL LETTER ZHE}" * 60, "\N{CJK UNIFIED IDEOGRAPH-56FE}" * 80, "x" * 200]
)
def test_a_long_name_is_cut_to_what_a_disk_takes(image: str, tmp_path: Path) -> None:
    """In bytes: a letter of Cyrillic has two, one of Chinese three."""
    files = [f"{image}{ending}" for ending in ("1.png", "2.png")]
    names = _Names(tmp_path, files, (image, f"{image}s"))
    paths = [names.of(file, label) for file in files for label in (image, f"{image}s", None)]
    assert len(set(paths)) == 6
    for path in paths:
        assert len(path.name.encode()) < 255
        path.write_bytes(b"")  # this disk takes it


def test_pictures_of_two_images_have_names_that_differ_in_more_than_capitals(tmp_path: Path) -> None:
    """Some disks take A.jpg and a.jpg for one file."""
    files, labels = ["one/A.jpg", "two/a.jpg", "three/b.jpg", "four/b.jpg", "c.jpg"], ("Dress", "dress", "coat")
    names = _Names(tmp_path, files, labels)
    found = {(file, label): names.of(file, label).name for file in files for label in labels}
    assert len({name.casefold() for name in found.values()}) == len(found)
    assert found["c.jpg", "coat"] == "c.jpg.coat.png"
    # The same image has the same name in the next call, whatever is beside it.
    for file in ("one/A.jpg", "four/b.jpg"):
        beside = _Names(tmp_path, [file, "x/a.jpg", "x/B.jpg"], labels)
        assert beside.of(file, "Dress").name == found[file, "Dress"]


def test_pictures_are_not_explained_themselves(with_maps: Run, images: list[Path], tmp_path: Path) -> None:
    shutil.copy(images[0], tmp_path / "a.png")
    for _ in range(2):
        report = explain(tmp_path, with_maps, out=tmp_path / "explained")
        assert [Path(one.path).name for one in report.images] == ["a.png"]
    with pytest.raises(InputError, match="--out must not be the folder of the images"):
        explain(tmp_path, with_maps, out=tmp_path)
    with pytest.raises(InputError, match="--out must be a folder"):
        explain(tmp_path, with_maps, out=tmp_path / "a.png")


def test_what_cannot_be_read_is_said_and_the_rest_is_drawn(with_maps: Run, images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(images[0].read_bytes()[:60])
    report = explain([tmp_path / "torn.png", tmp_path / "none.png", images[0]], with_maps, out=tmp_path / "out")
    assert [bool(one.error) for one in report.images] == [True, True, False]
    assert len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.parametrize(
    ("artifact", "method", "error", "said"),
    [
        ("openvino/fp16", "reciprocam", ExportError, "ftx export RUN --explain"),
        ("onnx", "rollout", InputError, "the run of this model"),
        ("openvino/fp32", "rollout", InputError, "the run of this model"),
    ],
)
def test_a_model_that_gives_no_maps_is_refused_with_what_to_do(
    with_maps: Run, images: list[Path], tmp_path: Path, artifact: str, method: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        explain(images, with_maps.path / artifact, out=tmp_path / "out", method=method)  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "out").exists()


def roundings_beside_logits(model: ov.Model) -> list[str]:
    beside = set(only_for_maps(model))
    operations = [node for node in model.get_ordered_ops() if node.get_friendly_name() in beside]
    assert operations
    return [node.get_friendly_name() for node in operations if node.get_type_name() == "FakeQuantize"]


@pytest.mark.representative
def test_eight_bits_of_a_convolutional_network_leave_its_maps() -> None:
    model = timm.create_model("test_resnet", num_classes=3).eval().requires_grad_(False)
    pre = Preprocess(64, 64, 64, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    body = convert_body(trace(explained(model, [range(3)], pre), pre), pre, "conv")
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    made = quantize(body, NormalisedImages(noise, pre), Int8Setting(preset="mixed"), Listener())
    assert len(quantized_products(made, {one.name for one in products(body)})) > 3
    assert roundings_beside_logits(made) == []


@pytest.mark.slow
def test_eight_bits_are_for_what_logits_need(with_maps: Run) -> None:
    calibration, _ = calibration_images(with_maps.entries("train"))
    sources = [Source(with_maps, None, Listener(), explain=maps) for maps in (False, True)]
    pixels = [load_pixels(with_maps.data_root() / entry.path, sources[0].manifest.preprocess) for entry in calibration]
    batches = NormalisedImages(np.stack(pixels[:8]), sources[0].manifest.preprocess)
    plain, mapped = (quantize(one.parted, batches, Int8Setting(alpha=0.5), Listener()) for one in sources)
    assert only_for_maps(sources[0].parted) == []
    beside = only_for_maps(sources[1].parted)
    assert beside
    assert {one.name for one in products(sources[1].parted)}.isdisjoint(beside)
    assert roundings_beside_logits(mapped) == []
    in_8_bits = [len(quantized_products(one, {node.name for node in products(one)})) for one in (plain, mapped)]
    assert in_8_bits[0] == in_8_bits[1] > 20
    # The head's weights, which maps read too, stay as they are.
    weights_alone = [logits_of(compress_weights(one.parted), batches) for one in sources]
    np.testing.assert_allclose(weights_alone[1], weights_alone[0], rtol=0, atol=1e-5)
    # Queries are scaled behind their product where maps read them too, so they are rounded elsewhere.
    exact = logits_of(sources[0].parted, batches)
    errors = [np.abs(logits_of(one, batches) - exact).mean() for one in (plain, mapped)]
    assert 0 < errors[1] < 1.5 * errors[0]
