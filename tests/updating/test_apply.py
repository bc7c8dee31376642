"""An update on a device: the server's bytes, proof, refusals that leave the old model whole, and the way back."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import peft
import pytest
import timm
import torch
from safetensors.numpy import load_file, save_file
from tests.conftest import Listener
from tests.effects.lab import call

from ftx.adapters.merge_weight import merged_weight
from ftx.adapters.peft_file import read_peft_file
from ftx.core.errors import AdapterError, EnvironmentFault, ExportError, FtxError, GateFailed, InputError, RunError
from ftx.core.files import sha256_file
from ftx.core.progress import SILENT
from ftx.evaluating import validate
from ftx.evaluating.parity_images import reference_names
from ftx.evaluating.predict import predict
from ftx.exporting import export
from ftx.exporting.base_ir import export_base, export_update
from ftx.merging.merge_and_prove import merge
from ftx.recipe.schema import Recipe
from ftx.runs.card_json import CARD_FILE, PROOF_FILE, REFERENCE_FILE, read_card, write_card
from ftx.runs.proof_json import PROOF_SCHEMA, ir_digest, read_proof
from ftx.runs.reference_safetensors import ReferenceFile, write_reference
from ftx.runs.run import Run
from ftx.runs.update_zip import read_update, write_update
from ftx.runtimes import load
from ftx.runtimes.openvino import OpenVinoPredictor
from ftx.training import train
from ftx.updating.apply import apply, rollback
from ftx.updating.check_update import read_adapter
from ftx.updating.merge_constants import ConstantsOf, merge_into

FP32 = "openvino/fp32"


@pytest.fixture(scope="module")
def shipped(whole_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a server ships: ``base``, and two updates of it, ``one`` and ``two``."""
    root = tmp_path_factory.mktemp("shipped")
    export_base(whole_run, root / "base")
    export_update(whole_run, root / "one", root / "base")
    export_update(whole_run, root / "two", root / "base", after=root / "one")
    return root


