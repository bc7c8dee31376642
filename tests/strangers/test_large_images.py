"""Images of many pixels and few bytes: what predicting them and serving them takes is counted, and given back."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import ColourModel
from tests.strangers.test_images import encoded, in_fresh_process, noise, png

from ftx.data.decode_limits import decoding_bytes
from ftx.data.preprocess import Preprocess, load_pixels
from ftx.runtimes.openvino import MOST_GRAPH_PIXELS, frame, graph_input
from ftx.runtimes.predictor import PREFETCH_BYTES

WIDTH, HEIGHT = 5000, 4000
MEGAPIXELS = WIDTH * HEIGHT / 1e6
# Beside what decoding takes: the model's own, and threads.
SPARE_MB = 40
KINDS: dict[str, Callable[[], bytes]] = {
    "PNG in colour": lambda: png(WIDTH, HEIGHT, 8, 2),
    "PNG in grey": lambda: png(WIDTH, HEIGHT, 8, 0),
    "PNG of one bit": lambda: png(WIDTH, HEIGHT, 1, 0),
    "PNG of 16 bits": lambda: png(WIDTH, HEIGHT, 16, 2),
    "PNG with alpha": lambda: png(WIDTH, HEIGHT, 8, 6),
    "JPEG": lambda: encoded(plain(), "JPEG"),
    "JPEG in grey": lambda: encoded(plain("L"), "JPEG"),
    "WEBP": lambda: encoded(plain(), "WEBP", method=0),
    "TIFF": lambda: encoded(plain(), "TIFF", compression="tiff_lzw"),
    "GIF": lambda: encoded(plain("L"), "GIF"),
    "PPM": lambda: encoded(plain(), "PPM"),
}


def plain(mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (WIDTH, HEIGHT))


@pytest.fixture
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    path.write_bytes(KINDS[request.param]())
    return path


def most_mb(path: Path) -> float:
    with Image.open(path) as image:
        return decoding_bytes(image) / 1e6 + SPARE_MB


@pytest.mark.parametrize("image", KINDS, indirect=True)
def test_predicting_a_large_image_takes_little_more_than_decoding_it(image: Path, colour_model: ColourModel) -> None:
    """The graph would take 12 bytes and more of each pixel beside it; a model of a run 72."""
    program = """
from ftx.runtimes.openvino import OpenVinoPredictor
predictor = OpenVinoPredictor(Path(sys.argv[1]))
small = predictor.logits(np.zeros((1, 16, 16, 3), np.uint8))
begin()
(logits_C,) = predictor.logits_from_files([Path(sys.argv[2])])
print(json.dumps([logits_C.tolist(), peak()]))
"""
    logits_C, peak_mb = in_fresh_process(program, str(colour_model.folder), str(image))
    # Black is -100 / 25, and nothing over white 155 / 25; a lossy format may be one grey level off.
    np.testing.assert_allclose(logits_C, [6.2 if "alpha" in image.name else -4] * 3, atol=0.05)
    assert 3 * MEGAPIXELS < peak_mb < most_mb(image)


@pytest.mark.representative
@pytest.mark.parametrize("image", ["PNG in colour", "JPEG"], indirect=True)
def test_a_server_gives_back_what_a_large_image_took(image: Path, colour_model: ColourModel) -> None:
    """Six at a time take what two take, and afterwards nothing of it is held."""
    program = """
import asyncio
from ftx.core.progress import SILENT
from ftx.serving.images import Images
from ftx.serving.registry import Registry, ModelSource
registry = Registry([ModelSource("colour", Path(sys.argv[1]))], SILENT, counted=print, reloaded=print, options={})
images, content = Images(50_000_000), Path(sys.argv[2]).read_bytes()
images.memory = type(images.memory)(int(2.2e6 * float(sys.argv[3])))
async def answers(count):
    with registry.lease("colour", None) as version:
        asked = [images.prediction(version, "x", content, scores=True) for _ in range(count)]
        return [[label.score for label in one.labels] for one in await asyncio.gather(*asked)]
async def both():
    await answers(1)
    await asyncio.sleep(0.5)  # what that took is given back
    begin()
    found, most = await answers(6), peak()
    for _ in range(50):  # a thread lets go of what it was given after its answer is there
        if status("VmRSS") - before < 20:
            break
        await asyncio.sleep(0.1)
    return [found, most, status("VmRSS") - before]
registry_told, sys.stdout = sys.stdout, sys.stderr
found = asyncio.run(both())
registry.close()
sys.stdout = registry_told
print(json.dumps(found))
"""
    decoding_mb = most_mb(image) - SPARE_MB
    found, peak_mb, left_mb = in_fresh_process(program, str(colour_model.folder), str(image), str(decoding_mb))
    assert len(found) == 6
    assert 3 * MEGAPIXELS < peak_mb < 2 * most_mb(image)
    assert left_mb < SPARE_MB


def test_the_memory_for_what_waits_holds_two_photographs_of_24_megapixels() -> None:
    assert 2 * 24_000_000 * 8 <= PREFETCH_BYTES <= 500_000_000


PRE = Preprocess(20, 24, (30, 28), "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_up_to_a_megapixel_an_image_stays_as_it_is_and_beyond_it_is_what_training_sees() -> None:
    small, large = noise(1000, 1000), noise(1001, 1000)
    assert small.width * small.height == MOST_GRAPH_PIXELS
    np.testing.assert_array_equal(graph_input(small, PRE), np.asarray(small))
    content = io.BytesIO()
    large.save(content, "PNG")
    cropped = load_pixels(content.getvalue(), PRE)
    np.testing.assert_array_equal(graph_input(large, PRE), frame(cropped[None], PRE)[0])
    # So the graph's own resize has nothing to do, and its crop gives the same pixels.
    assert graph_input(large, PRE).shape == (30, 28, 3)
