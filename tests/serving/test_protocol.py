"""The Open Inference Protocol as its own client speaks it, and requests that do not hold."""

from __future__ import annotations

import base64
import io
import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.conftest import COLOURS, colour_logits, write_marks_ir
from tests.serving.conftest import Running, flat, pixels, png, running, write_named_ir

from ftx.data.preprocess import Preprocess, resize_crop
from ftx.explaining.overlay import overlay
from ftx.runtimes.openvino import OpenVinoPredictor
from ftx.serving import protocol
from ftx.serving.http_error import HttpError
from ftx.serving.protocol import MAX_IMAGES, json_length, read_request, write_response
from ftx.serving.registry import MOST_SIZES, ModelSource
from ftx.tasks.labels import Labels
from ftx.tasks.multiclass import Multiclass
from ftx.tasks.scores import softmax

NO_MODEL: Any = None  # it is asked once the rest holds
# The model's own sums are in f32: a few units of the last place of numbers up to 6.
LOGITS = 1e-5


@pytest.fixture(scope="module")
def client(colour_server: Running) -> Iterator[Any]:
    made = triton.InferenceServerClient(colour_server.url)
    yield made
    made.close()


def tensor(images: np.ndarray, *, binary: bool = True) -> Any:
    made = triton.InferInput("image", list(images.shape), "BYTES" if images.dtype == object else "UINT8")
    made.set_data_from_numpy(images, binary_data=binary)
    return made


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colour")
    assert client.is_model_ready("colour", "1")
    assert not client.is_model_ready("colours")
    assert not client.is_model_ready("colour", "2")
    assert client.get_server_metadata()["name"] == "ftx"
    assert client.get_model_repository_index() == [{"name": "colour", "version": "1", "state": "READY", "reason": ""}]
    told = client.get_model_metadata("colour")
    assert told["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert {one["name"]: one["shape"] for one in told["outputs"]} == {
        "logits": [-1, 3],
        "saliency_map": [-1, 3, 2, 2],
        "scores": [-1, 3],
        "labels": [-1],
    }
    assert told["parameters"]["labels"] == list(COLOURS)


@pytest.mark.parametrize("binary", [True, False])
def test_pixels_give_the_models_logits_scores_and_labels(client: Any, binary: bool) -> None:
    images = pixels(5)
    wanted = [
        triton.InferRequestedOutput(name, binary_data=binary) for name in ("logits", "scores", "labels", "saliency_map")
    ]
    answer = client.infer("colour", [tensor(images, binary=binary)], outputs=wanted, request_id="seven")
    logits = colour_logits(images)
    np.testing.assert_allclose(answer.as_numpy("logits"), logits, rtol=0, atol=LOGITS)
    np.testing.assert_allclose(answer.as_numpy("scores"), softmax(logits), rtol=0, atol=LOGITS)
    assert answer.as_numpy("saliency_map").shape == (5, 3, 2, 2)
    called = [json.loads(text)[0]["name"] for text in answer.as_numpy("labels")]
    assert called == [COLOURS[index % 3] for index in range(5)]
    head = answer.get_response()
    assert (head["id"], head["model_name"], head["model_version"]) == ("seven", "colour", "1")


def test_small_outputs_come_where_none_is_named(client: Any) -> None:
    answer = client.infer("colour", [tensor(pixels(1))])
    assert [one["name"] for one in answer.get_response()["outputs"]] == ["logits", "scores", "labels"]


def test_encoded_images_of_different_sizes_in_one_request(client: Any, colour_server: Running) -> None:
    files = [png(0, 20, 30), png(1, 64, 48), png(2, 20, 30)]
    answer = client.infer("colour", [tensor(np.array(files, dtype=object))])
    assert answer.as_numpy("logits").argmax(axis=1).tolist() == [0, 1, 2]
    # In JSON, which holds no bytes, by base64.
    data = [base64.b64encode(file).decode() for file in files]
    said = colour_server.infer({"inputs": [{"name": "image", "shape": [3], "datatype": "BYTES", "data": data}]})
    assert said.status == 200
    plain = {one["name"]: one for one in said.json["outputs"]}
    np.testing.assert_array_equal(
        np.array(plain["logits"]["data"], np.float32).reshape(3, 3), answer.as_numpy("logits")
    )


