"""int8-checked: doubtful images get the float model's outputs, all others int8's, in their order."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import openvino
import pyarrow.parquet
import pytest
from openvino import opset13 as op
from PIL import Image
from tests.conftest import ColourModel, Listener, calibrate, colour_logits, colour_pixels, write_colour_ir
from tests.effects.lab import call
from tests.serving.conftest import running

from ftx.core.errors import EnvironmentFault, ExportError
from ftx.data.image_store import EncodedImage
from ftx.evaluating import validate
from ftx.evaluating.bench_process import batches_of
from ftx.evaluating.certify import certify, is_certified
from ftx.runs.card_json import CERTIFICATE_FILE, Card, read_card, write_card
from ftx.runs.certificate import Certificate
from ftx.runs.certificate_json import keep_certificates, read_certificates
from ftx.runs.compute_precision import ComputePrecision, Dtype
from ftx.runs.machine import cpu_flags, sets_of, this_machine, this_set
from ftx.runs.proof_json import read_proof
from ftx.runtimes import checked_network, load
from ftx.runtimes.openvino import OpenVinoPredictor, default_compute
from ftx.serving.registry import ModelSource

SIZES = [(16, 16), (16, 16), (24, 40), (16, 16)]


def coarse(logits_NC: np.ndarray) -> np.ndarray:
    """What stands for int8: logits rounded to halves, so that the best label is often another."""
    return np.round(logits_NC * 2) / 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The model of colours as the float model, and next to it the same with coarse logits; not certified."""
    made = tmp_path / "int8-checked"
    made.mkdir()
    write_colour_ir(made)
    model = openvino.Core().read_model(made / "model.xml", config={"ENABLE_MMAP": False})
    for ending in ("xml", "bin"):
        (made / f"model.{ending}").rename(made / f"float.{ending}")
    result = model.get_results()[0]
    exact = result.input(0).get_source_output()
    rounded = op.divide(op.round(op.multiply(exact, np.float32(2))), np.float32(2))
    result.input(0).replace_source_output(rounded.output(0))
    rounded.output(0).set_names({"logits"})
    model.validate_nodes_and_infer_types()
    openvino.save_model(model, made / "model.xml", compress_to_fp16=False)
    card = json.loads((made / "card.json").read_text())
    write_card(made, Card.model_validate(card | {"precision": "int8-checked"}))
    return made


def shades(count: int) -> list[np.ndarray]:
    """Images of several sizes in which two colours are nearly as strong."""
    rng = np.random.default_rng(3)
    found: list[np.ndarray] = []
    for number in range(count):
        pixels = colour_pixels(number % 3, *SIZES[number % 4], number).astype(int)
        pixels[..., (number + 1) % 3] += int(rng.integers(40, 100))
        found.append(np.clip(pixels, 0, 255).astype(np.uint8))
    return found


def certified(folder: Path, bound: float, **changed: object) -> OpenVinoPredictor:
    """The model opened with a certificate of this bound for how it runs here."""
    plain = OpenVinoPredictor(folder, part="int8")
    known = Certificate(
        machine=this_machine(),
        isa=this_set(),
        compute=plain.compute,
        kernels="batch",
        source="val",
        images=299,
        bound=bound,
        changed=6,
        twice=30,
        time_vs_fp32=0.5,
    )
    keep_certificates(folder, [known.model_copy(update=changed)])
    return OpenVinoPredictor(folder)


def png(pixels: np.ndarray) -> bytes:
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, format="PNG")
    return written.getvalue()


def encoded(pixels: np.ndarray) -> EncodedImage:
    return EncodedImage.of(png(pixels))


def logits_of(predictor: OpenVinoPredictor, images: list[np.ndarray]) -> np.ndarray:
    return np.stack([row for row in predictor.logits_from_files(map(encoded, images)) if isinstance(row, np.ndarray)])


def margin(logits_C: np.ndarray) -> float:
    second, first = np.sort(logits_C)[-2:]
    return float(first - second)


