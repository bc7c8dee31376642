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
from tests.conftest import colour_logits, write_colour_ir

from ftx.core.errors import ExportError, ImageError
from ftx.core.processors import Processors, cores
from ftx.core.third_parties import no_telemetry
from ftx.data.image_store import OpenImageFile
from ftx.data.preprocess import Preprocess, resize_crop
from ftx.runs.card_json import read_card, write_card
from ftx.runtimes import load_folder
from ftx.runtimes import predictor as base
from ftx.runtimes.openvino import OpenVinoPredictor, frame, graph_input
from ftx.tasks.labels import Labels

with no_telemetry():
    import openvino

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
    with pytest.raises(ExportError, match="has changed since ftx wrote it"):
        OpenVinoPredictor(copy)


def test_a_card_that_vouches_for_nothing_is_refused(copy: Path) -> None:
    text = read_card(copy).model_copy(update={"files": {}}).model_dump_json()
    (copy / "card.json").write_text(text)
    with pytest.raises(ExportError, match="must contain a hash of each file"):
        OpenVinoPredictor(copy)


def test_labels_of_another_number_are_refused(copy: Path) -> None:
    write_card(copy, read_card(copy).model_copy(update={"labels": Labels.multiclass(["red", "green"])}))
    with pytest.raises(ExportError, match="a logit for each label"):
        OpenVinoPredictor(copy)


def test_a_model_of_another_kind_is_refused_by_its_ports(copy: Path) -> None:
    card = read_card(copy)
    text = (copy / "model.xml").read_text()
    assert 'element_type="u8"' in text
    # What an exporter elsewhere makes: floats go in.
    floats = text.replace('element_type="u8"', 'element_type="f32"').replace('precision="U8"', 'precision="FP32"')
    (copy / "model.xml").write_text(floats)
    write_card(copy, card)
    with pytest.raises(ExportError, match="the model must take images in uint8") as caught:
        OpenVinoPredictor(copy)
    assert "f32" in str(caught.value)


def test_a_truncated_model_is_one_clear_error(copy: Path) -> None:
    card = read_card(copy)
    (copy / "model.xml").write_bytes((copy / "model.xml").read_bytes()[:400])
    write_card(copy, card)
    with pytest.raises(ExportError, match="OpenVINO cannot open this model"):
        OpenVinoPredictor(copy)


@pytest.mark.parametrize("height_width_resize", [(16, 20, (16, 20)), (12, 20, (15, 26)), (21, 8, (28, 8))])
def test_of_other_sides_each_has_its_own_frame(height_width_resize: tuple[int, int, tuple[int, int]]) -> None:
    height, width, resize = height_width_resize
    pre = Preprocess(height=height, width=width, resize=resize, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1))
    pixels = np.random.default_rng(0).integers(0, 256, size=(2, height, width, 3), dtype=np.uint8)
    framed = frame(pixels, pre)
    assert framed.shape == (2, *resize, 3)
    for one, whole in zip(pixels, framed, strict=True):
        np.testing.assert_array_equal(resize_crop(Image.fromarray(whole), pre), one)


@pytest.mark.parametrize(("most", "resized"), [(30 * 20, False), (30 * 20 - 1, True)])
def test_an_image_of_more_pixels_than_the_graph_takes_is_resized_before(most: int, resized: bool) -> None:
    pre = Preprocess(height=8, width=12, resize=(10, 14), interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1))
    pixels = np.random.default_rng(0).integers(0, 256, size=(20, 30, 3), dtype=np.uint8)
    found = graph_input(Image.fromarray(pixels), pre, most)
    if resized:
        assert found.shape == (10, 14, 3)
        np.testing.assert_array_equal(found[1:9, 1:13], resize_crop(Image.fromarray(pixels), pre))
    else:
        np.testing.assert_array_equal(found, pixels)


