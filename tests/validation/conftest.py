"""A run made by the whole pipeline, and ways to spoil it on disk."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# Four, so that no axis of a weight but the labels' is as long (three are the colours and the heads of a tiny ViT).
CLASSES = ("amber", "blue", "green", "red")
HUES = {"amber": (200, 150, 40), "blue": (40, 60, 200), "green": (50, 180, 70), "red": (190, 40, 50)}


def write_data(root: Path, count: int = 30) -> Path:
    """Noisy squares whose colour, and nothing else, is their class: swapped channels change the label."""
    for number, (name, hue) in enumerate(HUES.items()):
        (root / name).mkdir(parents=True)
        for index in range(count):
            generator = np.random.default_rng([number, index])
            height, width = ((32, 32), (40, 52), (70, 33))[index % 3]
            pixels = np.array(hue) + generator.normal(0, 30, size=(height, width, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained by DoRA, merged, exported in every format; 24 held-out images."""
    import torch

    from ftx.exporting import export
    from ftx.merging import merge
    from ftx.recipe import Recipe
    from ftx.run import Run
    from ftx.training import train

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("pipeline")
    data = write_data(root / "data")
    recipe = Recipe().with_overrides(
        [
            f"data.path={data}",
            "data.image_size=32",
            "model.name=vit_tiny_patch16_224",
            "model.weights=none",
            "train.epochs=6",
            "train.lr=5e-3",
            "train.precision=f32",
        ]
    )
    with chdir(root):  # runs/latest is written below the current folder
        out = root / "runs" / "colours"
        train(recipe, out=out)
        run = Run.open(out)
        merge(run)
        export(run, formats=["onnx", "openvino"], precisions=["fp32", "fp16", "int8"])
    return out
