from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import Listener

from ftx.cli.app import run
from ftx.core.errors import ExportError, InputError, RunError
from ftx.core.processors import cores
from ftx.core.third_parties import no_telemetry
from ftx.evaluating.predict import Prediction, predict, predict_arriving
from ftx.runtimes.open_model import UNTUNED, load
from ftx.runtimes.openvino import OpenVinoPredictor

with no_telemetry():
    import openvino


def test_answers_come_in_the_order_of_the_paths(colour_model: Any) -> None:
    paths = sorted(colour_model.images.rglob("*.png"))[::-1]
    answers = list(predict(paths, colour_model.folder))
    assert [answer.path for answer in answers] == [str(path) for path in paths]
    assert [answer.labels[0].name for answer in answers] == [path.parent.name for path in paths]


def test_a_folder_stands_for_the_images_below_it(colour_model: Any, tmp_path: Path) -> None:
    for name in ("b/2.PNG", "a.png", "b/1.jpg", ".hidden/3.png", "b/.4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    answers = list(predict(tmp_path, colour_model.folder))
    assert [answer.path for answer in answers] == [str(tmp_path / name) for name in ("a.png", "b/1.jpg", "b/2.PNG")]


def test_a_pattern_stands_for_what_it_matches(colour_model: Any, tmp_path: Path) -> None:
    pattern = f"{colour_model.images}/*/[01].png"
    found = [answer.path for answer in predict(pattern, colour_model.folder)]
    assert found == sorted(map(str, colour_model.images.glob("*/[01].png")))
    (answer, _) = predict([f"{colour_model.images}/*/7.png", found[0]], colour_model.folder)
    assert answer.error == "there is no such file"
    below = tmp_path / "a" / "b" / "c.png"
    below.parent.mkdir(parents=True)
    shutil.copy(found[0], below)
    assert [answer.path for answer in predict(f"{tmp_path}/**/*.png", colour_model.folder)] == [str(below)]
    odd = tmp_path / "[1].png"  # a name that looks like a pattern
    odd.write_bytes(Path(found[0]).read_bytes())
    assert [answer.path for answer in predict(odd, colour_model.folder)] == [str(odd)]


def test_images_that_come_one_by_one_are_answered_as_those_that_are_named(colour_model: Any, tmp_path: Path) -> None:
    red, green = (next((colour_model.images / name).iterdir()) for name in ("red", "green"))
    predictor, gone = OpenVinoPredictor(colour_model.folder, "f32"), tmp_path / "gone.png"
    named = list(predict([red, gone, green], predictor, scores=True))
    assert [answer.scores is not None for answer in named] == [True, False, True]
    assert list(predict_arriving([[red], [str(gone), green]], predictor, scores=True)) == named
    without = list(predict_arriving([[red, gone], [], [green]], predictor))
    assert without == [answer.model_copy(update={"scores": None}) for answer in named]


def test_scores_hold_every_label_and_sum_to_one(colour_model: Any) -> None:
    path = next(colour_model.images.rglob("*.png"))
    predictor = OpenVinoPredictor(colour_model.folder, "f32")
    (answer,) = predict(path, predictor, scores=True)
    assert answer.scores is not None
    expected = predictor.task.scores(colour_model.expected(np.asarray(Image.open(path))[None]))[0]
    # f32: a mean over the pixels in another order, and the softmax of it. Measured 0, and a step of f32 is 6e-8.
    np.testing.assert_allclose(list(answer.scores.values()), expected, rtol=0, atol=5e-7)
    assert list(answer.scores) == ["red", "green", "blue"]
    assert answer.labels[0].score == max(answer.scores.values())


def test_what_cannot_be_read_is_reported_and_the_rest_goes_on(colour_model: Any, tmp_path: Path) -> None:
    good = next(colour_model.images.rglob("*.png"))
    page, gone, empty, long = (tmp_path / name for name in ("page.jpg", "gone.png", "empty", 300 * "a"))
    page.write_text("<html></html>")
    empty.mkdir()
    answers = list(predict([page, good, gone, empty, long], colour_model.folder))
    assert [answer.error is None for answer in answers] == [False, True, False, False, False]
    assert answers[2].error == "there is no such file"
    assert answers[3].error == "there are no images in this folder"
    assert answers[4].error == "this path cannot be read: File name too long"
    assert all(answer.labels == [] for answer in answers if answer.error)


@pytest.mark.parametrize(("more", "goal"), [(0, "latency"), (1, "throughput")])
def test_more_images_than_processors_are_answered_in_the_setting_for_many(
    more: int, goal: str, colour_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OpenVINO is told: for one image it chooses by itself how many requests it takes at a time."""
    told: list[dict[str, Any]] = []
    real = openvino.Core.compile_model

    def compile_model(self: openvino.Core, model: Any, device: str, config: Any) -> Any:
        told.append(dict(config))
        return real(self, model, device, config)

    monkeypatch.setattr(openvino.Core, "compile_model", compile_model)
    images = [next(colour_model.images.rglob("*.png"))] * (cores() + more)
    assert len(list(predict(images, colour_model.folder))) == len(images)
    (config,) = told
    assert config.get("NUM_STREAMS") == UNTUNED[goal].streams
    # Images that come one by one are answered soon, however many there will be.
    told.clear()
    assert len(list(predict_arriving([images, images], colour_model.folder))) == 2 * len(images)
    assert [config.get("NUM_STREAMS") for config in told] == [UNTUNED["latency"].streams]


def test_bytes_are_answered_as_their_files_are_and_named_by_their_number(colour_model: Any, tmp_path: Path) -> None:
    red, green = (next((colour_model.images / name).iterdir()) for name in ("red", "green"))
    predictor = OpenVinoPredictor(colour_model.folder, "f32")
    from_files = list(predict([red, green], predictor, scores=True))
    mixed = [red.read_bytes(), str(green), b"<html></html>", green.read_bytes()]
    first, second, third, fourth = predict(mixed, predictor, scores=True)
    assert [one.path for one in (first, second, third, fourth)] == ["<bytes 1>", str(green), "<bytes 2>", "<bytes 3>"]
    for answer, expected in ((first, from_files[0]), (second, from_files[1]), (fourth, from_files[1])):
        assert (answer.labels, answer.scores, answer.error) == (expected.labels, expected.scores, None)
    assert third.error is not None
    assert third.error.startswith("the file must be an image")
    assert [one.labels for one in predict(red.read_bytes(), predictor)] == [first.labels]
    assert json.loads(first.to_line())["path"] == "<bytes 1>"


@pytest.mark.parametrize(
    "given", [bytearray(b"png"), [None], [7], [[b"png"]], None, 7, 1.5, np.uint8(3), io.BytesIO(b"png")]
)
def test_what_is_no_image_is_refused(given: Any, colour_model: Any) -> None:
    with pytest.raises(InputError, match="a path, bytes, a Pillow image or an RGB array") as caught:
        predict(given, colour_model.folder)
    assert caught.value.found in {"int", "NoneType", "list", "float", "uint8", "BytesIO"}


def test_one_bad_image_in_memory_leaves_the_others(colour_model: Any, tmp_path: Path) -> None:
    red = next((colour_model.images / "red").glob("*.png"))
    content = red.read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    cut, closed = Image.open(tmp_path / "cut.png"), Image.open(red)
    closed.close()
    bad: list[Any] = [cut, closed, Image.new("RGB", (0, 0)), Image.new("F", (8, 8)), "\ud800.png", "a\0.png"]
    found = list(predict([*bad, Image.open(red)], OpenVinoPredictor(colour_model.folder)))
    assert [one.error is None for one in found] == [False] * len(bad) + [True]
    assert found[-1].labels[0].name == "red"
    assert json.loads(found[4].to_line())["path"] == "\\ud800.png"
    cut.close()


@pytest.mark.parametrize("given", [5, b"x", ["run"], "", 1.5])
def test_what_is_no_name_of_a_model_is_refused(given: Any) -> None:
    with pytest.raises(InputError, match="the model must be the path of its folder"):
        load(given)


@pytest.mark.parametrize(
    "given",
    [np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((2, 8, 8, 3), np.uint8), np.zeros((0, 8, 3), np.uint8)],
)
def test_pixels_are_rgb_of_8_bits(given: Any, colour_model: Any) -> None:
    for images in (given, [given]):
        with pytest.raises(InputError, match="pixels must be RGB of 8 bits") as caught:
            predict(images, colour_model.folder)
        assert str(list(given.shape)) in str(caught.value.found)


def in_memory(path: Path) -> dict[str, Any]:
    """One image as each thing that a program may have."""
    opened = Image.open(path)
    turned = opened.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # a viewer turns it back
    return {
        "file": path,
        "Pillow's": opened,
        "array": np.asarray(opened),
        "palette": opened.quantize(256).convert("P"),
        "transparent": opened.convert("RGBA"),
        "turned": turned,
        "read only": Image.fromarray(np.asarray(opened)).copy(),
        "strided": np.asarray(opened)[:, ::-1][:, ::-1],
    }


def test_pixels_in_memory_are_answered_as_their_file(colour_model: Any) -> None:
    predictor = OpenVinoPredictor(colour_model.folder)
    for colour in ("red", "blue"):
        forms = in_memory(next((colour_model.images / colour).glob("*.png")))
        wanted, *found = [next(predict(form, predictor, scores=True)) for form in forms.values()]
        for name, one in zip(list(forms)[1:], found, strict=True):
            assert one.path == "<image 1>"
            assert one.labels[0].name == wanted.labels[0].name, name
            if name != "palette":  # 256 colours are not all
                assert one.scores == wanted.scores, name
    together = list(predict([forms["array"], forms["file"], forms["Pillow's"]], predictor))
    assert [one.path for one in together] == ["<image 1>", str(forms["file"]), "<image 2>"]


def test_a_folder_that_cannot_be_read_is_named_and_the_rest_answered(colour_model: Any, tmp_path: Path) -> None:
    """Whoever runs the tests may read everything; but no path may have 4,096 bytes, and one below another may."""
    good = tmp_path / "good.png"
    good.write_bytes(next((colour_model.images / "red").iterdir()).read_bytes())
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(4096 // 250 + 1):
            os.mkdir("d" * 250, dir_fd=here)
            here, above = os.open("d" * 250, os.O_RDONLY, dir_fd=here), here
            os.close(above)
    finally:
        os.close(here)
    refused, answered = sorted(predict(tmp_path, colour_model.folder), key=lambda answer: answer.error is None)
    assert answered.path == str(good)
    assert refused.path.startswith(str(tmp_path / "dddd"))
    assert refused.error == f"this folder cannot be read: {os.strerror(errno.ENAMETOOLONG)}"
    shutil.rmtree(tmp_path / ("d" * 250))


def test_the_bar_moves_once_for_each_answer(colour_model: Any, tmp_path: Path) -> None:
    paths = [*sorted(colour_model.images.rglob("*.png")), tmp_path / "gone.png"]
    listener = Listener()
    assert len(list(predict(paths, colour_model.folder, progress=listener))) == 13
    assert (listener.total, listener.advances) == (13, [1] * 13)


def test_a_name_that_is_no_text_is_answered_all_the_same(colour_model: Any, tmp_path: Path) -> None:
    source = next((colour_model.images / "red").iterdir())
    (tmp_path / os.fsdecode(b"r\xe9d.png")).write_bytes(source.read_bytes())
    (answer,) = predict(tmp_path, colour_model.folder)
    assert answer.labels[0].name == "red"
    assert json.loads(answer.to_line())["path"].endswith("r�d.png")


def test_a_line_of_json_has_the_designs_fields() -> None:
    (line,) = [json.loads(Prediction(path="a.png", error="broken").to_line())]
    assert line == {"path": "a.png", "labels": [], "error": "broken"}


def test_a_labelled_line_leaves_out_what_is_not_there(colour_model: Any) -> None:
    path = next(colour_model.images.rglob("*.png"))
    (answer,) = predict(path, colour_model.folder)
    line = json.loads(answer.to_line())
    assert set(line) == {"path", "labels"}
    assert set(line["labels"][0]) == {"name", "score"}


@pytest.mark.parametrize("names", [[], ["gone.png"], ["empty"], ["gone.png", "empty"]])
def test_no_image_at_all_is_an_error_before_the_first_answer(
    colour_model: Any, tmp_path: Path, names: list[str]
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="there are no images"):
        predict([tmp_path / name for name in names], colour_model.folder)


def test_without_a_run_the_error_names_the_way_out(
    colour_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="must be a finished run in runs/"):
        predict(colour_model.images)


def test_a_folder_without_a_model_is_refused(colour_model: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no model here"):
        predict(colour_model.images, tmp_path)


def test_an_ir_answers_without_torch(colour_model: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(colour_model.folder, tmp_path / "fp32")
    code = (
        "import sys; from pathlib import Path\n"
        "from ftx.evaluating.predict import predict; from ftx.evaluating import validate\n"
        f"answers = list(predict(Path({str(colour_model.images)!r}), Path({str(folder)!r})))\n"
        f"assert validate(Path({str(folder)!r})).ok\n"
        "assert len(answers) == 12 and not any(answer.error for answer in answers)\n"
        "heavy = {'torch', 'timm', 'onnxruntime', 'nncf', 'torchmetrics'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_verb_ends_with_status_4_where_it_skipped_images(
    colour_model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = next(colour_model.images.rglob("*.png"))
    artifact = ["--artifact", str(colour_model.folder)]
    assert run(["predict", str(good), *artifact]) == 0
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:-40])
    (tmp_path / "page.png").write_bytes(b"<html><body>404</body></html>")
    (tmp_path / "empty").mkdir()
    strangers = {
        "pipe.png": "regular file",
        "cut.png": "cannot be read",
        "page.png": "must be an image",
        "empty": "no images",
    }
    for name, said in strangers.items():
        capsys.readouterr()
        assert run(["predict", str(good), str(tmp_path / name), *artifact]) == 4, name
        heard = capsys.readouterr().err
        assert said in heard, name
        assert "1 of 2 images were skipped" in heard


def test_an_image_beyond_its_bounds_is_skipped_and_the_rest_answered(colour_model: Any, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        Image.new("RGB", (16, 16), (0, 0, 200)).save(path)
    content = bytearray(paths[1].read_bytes())
    content[16:24] = (20_000).to_bytes(4) + (10_000).to_bytes(4)  # IHDR: width, height
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    paths[1].write_bytes(content)
    first, second, third = predict(paths, colour_model.folder)
    assert [answer.labels[0].name for answer in (first, third)] == ["blue", "blue"]
    assert second.error == "the image is too large (20000 x 10000, 200 megapixels of at most 134)"