@pytest.mark.representative
def test_any_number_of_sizes_makes_few_shapes_in_the_model(colour_server: Running, client: Any) -> None:
    for number in range(MOST_SIZES + 20):
        files = [png(colour, 40 + number, 50) for colour in range(3)]
        answer = client.infer("colour", [tensor(np.array(files, dtype=object))])
        assert answer.as_numpy("logits").argmax(axis=1).tolist() == [0, 1, 2]
    version = colour_server.server.registry.find("colour")
    assert len(version.sizes) == MOST_SIZES
    # Resized by Pillow it is what the graph view is: of the training path's pixels.
    seen = resize_crop(Image.open(io.BytesIO(files[0])), version.predictor.preprocess)[None]
    np.testing.assert_allclose(answer.as_numpy("logits")[:1], version.predictor.logits(seen), rtol=0, atol=LOGITS)


def test_classification_names_the_best(client: Any) -> None:
    wanted = [triton.InferRequestedOutput("scores", class_count=2)]
    answer = client.infer("colour", [tensor(pixels(3))], outputs=wanted).as_numpy("scores")
    assert answer.shape == (3, 2)
    assert [text.decode().split(":")[1:] for text in answer[:, 0]] == [["0", "red"], ["1", "green"], ["2", "blue"]]


def test_text_in_binary_says_its_length_in_bytes(colour_ir: Path) -> None:
    predictor = OpenVinoPredictor(colour_ir)
    predictor.task = Multiclass(Labels.multiclass(["grün", "日本", "x"]))
    wanted = {"name": "scores", "parameters": {"classification": 3, "binary_data": True}}
    asked = read_request(body := json.dumps(request() | {"outputs": [wanted]}).encode(), len(body), predictor)
    answer, length = write_response(asked, {"logits": np.array([[1.0, 3.0, 2.0]], np.float32)}, predictor, "m", 1)
    names, rest = list[str](), answer[length:]
    while rest:
        (size,) = struct.unpack("<I", rest[:4])
        names.append(rest[4 : 4 + size].decode().split(":")[2])
        rest = rest[4 + size :]
    assert names == ["日本", "x", "grün"]


def test_classification_has_the_values_of_its_output(client: Any) -> None:
    """Of an output that is asked for, and as many as are asked for, the best first."""
    images = pixels(2, 16, 16)  # of the network's own size, which nobody resizes
    logits = colour_logits(images)
    wanted = [triton.InferRequestedOutput(name, class_count=count) for name, count in (("logits", 2), ("scores", 9))]
    answer = client.infer("colour", [tensor(images)], outputs=wanted)
    for name, values, count in (("logits", logits, 2), ("scores", softmax(logits), 3)):
        texts = answer.as_numpy(name)
        assert texts.shape == (2, count)
        for row, found in zip(values, texts, strict=True):
            for at, text in zip(np.argsort(-row), found, strict=False):
                value, index, label = text.decode().split(":")
                assert (int(index), label) == (at, COLOURS[at])
                assert float(value) == pytest.approx(row[at], abs=LOGITS)


@pytest.mark.parametrize("usual", [True, False])
def test_each_output_comes_as_it_is_asked_for(colour_server: Running, usual: bool) -> None:
    """In binary or not, by itself or by what the request says of all."""
    images = pixels(2, 16, 16)  # of the network's own size, which nobody resizes
    one = {"name": "image", "shape": images.shape, "datatype": "UINT8", "data": images.ravel().tolist()}
    outputs = [
        {"name": "logits", "parameters": {"binary_data": not usual}},
        {"name": "scores"},
        {"name": "saliency_map", "parameters": {"binary_data": True}},
    ]
    sent = {"id": "nine", "inputs": [one], "outputs": outputs, "parameters": {"binary_data_output": usual}}
    said = colour_server.infer(sent)
    length = int(said.headers["inference-header-content-length"])
    head, at = json.loads(said.body[:length]), length
    assert head["id"] == "nine"
    found: dict[str, np.ndarray] = {}
    for output in head["outputs"]:
        size_bytes = output.get("parameters", {}).get("binary_data_size")
        in_binary = {"logits": not usual, "scores": usual, "saliency_map": True}[output["name"]]
        assert ("data" in output, size_bytes is not None) == (not in_binary, in_binary)
        if in_binary:
            values = np.frombuffer(said.body[at : at + size_bytes], "<f4")
            at += size_bytes
        else:
            values = np.array(output["data"])
        found[output["name"]] = values.reshape(output["shape"])
    assert at == len(said.body)
    logits = colour_logits(images)
    np.testing.assert_allclose(found["logits"], logits, rtol=0, atol=LOGITS)
    np.testing.assert_allclose(found["scores"], softmax(logits), rtol=0, atol=LOGITS)
    maps = np.broadcast_to(1 / (1 + np.exp(-logits))[..., None, None], (2, 3, 2, 2))
    np.testing.assert_allclose(found["saliency_map"], maps, rtol=0, atol=LOGITS)


