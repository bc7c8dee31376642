"""Images that are not square, from files to the validated IR; and which families take another size than their own."""

from __future__ import annotations

from contextlib import chdir
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from openvino import opset15 as ops
from PIL import Image
from pydantic import TypeAdapter
from tests.backbones.architectures import SHALLOW, SHALLOW_XCIT
from tests.conftest import write_data
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform

from ftx.backbones.build import build
from ftx.core.errors import ModelError, RecipeError
from ftx.data.augment import CROP_RATIO, crop_box
from ftx.data.image_store import open_image
from ftx.data.preprocess import Preprocess, covering, crop_fraction, normalise, resize_crop
from ftx.evaluating import validate
from ftx.exporting import export
from ftx.exporting.preprocess_graph import embed_preprocessing
from ftx.merging.merge_and_prove import merge
from ftx.recipe.schema import Recipe
from ftx.runs.run import Run
from ftx.runtimes import load_artifact
from ftx.runtimes.compiled_network import core
from ftx.runtimes.openvino import frame
from ftx.training import dry_run, train

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def recipe(height: int, width: int, crop: float = 1.0, interpolation: Any = "bicubic") -> Preprocess:
    return Preprocess(height, width, covering(height, width, crop), interpolation, MEAN, STD)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


sides = st.integers(1, 400)
shares = st.sampled_from([1.0, 0.95, 0.9, 0.875, 0.7])


# --- the image path


@given(height=sides, width=sides, box_height=st.integers(1, 300), box_width=st.integers(1, 300))
def test_a_box_is_covered_and_one_side_fits(height: int, width: int, box_height: int, box_width: int) -> None:
    pre = Preprocess(1, 1, (box_height, box_width), "bicubic", MEAN, STD)
    found = pre.resized(height, width)
    scale = max(Fraction(box_height, height), Fraction(box_width, width))
    assert found == (round(height * scale), round(width * scale))  # Python rounds half to even, exactly
    assert found[0] >= box_height
    assert found[1] >= box_width


@given(height=sides, width=sides, short=st.integers(1, 300))
def test_a_square_is_resized_as_ever(height: int, width: int, short: int) -> None:
    pre = Preprocess(1, 1, short, "bicubic", MEAN, STD)
    least = min(height, width)
    assert pre.resized(height, width) == (short * height // least, short * width // least)


@settings(max_examples=80, deadline=None)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    size=st.sampled_from([(32, 48), (48, 32), (15, 64), (224, 160)]),
    crop=shares,
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
)
def test_every_size_equals_timm_to_the_bit(
    height: int, width: int, size: tuple[int, int], crop: float, interpolation: str
) -> None:
    height = min(height, 2 * width)  # a taller image Pillow 13 resizes in another order
    pre = recipe(*size, crop, interpolation)
    scale = max(Fraction(side, of) for side, of in zip(pre.box, (height, width), strict=True))
    if Fraction(1, 2) in {scale * side % 1 for side in (height, width)}:
        return  # timm's floats fall on either side of an exact half
    transform = create_transform(
        (3, *size), is_training=False, interpolation=interpolation, mean=MEAN, std=STD, crop_pct=crop
    )
    image = noise(height, width)
    np.testing.assert_array_equal(normalise(resize_crop(image, pre)[None], pre)[0], transform(image).numpy())


@given(height=st.integers(1, 700), width=st.integers(1, 700), crop=st.floats(0.3, 1.0))
def test_the_share_in_a_dense_folder_gives_the_same_box(height: int, width: int, crop: float) -> None:
    pre = recipe(height, width, crop)
    assert covering(height, width, crop_fraction(pre)) == pre.resize
    assert covering(height, width, crop_fraction(pre) * (1 - 1e-9)) == pre.resize  # as ftx reads it