def test_images_within_the_bound_get_the_logits_of_the_float_model(folder: Path) -> None:
    images = shades(40)
    predictor = certified(folder, 0.5)
    found = list(predictor.ran_from_files(map(encoded, images)))
    ran: list[str | None] = []
    for pixels, one in zip(images, found, strict=True):
        assert not isinstance(one, Exception)
        exact_C = colour_logits(pixels[None])[0]
        doubtful = margin(coarse(exact_C)) <= 0.5
        np.testing.assert_allclose(one[0], exact_C if doubtful else coarse(exact_C), atol=1e-4)
        assert one[1] == ("fp32" if doubtful else "int8")
        ran.append(one[1])
    assert 10 < ran.count("fp32") < 30
    assert predictor.checked is not None
    assert (predictor.checked.images, predictor.checked.twice) == (40, ran.count("fp32"))
    np.testing.assert_array_equal(
        logits_of(predictor, images), np.stack([one[0] for one in found if not isinstance(one, Exception)])
    )


def test_where_bf16_takes_less_time_it_runs_first(folder: Path) -> None:
    images = shades(40)
    # Of the two the one that takes less time, and of its own bound, not of int8's.
    certified(folder, 0.1, time_vs_fp32=0.6)
    predictor = certified(folder, 0.5, quick="bf16")
    assert (predictor.quick, predictor.checked and predictor.checked.bound) == ("bf16", 0.5)
    ran: list[str | None] = []
    for pixels, one in zip(images, predictor.ran_from_files(map(encoded, images)), strict=True):
        assert not isinstance(one, Exception)
        exact_C = colour_logits(pixels[None])[0]
        # Not the logits of int8, which are rounded to halves.
        np.testing.assert_allclose(one[0], exact_C, atol=0.05)
        if abs(margin(exact_C) - 0.5) > 0.05:  # bf16 has three digits
            assert one[1] == ("fp32" if margin(exact_C) <= 0.5 else "bf16")
        ran.append(one[1])
    assert 10 < ran.count("fp32") < 30
    assert OpenVinoPredictor(folder, "f32").quick == "int8"
    assert certified(folder, 0.5, quick="bf16", time_vs_fp32=0.7).quick == "int8"
    # int8 with the kernels for single images counts only where it would run with them.
    certified(folder, 0.1, kernels="single", time_vs_fp32=0.4)
    certified(folder, 0.5, quick="bf16")
    assert [OpenVinoPredictor(folder, kernels=one).quick for one in ("batch", "single")] == ["bf16", "int8"]


def test_where_the_cpu_computes_in_bf16_that_is_certified_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [encoded(one) for one in shades(30)]
    cases: list[tuple[Dtype, list[str]]] = [("f32", ["int8"]), ("bf16", ["int8", "bf16"])]
    found: list[Certificate] = []
    for dtype, quick in cases:
        chosen = ComputePrecision(dtype, chosen_by_runtime=True)
        monkeypatch.setattr("ftx.evaluating.certify.default_compute", lambda chosen=chosen: chosen)
        found = certify(folder, images, "val")
        assert [one.quick for one in found] == quick
    int8, bf16 = found
    assert bf16.bound < 0.05 < int8.bound  # the float model's own logits, at most rounded
    assert bf16.changed < int8.changed
    keep_certificates(folder, found)
    assert is_certified(folder) == (default_compute().dtype == "bf16")