def test_of_several_labels_each_has_its_score_and_its_picture(tmp_path: Path) -> None:
    write_marks_ir(tmp_path)
    images = [flat(150, 40, 125), flat(100, 20, 60)]
    pre = Preprocess(16, 16, 16, "bicubic", (0, 0, 0), (1, 1, 1))
    with running(ModelSource("marks", tmp_path)) as server:
        several, none = (server.predict(image, "?saliency=true&scores=true").json["images"][0] for image in images)
        encoded = [base64.b64encode(image).decode() for image in images]
        tensor = {"name": "image", "shape": [2], "datatype": "BYTES", "data": encoded}
        outputs = server.infer({"inputs": [tensor]}, "/v2/models/marks/infer").json["outputs"]
    scores = {name: 1 / (1 + np.exp((100 - value) / 25)) for name, value in zip(COLOURS, (150, 40, 125), strict=True)}
    # 0.88 is too few for red, and 0.08 enough for green.
    assert [(one["name"], one["score"]) for one in several["labels"]] == [
        (name, pytest.approx(scores[name], abs=LOGITS)) for name in ("blue", "green")
    ]
    assert several["scores"] == pytest.approx(scores, abs=LOGITS)
    assert none["labels"] == []
    called = {one["name"]: one for one in outputs}["labels"]["data"]
    assert [[label["name"] for label in json.loads(text)] for text in called] == [["blue", "green"], []]
    # Where none is called, the one with the highest score.
    for answer, image, expected in (
        (several, images[0], [("blue", scores["blue"]), ("green", scores["green"])]),
        (none, images[1], [("red", 0.5)]),
    ):
        drawn = [(one["label"], one["score"]) for one in answer["saliency"]]
        assert drawn == [(name, pytest.approx(score, abs=LOGITS)) for name, score in expected]
        for one, (_, score) in zip(answer["saliency"], expected, strict=True):
            picture = Image.open(io.BytesIO(base64.b64decode(one["picture"].removeprefix("data:image/jpeg;base64,"))))
            exact = np.asarray(overlay(Image.open(io.BytesIO(image)), np.full((2, 2), score), pre)).astype(int)
            # JPEG leaves a colour that is the same all over to a step or two of 255, but not the edges of the crop.
            assert np.median(np.abs(np.asarray(picture).astype(int) - exact)) <= 2


def request(**changes: object) -> dict[str, Any]:
    one = {"name": "image", "shape": [1, 2, 2, 3], "datatype": "UINT8", "data": list(range(12))}
    return {"inputs": [one | changes]}