@pytest.fixture(scope="module")
def half(whole_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base in float16."""
    folder = tmp_path_factory.mktemp("half") / "base"
    export_base(whole_run, folder, precision="fp16")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "device" / "model"


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in folder.iterdir()}


def test_the_device_makes_the_servers_file(shipped: Path, whole_run: Path, out: Path) -> None:
    report = apply(shipped / "one", shipped / "base", out)
    assert report.exact
    assert (report.weight_bound, report.sequence, report.labels) == (None, 1, 4)
    assert report.max_abs is not None
    assert report.max_abs < 1e-4 * 20  # the bound of f32 in logits of a few units
    assert report.bytes_shipped == (shipped / "one").stat().st_size
    for name in ("model.bin", "model.xml"):
        assert (out / name).read_bytes() == (whole_run / FP32 / name).read_bytes()
    assert not out.with_name("model.previous").exists()
    assert [path.name for path in out.parent.iterdir()] == ["model"]


@pytest.mark.representative
def test_it_answers_as_the_servers_and_is_a_model_like_others(shipped: Path, whole_run: Path, out: Path) -> None:
    apply(shipped / "one", shipped / "base", out)
    image = next((whole_run.parents[1] / "data" / "test" / "blue").iterdir())
    (ours,), (theirs,) = (list(predict(image, folder, scores=True)) for folder in (out, whole_run / FP32))
    assert ours == theirs
    report = validate(out)
    assert report.ok
    assert read_card(out).update is not None
    assert read_card(out).base is None


@pytest.mark.representative
def test_the_servers_verdict_travels_and_is_repeated(
    validated_run: Path, shipped: Path, out: Path, tmp_path: Path
) -> None:
    """64 reference images prove little by themselves; that the machine answers as the server's proves what it found."""
    written = export_update(validated_run, tmp_path / "update", shipped / "base")
    there = read_proof(validated_run / FP32)
    assert there.run is not None
    assert written.verdict == there.run.verdict == "proved"
    report = apply(tmp_path / "update", shipped / "base", out)
    assert report.verdict == "proved"
    assert "this machine computes the same logits as the one that judged it" in report.summary
    carried = read_proof(out)
    assert (carried.run, carried.sets, carried.devices) == (there.run, there.sets, [])
    assert carried.calibrations == there.calibrations != []
    assert validate(out).verdicts == {FP32: "proved"}
    apply(update_of(tmp_path / "update", tmp_path / "next", sequence=2), shipped / "base", out)
    back = rollback(out)
    assert (back.verdict, back.bytes_shipped, back.rolled_back) == ("proved", 0, True)
    assert 0 < back.seconds < 60  # a model of some layers is compiled and asked


@pytest.mark.representative
def test_a_verdict_is_asked_about_the_images_that_the_base_has(
    other_labels: Run, shipped: Path, out: Path, tmp_path: Path
) -> None:
    export(other_labels, formats=("openvino",), precisions=("fp32",))
    found = validate(other_labels)
    written = export_update(other_labels, tmp_path / "update", shipped / "base")
    assert written.verdict == found.verdicts[FP32]
    report = apply(tmp_path / "update", shipped / "base", out)
    assert "this machine computes the same logits as the one that judged it" in report.summary
    carried, own = read_proof(out).run, read_proof(other_labels.path / FP32).run
    assert carried is not None
    assert own is not None
    images = load_file(shipped / "base" / "reference.safetensors")["images"]
    logits = OpenVinoPredictor(other_labels.path / FP32, "f32").logits(images)
    np.testing.assert_array_equal(carried.answers[0].array, logits)
    assert carried.rows == own.rows


def test_a_verdict_that_failed_there_fails_here(validated_run: Path, shipped: Path, out: Path, tmp_path: Path) -> None:
    export_update(validated_run, tmp_path / "update", shipped / "base")

    def failed(proof: dict[str, Any]) -> None:
        proof["run"]["verdict"] = "failed"

    spoilt = update_of(tmp_path / "update", tmp_path / "failed", proof=failed)
    with pytest.raises(GateFailed, match="is not kept"):
        apply(spoilt, shipped / "base", out)
    assert not out.exists()
    with pytest.raises(GateFailed, match="is not proved on this machine, and is not kept"):
        apply(spoilt, shipped / "base", out, require_proof=True, allow_failed=True)
    assert apply(spoilt, shipped / "base", tmp_path / "anyway", allow_failed=True).verdict == "failed"

    def torn(proof: dict[str, Any]) -> None:
        del proof["run"]["rows"]

    with pytest.raises(ExportError, match="the update is invalid"):
        apply(update_of(tmp_path / "update", tmp_path / "torn", proof=torn), shipped / "base", out)
    assert not out.exists()


def test_a_proof_of_a_later_ftx_is_not_used_and_that_is_said(
    validated_run: Path, shipped: Path, out: Path, tmp_path: Path
) -> None:
    export_update(validated_run, tmp_path / "update", shipped / "base")
    later = update_of(
        tmp_path / "update", tmp_path / "later", proof=lambda proof: proof.update(schema_version=PROOF_SCHEMA + 1)
    )
    listener = Listener()
    assert apply(later, shipped / "base", out, progress=listener).verdict == "unproved"
    assert any(f"not used: it is of schema version {PROOF_SCHEMA + 1}" in text for text in listener.said)
    assert read_proof(out).run is None
    said = call("apply", str(later), str(shipped / "base"), str(out))
    assert (said.status, "nothing to merge" in said.out + said.err) == (0, True)


def update_of(
    path: Path, new: Path, sequence: int = 1, proof: Callable[[dict[str, Any]], None] = lambda proof: None
) -> Path:
    """The same update with another number, or with another proof."""
    update, files = read_update(path)
    held = json.loads(files["proof.json"])
    proof(held)
    write_update(
        new, update.model_copy(update={"sequence": sequence}), files | {"proof.json": json.dumps(held).encode()}
    )
    return new


def test_every_constant_of_the_update_is_the_dense_models(shipped: Path, whole_run: Path) -> None:
    with zipfile.ZipFile(shipped / "one") as archive:
        update = json.loads(archive.read("update.json"))
    dense = load_file(whole_run / "dense" / "model.safetensors")
    adapter = read_peft_file(whole_run / "trained")
    assert set(update["tensors"]) == {f"{layer}.weight" for layer in adapter.layers()} | {"head.weight", "head.bias"}
    base = load_base(shipped / "base")
    for layer, weights in adapter.layers().items():
        merged = merged_weight(base[f"{layer}.weight"].astype(np.float64), weights).astype(np.float32)
        np.testing.assert_array_equal(merged, dense[f"{layer}.weight"])


def load_base(folder: Path) -> dict[str, np.ndarray]:
    card, model = read_card(folder), ConstantsOf(folder)
    assert card.base is not None
    return {name: np.array(model[constant]) for name, constant in card.base.constants.items()}


@pytest.mark.representative
def test_a_newer_one_takes_its_place_and_an_older_one_does_not(shipped: Path, out: Path) -> None:
    apply(shipped / "one", shipped / "base", out)
    apply(shipped / "two", shipped / "base", out)
    before = hashes(out)
    with pytest.raises(InputError, match="must be newer"):
        apply(shipped / "one", shipped / "base", out)
    assert hashes(out) == before
    # The same again, as after a lost answer.
    again = apply(shipped / "two", shipped / "base", out)
    assert (again.sequence, again.ok) == (2, True)
    assert again.summary.startswith("it was installed already")
    assert hashes(out) == before


def test_another_update_of_the_same_number_does_not_take_its_place(shipped: Path, out: Path, tmp_path: Path) -> None:
    """Two servers have counted alike: which of the two is newer nobody knows."""
    apply(shipped / "one", shipped / "base", out)
    before = hashes(out)
    other = repacked(shipped / "one", tmp_path / "other", said(dense_digest="0" * 64))
    with pytest.raises(InputError, match="must be newer") as raised:
        apply(other, shipped / "base", out)
    assert raised.value.found == f"sequence 1, {out} has 1"
    assert hashes(out) == before
    assert not out.with_name("model.previous").exists()


@pytest.mark.representative
def test_two_models_are_on_a_device_however_many_updates_there_were(shipped: Path, out: Path, tmp_path: Path) -> None:
    for sequence in (3, 5, 9):
        apply(repacked(shipped / "one", tmp_path / "next", said(sequence=sequence)), shipped / "base", out)
    assert sorted(path.name for path in out.parent.iterdir()) == ["model", "model.previous"]
    found = [read_card(folder).update for folder in (out, out.with_name("model.previous"))]
    assert [one and one.sequence for one in found] == [9, 5]


def test_an_update_is_judged_by_the_margin_of_its_run(shipped: Path, out: Path, tmp_path: Path) -> None:
    """Of 64 images none is lost: that proves five points (0.95^64 < 0.05), and not the usual two."""
    update = repacked(shipped / "one", tmp_path / "update", said(max_drop=0.05))
    report = apply(update, shipped / "base", out)
    assert (report.verdict, report.exact) == ("proved", True)
    again = apply(update, shipped / "base", out)  # it is there already
    assert (again.verdict, again.sequence, again.layers, again.labels) == ("proved", 1, 0, 4)
    assert again.bytes_shipped == update.stat().st_size
    assert again.max_abs == report.max_abs


@pytest.mark.representative
def test_a_damaged_model_is_replaced_and_not_kept(shipped: Path, out: Path) -> None:
    apply(shipped / "one", shipped / "base", out)
    apply(shipped / "two", shipped / "base", out)
    whole, before = hashes(out), hashes(out.with_name("model.previous"))
    (out / "model.bin").write_bytes(b"torn")
    apply(shipped / "two", shipped / "base", out)
    assert hashes(out) == whole
    assert hashes(out.with_name("model.previous")) == before
    shutil.rmtree(out)
    assert rollback(out).sequence == 1
    assert hashes(out) == before
    assert not out.with_name("model.previous").exists()


def test_the_way_back_to_a_damaged_model_is_refused(shipped: Path, out: Path) -> None:
    for name in ("one", "two"):
        apply(shipped / name, shipped / "base", out)
    before = hashes(out)
    (out.with_name("model.previous") / "model.xml").write_text("torn")
    with pytest.raises(ExportError, match="changed since ftx wrote it"):
        rollback(out)
    assert hashes(out) == before


def test_a_model_in_another_precision_is_not_replaced(shipped: Path, whole_run: Path, out: Path) -> None:
    shutil.copytree(whole_run / "openvino" / "int8", out)
    with pytest.raises(InputError, match="in the precision of the base"):
        apply(shipped / "one", shipped / "base", out)


@pytest.mark.representative
def test_there_is_a_way_back_and_forward_again(shipped: Path, out: Path) -> None:
    apply(shipped / "one", shipped / "base", out)
    first = hashes(out)
    with pytest.raises(RunError, match="needs a model before"):
        rollback(out)
    apply(shipped / "two", shipped / "base", out)
    second = hashes(out)
    assert rollback(out).sequence == 1
    assert hashes(out) == first
    assert rollback(out).sequence == 2
    assert hashes(out) == second
    rollback(out)
    assert apply(shipped / "two", shipped / "base", out).sequence == 2


@pytest.fixture(scope="module")
def other_labels(whole_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the same base on other classes, three instead of four."""
    root = tmp_path_factory.mktemp("other")
    for name in ("amber", "blue", "red"):
        shutil.copytree(whole_run.parents[1] / "data" / "train" / name, root / "data" / f"very {name}")
    known = Run.open(whole_run).recipe()
    recipe = Recipe().with_overrides(
        [
            f"data.path={root / 'data'}",
            "data.image_size=32",
            f"model.name={known.model.name}",
            "model.weights=none",
            "model.peft=lora",
            "adapter.blocks=all",
            "train.epochs=1",
            "train.precision=f32",
        ]
    )
    train(recipe, out=root / "run")
    run = Run.open(root / "run")
    merge(run)
    return run


def test_a_new_number_of_classes(other_labels: Run, shipped: Path, out: Path, tmp_path: Path) -> None:
    export_update(other_labels, tmp_path / "update", shipped / "base")
    report = apply(tmp_path / "update", shipped / "base", out)
    assert report.exact
    assert report.labels == 3
    device, server = load(out, compute="f32"), load(other_labels.path / "dense")
    assert device.task.labels.names == server.task.labels.names == ("very amber", "very blue", "very red")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    # f32 rounding of a network of six blocks.
    np.testing.assert_allclose(device.logits(pixels), server.logits(pixels), rtol=0, atol=1e-4)
    model = ov.Core().read_model(out / "model.xml")
    assert model.get_rt_info(["model_info", "labels"]).value == "very_amber very_blue very_red"


@pytest.mark.slow
def test_an_adapter_of_peft_with_a_bias_in_its_head(shipped: Path, whole_run: Path, out: Path, tmp_path: Path) -> None:
    """peft's own merge is the oracle; nobody says what the trained model answers, so nothing is proved."""
    base = load_file(whole_run / "dense" / "model.safetensors")
    for name, tensor in load_base(shipped / "base").items():
        base[name] = tensor.reshape(base[name].shape)
    network = timm.create_model("test_vit", num_classes=4, img_size=32)
    network.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in base.items()})
    config = peft.LoraConfig(r=3, lora_alpha=5, use_dora=True, target_modules=["fc1"], modules_to_save=["head"])
    adapted = peft.get_peft_model(network, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.normal_(std=0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    report = apply(tmp_path / "adapter", shipped / "base", out)
    assert (report.exact, report.max_abs, report.verdict) == (None, None, "unproved")
    assert "without the trained model's logits" in report.summary
    merged = adapted.merge_and_unload().eval()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    images = torch.from_numpy((pixels.transpose(0, 3, 1, 2) / np.float32(255) - 0.5) / 0.5).float()
    with torch.no_grad():
        expected = merged(images).numpy()
    # f32 rounding of a network of six blocks, and of peft's merge, which is done in f32.
    np.testing.assert_allclose(OpenVinoPredictor(out, "f32").logits(pixels), expected, rtol=0, atol=1e-4)
    cut_head(tmp_path / "adapter")
    with pytest.raises(InputError, match="--labels must name each output"):
        apply(tmp_path / "adapter", shipped / "base", out)
    named = apply(tmp_path / "adapter", shipped / "base", out, labels=["u", "v"])
    assert named.labels == 2
    assert load(out).task.labels.names == ("u", "v")


@pytest.mark.representative
def test_of_a_plain_adapter_nobody_knows_the_trained_models_answers(whole_run: Path, shipped: Path, out: Path) -> None:
    adapter = whole_run / "trained"
    report = apply(adapter, shipped / "base", out)
    assert (report.exact, report.max_abs, report.weight_bound, report.sequence) == (None, None, None, None)
    assert report.verdict == "unproved"
    assert (report.layers, report.labels) == (len(read_peft_file(adapter).layers()), 4)
    assert report.bytes_shipped == sum(path.stat().st_size for path in adapter.iterdir())
    assert (report.path, report.base) == (str(out), str(shipped / "base"))
    # It is told from another by its own answers.
    reference = load_file(out / REFERENCE_FILE)
    assert len(reference["logits"]) == len(reference["images"]) == 64
    np.testing.assert_array_equal(reference["logits"], OpenVinoPredictor(out, "f32").logits(reference["images"]))
    held = read_card(out).update
    assert held is not None
    assert (held.sequence, held.base_ir) == (None, ir_digest(shipped / "base"))
    assert held.update == sha256_file(adapter / "adapter_model.safetensors")
    # And an update of any number may follow.
    assert apply(shipped / "one", shipped / "base", out).sequence == 1
    assert rollback(out).sequence is None


def test_labels_are_those_that_are_named_also_if_they_are_as_many(whole_run: Path, shipped: Path, out: Path) -> None:
    named = ["u", "v", "w", "x"]
    assert apply(whole_run / "trained", shipped / "base", out, labels=named).labels == 4
    assert load(out).task.labels.names == tuple(named)
    info = ov.Core().read_model(out / "model.xml").get_rt_info(["model_info", "labels"])
    assert info.value == "u v w x"
    with pytest.raises(InputError, match="--labels must name each output") as raised:
        apply(whole_run / "trained", shipped / "base", out, labels=named[:3])
    assert raised.value.found == "4 outputs, 3 labels"
    with pytest.raises(InputError, match="--labels must not be given for an update"):
        apply(shipped / "one", shipped / "base", out, labels=named)


def configured(whole_run: Path, target: Path, own: dict[str, object] | None) -> Path:
    """The run's adapter as a folder, with other keys of ours in its config, or none."""
    shutil.copytree(whole_run / "trained", target)
    path = target / "adapter_config.json"
    document = json.loads(path.read_text())
    document = {**document, "ftx": document["ftx"] | own} if own is not None else document
    if own is None:
        del document["ftx"]
    path.write_text(json.dumps(document))
    return target


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ({"base_digest": "0" * 64}, "on this base"),
        ({"keep_tokens": {"2": 0.5}}, "the same token dropping as the base"),
    ],
    ids=["base", "tokens"],
)
def test_a_plain_adapter_of_another_network_is_refused(
    own: dict[str, object], named: str, whole_run: Path, shipped: Path, out: Path, tmp_path: Path
) -> None:
    with pytest.raises(AdapterError, match=named):
        apply(configured(whole_run, tmp_path / "adapter", own), shipped / "base", out)
    assert not out.exists()
    apply(configured(whole_run, tmp_path / "peft's", None), shipped / "base", out)  # which says nothing of its base


