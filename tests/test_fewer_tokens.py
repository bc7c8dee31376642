"""A model that drops patches, from its recipe to a device: each step computes with the tokens that training did."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.backbones.dropped_by_hand import logits_by_hand
from tests.conftest import answers_of_card, made_once, write_data
from transformers import AutoModelForImageClassification

from ftx.backbones import kept_tokens
from ftx.backbones.build import build
from ftx.backbones.kept_tokens import choice_margins
from ftx.core.errors import AdapterError, ExportError, GateFailed, MergeError
from ftx.core.files import sha256_file
from ftx.data.preprocess import load_pixels, normalise
from ftx.evaluating import validate
from ftx.evaluating.certify import certify
from ftx.evaluating.parity_images import read_reference
from ftx.exporting import export
from ftx.exporting.base_ir import export_base, export_update
from ftx.exporting.chosen_images import reference_logits
from ftx.merging.combine_adapters import combine
from ftx.merging.merge_and_prove import merge
from ftx.recipe.schema import Recipe
from ftx.runs.artifacts import DENSE, IR_FP32, ONNX, TRAINED
from ftx.runs.card_json import read_card, write_card
from ftx.runs.certificate_json import keep_certificates
from ftx.runs.run import Run
from ftx.runs.trained import load_trained
from ftx.runtimes import checked_network, load_artifact, load_with_all_tokens
from ftx.runtimes.openvino import OpenVinoPredictor, frame
from ftx.runtimes.torch import TorchPredictor
from ftx.training import train
from ftx.updating.apply import apply

SHARES = {2: 0.5, 4: 0.5}


def trained(root: Path, name: str, keep_tokens: Mapping[int, float] | str, **more: object) -> Path:
    """A run of LoRA on four hues, merged: 16 patches of 64 px."""
    settings = {
        "path": root / "data",
        "image_size": 64,
        "name": "test_vit",
        "weights": "none",
        "peft": "lora",
        "blocks": "all",
        "augment": "light",
        "patch_dropout": 0.0,
        "epochs": 6,
        "lr": 1e-2,
        "keep_tokens": keep_tokens,
    }
    train(Recipe.named(settings | more), root / name)
    merge(root / name)
    return root / name


def make(root: Path) -> None:
    for side, count, first in (("train", 24, 0), ("val", 8, 100), ("test", 60, 200)):
        write_data(root / "data" / side, count, first=first)
    fewer = trained(root, "fewer", SHARES)
    export(fewer, formats=("onnx", "openvino"), precisions=("fp32", "fp16"))
    trained(root, "again", SHARES, lr=5e-3)
    trained(root, "all", "all")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``fewer`` and ``again`` drop patches, ``all`` drops none."""
    return made_once(tmp_path_factory, "fewer-tokens", make)


def test_every_artifact_keeps_what_training_kept(runs: Path) -> None:
    """In f32 each is timm's network with patches dropped by hand, up to images of which two patches tie."""
    run = Run.open(runs / "fewer")
    pre, entries = run.manifest.preprocess, run.entries("test")[:20]
    pixels = np.stack([load_pixels(run.data_root() / entry.path, pre) for entry in entries])
    dense = timm.create_model(f"local-dir:{run.folder(DENSE)}", pretrained=True).eval()
    x = torch.from_numpy(normalise(pixels, pre))
    with torch.inference_mode():
        by_hand, of_timm = logits_by_hand(dense, x, SHARES).numpy(), dense(x).numpy()
    for artifact in (TRAINED, DENSE, ONNX, IR_FP32):
        logits = load_artifact(run, artifact, compute="f32").logits(pixels)
        distance = np.abs(logits - by_hand).max(axis=1)
        # f32, only the order of sums differs; another patch kept moves a logit by more than 1e-3
        assert (distance < 2e-5).sum() >= 18, artifact
    assert np.abs(by_hand - of_timm).max(axis=1).min() > 1e-3
    # timm knows no such key, and neither does transformers: both compute with all tokens
    np.testing.assert_allclose(load_with_all_tokens(run).logits(pixels), of_timm, rtol=0, atol=2e-5)
    wrapped = AutoModelForImageClassification.from_pretrained(run.folder(DENSE)).eval()
    with torch.inference_mode():
        np.testing.assert_allclose(wrapped(x).logits.numpy(), of_timm, rtol=0, atol=2e-5)
    card = (run.folder(DENSE) / "README.md").read_text()
    assert "50 % of the patches enter block 2, of those 50 % of the patches enter block 4" in card
    assert read_card(run.folder(IR_FP32)).keep_tokens == SHARES
    # Beside the model stands which of its images rounding could change, so that a device does not judge by these.
    reference, reference_pixels = read_reference(OpenVinoPredictor(run.folder(IR_FP32)))
    _, clear_N = reference_logits(TorchPredictor(load_trained(run), pre, run.task), reference_pixels)
    assert clear_N is not None
    assert reference.clear is not None
    assert reference.clear.tolist() == clear_N.tolist()


def test_the_code_of_the_cards_answers_as_ftx_does(runs: Path) -> None:
    run = Run.open(runs / "fewer")
    image = run.data_root() / run.entries("test")[0].path
    expected = next(iter(load_artifact(run, TRAINED).logits_from_files([image])))
    peft_s, (with_timm, with_transformers) = (answers_of_card(run.folder(one), image) for one in (TRAINED, DENSE))
    for logits, _ in (*peft_s, with_timm):
        np.testing.assert_allclose(logits[0], expected, rtol=0, atol=1e-4)  # the order of sums, in f32
    assert np.abs(with_transformers[0][0] - expected).max() > 1e-3  # with all tokens, as the card says


