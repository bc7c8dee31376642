"""Models and images that several rooms are tested with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from ftx.card import Card, write_card
from ftx.data.preprocess import Preprocess
from ftx.labels import Labels

COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class ColourModel:
    """An exported folder whose model names the strongest channel, and images of each colour."""

    folder: Path
    images: Path

    def expected(self, pixels_NHWC: np.ndarray) -> np.ndarray:
        """The model's formula, in numpy."""
        return colour_logits(pixels_NHWC)


def colour_logits(pixels_NHWC: np.ndarray) -> np.ndarray:
    return ((pixels_NHWC.astype(np.float64).mean(axis=(1, 2)) - 100) / 25).astype(np.float32)


def colour_pixels(colour: int, height: int, width: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng([seed, colour])
    pixels = generator.integers(20, 140, size=(height, width, 3), dtype=np.uint8)
    pixels[..., colour] += 80
    return pixels


@pytest.fixture(scope="session")
def colour_model(tmp_path_factory: pytest.TempPathFactory) -> ColourModel:
    """Built node by node: openvino alone, so that what needs no torch is tested without."""
    root = tmp_path_factory.mktemp("colour")
    folder = root / "fp32"
    folder.mkdir()
    write_colour_ir(folder)
    images = root / "images"
    for colour, name in enumerate(COLOURS):
        (images / name).mkdir(parents=True)
        for number, (height, width) in enumerate([(16, 16), (16, 16), (24, 40), (16, 16)]):
            path = images / name / f"{number}.png"
            Image.fromarray(colour_pixels(colour, height, width, number)).save(path)
    return ColourModel(folder, images)


def write_colour_ir(folder: Path) -> None:
    import openvino
    from openvino import opset13 as op

    image = op.parameter([-1, -1, -1, 3], np.uint8, name="image")
    mean = op.reduce_mean(op.convert(image, np.float32), np.array([1, 2]), keep_dims=False)
    logits = op.divide(op.subtract(mean, np.float32(100)), np.float32(25))
    logits.output(0).set_names({"logits"})
    model = openvino.Model([logits], [image], "colour")
    model.set_rt_info(" ".join(COLOURS), ["model_info", "labels"])
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    pixels = np.stack([colour_pixels(index % 3, 16, 16, 100 + index) for index in range(12)])
    metadata = {
        "paths": json.dumps([f"{COLOURS[index % 3]}/{index}.png" for index in range(12)]),
        "labels": json.dumps([index % 3 for index in range(12)]),
    }
    tensors = {"images": pixels, "logits": colour_logits(pixels)}
    save_file(tensors, folder / "reference.safetensors", metadata=metadata)
    card = Card(
        task="multiclass",
        architecture="mean colour",
        precision="fp32",
        labels=Labels.multiclass(COLOURS),
        preprocess=Preprocess(
            height=16, width=16, resize=16, interpolation="bicubic", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
        ),
        dense_digest="",
        files={},
    )
    write_card(folder, card)
