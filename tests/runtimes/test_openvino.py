from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ftx.core.errors import ExportError, ImageError
from ftx.data.preprocess import Preprocess
from ftx.runs.card_json import read_card, write_card
from ftx.runtimes import load_folder
from ftx.runtimes.openvino import OpenVinoPredictor, frame
from ftx.tasks.labels import Labels

# f32: a mean over 256 pixels in another order than numpy's, of logits up to 2.3. Measured 3.6e-7.
F32_ATOL = 1e-6


@pytest.fixture
def copy(colour_model: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(colour_model.folder, tmp_path / "fp32"))


def pixels_of(folder: Path, count: int = 5) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, size=(count, 16, 16, 3), dtype=np.uint8)


def test_it_answers_as_the_formula(colour_model: Any) -> None:
    predictor = OpenVinoPredictor(colour_model.folder, "f32")
    pixels = pixels_of(colour_model.folder)
    logits = predictor.logits(pixels)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, colour_model.expected(pixels), rtol=0, atol=F32_ATOL)


def test_a_signal_is_heard_after_a_model_was_dropped_in_another_thread(colour_model: Any) -> None:
    program = """
import os, signal, sys, threading
from pathlib import Path
from ftx.runtimes.openvino import OpenVinoPredictor
held = [OpenVinoPredictor(Path(sys.argv[1]))]
thread = threading.Thread(target=held.clear)
thread.start()
thread.join()
signal.signal(signal.SIGINT, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGINT)
"""
    command = [sys.executable, "-c", program, str(colour_model.folder)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "heard\n"


def test_an_answer_outlives_the_next(colour_model: Any) -> None:
    predictor = OpenVinoPredictor(colour_model.folder, "f32")
    first = predictor.logits(pixels_of(colour_model.folder, 3))
    kept = first.copy()
    predictor.logits(255 - pixels_of(colour_model.folder, 3))
    np.testing.assert_array_equal(first, kept)


def test_the_images_that_were_asked_about_stay_what_they_were(colour_model: Any) -> None:
    """An array that OpenVINO shares is written over by the next request of a queue."""
    predictor = OpenVinoPredictor(colour_model.folder, "f32")
    pixels = pixels_of(colour_model.folder, 3)
    kept = pixels.copy()
    predictor.logits(pixels)
    list(predictor.in_flight([255 - pixels, 255 - pixels[:1]]))
    list(predictor.logits_from_files(sorted(colour_model.images.rglob("*.png"))))
    np.testing.assert_array_equal(pixels, kept)


def test_the_precision_is_what_was_asked_or_says_what_was_chosen(colour_model: Any) -> None:
    assert str(OpenVinoPredictor(colour_model.folder, "f32").compute) == "f32"
    assert str(OpenVinoPredictor(colour_model.folder, "auto").compute) in {"auto:f32", "auto:bf16", "auto:f16"}


def test_files_of_several_sizes_keep_their_order(colour_model: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"<html>")
    found = sorted(colour_model.images.rglob("*.png"))
    paths = [*found[:2], broken, *found[2:]]
    predictor = OpenVinoPredictor(colour_model.folder, "f32")
    answers = list(predictor.logits_from_files(paths))
    sent = list(predictor.logits_from_files(path.read_bytes() for path in paths))
    assert [isinstance(answer, ImageError) for answer in answers] == [path == broken for path in paths]
    for path, answer in zip(paths, answers, strict=True):
        if path != broken:
            expected = colour_model.expected(np.asarray(Image.open(path))[None])[0]
            np.testing.assert_allclose(answer, expected, rtol=0, atol=F32_ATOL)
    for answer, again in zip(answers, sent, strict=True):
        if isinstance(answer, ImageError):
            assert (again.what, again.where) == (answer.what, "<bytes>")
        else:
            np.testing.assert_array_equal(again, answer)


def test_an_altered_folder_is_refused(copy: Path) -> None:
    blob = (copy / "model.xml").read_bytes()
    (copy / "model.xml").write_bytes(blob.replace(b"colour", b"odour_"))
    with pytest.raises(ExportError, match="is not what was written"):
        OpenVinoPredictor(copy)


def test_a_card_that_vouches_for_nothing_is_refused(copy: Path) -> None:
    text = read_card(copy).model_copy(update={"files": {}}).model_dump_json()
    (copy / "card.json").write_text(text)
    with pytest.raises(ExportError, match="has no hash of some files"):
        OpenVinoPredictor(copy)


def test_labels_of_another_number_are_refused(copy: Path) -> None:
    write_card(copy, read_card(copy).model_copy(update={"labels": Labels.multiclass(["red", "green"])}))
    with pytest.raises(ExportError, match="another number of logits"):
        OpenVinoPredictor(copy)


def test_a_model_of_another_kind_is_refused_by_its_ports(copy: Path) -> None:
    card = read_card(copy)
    text = (copy / "model.xml").read_text()
    assert 'element_type="u8"' in text
    # What an exporter elsewhere makes: floats go in.
    floats = text.replace('element_type="u8"', 'element_type="f32"').replace('precision="U8"', 'precision="FP32"')
    (copy / "model.xml").write_text(floats)
    write_card(copy, card)
    with pytest.raises(ExportError, match="this is no model that ftx exported") as caught:
        OpenVinoPredictor(copy)
    assert "f32" in str(caught.value)


def test_a_truncated_model_is_one_clear_error(copy: Path) -> None:
    card = read_card(copy)
    (copy / "model.xml").write_bytes((copy / "model.xml").read_bytes()[:400])
    write_card(copy, card)
    with pytest.raises(ExportError, match="OpenVINO cannot open this model"):
        OpenVinoPredictor(copy)


@pytest.mark.parametrize(("size", "resize"), [(16, 16), (15, 18), (15, 16), (224, 256), (7, 10)])
def test_the_frame_comes_off_by_the_crop(size: int, resize: int) -> None:
    from ftx.data.preprocess import resize_crop

    pre = Preprocess(height=size, width=size, resize=resize, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1))
    pixels = np.random.default_rng(0).integers(0, 256, size=(2, size, size, 3), dtype=np.uint8)
    framed = frame(pixels, pre)
    assert framed.shape == (2, resize, resize, 3)
    for one, whole in zip(pixels, framed, strict=True):
        np.testing.assert_array_equal(resize_crop(Image.fromarray(whole), pre), one)