@pytest.mark.representative
def test_the_run_is_proved_and_what_other_libraries_answer_is_said(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "fewer", tmp_path / "run")
    report = validate(run)
    assert set(report.verdicts.values()) == {"proved"}, report.summary
    assert "timm and transformers open it with all tokens:" in report.summary["dense"]
    exact = next(row for row in report.rows if row.artifact == "openvino/fp32" and row.view == "graph")
    assert exact.bound.max_abs is not None
    assert exact.images == 128  # of these, those that tie are held to no bound
    assert exact.tied < 32
    coarse = [row for row in report.rows if row.artifact == "openvino/fp16"]
    assert {row.bound.max_abs for row in coarse} == {None}
    assert {row.tied for row in coarse} == {0}
    alone = validate(run / "openvino" / "fp32")
    assert alone.verdicts["openvino/fp32"] == "proved"


def test_images_of_which_two_patches_tie_also_run_in_fp32(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An int8-checked folder whose two models are one, so that only ties are in doubt."""
    run = Run.open(runs / "fewer")
    folder = shutil.copytree(run.folder(IR_FP32), tmp_path / "int8-checked")
    (folder / "proof.json").unlink(missing_ok=True)
    for ending in ("xml", "bin"):
        shutil.copyfile(folder / f"model.{ending}", folder / f"float.{ending}")
    write_card(folder, read_card(folder).model_copy(update={"precision": "int8-checked"}))
    images = [run.data_root() / entry.path for entry in run.entries("test")[:20]]
    keep_certificates(folder, certify(folder, images, "test"))
    pixels = np.stack([load_pixels(image, run.manifest.preprocess) for image in images])
    trained = load_trained(run)
    with torch.inference_mode(), choice_margins(trained) as choices:
        trained.eval()(torch.from_numpy(normalise(pixels, run.manifest.preprocess)))
    cases: list[tuple[float, np.ndarray]] = [(-1.0, np.zeros(20)), (2.0, np.ones(20))]
    for least in np.geomspace(1e-4, 1e-2, 5):
        monkeypatch.setattr(kept_tokens, "LEAST_MARGIN", least)
        clear_N = choices.clear()
        assert clear_N is not None
        cases.append((least, ~clear_N))
    assert any(2 < twice_N.sum() < 18 for _, twice_N in cases)
    for least, twice_N in cases:
        monkeypatch.setattr(checked_network, "LEAST_MARGIN", least)
        found = OpenVinoPredictor(folder, "f32").request()(frame(pixels, run.manifest.preprocess))
        np.testing.assert_array_equal(found["twice"], twice_N)
        assert set(found) == {"logits", "twice"}


@pytest.mark.slow
def test_a_model_that_computes_with_all_tokens_is_no_such_model(runs: Path, tmp_path: Path) -> None:
    """The fault that the key could make: an IR of all tokens in the place of one with fewer fails in f32."""
    run = shutil.copytree(runs / "fewer", tmp_path / "run")
    config = json.loads((run / "dense" / "config.json").read_text())
    assert config.pop("keep_tokens") == {"2": 0.5, "4": 0.5}
    (run / "dense" / "config.json").write_text(json.dumps(config))
    recorded = json.loads((run / "run.json").read_text())
    recorded["files"]["dense/config.json"] = sha256_file(run / "dense" / "config.json")
    (run / "run.json").write_text(json.dumps(recorded))
    with pytest.raises(GateFailed, match="predicts differently from the trained model"):
        export(run, formats=("openvino",), precisions=("fp32",))


@pytest.mark.slow
def test_an_update_is_for_a_base_that_keeps_the_same(runs: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    export_base(runs / "fewer", base)
    assert read_card(base).keep_tokens == SHARES
    export_update(runs / "again", tmp_path / "update", base)
    report = apply(tmp_path / "update", base, tmp_path / "model")
    assert report.exact
    assert report.max_abs is not None
    assert report.max_abs < 1e-4
    assert validate(tmp_path / "model").verdicts == {"openvino/fp32": report.verdict}
    with pytest.raises(ExportError, match="must keep the same tokens as the run"):
        export_update(runs / "all", tmp_path / "other", base)
    with pytest.raises(AdapterError, match="trained with the same token dropping as the base"):
        apply(runs / "all" / "trained", base, tmp_path / "third")


def test_adapters_are_merged_with_the_tokens_that_they_were_trained_with(runs: Path, tmp_path: Path) -> None:
    combine([runs / "fewer", runs / "again"], tmp_path / "both", shares=[0.5, 0.5])
    config = json.loads((tmp_path / "both" / "config.json").read_text())
    assert config["keep_tokens"] == {"2": 0.5, "4": 0.5}
    # away from its run an adapter says so itself
    moved = shutil.copytree(runs / "fewer" / "trained", tmp_path / "adapter")
    weights = tmp_path / "base.safetensors"
    _write_base(weights)
    combine([moved], tmp_path / "one", base="test_vit", weights=str(weights), image_size=64)
    assert json.loads((tmp_path / "one" / "config.json").read_text())["keep_tokens"] == {"2": 0.5, "4": 0.5}
    with pytest.raises(MergeError, match="trained with the same tokens"):
        combine([runs / "fewer", runs / "all"], tmp_path / "mixed", shares=[0.5, 0.5])


def _write_base(path: Path) -> None:
    module = build("test_vit", weights="none", num_classes=4, image_size="auto", seed=0).module
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, path)