def grouped(base: Path, target: Path, groups: tuple[str, ...]) -> Path:
    """The same base, its reference images of these groups, as of patients."""
    shutil.copytree(base, target)
    tensors = load_file(base / REFERENCE_FILE)
    images, logits, targets = (tensors[name] for name in ("images", "logits", "targets"))
    write_reference(ReferenceFile(reference_names(base)[0], images, logits, targets, groups), target)
    write_card(target, read_card(base))
    return target


@pytest.mark.representative
def test_images_of_one_patient_stay_of_one_patient(whole_run: Path, shipped: Path, out: Path, tmp_path: Path) -> None:
    names, none = reference_names(shipped / "base")
    assert none == ()
    groups = tuple(f"patient {number // 8}" for number in range(64))
    base = grouped(shipped / "base", tmp_path / "base", groups)
    update = repacked(shipped / "one", tmp_path / "update", said(base_ir_digest=ir_digest(base)))
    for adapter in (whole_run / "trained", update):
        apply(adapter, base, out)
        assert reference_names(out) == (names, groups)
        kept, given = (load_file(folder / REFERENCE_FILE) for folder in (out, base))
        np.testing.assert_array_equal(kept["images"], given["images"])
    # An update brings the truth that its server knows, in the order of the base's images.
    np.testing.assert_array_equal(kept["targets"], given["targets"])
    assert kept["targets"].any()