NESTED = np.arange(12).reshape(1, 2, 2, 3).tolist()
BAD = {
    "no JSON": ("{", 400, "is invalid"),
    "a list": ("[]", 400, "is invalid"),
    "nothing": ("", 400, "is invalid"),
    "no input": ({"inputs": []}, 400, "one input, 'image'"),
    "many inputs": ({"inputs": 17 * request()["inputs"]}, 400, "at most 16 items"),
    "two inputs": ({"inputs": 2 * request()["inputs"]}, 400, "one input, 'image'"),
    "another input": (request(name="pixels"), 400, "'pixels'"),
    "HTML for a name": (request(name="<b>x</b>"), 400, "<b>x</b>"),
    "floats": (request(datatype="FP32"), 400, "UINT8 (pixels) or BYTES"),
    "half numbers": (request(data=[0.5] * 12), 400, "whole numbers"),
    "truth": (request(data=[True] * 12), 400, "whole numbers"),
    "text": (request(data=["1"] * 12), 400, "whole numbers"),
    "256": (request(data=[256] * 12), 400, "0 to 255"),
    "below 0": (request(data=[-1] * 12), 400, "0 to 255"),
    "beyond 64 bits": (request(data=[10**30] * 12), 400, "whole numbers"),
    "no numbers": (request(data=[]), 400, "must have 12 numbers, found 0"),
    "text among them": (request(data=[*range(11), "11"]), 400, "whole numbers"),
    "a list among them": (request(data=[*range(11), [11]]), 400, "whole numbers"),
    "too deep": (request(data=[[[[[1]] * 3] * 2] * 2]), 400, "whole numbers"),
    "ragged": (request(data=[[1, 2], [3]]), 400, "equally long"),
    "too few": (request(data=[1, 2, 3]), 400, "must have 12 numbers, found 3"),
    "channels first": (request(shape=[1, 3, 2, 2]), 400, "[N, height, width, 3]"),
    "no rank": (request(shape=[12]), 400, "[N, height, width, 3]"),
    "text for a side": (request(shape=["1", 2, 2, 3]), 400, "is invalid"),
    "truth for a side": (request(shape=[True, 2, 2, 3]), 400, "is invalid"),
    "a fraction for a side": (request(shape=[1.0, 2, 2, 3]), 400, "is invalid"),
    "text for bytes": (request(parameters={"binary_data_size": "12"}), 400, "is invalid"),
    "truth for bytes": (request(parameters={"binary_data_size": True}), 400, "is invalid"),
    "below 1": (request(shape=[1, -2, -2, 3]), 400, "[N, height, width, 3]"),
    "no images": (request(shape=[0, 2, 2, 3], data=[]), 400, "[N, height, width, 3]"),
    "huge": (request(shape=[1, 1 << 40, 1 << 40, 3]), 400, "numbers, found 12"),
    "beyond": (request(shape=[1, 1 << 60, 2, 3]), 400, "is invalid"),
    "many": (request(shape=[MAX_IMAGES + 1, 1, 1, 3], data=[0] * 3 * (MAX_IMAGES + 1)), 400, f"1 to {MAX_IMAGES}"),
    "a strip": (request(shape=[1, 1, 40, 3], data=[0] * 120), 422, "at most 32 times the shorter"),
    "no base64": (request(datatype="BYTES", shape=[1], data=["%"]), 400, "base64"),
    "no image": (request(datatype="BYTES", shape=[1], data=["aGVsbG8="]), 422, "the file must be an image"),
    "another count": (request(datatype="BYTES", shape=[2], data=["aGVsbG8="]), 400, "1 encoded images"),
    "a long name": (request(name="x" * 201), 400, "at most 200 characters"),
    "a long output": (request() | {"outputs": [{"name": "x" * 201}]}, 400, "at most 200 characters"),
    "many outputs": (request() | {"outputs": 17 * [{"name": "logits"}]}, 400, "at most 16 items"),
    "another output": (request() | {"outputs": [{"name": "logit"}]}, 400, "did you mean 'logits'"),
    "binary without": (
        request(data=None, parameters={"binary_data_size": 12}),
        400,
        "must be 0, the bytes after the JSON",
    ),
    "data twice": (request(parameters={"binary_data_size": 12}), 400, "in 'data', or in binary"),
    "many objects": (request(data=[{}] * 1001), 400, "more brackets than a tensor"),
    "lists without numbers": (request(data=[[[[]]]] * 1000), 400, "more brackets than a tensor"),
    "deep": ('{"inputs": ' + "[" * 10_000 + "]" * 10_000 + "}", 400, "is invalid"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_hold_is_told_in_a_sentence(colour_server: Running, case: str) -> None:
    sent, status, sentence = BAD[case]
    said = colour_server.infer(sent)
    assert said.status == status, said.body
    assert sentence in said.json["error"]
    assert said.headers["content-type"] == "application/json"
    assert colour_server.infer(request(data=NESTED)).status == 200


@pytest.mark.parametrize("length", ["-1", "x", "", "10000000", "1" * 5000])
def test_a_length_of_the_head_that_is_none(colour_server: Running, length: str) -> None:
    said = colour_server.infer(request(), inference_header_content_length=length)
    assert said.status == 400
    assert "Inference-Header-Content-Length" in said.json["error"]


def test_tensors_that_are_cut(colour_server: Running) -> None:
    for size_bytes, body, sentence in (
        (12, b"\0" * 11, "must be 11, the bytes after the JSON, found 12"),
        (11, b"\0" * 11, "must have 12 numbers, found 11"),
    ):
        head = json.dumps(request(data=None, parameters={"binary_data_size": size_bytes})).encode()
        said = colour_server.infer(head + body, inference_header_content_length=str(len(head)))
        assert (said.status, sentence in said.json["error"]) == (400, True)
    head = json.dumps(request(datatype="BYTES", shape=[1], data=None, parameters={"binary_data_size": 8})).encode()
    said = colour_server.infer(head + b"\xff\0\0\0abcd", inference_header_content_length=str(len(head)))
    assert "goes beyond the tensor" in said.json["error"]


@given(st.binary(max_size=400), st.one_of(st.none(), st.integers(-2, 500).map(str)))
def test_any_bytes_are_read_or_refused(body: bytes, length: str | None) -> None:
    with pytest.raises(HttpError):  # no random bytes are a request
        read_request(body, json_length(body, length), NO_MODEL)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.booleans(), st.data())
def test_a_request_gives_its_pixels(
    colour_server: Running, count: int, height: int, width: int, binary: bool, data: Any
) -> None:
    size = count * height * width * 3
    blob = data.draw(st.binary(min_size=size, max_size=size))
    images = np.frombuffer(blob, np.uint8).reshape(count, height, width, 3)
    one: dict[str, Any] = {"name": "image", "shape": images.shape, "datatype": "UINT8"}
    one |= {"parameters": {"binary_data_size": size}} if binary else {"data": images.tolist()}
    head = json.dumps({"inputs": [one]}).encode()
    body = head + blob if binary else head
    asked = read_request(body, len(head), colour_server.server.registry.find("colour").predictor)
    assert asked.request.inputs == []
    assert asked.pixel_bytes == size
    np.testing.assert_array_equal(np.stack(asked.images), images)  # pyright: ignore[reportArgumentType]


HOSTILE = {
    "a hundred thousand inputs": """b'{"inputs":[' + b'{},' * 100_000 + b'{}]}'""",
    "lists in lists": """tensor(b"[" * 150 + b"]" * 150, 3_000)""",
    "one long text among short ones": """tensor(b'"' + b"x" * 30_000 + b'"' + b',""' * 29_999, 1)""",
    "objects for numbers": """tensor(b"{}", 300_000)""",
    "lists of one number": """tensor(b"[1]", 250_000)""",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_a_request_takes_to_read_is_counted(case: str) -> None:
    """In a process of its own, whose peak of memory is that of this request."""
    program = f"""
import resource
from ftx.serving.protocol import JSON_TIMES, json_length, read_request
from ftx.serving.http_error import HttpError

def tensor(value, count):
    head = b'{{"inputs":[{{"name":"image","shape":[1,100,100,3],"datatype":"UINT8","data":['
    return head + b",".join([value] * count) + b"]}}]}}"

def peak_bytes():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

body = {HOSTILE[case]}
before = peak_bytes()
try:
    read_request(body, json_length(body, None), None)
except HttpError as refused:
    print(peak_bytes() - before, JSON_TIMES * len(body), refused.status)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    took, counted, status = map(int, done.stdout.split())
    assert (took <= counted, status) == (True, 400), (took, counted)


def test_an_answer_has_its_bound(colour_server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = request(shape=[2, 2, 2, 3], data=[*range(24)])  # maps of 3 labels at 2 x 2
    monkeypatch.setattr(protocol, "MAX_NUMBERS", 24)
    assert colour_server.infer(sent | {"outputs": [{"name": "saliency_map"}]}).status == 200
    said = colour_server.infer(sent | {"outputs": [{"name": "saliency_map"}, {"name": "logits"}]})
    assert (said.status, "the response would be too large" in said.json["error"]) == (400, True)
    monkeypatch.setattr(protocol, "MAX_NUMBERS", 10)
    assert colour_server.infer(sent).status == 400


def test_what_is_not_there(colour_server: Running) -> None:
    for method, path, status, sentence in (
        ("GET", "/v2/models/colours", 404, "did you mean 'colour'?"),
        ("GET", "/v2/models/colour/versions/3", 404, "no version 3"),
        ("GET", "/v2/models/colour/versions/three", 400, "version"),
        ("POST", "/v2/models/%3Cb%3Ex/infer", 404, "<b>x"),
        ("GET", "/nothing", 404, "nothing at this path"),
        ("GET", "/predict", 405, "does not support GET"),
        ("GET", "/docs", 404, "nothing at this path"),
    ):
        said = colour_server.ask(method, path, b"{}" if method == "POST" else None)
        assert said.status == status, path
        assert sentence in said.json["error"]
        assert said.headers["content-type"] == "application/json"
        assert said.headers["x-content-type-options"] == "nosniff"


def test_predict_takes_no_word_in_vain(colour_server: Running, tmp_path: Path) -> None:
    said = colour_server.predict(png(), "?salience=true")
    assert said.status == 400
    assert "'salience': did you mean 'saliency'?" in said.json["error"]
    assert colour_server.predict(png(), "?saliency=true").json["images"][0]["saliency"]
    with running(ModelSource("plain", write_named_ir(tmp_path / "plain", ("a", "b", "c")))) as plain:
        said = plain.predict(png(), "?saliency=true")
        assert said.status == 400
        assert "has no maps" in said.json["error"]
        assert "saliency" not in plain.predict(png(), "?saliency=false").json["images"][0]