def test_a_cache_saves_compiling_and_answers_the_same(
    colour_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    first = load_folder(colour_model.folder, goal="latency").logits(pixels)
    (kept,) = (tmp_path / "ftx" / "openvino").iterdir()
    blobs = list(kept.iterdir())
    assert blobs
    np.testing.assert_array_equal(load_folder(colour_model.folder, goal="latency").logits(pixels), first)
    assert list(kept.iterdir()) == blobs
    for blob in blobs:  # a disk that lost something
        blob.write_bytes(blob.read_bytes()[: blob.stat().st_size // 2])
    np.testing.assert_array_equal(load_folder(colour_model.folder, goal="latency").logits(pixels), first)


@pytest.mark.parametrize("streams", [1, 2])
def test_requests_in_flight_answer_in_order_whatever_each_takes(colour_model: Any, streams: int) -> None:
    predictor = OpenVinoPredictor(colour_model.folder, "f32", threads=2, streams=streams)
    batches = [np.full((1 + 40 * (number % 3), 16, 16, 3), number, np.uint8) for number in range(60)]
    answers = [logits_NC for logits_NC, _ in predictor.in_flight(batches)]
    assert [len(logits_NC) for logits_NC in answers] == [len(batch) for batch in batches]
    for batch, logits_NC in zip(batches, answers, strict=True):
        np.testing.assert_allclose(logits_NC, colour_model.expected(batch), rtol=0, atol=1e-5)  # logits up to 4
    assert list(predictor.in_flight([])) == []


def test_what_breaks_where_images_come_from_is_no_fault_of_the_model(colour_model: Any) -> None:
    predictor = OpenVinoPredictor(colour_model.folder, "f32")

    def breaking() -> Iterator[np.ndarray]:
        yield np.zeros((1, 16, 16, 3), np.uint8)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        list(predictor.in_flight(breaking()))