def test_what_an_update_says_of_its_labels_is_what_the_device_decides_by(
    shipped: Path, out: Path, tmp_path: Path
) -> None:
    document = json.loads(read_file(shipped / "one", "update.json"))
    names = document["labels"]["names"]
    labels = {"names": names, "groups": [], "singles": names, "parents": {}}
    thresholds = {"labels": {names[1]: 0.125, names[3]: 0.875}, "shared": 0.75}
    change = said(task="multilabel", labels=labels, thresholds=thresholds)
    apply(repacked(shipped / "one", tmp_path / "update", change), shipped / "base", out)
    card = read_card(out)
    assert (card.task, card.labels.singles) == ("multilabel", tuple(names))
    assert (dict(card.thresholds.labels), card.thresholds.shared) == (thresholds["labels"], 0.75)
    assert card.dense_digest == document["dense_digest"]
    info = ov.Core().read_model(out / "model.xml").get_rt_info(["model_info", "confidence_threshold"])
    assert info.value == "0.75"


def read_file(update: Path, name: str) -> bytes:
    with zipfile.ZipFile(update) as archive:
        return archive.read(name)


def scaled_first(whole_run: Path, target: Path) -> tuple[Path, str]:
    """The run's adapter as a folder, its first layer scaled up; and the layer."""
    first = next(iter(read_peft_file(whole_run / "trained").layers()))

    def scaled(tensors: dict[str, np.ndarray]) -> None:
        (name,) = (name for name in tensors if first in name and "magnitude" in name)
        tensors[name] *= 1000

    return plain(whole_run, target, scaled), first