@pytest.mark.parametrize("pre", [recipe(32, 32, 0.875), recipe(32, 48, 0.875)], ids=["short side", "box"])
def test_a_card_keeps_either_kind_of_resize(pre: Preprocess) -> None:
    reader = TypeAdapter(Preprocess)
    assert reader.validate_json(reader.dump_json(pre)) == pre
    assert pre.resize == (36 if pre.height == pre.width else (36, 54))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    "pre_size", [(32, 48, 1.0), (48, 32, 0.875), (24, 80, 0.9), (56, 40, 0.95)], ids=lambda size: str(size)
)
def test_the_graph_is_within_one_grey_level(pre_size: tuple[int, int, float], interpolation: Any) -> None:
    pre = recipe(*pre_size, interpolation)
    body_input = ops.parameter([-1, 3, pre.height, pre.width], ov.Type.f32, name="image")
    identity = ops.constant(np.eye(3, dtype=np.float32)[:, :, None, None])
    body = ops.convolution(body_input, identity, [1, 1], [0, 0], [0, 0], [1, 1])
    model = embed_preprocessing(ov.Model([ops.result(body)], [body_input]), pre)
    compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    generator = np.random.default_rng(1)
    shapes = generator.integers(1, 33, size=(60, 2)) * generator.integers(1, 10, size=(60, 2))
    for seed, (height, width) in enumerate([pre.box, (pre.box[0], 3 * pre.box[1]), *map(tuple, shapes)]):
        image = noise(int(height), int(width), seed)
        received = np.array(compiled(np.asarray(image)[None])[0], np.float64).transpose(0, 2, 3, 1)
        found = 255 * (received * STD + MEAN)
        # Enlarged by 3/2 both passes meet exact halves, where f32 lands on either side: of a square as well.
        levels = 2 if 2 * pre.box[0] == 3 * height or 2 * pre.box[1] == 3 * width else 1
        assert np.abs(found.round() - resize_crop(image, pre)).max() <= levels, (height, width)
    pixels = np.stack([resize_crop(noise(90, 70, seed), pre) for seed in range(2)])
    framed = frame(pixels, pre)
    assert framed.shape[1:3] == pre.box
    np.testing.assert_allclose(np.array(compiled(framed)[0]), normalise(pixels, pre), rtol=0, atol=1e-6)  # f32


@settings(deadline=None)
@given(width=sides, height=sides, seed=st.integers(0, 1000), aspect=st.sampled_from([0.5, 1.0, 1.4]))
def test_a_random_view_keeps_to_the_networks_aspect(width: int, height: int, seed: int, aspect: float) -> None:
    left, upper, right, lower = crop_box(width, height, np.random.default_rng(seed), aspect=aspect)
    assert 0 <= left < right <= width
    assert 0 <= upper < lower <= height
    ratio = (right - left) / (lower - upper) / aspect
    rounding = 1e-9
    assert CROP_RATIO[0] * (1 - rounding) <= ratio <= CROP_RATIO[1] * (1 + rounding)


# --- the recipe and the model


@pytest.mark.parametrize(
    ("given_size", "kept"),
    [("224x160", "224x160"), (" 224 x 160", "224x160"), ("224x224", 224), ("98", 98), (98, 98), ("auto", "auto")],
)
def test_a_size_is_kept_as_text_or_as_one_side(given_size: object, kept: object) -> None:
    read = Recipe.named({"image_size": given_size})
    assert read.data.image_size == kept
    assert Recipe.loads(read.dumps()) == read


@pytest.mark.parametrize("wrong", ["224x", "x224", "0x32", "1x2x3", "224X160", "-4", True])
def test_what_is_no_size_is_refused(wrong: object) -> None:
    with pytest.raises(RecipeError, match="HEIGHTxWIDTH"):
        Recipe.named({"image_size": wrong})


def test_the_nearest_sizes_that_the_patches_divide_are_named() -> None:
    with pytest.raises(ModelError) as caught:
        build("vit_tiny_patch16_224", weights="none", num_classes=3, image_size="225x160", seed=0)
    assert "225x160 px, patches of 16 px" in str(caught.value)
    assert "--image-size 224x160 or 240x160" in str(caught.value)