def test_images_are_decoded_ahead_within_the_bytes_of_their_pixels(
    colour_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By how many images are asked for before the first has its answer. Their files are small, their pixels not."""
    Image.new("RGB", (64, 48)).save(tmp_path / "image.png")
    each_bytes = OpenImageFile(tmp_path / "image.png").size_bytes
    assert (tmp_path / "image.png").stat().st_size < each_bytes / 20
    predictor = OpenVinoPredictor(colour_model.folder, "f32", streams=1, batch=1)

    def drawn(most_bytes: int) -> int:
        monkeypatch.setattr(base, "PREFETCH_BYTES", most_bytes)
        count = 0

        def images() -> Iterator[Path]:
            nonlocal count
            for _ in range(40 + cores()):
                count += 1
                yield tmp_path / "image.png"

        answers = predictor.logits_from_files(images())
        next(answers)
        first = count
        assert len(list(answers)) == 39 + cores()
        return first

    one_at_a_time = drawn(1)
    assert drawn(2 * each_bytes - 1) == one_at_a_time
    # Two at a time, up to as many as there are processors and one more.
    assert drawn(2 * each_bytes) == one_at_a_time + 1
    assert drawn(10**9) == one_at_a_time + cores()


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_files_share_a_request_up_to_the_batch_that_was_given(
    batch: int, colour_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sizes = openvino.InferRequest.start_async, list[int]()

    def counted(self: Any, inputs: Any, *args: Any, **named: Any) -> Any:
        sizes.append(len(inputs[0]))
        return real(self, inputs, *args, **named)

    monkeypatch.setattr(openvino.InferRequest, "start_async", counted)
    image = colour_model.images / "red" / "0.png"
    predictor = OpenVinoPredictor(colour_model.folder, "f32", streams=1, batch=batch)
    assert len(list(predictor.logits_from_files([image] * 20))) == 20
    assert sizes == [batch] * (20 // batch) + [20 % batch] * (20 % batch > 0)


def test_requests_at_a_time_share_the_bytes_of_their_batches(
    colour_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one request at a time each may have them all."""
    real, sizes = openvino.InferRequest.start_async, list[int]()

    def counted(self: Any, inputs: Any, *args: Any, **named: Any) -> Any:
        sizes.append(len(inputs[0]))
        return real(self, inputs, *args, **named)

    monkeypatch.setattr(openvino.InferRequest, "start_async", counted)
    monkeypatch.setattr(base, "BATCH_BYTES", 8 * 16 * 16 * 3)
    for streams in (1, 2):
        sizes.clear()
        predictor = OpenVinoPredictor(colour_model.folder, "f32", threads=2, streams=streams)
        batch = 8 // predictor.streams  # of one core one stream
        assert len(list(predictor.logits_from_files([colour_model.images / "red" / "0.png"] * 16))) == 16
        assert sizes == [batch] * (16 // batch)


def test_as_many_threads_are_started_as_a_container_is_paid_for(
    colour_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO sees all processors that it may run on, and knows of no quota."""
    told: list[dict[str, Any]] = []
    real = openvino.Core.compile_model

    def compile_model(self: openvino.Core, model: Any, device: str, config: Any) -> Any:
        told.append(dict(config))
        return real(self, model, device, config)

    monkeypatch.setattr(openvino.Core, "compile_model", compile_model)
    for allowed, usable, given, threads in ((8, 1, None, 1), (8, 8, None, None), (8, 1, 2, 2)):
        here = Processors(allowed=allowed, usable=usable, cores=usable, fast=usable)
        monkeypatch.setattr("ftx.runtimes.openvino.processors", lambda here=here: here)
        OpenVinoPredictor(colour_model.folder, "f32", threads=given)
        assert told[-1].get("INFERENCE_NUM_THREADS") == threads


def test_maps_and_logits_are_not_taken_for_each_other(tmp_path: Path) -> None:
    write_colour_ir(tmp_path, maps=True)
    predictor = OpenVinoPredictor(tmp_path, "f32")
    pixels = pixels_of(tmp_path, 2)
    logits_NC, maps_NChw = predictor.explain(pixels)
    assert (predictor.has_maps, maps_NChw.shape) == (True, (2, 3, 2, 2))
    np.testing.assert_allclose(logits_NC, colour_logits(pixels), rtol=0, atol=F32_ATOL)
    # The sigmoid of each logit, all over its map.
    expected = np.broadcast_to(1 / (1 + np.exp(-logits_NC))[:, :, None, None], maps_NChw.shape)
    np.testing.assert_allclose(maps_NChw, expected, rtol=0, atol=F32_ATOL)
    np.testing.assert_array_equal(predictor.logits(pixels), logits_NC)
    assert list(predictor.request()(pixels)) == ["logits", "saliency_map"]


@pytest.mark.parametrize(("size", "resize"), [(16, 16), (15, 18), (15, 16), (224, 256), (7, 10)])
def test_the_frame_comes_off_by_the_crop(size: int, resize: int) -> None:
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