def test_a_model_of_rounded_weights_carries_no_proof_of_the_servers(
    validated_run: Path, shipped: Path, half: Path, out: Path, tmp_path: Path
) -> None:
    export_update(validated_run, tmp_path / "update", shipped / "base")
    update, files = read_update(tmp_path / "update")
    assert PROOF_FILE in files
    write_update(tmp_path / "one", update.model_copy(update={"base_ir_digest": ir_digest(half)}), files)
    assert apply(tmp_path / "one", half, out).exact is False
    assert read_proof(out).run is None


@pytest.mark.representative
def test_a_model_that_answers_otherwise_than_the_servers_is_not_kept(
    whole_run: Path, shipped: Path, half: Path, out: Path, tmp_path: Path
) -> None:
    """From float16 no hash is the server's: its answers alone tell that the weights are others."""
    update, files = read_update(shipped / "one")
    update = update.model_copy(update={"base_ir_digest": ir_digest(half)})
    write_update(tmp_path / "one", update, files)
    report = apply(tmp_path / "one", half, out)
    assert report.exact is False
    assert report.weight_bound is not None
    assert report.max_abs is not None
    assert (report.verdict, report.sequence) == ("unproved", 1)
    before = hashes(out)
    adapter, _ = scaled_first(whole_run, tmp_path / "adapter")
    files |= {name: (adapter / name).read_bytes() for name in files if name.startswith("adapter")}
    write_update(tmp_path / "two", update.model_copy(update={"sequence": 2}), files)
    with pytest.raises(GateFailed, match="predicts differently from the trained one"):
        apply(tmp_path / "two", half, out)
    assert hashes(out) == before
    assert [path.name for path in out.parent.iterdir()] == ["model"]


