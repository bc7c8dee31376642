"""What the config of a base folder says of its images and classes is what the base is opened with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification

from ftx.backbones.weights import grey_level
from ftx.core.errors import ModelError
from ftx.data.preprocess import Preprocess
from ftx.interop.base_model import open_base
from ftx.interop.transformers_config import read_processor

ARCHITECTURE = "vit_small_patch14_dinov2"
ARGS = {"img_size": [518, 518], "depth": 1, "embed_dim": 12, "num_heads": 1}
# Each another number than timm's own for this architecture.
STATED = {
    "input_size": [3, 518, 518],
    "crop_pct": 0.5,
    "interpolation": "bilinear",
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.6, 0.7],
}


def folder(root: Path, classes: int = 3, **config: Any) -> str:
    """One block of DINOv2 at 518 px, as timm saves models."""
    root.mkdir()
    save_file(timm.create_model(ARCHITECTURE, num_classes=classes, **ARGS).state_dict(), root / "model.safetensors")
    document = {"architecture": ARCHITECTURE, "num_classes": classes, "model_args": ARGS, "pretrained_cfg": STATED}
    (root / "config.json").write_text(json.dumps({**document, **config}))
    return str(root)


@pytest.mark.parametrize(
    ("asked", "height", "width"), [("auto", 518, 518), (28, 28, 28), ("28x42", 28, 42), ("518", 518, 518)]
)
def test_a_folder_of_timm_takes_images_as_its_config_says(
    asked: int | str, height: int, width: int, tmp_path: Path
) -> None:
    """By its own size where none is asked for: 224 px stands for 518 only where ftx names the model."""
    base = open_base(folder(tmp_path / "base"), image_size=asked)
    resize = 2 * height if height == width else (2 * height, 2 * width)
    expected = Preprocess(height, width, resize, "bilinear", (0.1, 0.2, 0.3), (0.4, 0.6, 0.7))
    assert base.preprocess == expected
    assert base.module.pos_embed.shape == (1, 1 + height * width // 14**2, 12)


def test_what_the_config_of_a_folder_leaves_out_is_timms_own(tmp_path: Path) -> None:
    own = timm.create_model(ARCHITECTURE, num_classes=0, **ARGS).pretrained_cfg
    found = open_base(folder(tmp_path / "base", pretrained_cfg={"mean": [0.1, 0.2, 0.3]})).preprocess
    assert (found.mean, found.std, found.interpolation) == ((0.1, 0.2, 0.3), own["std"], own["interpolation"])
    assert (found.height, found.resize) == (518, 518)  # DINOv2's crop is the whole


def test_a_folder_names_its_classes(tmp_path: Path) -> None:
    assert open_base(folder(tmp_path / "named", label_names=["u", "v", "w"])).labels == ("u", "v", "w")
    assert open_base(folder(tmp_path / "plain")).labels == ()


def test_the_digest_is_of_the_weights_whatever_size_and_head(tmp_path: Path) -> None:
    first = folder(tmp_path / "first")
    state = timm.create_model(ARCHITECTURE, num_classes=5, **ARGS).state_dict()
    digests = {open_base(first, image_size=size).digest for size in ("auto", 28, "28x42")}
    assert len(digests) == 1
    other = folder(tmp_path / "other", classes=5)
    assert open_base(other).digest not in digests
    save_file({**state, **_without_head(first)}, Path(other) / "model.safetensors")
    assert open_base(other).digest in digests


def _without_head(root: str) -> dict[str, Any]:
    return {name: one for name, one in load_file(Path(root) / "model.safetensors").items() if "head" not in name}


PROCESSOR: dict[str, Any] = {
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.4],
    "resample": 3,
    "size": {"shortest_edge": 256},
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
}


@pytest.mark.parametrize(
    ("changes", "resize", "interpolation"),
    [
        ({}, 128, "bicubic"),
        ({"resample": 2}, 128, "bilinear"),
        ({"size": 320, "crop_size": 224}, 160, "bicubic"),
        ({"size": {"height": 448, "width": 448}}, 224, "bicubic"),
        ({"do_center_crop": False}, 112, "bicubic"),
        ({"size": {"shortest_edge": 112}}, 112, "bicubic"),  # a crop beyond the image
        ({"crop_size": None}, 112, "bicubic"),
        ({"do_normalize": True, "do_rescale": True, "rescale_factor": 0.00392156862745098}, 128, "bicubic"),
    ],
)
def test_a_processor_of_transformers_is_read_key_by_key(
    changes: dict[str, object], resize: int, interpolation: str, tmp_path: Path
) -> None:
    """At half of its size, of which the crop keeps the same share."""
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, **changes}))
    for kind in ("vit", "dinov2"):
        found = read_processor(tmp_path, kind, (112, 112))
        assert found == Preprocess(112, 112, resize, interpolation, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def test_without_a_processor_images_are_as_the_models_were_published(tmp_path: Path) -> None:
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert read_processor(tmp_path, "vit", (64, 64)) == Preprocess(64, 64, 64, "bilinear", (0.5,) * 3, (0.5,) * 3)
    for kind in ("dinov2", "dinov2_with_registers"):
        assert read_processor(tmp_path, kind, (56, 56)) == Preprocess(56, 56, 64, "bicubic", *imagenet)


@pytest.mark.parametrize(
    "changes", [{"do_normalize": False}, {"do_rescale": False}, {"rescale_factor": 1 / 127.5}, {"resample": 1}], ids=str
)
def test_what_the_image_path_cannot_do_is_refused_by_its_key(changes: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, **changes}))
    with pytest.raises(ModelError, match="image processor must be one that ftx can reproduce") as caught:
        read_processor(tmp_path, "vit", (112, 112))
    assert next(iter(changes)) in str(caught.value.found)


def test_a_folder_of_transformers_takes_images_as_its_processor_says(tmp_path: Path) -> None:
    shape = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 24}
    base = ViTForImageClassification(ViTConfig(**shape, image_size=48, patch_size=16, num_labels=2))
    base.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    for asked, height, width, resize in (("auto", 48, 48, 54), ("32x64", 32, 64, (36, 73))):
        found = open_base(str(tmp_path), image_size=asked).preprocess
        assert found == Preprocess(height, width, resize, "bicubic", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    assert len({open_base(str(tmp_path), image_size=size).digest for size in ("auto", "32x64", 96)}) == 1


def test_a_folder_of_a_model_on_grey_images_has_one_level_for_all_colours(tmp_path: Path) -> None:
    """Of its mean and deviation, as weights from a file have it."""
    root = folder(tmp_path / "grey")
    coloured = open_base(root)
    state = timm.create_model(ARCHITECTURE, num_classes=3, in_chans=1, **ARGS).state_dict()
    save_file(state, Path(root) / "model.safetensors")
    found = open_base(root).preprocess
    assert found == replace(coloured.preprocess, mean=grey_level((0.1, 0.2, 0.3)), std=grey_level((0.4, 0.6, 0.7)))
    assert len(set(found.mean)) == len(set(found.std)) == 1