def test_with_only_avx2_one_certificate_is_enough(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a vision transformer in int8 has the kernels for single images also where it is opened for batches."""
    f32 = ComputePrecision("f32", chosen_by_runtime=True)
    monkeypatch.setattr("ftx.evaluating.certify.default_compute", lambda: f32)
    certified(folder, 0.5, kernels="batch", compute=f32, isa="avx512" if this_set() == "avx2" else "avx2")
    assert not is_certified(folder)
    certified(folder, 0.5, kernels="single", compute=f32)
    assert is_certified(folder)


def test_each_way_to_run_a_batch_checks_it(folder: Path) -> None:
    pixels_NHWC = np.stack([one for one in shades(40) if one.shape == (16, 16, 3)])
    predictor = certified(folder, 0.5)
    exact_NC = colour_logits(pixels_NHWC)
    doubtful_N = np.array([margin(row) <= 0.5 for row in coarse(exact_NC)])
    expected_NC = np.where(doubtful_N[:, None], exact_NC, coarse(exact_NC))
    outputs = predictor.request()(pixels_NHWC)
    np.testing.assert_array_equal(outputs["twice"], doubtful_N)
    np.testing.assert_allclose(outputs["logits"], expected_NC, atol=1e-4)
    np.testing.assert_allclose(predictor.logits(pixels_NHWC), expected_NC, atol=1e-4)
    ((logits_NC, took_ms),) = predictor.in_flight([pixels_NHWC])
    np.testing.assert_allclose(logits_NC, expected_NC, atol=1e-4)
    assert took_ms > 0
    assert predictor.logits(pixels_NHWC[:0]).shape == (0, 3)


def test_a_smaller_bound_is_less_work_and_none_is_all_of_it(folder: Path) -> None:
    images = [encoded(one) for one in shades(20)]

    def twice(predictor: OpenVinoPredictor) -> int:
        assert predictor.checked is not None
        assert len(list(predictor.logits_from_files(images))) == 20
        return predictor.checked.twice

    assert twice(OpenVinoPredictor(folder)) == 20  # no certificate
    ties = twice(certified(folder, 0.0))
    assert 0 < ties < twice(certified(folder, 0.5)) < twice(certified(folder, 1.0)) < 20


def test_for_another_way_to_run_the_largest_bound_counts_and_is_noted(folder: Path) -> None:
    certified(folder, 1.0, isa="avx2_vnni" if this_set() != "avx2_vnni" else "avx2")
    listener = Listener()
    predictor = load(folder, progress=listener)
    assert isinstance(predictor, OpenVinoPredictor)
    assert predictor.checked is not None
    assert (predictor.certificate, predictor.checked.bound) == (None, 1.0)
    own = certified(folder, 0.5)
    assert own.certificate is not None
    assert own.checked is not None
    assert own.checked.bound == own.certificate.bound == 0.5
    (folder / CERTIFICATE_FILE).unlink()
    certified(folder, 1.0, kernels="single")
    note = "int8-checked is not certified on this CPU and version of OpenVINO: "
    assert f"{note}it uses the largest bound of others" in listener.said
    (folder / CERTIFICATE_FILE).unlink()
    load(folder, progress=listener)
    assert f"{note}each image also runs in fp32" in listener.said


def test_each_of_its_two_models_opens_by_itself(folder: Path) -> None:
    pixels_NHWC = np.stack(shades(1))
    exact_NC = colour_logits(pixels_NHWC)
    for part, expected_NC in (("int8", coarse(exact_NC)), ("fp32", exact_NC)):
        predictor = OpenVinoPredictor(folder, part=part)  # pyright: ignore[reportArgumentType]
        assert predictor.checked is None
        np.testing.assert_allclose(predictor.logits(pixels_NHWC), expected_NC, atol=1e-4)


@pytest.mark.parametrize("spoil", ["altered", "missing", "unlisted"])
def test_the_float_model_is_checked_like_the_other_files(folder: Path, spoil: str) -> None:
    if spoil == "altered":
        (folder / "float.bin").write_bytes(b"1")
    elif spoil == "missing":
        (folder / "float.xml").unlink()
    else:
        card = json.loads((folder / "card.json").read_text())
        del card["files"]["float.bin"]
        (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ExportError) as caught:
        OpenVinoPredictor(folder)
    assert "float." in str(caught.value.where) + str(caught.value.found)


def test_the_bound_is_the_largest_movement_of_the_images(folder: Path) -> None:
    images = shades(30)
    found = certify(folder, [encoded(one) for one in images], "val")[0]
    exact_NC = np.concatenate([colour_logits(one[None]) for one in images])
    quick_NC = coarse(exact_NC)
    best_N1 = quick_NC.argmax(axis=1)[:, None]
    moved_NC = (quick_NC - exact_NC)[np.arange(30), best_N1[:, 0]][:, None] - (quick_NC - exact_NC)
    assert found.bound == pytest.approx(moved_NC.max(), abs=1e-4)
    assert 0.2 < found.bound < 0.5
    assert found.changed == (best_N1[:, 0] != exact_NC.argmax(axis=1)).sum() > 0
    assert found.twice == sum(margin(row) <= found.bound for row in quick_NC)
    assert (found.images, found.source, found.kernels) == (30, "val", "batch")
    assert found.machine == this_machine()
    # With it no label of these images differs.
    keep_certificates(folder, [found])
    logits_NC = logits_of(OpenVinoPredictor(folder), images)
    np.testing.assert_array_equal(logits_NC.argmax(axis=1), exact_NC.argmax(axis=1))
    assert read_certificates(folder).certificates == [found]


def test_a_device_certifies_itself_on_unlabelled_images(folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "photos"
    images.mkdir()
    for number, pixels in enumerate(shades(12)):
        Image.fromarray(pixels).save(images / f"{number}.png")
    shutil.copyfile(images / "0.png", images / "again.png")
    (images / "broken.png").write_bytes(b"")
    done = call("validate", str(folder), "--data", str(images))
    assert (done.status, "the image is empty" in done.err) == (2, True)
    (images / "broken.png").unlink()
    assert not is_certified(folder)
    done = call("validate", str(folder), "--data", str(images), "--json")
    assert done.status == 0, done.err
    found = json.loads(done.out)["certificates"][0]
    assert (found["images"], found["source"]) == (12, f"images in {images}")
    assert found["bound"] == certify(folder, [encoded(one) for one in shades(12)], "same")[0].bound
    assert is_certified(folder)
    printed = " ".join(call("validate", str(folder)).err.split())
    assert f"openvino/int8-checked on {this_set()}, int8, batch: " in printed
    done = call("validate", str(folder), "--data", str(tmp_path / "none"))
    assert done.status == 2


def test_enough_images_prove_a_device_without_labels_and_a_wrong_float_model_fails(
    folder: Path, tmp_path: Path
) -> None:
    def verdict(count: int) -> str:
        images = tmp_path / f"{count}"
        images.mkdir()
        for number, pixels in enumerate(shades(count)):
            Image.fromarray(pixels).save(images / f"{number}.png")
        done = call("validate", str(folder), "--data", str(images), "--json")
        return json.loads(done.out)["transfer"]["verdict"]

    assert verdict(148) == "unproved"  # 2.004 % of labels can differ, the margin is 2 %
    assert verdict(149) == "proved"
    printed = call("validate", str(folder)).err
    assert "verified, at most 2 % of labels differ from fp32's (95 % confidence, 149 images)" in " ".join(
        printed.split()
    )
    # A float model whose labels stay, but whose logits are off by a hundredth.
    model = openvino.Core().read_model(folder / "float.xml", config={"ENABLE_MMAP": False})
    result = model.get_results()[0]
    moved = op.add(result.input(0).get_source_output(), np.float32(0.01))
    result.input(0).replace_source_output(moved.output(0))
    moved.output(0).set_names({"logits"})
    model.validate_nodes_and_infer_types()
    openvino.save_model(model, folder / "float.xml", compress_to_fp16=False)
    write_card(folder, Card.model_validate_json((folder / "card.json").read_text()))
    assert verdict(150) == "failed"
    assert "its float model: a logit is off by 0.01" in call("validate", str(folder)).err


def test_the_certificate_of_another_machine_is_no_proof_here(folder: Path) -> None:
    enough = {"images": 2995, "changed": 60, "source": "val"}
    another = this_machine().model_copy(update={"cpu": "another"})
    certified(folder, 0.5, **enough, machine=another)
    assert validate(folder).verdicts == {"openvino/int8-checked": "unproved"}
    certified(folder, 0.5, **enough)
    assert validate(folder).verdicts == {"openvino/int8-checked": "proved"}


def test_what_cannot_be_kept_is_not_measured(
    folder: Path, colour_model: ColourModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftx.evaluating.certify.certify", pytest.fail)
    done = call("validate", str(folder), "--data", str(colour_model.images), "--device", "AUTO:CPU")
    assert (done.status, "--data calibrates the model for the CPU" in done.err) == (2, True)

    def read_only(path: Path) -> None:
        raise EnvironmentFault("the folder cannot be written", where=path)

    monkeypatch.setattr("ftx.evaluating.certify.check_writable", read_only)
    done = call("validate", str(folder), "--data", str(colour_model.images))
    assert (done.status, str(folder) in done.err) == (3, True)


def test_images_whose_patches_tie_run_in_float_and_bound_nothing(folder: Path) -> None:
    """The model keeps two of three patches, whose scores are the exponentials of its logits."""
    model = openvino.Core().read_model(folder / "model.xml", config={"ENABLE_MMAP": False})
    result = model.get_results()[0]
    logits = result.input(0).get_source_output()
    chosen = op.topk(op.exp(logits), op.constant(3), 1, "max", "value")
    kept = op.slice(chosen.output(1), [0], [2], [1], [1])
    unused = op.multiply(op.reduce_sum(op.convert(kept, "f32"), op.constant(1), keep_dims=True), np.float32(0))
    added = op.add(logits, unused)
    result.input(0).replace_source_output(added.output(0))
    added.output(0).set_names({"logits"})
    model.validate_nodes_and_infer_types()
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    card = json.loads((folder / "card.json").read_text())
    write_card(folder, Card.model_validate(card | {"keep_tokens": {"1": 0.6}}))

    colours_NC = np.random.default_rng(1).integers(60, 200, size=(30, 3), dtype=np.uint8)
    images = [np.broadcast_to(one_C, (16, 16, 3)) for one_C in colours_NC]
    exact_NC = np.concatenate([colour_logits(one[None]) for one in images])
    scores_NC = np.sort(coarse(exact_NC), axis=1)
    tied_N = scores_NC[:, 0] == scores_NC[:, 1]
    close_N = scores_NC[:, 2] == scores_NC[:, 1]
    assert tied_N.any()
    assert (tied_N & ~close_N).any()
    found = certify(folder, [encoded(one) for one in images], "val")[0]
    quick_NC = coarse(exact_NC)
    best_N, rows = quick_NC.argmax(axis=1), np.arange(30)
    moved_NC = (quick_NC - exact_NC)[rows, best_N][:, None] - (quick_NC - exact_NC)
    assert found.bound == pytest.approx(moved_NC[~tied_N].max(), abs=1e-4)
    margin_N = scores_NC[:, 2] - scores_NC[:, 1]
    assert found.twice == (tied_N | (margin_N <= found.bound)).sum()
    assert tied_N.sum() < found.twice < 30
    predictor = certified(folder, 0.0)
    ran = [one[1] for one in predictor.ran_from_files(map(encoded, images)) if isinstance(one, tuple)]
    assert ran == ["fp32" if doubtful else "int8" for doubtful in tied_N | close_N]


@pytest.mark.representative
def test_a_limited_process_certifies_its_own_instruction_set(folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "photos"
    images.mkdir()
    for number, pixels in enumerate(shades(149)):
        Image.fromarray(pixels).save(images / f"{number}.png")
    other = next(one for one in sets_of(cpu_flags()) if one != this_set())
    calibrate(folder, [0.5])
    calibrate(folder, [0.5], isa=other)
    calibrate(folder, [0.5], machine=this_machine().model_copy(update={"openvino": "2025.0"}))
    listener = Listener()
    report = validate(folder, data=images, isa=[other], progress=listener)
    assert [note for note in listener.said if note.startswith("prediction sets are unproved: ")]  # without labels
    # Sets that rest on another bound are not used.
    assert [one.machine.openvino for one in read_proof(folder).calibrations] == ["2025.0"]
    assert report.transfer is not None
    assert report.transfer.verdict == "proved"
    assert [(one.isa, one.verdict) for one in report.sets] == [(other, "proved")]
    assert {one.machine.openvino for one in report.certificates} == {this_machine().openvino}
    assert {one.isa for one in read_certificates(folder).certificates} == {this_set(), other}


def test_predictions_name_the_model_that_ran(folder: Path, tmp_path: Path) -> None:
    certified(folder, 0.5)
    for number, pixels in enumerate(shades(6)):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    copied = shutil.copytree(folder, tmp_path / "device" / "model")
    shutil.rmtree(folder)
    done = call("predict", *map(str, sorted(tmp_path.glob("*.png"))), "--artifact", str(copied), "--json")
    ran = [json.loads(line)["ran"] for line in done.out.splitlines()]
    expected = ["fp32" if margin(coarse(colour_logits(one[None])[0])) <= 0.5 else "int8" for one in shades(6)]
    assert ran == expected
    assert len(set(ran)) == 2
    done = call("predict", *map(str, sorted(tmp_path.glob("*.png"))), "--artifact", str(copied))
    assert f"{ran.count('fp32')} of 6 images also ran in fp32" in done.err + done.out


@pytest.mark.parametrize("quick", ["int8", "bf16"])
def test_a_server_names_it_too_and_counts_both(folder: Path, quick: str) -> None:
    certified(folder, 0.5, quick=quick)
    # bf16 has three digits, so margins near the bound are left out.
    clear = [one for one in shades(12) if abs(margin(colour_logits(one[None])[0]) - 0.5) > 0.05]
    images = clear[:6]
    first = coarse if quick == "int8" else np.asarray
    expected = ["fp32" if margin(first(colour_logits(one[None])[0])) <= 0.5 else quick for one in images]
    assert set(expected) == {"fp32", quick}
    with running(ModelSource("colour", folder)) as server:
        found = [server.ask("POST", "/predict", png(one), content_type="image/png").json for one in images]
        assert [one["images"][0]["ran"] for one in found] == expected
        metrics = server.ask("GET", "/metrics").body.decode()
    assert "ftx_images_checked 6.0" in metrics
    assert f"ftx_images_run_twice {expected.count('fp32')}.0" in metrics
    assert "ftx_run_twice_rises 0.0" in metrics


def test_a_benchmark_runs_all_reference_images_and_not_one_again_and_again(folder: Path) -> None:
    batches = batches_of(folder, read_card(folder).preprocess, 5)
    assert [len(one) for one in batches] == [5, 5, 5]
    assert len(np.unique(np.concatenate(batches), axis=0)) == 12


def test_when_more_images_run_twice_than_those_of_the_certificate_it_is_noted_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked_network, "WINDOW", 20)
    images = shades(40)
    usual = sum(margin(coarse(colour_logits(one[None])[0])) <= 0.5 for one in images)
    assert 10 < usual < 30
    # As many as the certificate says, then many more.
    for known, rises in (({"images": 40, "twice": usual}, 0), ({"images": 400, "twice": 20}, 2)):
        certified(folder, 0.5, **known)
        listener = Listener()
        predictor = load(folder, progress=listener)
        assert isinstance(predictor, OpenVinoPredictor)
        assert predictor.checked is not None
        for one in images:
            logits_of(predictor, [one])
        assert predictor.checked.rises == rises
        noted = [one for one in listener.said if "also ran in fp32" in one]
        assert len(noted) == min(rises, 1)
        assert all(f"ftx validate {folder} --data DIR" in one and "5.0% of the 400 images" in one for one in noted)


def test_a_window_without_a_certificate_raises_no_alarm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked_network, "WINDOW", 20)
    predictor = OpenVinoPredictor(folder)
    logits_of(predictor, shades(40))
    assert predictor.checked is not None
    assert (predictor.checked.twice, predictor.checked.rises) == (40, 0)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_table_of_predictions_has_the_model_of_each_and_the_count(folder: Path, tmp_path: Path, form: str) -> None:
    certified(folder, 0.5)
    for number, pixels in enumerate(shades(6)):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    expected = ["fp32" if margin(coarse(colour_logits(one[None])[0])) <= 0.5 else "int8" for one in shades(6)]
    out = tmp_path / f"out.{form}"
    done = call("predict", str(tmp_path), "--artifact", str(folder), "--out", str(out), "--json")
    assert json.loads(done.out)["ran_twice"] == expected.count("fp32")
    if form == "parquet":
        ran = pyarrow.parquet.read_table(out)["ran"].to_pylist()
    else:
        ran = [json.loads(line)["ran"] for line in out.read_text().splitlines()]
    assert ran == expected


def test_it_runs_only_on_the_cpu(folder: Path) -> None:
    with pytest.raises(ExportError, match="int8-checked runs only on the CPU"):
        OpenVinoPredictor(folder, device="AUTO:CPU")