def test_from_float16_no_weight_is_further_off_than_is_said(
    whole_run: Path, shipped: Path, half: Path, out: Path, tmp_path: Path
) -> None:
    """Of the layer that is off most, which is not the last."""
    adapter, first = scaled_first(whole_run, tmp_path / "adapter")
    report = apply(adapter, half, out)
    assert (report.exact, report.verdict) == (None, "unproved")
    assert report.weight_bound is not None
    assert read_card(out).precision == "fp16"
    assert (out / "model.bin").stat().st_size == (half / "model.bin").stat().st_size
    base, card, model = load_base(shipped / "base"), read_card(half).base, ConstantsOf(out)
    assert card is not None
    off: dict[str, float] = {}
    for layer, weights in read_peft_file(adapter).layers().items():
        expected = merged_weight(base[f"{layer}.weight"].astype(np.float64), weights)
        made = np.array(model[card.constants[f"{layer}.weight"]], np.float64).reshape(expected.shape)
        off[layer] = float(np.abs(made - expected).max())
    *others, last = sorted(off, key=off.__getitem__, reverse=True)
    assert others[0] == first
    assert off[first] > 100 * off[last]
    # By the worst of all roundings, and a norm that moves: some ten times what happens.
    assert off[first] <= report.weight_bound < 100 * off[first]


def test_from_float16_the_bound_counts_what_the_merge_is_rounded_by(
    whole_run: Path, half: Path, tmp_path: Path
) -> None:
    """LoRA that is much larger than the weights: what is rounded before the merge is next to nothing."""

    def large_lora(tensors: dict[str, np.ndarray]) -> None:
        for name in [*tensors]:
            if "magnitude" in name:
                del tensors[name]
            elif "lora_B" in name:
                tensors[name] *= 100

    adapter = plain(whole_run, tmp_path / "adapter", large_lora)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"use_dora": False}))
    card, before, after = read_card(half), ConstantsOf(half), ConstantsOf(half)
    assert card.base is not None
    merged = merge_into(after, read_adapter(adapter, card, tmp_path / "scratch", ()), card.base, SILENT)
    off = 0.0
    for layer, weights in read_peft_file(adapter).layers().items():
        constant = card.base.constants[f"{layer}.weight"]
        weight_OI = np.array(before[constant], np.float64).reshape(len(weights.lora_B_OR), -1)
        expected_OI = merged_weight(weight_OI, weights)
        made_OI = np.array(after[constant], np.float64).reshape(expected_OI.shape)
        off = max(off, float(np.abs(made_OI - expected_OI).max()))
    assert merged.weight_bound is not None
    assert 0 < off <= merged.weight_bound < 10 * off