@pytest.mark.parametrize("name", ["xcit_nano_12_p16_224", "twins_pcpvt_small", "twins_svt_small", "sequencer2d_s"])
def test_families_without_learned_positions_take_any_size(name: str) -> None:
    for size in ("96x160", 128):
        backbone = build(name, weights="none", num_classes=3, image_size=size, seed=0)
        pre = backbone.preprocess
        with torch.inference_mode():
            logits = backbone.module(torch.randn(2, 3, pre.height, pre.width))
        assert logits.shape == (2, 3)
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", ["cait_xxs24_224", "pit_ti_224", "coat_lite_tiny", "crossvit_tiny_240"])
def test_families_with_positions_of_one_size_say_so(name: str) -> None:
    with pytest.raises(ModelError, match="must be the one size"):
        build(name, weights="none", num_classes=3, image_size="96x160", seed=0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        pytest.param(SHALLOW.name, {"peft": "lora", "blocks": "all"}, marks=pytest.mark.representative),
        pytest.param("resnet18", {"peft": "none", "freeze_backbone": True}, marks=pytest.mark.slow),
        pytest.param(SHALLOW_XCIT.name, {"peft": "none", "freeze_backbone": True}, marks=pytest.mark.slow),
    ],
)
def test_images_to_a_validated_ir(name: str, settings: dict[str, object], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    common = {"image_size": "32x48", "weights": "none", "epochs": 2, "precision": "f32"}
    chosen = Recipe.named({"path": write_data(tmp_path / "data", 8), "name": name, **common, **settings})
    assert dry_run(chosen).image_size == "32x48"
    with chdir(tmp_path):
        run = Run.open(train(chosen, out=tmp_path / "run").run)
        assert Recipe.load(run.path / "recipe.yaml").data.image_size == "32x48"
        merge(run)
        export(run, formats=["onnx", "openvino"], precisions=["fp32"])
        report = validate(run)
    assert report.ok, report.problems
    _opens_in_timm(run)
    _opens_in_model_api(run, tmp_path / "data")


def _opens_in_timm(run: Run) -> None:
    """timm finds in the dense folder the transform that ftx used, but for exact halves."""
    theirs = timm.create_model(f"local-dir:{run.path / 'dense'}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=theirs), is_training=False)
    image, pre = noise(50, 61), run.manifest.preprocess
    found = normalise(resize_crop(image, pre)[None], pre)
    expected = transform(image)
    np.testing.assert_array_equal(found[0], expected.numpy())
    with torch.inference_mode():
        logits = theirs(expected[None]).numpy()
    ours = load_artifact(run, "dense").logits(resize_crop(image, pre)[None])
    np.testing.assert_allclose(ours, logits, rtol=0, atol=1e-5)  # attention as another kernel


def _opens_in_model_api(run: Run, data: Path) -> None:
    from model_api.adapters import OpenvinoAdapter
    from model_api.models import Model

    pinned = {"INFERENCE_PRECISION_HINT": "f32"}
    path = run.path / "openvino" / "fp32" / "model.xml"
    theirs = Model.create_model(OpenvinoAdapter(core(), str(path), device="CPU", plugin_config=pinned), preload=True)
    ours = load_artifact(run, "openvino/fp32", compute="f32")
    for image in sorted(data.glob("*/[0-2].png")):
        answer = next(iter(ours.logits_from_files([image])))
        assert isinstance(answer, np.ndarray)
        found = theirs(np.asarray(open_image(image))).raw_scores
        np.testing.assert_allclose(found, ours.task.scores(answer[None])[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [7, "33x1", "256x1", "1x256"])
def test_a_pyramid_says_that_an_image_is_too_small(size: int | str) -> None:
    with pytest.raises(ModelError, match="must be a size at which"):
        build("pvt_v2_b0", weights="none", num_classes=3, image_size=size, seed=0)