def test_the_disk_that_the_model_goes_to_is_the_one_that_must_have_room(
    shipped: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full: list[Path] = []
    statvfs = os.statvfs

    def other_disks(path: Path) -> os.statvfs_result:
        found = list(statvfs(path))
        if any(Path(path).is_relative_to(one) for one in full):
            found[4] = 0  # f_bavail
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", other_disks)
    out.parent.mkdir()
    full[:] = [out.parent]
    with pytest.raises(EnvironmentFault, match="the disk is too full"):
        apply(shipped / "one", shipped / "base", out)
    full[:] = [shipped]
    assert apply(shipped / "one", shipped / "base", out).exact


def cut_head(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    cut = {name: tensor[:2] if ".head." in name else tensor for name, tensor in tensors.items()}
    save_file(cut, path, metadata={"format": "pt"})


@pytest.mark.slow
def test_from_float16_the_bound_holds(whole_run: Path, shipped: Path, out: Path, tmp_path: Path) -> None:
    export_base(whole_run, tmp_path / "half", precision="fp16")
    export_update(whole_run, tmp_path / "update", tmp_path / "half")
    report = apply(tmp_path / "update", tmp_path / "half", out)
    assert report.exact is False
    assert report.weight_bound is not None
    dense, model = load_file(whole_run / "dense" / "model.safetensors"), ConstantsOf(out)
    base = read_card(tmp_path / "half").base
    assert base is not None
    merged = {f"{layer}.weight" for layer in read_peft_file(whole_run / "trained").layers()}
    off = max(
        float(np.abs(np.array(model[constant], np.float64).reshape(dense[name].shape) - dense[name]).max())
        for name, constant in base.constants.items()
        if name in merged
    )
    assert 0 < off <= report.weight_bound < 100 * off


def repacked(update: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(update) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target


def said(**changes: object) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        files["update.json"] = json.dumps(json.loads(files["update.json"]) | changes).encode()

    return change


def counted(change: Callable[[dict[str, str]], object]) -> Callable[[dict[str, bytes]], None]:
    """What the server counts on: a tensor that the adapter does not bring, or one less."""

    def changed(files: dict[str, bytes]) -> None:
        document = json.loads(files["update.json"])
        change(document["tensors"])
        files["update.json"] = json.dumps(document).encode()

    return changed


def altered(files: dict[str, bytes]) -> None:
    blob = bytearray(files["adapter_model.safetensors"])
    blob[-5] ^= 1
    files["adapter_model.safetensors"] = bytes(blob)


def without_answers(files: dict[str, bytes]) -> None:
    """Nor does it say that there are any."""
    files.pop("answers.safetensors")
    document = json.loads(files["update.json"])
    del document["files"]["answers.safetensors"]
    files["update.json"] = json.dumps(document).encode()


def a_file_less(files: dict[str, bytes]) -> None:
    files.pop("adapter_config.json")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (said(base_digest="0" * 64), "on this base"),
        (said(base_ir_digest="0" * 64), "made for this base IR"),
        (said(image_size=48), "must have the image size of the base"),
        (said(schema=9), "must have schema version"),
        (said(sequence=0), "is invalid"),
        (said(tensors={"head.weight": "0" * 64}), "differ from those of the server"),
        (
            counted(lambda tensors: tensors.update({"blocks.9.attn.qkv.weight": "0" * 64})),
            "differ from those of the server",
        ),
        (counted(lambda tensors: tensors.pop("head.bias")), "differ from those of the server"),
        (counted(lambda tensors: tensors.update({"head.bias": "0" * 64})), "differ from those of the server"),
        (altered, "changed since ftx wrote it"),
        (without_answers, "must be an update"),
        (a_file_less, "changed since ftx wrote it"),
        (lambda files: files.pop("update.json"), "must be an update"),
    ],
    ids=[
        "base",
        "base IR",
        "size",
        "schema",
        "sequence",
        "tensors",
        "a tensor more",
        "a tensor less",
        "another bias",
        "altered",
        "no answers",
        "a file less",
        "no update.json",
    ],
)
def test_a_wrong_update_is_refused_and_the_old_model_goes_on(
    shipped: Path, out: Path, tmp_path: Path, change: Any, named: str
) -> None:
    apply(shipped / "one", shipped / "base", out)
    before = hashes(out)
    with pytest.raises(FtxError, match=named) as raised:
        apply(repacked(shipped / "two", tmp_path / "wrong", change), shipped / "base", out)
    assert raised.value.exit_code in (1, 2)
    assert hashes(out) == before
    assert sorted(path.name for path in out.parent.iterdir()) == ["model"]


def test_a_file_that_is_cut_anywhere_is_refused(shipped: Path, out: Path, tmp_path: Path) -> None:
    whole = (shipped / "one").read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9, 0.999):
        (tmp_path / "cut").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ExportError, match="cannot be read"):
            apply(tmp_path / "cut", shipped / "base", out)
    assert not out.exists()


def plain(whole_run: Path, target: Path, change: Callable[[dict[str, np.ndarray]], None]) -> Path:
    """The run's adapter as a folder, its tensors changed."""
    shutil.copytree(whole_run / "trained", target)
    tensors = load_file(target / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, target / "adapter_model.safetensors", metadata={"format": "pt"})
    return target


def not_finite(tensors: dict[str, np.ndarray]) -> None:
    tensors[next(iter(tensors))].reshape(-1)[0] = np.nan


def headless(tensors: dict[str, np.ndarray]) -> None:
    for name in [name for name in tensors if ".head." in name]:
        del tensors[name]


@pytest.mark.parametrize(
    ("change", "named"), [(not_finite, "must be finite"), (headless, "no head")], ids=["not finite", "no head"]
)
def test_a_wrong_folder_is_refused(
    whole_run: Path, shipped: Path, out: Path, tmp_path: Path, change: Any, named: str
) -> None:
    with pytest.raises(AdapterError, match=named):
        apply(plain(whole_run, tmp_path / "adapter", change), shipped / "base", out)
    assert not out.exists()


def test_layers_that_the_ir_lacks_are_named(whole_run: Path, shipped: Path, out: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(shipped / "base", tmp_path / "base"))
    document = json.loads((base / CARD_FILE).read_text())
    lacking = next(name for name in document["base"]["constants"] if name.endswith("fc1.weight"))
    del document["base"]["constants"][lacking]
    (base / CARD_FILE).write_text(json.dumps(document))
    with pytest.raises(AdapterError, match="must change only layers that the base has") as raised:
        apply(whole_run / "trained", base, out)
    assert lacking.removesuffix(".weight") in str(raised.value)


@pytest.mark.parametrize("name", ["openvino/int8", "openvino/fp32", "dense"])
def test_what_is_no_base_is_refused_with_what_to_do(whole_run: Path, shipped: Path, out: Path, name: str) -> None:
    with pytest.raises(ExportError) as raised:
        apply(shipped / "one", whole_run / name, out)
    assert "ftx export" in (raised.value.fix or "")


def test_a_base_is_no_model_to_predict_with(shipped: Path) -> None:
    with pytest.raises(ExportError, match="its head is untrained"):
        load(shipped / "base")


def test_nothing_else_is_written_over(shipped: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="must be a new folder or a model"):
        apply(shipped / "one", shipped / "base", tmp_path / "mine")
    base = Path(shutil.copytree(shipped / "base", tmp_path / "base"))
    with pytest.raises(InputError, match="must not be a base"):
        apply(shipped / "one", base, base)


@pytest.mark.slow
def test_two_bases_and_two_updates_are_the_same_bytes(whole_run: Path, shipped: Path, tmp_path: Path) -> None:
    export_base(whole_run, tmp_path / "base")
    assert hashes(tmp_path / "base") == hashes(shipped / "base")
    export_update(whole_run, tmp_path / "one", shipped / "base")
    assert (tmp_path / "one").read_bytes() == (shipped / "one").read_bytes()


def test_what_is_no_adapter_has_no_base_and_no_update(whole_run: Path, shipped: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole_run, tmp_path / "run", symlinks=True))
    manifest = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(manifest | {"method": "linear"}))
    for refused in (
        lambda: export_base(run, tmp_path / "base"),
        lambda: export_update(run, tmp_path / "update", shipped / "base"),
    ):
        with pytest.raises(InputError, match="need a run that trained an adapter"):
            refused()
    assert list(tmp_path.iterdir()) == [run]


def test_a_server_refuses_a_base_that_is_not_the_runs(
    whole_run: Path, other_labels: Run, shipped: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(shipped / "base", tmp_path / "base"))
    document = json.loads((base / CARD_FILE).read_text())
    document["base"]["base_digest"] = "0" * 64
    (base / CARD_FILE).write_text(json.dumps(document))
    with pytest.raises(ExportError, match="the base that the run was trained on"):
        export_update(whole_run, tmp_path / "update", base)
    with pytest.raises(ExportError, match="must be a folder that `ftx export --base` wrote"):
        export_update(whole_run, tmp_path / "update", whole_run / FP32)
    assert not (tmp_path / "update").exists()


@pytest.mark.parametrize(
    ("precision", "why"),
    [
        ("int8", "8 bits"),
        ("int8-weights", "8 bits"),
        ("int8-overflow-safe", "8 bits"),
        ("fp32", "no map of its weights"),
        ("fp16", "no map of its weights"),
    ],
)
def test_a_model_that_is_no_base_is_refused_with_the_reason(
    whole_run: Path, shipped: Path, out: Path, tmp_path: Path, precision: str, why: str
) -> None:
    model = Path(shutil.copytree(whole_run / FP32, tmp_path / "model"))
    write_card(model, read_card(model).model_copy(update={"precision": precision}))
    with pytest.raises(ExportError, match="must be a base that adapters can be merged into") as caught:
        apply(shipped / "one", model, out)
    assert why in str(caught.value.found)


def test_a_device_needs_no_torch(shipped: Path, out: Path) -> None:
    code = """
import sys
for name in ("torch", "timm", "nncf", "onnx", "onnxruntime", "torchvision"):
    sys.modules[name] = None
from ftx.cli.app import run
sys.exit(run(["apply", *sys.argv[1:], "--json"]))
"""
    words = [shipped / "one", shipped / "base", out]
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["exact"] is True


@pytest.mark.representative
def test_a_disk_that_fills_leaves_the_old_model(shipped: Path, out: Path) -> None:
    apply(shipped / "one", shipped / "base", out)
    before = hashes(out)
    code = """
import resource, signal, sys
from pathlib import Path
from ftx.updating.apply import apply
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    apply(*map(Path, sys.argv[1:]))
except Exception as error:
    print(type(error).__name__)
"""
    words = [shipped / "two", shipped / "base", out]
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.stdout == f"{EnvironmentFault.__name__}\n", done.stderr
    assert hashes(out) == before
    apply(shipped / "two", shipped / "base", out)
    assert sorted(path.name for path in out.parent.iterdir()) == ["model", "model.previous"]


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_one_of_the_two_models(shipped: Path, out: Path) -> None:
    """``python -m tests.benchmarks.apply_kills`` does it a hundred times."""
    apply(shipped / "one", shipped / "base", out)
    one = hashes(out)
    apply(shipped / "two", shipped / "base", out)
    two = hashes(out)
    rollback(out)
    words = [sys.executable, "-m", "ftx", "apply", *map(str, (shipped / "two", shipped / "base", out))]
    started = time.monotonic()
    subprocess.run(words, check=True, capture_output=True)
    whole_s = time.monotonic() - started
    rollback(out)
    chance = random.Random(0)
    for _ in range(6):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.5, 1.0) * whole_s)
        process.kill()
        process.wait()
        now = hashes(out)
        assert now in (one, two)
        if now == two:
            rollback(out)
    assert hashes(out) in (one, two)
