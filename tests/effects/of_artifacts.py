"""What each flag of ``ftx export``, ``validate``, ``eval``, ``predict`` and ``bench`` does."""

from __future__ import annotations

import csv
import io
import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load, save
from tests.effects.lab import Lab
from tests.evaluating.wheels_of_openvino import write_wheel
from tests.gates.faults import edit_json

from ftx.runs.machine import this_set
from ftx.runs.update_zip import REFERENCE_LOGITS, read_update, write_update


def _sizes(run: Path) -> dict[str, int]:
    return {precision: (run / "openvino" / precision / "model.bin").stat().st_size for precision in ("fp32", "fp16")}


def export_run(lab: Lab, flag: str, value: str) -> None:
    run, said = lab.exported
    assert said["--format"].json["run"] == str(run)
    other = lab.train()
    assert lab.call("export", other.path).status == 2  # it has no dense model yet


def export_format(lab: Lab, flag: str, value: str) -> None:
    run, said = lab.exported
    assert [one["artifact"] for one in said["--format"].json["artifacts"]] == ["onnx"]
    assert [one["artifact"] for one in said["--data"].json["artifacts"]] == ["openvino/fp32"]
    assert (run / "onnx" / "model.onnx").is_file()


def export_precision(lab: Lab, flag: str, value: str) -> None:
    run, said = lab.exported
    assert [one["artifact"] for one in said["--precision"].json["artifacts"]] == ["openvino/fp16"]
    sizes = _sizes(run)
    assert 0.5 < sizes["fp16"] / sizes["fp32"] < 0.55  # half of each weight; shapes stay whole numbers


def export_out(lab: Lab, flag: str, value: str) -> None:
    run, out = lab.exported[0], lab.root / "repository"
    said = lab.done("export", run, "--format", "ovms", flag, out, "--json").json
    assert (said["path"], said["config"]) == (str(out), str(out / "config.json"))
    assert lab.call("export", run, "--format", "ovms", flag, out).status == 2  # it is there already
    assert lab.call("export", run, flag, lab.root / "no-repository").status == 2  # a model goes into its run
    assert not (lab.root / "no-repository").exists()
    asked = lab.call("export", run, "--format", "ovms", "--data", lab.root, flag, lab.root / "no-repository")
    assert asked.status == 2  # it asks no image


def export_data(lab: Lab, flag: str, value: str) -> None:
    """The reference answers are of the run's images, wherever these are now."""
    _, said = lab.exported
    assert said["lost"].status == 2
    assert "--data" in said["lost"].err
    assert said["--data"].status == 0


def export_recover(lab: Lab, flag: str, value: str) -> None:
    """Trained on through 8 bits, merged and exported; the run that it comes from stays as it is."""
    run, _ = lab.shipped
    before = (run / "run.json").read_bytes()
    made = lab.done("export", run, "--precision", "int8", flag, "--json").json
    recovered = json.loads((lab.root / made["run"] / "run.json").read_text())["recovered"]
    assert recovered["error_after"] == made["recovered"]["error_after"] < recovered["error_before"]
    assert [one["artifact"] for one in made["artifacts"]] == ["openvino/int8"]
    assert (lab.root / made["run"] / "openvino" / "int8" / "model.xml").is_file()
    assert (run / "run.json").read_bytes() == before
    runs = sorted((run.parent).iterdir())
    for wrong in (["fp16"], ["int8", "--precision", "fp61"]):  # said before minutes of training
        assert lab.call("export", run, "--precision", *wrong, flag).status == 2
    assert sorted((run.parent).iterdir()) == runs


def export_json(lab: Lab, flag: str, value: str) -> None:
    _, said = lab.exported
    assert said["--data"].json["verb"] == "export"


def validate_target(lab: Lab, flag: str, value: str) -> None:
    run, _ = lab.exported
    whole = lab.done("validate", run, "--json").json
    assert whole["run"] == str(run)
    assert {row["artifact"] for row in whole["rows"]} == {
        "trained",
        "dense",
        "onnx",
        "openvino/fp32",
        "openvino/fp16",
    }
    alone = lab.done("validate", run / "openvino" / "fp32", "--json").json
    assert (alone["folder"], alone["run"]) == (str(run / "openvino" / "fp32"), None)
    assert {row["artifact"] for row in alone["rows"]} == {"openvino/fp32"}


def validate_data(lab: Lab, flag: str, value: str) -> None:
    run, _ = lab.exported
    with lab.moved("hues") as elsewhere:
        assert lab.call("validate", run, "--images", "1").status == 2
        assert lab.done("validate", run, "--images", "1", flag, elsewhere, "--json").json["whole"] is False


def validate_bound(lab: Lab, flag: str, value: str) -> None:
    """A bound that fp16 cannot hold is passed: exit status 1, and that row says so."""
    run, _ = lab.exported
    said = lab.call("validate", run, flag, value, "--images", "2", "--json")
    assert said.status == 1
    assert said.json["ok"] is False
    failed = {(row["artifact"], row["view"]) for row in said.json["rows"] if not row["ok"]}
    assert failed == {("openvino/fp16", "graph")}


def validate_images(lab: Lab, flag: str, value: str) -> None:
    run, _ = lab.exported
    said = lab.done("validate", run, flag, value, "--json").json
    assert {row["images"] for row in said["rows"]} == {3}
    assert said["whole"] is False


def validate_max_drop(lab: Lab, flag: str, value: str) -> None:
    """Ten of twenty images may go: that much is proved of fp16 without a loss, two points are not."""
    run, _ = lab.exported
    wide = lab.done("validate", run, flag, value, "--json").json
    assert (wide["max_drop"], wide["verdicts"]["openvino/fp16"]) == (float(value), "proved")
    default = lab.done("validate", run, "--json").json
    assert (default["max_drop"], default["verdicts"]["openvino/fp16"]) == (0.02, "unproved")
    assert lab.call("validate", run, flag, "1.5").status == 2


def validate_require_proof(lab: Lab, flag: str, value: str) -> None:
    run, _ = lab.exported
    said = lab.call("validate", run, flag, "--json")
    assert (said.status, said.json["ok"], said.json["problems"]) == (1, False, [])
    assert "unproved" in said.json["verdicts"].values()
    assert lab.done("validate", run, "--json").json["ok"] is True


def validate_json(lab: Lab, flag: str, value: str) -> None:
    run, _ = lab.exported
    folder = run / "openvino" / "fp32"
    assert lab.done("validate", folder, flag).json["verb"] == "validate"
    assert "labels changed" in lab.done("validate", folder).out


def eval_run(lab: Lab, flag: str, value: str) -> None:
    assert lab.done("eval", lab.train().path, "--json").json["images"] == 4
    assert lab.done("eval", lab.train("data.val_fraction=0.5", data="unsplit").path, "--json").json["images"] == 10


def eval_artifact(lab: Lab, flag: str, value: str) -> None:
    run, _ = lab.exported
    said = [lab.done("eval", run, *words, "--json").json for words in ((flag, value), ())]
    assert [one["runtime"] for one in said] == ["torch", "openvino"]
    assert said[0]["artifact"] == value


def eval_data(lab: Lab, flag: str, value: str) -> None:
    made = lab.train()
    with lab.moved("noise") as elsewhere:
        assert lab.call("eval", made.path).status == 2
        assert lab.done("eval", made.path, flag, elsewhere, "--json").json["images"] == 4


def eval_json(lab: Lab, flag: str, value: str) -> None:
    made = lab.train()
    assert lab.done("eval", made.path, flag).json["verb"] == "eval"
    assert "by class" in lab.done("eval", made.path).out


def predict_images(lab: Lab, flag: str, value: str) -> None:
    """An answer an image, in their order; what cannot be read is said, and the exit status is 4."""
    broken, where = lab.root / "broken.png", ("--artifact", lab.train().path / "trained")
    broken.write_bytes(b"no image")
    names, gone = ["noise/val/b/1.png", "noise/val/a/0.png"], "noise/val/a/none.png"
    assert [line["path"] for line in lab.done("predict", *names, *where, "--json").lines] == names
    for more in (broken, gone):
        said = lab.call("predict", *names, more, *where, "--json")
        assert said.status == 4
        assert ["error" in line for line in said.lines] == [False, False, True]
        plain = lab.call("predict", *names, more, *where)
        assert plain.status == 4
        assert "1 of 3 images were skipped" in plain.err
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdin", io.StringIO("\n".join([*names, str(more)])))
            arriving = lab.call("predict", "-", *where, "--json")
        assert arriving.status == 4
        assert [(line["path"], "error" in line) for line in arriving.lines] == [
            *((name, False) for name in names),
            (str(more), True),
        ]
        assert f"skipped {more}: " in arriving.err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO("\n"))
        assert lab.call("predict", "-", *where, "--json").status == 2
    assert lab.call("predict", broken, *where, "--json").status == 4
    assert lab.call("predict", gone, *where).status == 2  # not one is there


def predict_artifact(lab: Lab, flag: str, value: str) -> None:
    """The model that is named: each of its labels is a colour, and the other run knows letters."""
    run, _ = lab.exported
    words = ("predict", "hues/red/0.png", "--scores", "--json", flag)
    dense, exported, other = (
        lab.done(*words, folder).lines[0]["scores"]
        for folder in (run / "dense", run / "openvino" / "fp32", lab.train().path / "trained")
    )
    assert set(dense) == set(exported) == {"amber", "blue", "green", "red"}
    assert set(other) == {"a", "b"}
    # As deployed: the graph's own image path, and bf16 where the CPU has it.
    np.testing.assert_allclose(
        [dense[name] for name in sorted(dense)], [exported[name] for name in sorted(dense)], atol=0.05
    )
    assert [dense[name] for name in sorted(dense)] != [exported[name] for name in sorted(dense)]


def predict_watch(lab: Lab, flag: str, value: str) -> None:
    folder = lab.root / "inbox"
    folder.mkdir()
    shutil.copy(lab.root / "hues" / "red" / "0.png", folder)
    artifact = str(lab.exported[0] / "openvino" / "fp32")
    words = ("predict", flag, str(folder), "--artifact", artifact, "--json", "--scores")
    for expected in (1, 0):
        process = subprocess.Popen([sys.executable, "-m", "ftx", *words], stdout=subprocess.PIPE, text=True)
        time.sleep(5)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
        lines = [line for line in said.splitlines() if line.startswith('{"path"')]
        assert ["scores" in line for line in lines] == [True] * expected
        assert process.returncode == 0
    assert lab.call("predict", flag, lab.root / "nowhere").status == 2
    assert lab.call("predict", "hues/red/0.png", flag, folder).status == 2


def predict_scores(lab: Lab, flag: str, value: str) -> None:
    words = ("predict", "noise/val/a/0.png", "--artifact", lab.train().path / "trained", "--json")
    plain, scored = lab.done(*words).lines[0], lab.done(*words, flag).lines[0]
    assert "scores" not in plain
    assert set(scored["scores"]) == {"a", "b"}
    assert abs(sum(scored["scores"].values()) - 1) < 1e-6
    best = max(scored["scores"], key=scored["scores"].get)
    assert scored["labels"] == plain["labels"] == [{"name": best, "score": scored["scores"][best]}]
    for more in ((), (flag,)):  # of paths on standard input as well
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdin", io.StringIO("noise/val/a/0.png\n\nnoise/val/b/1.png\n"))
            lines = lab.done("predict", "-", *words[2:], *more).lines
        assert [line["path"] for line in lines] == ["noise/val/a/0.png", "noise/val/b/1.png"]
        # Two images at once: other f32 kernels on some CPUs.
        assert [label["name"] for label in lines[0]["labels"]] == [best]
        assert lines[0]["labels"][0]["score"] == pytest.approx(scored["scores"][best], abs=1e-6)
        assert all(("scores" in line) == bool(more) for line in lines)
        if more:
            assert lines[0]["scores"] == pytest.approx(scored["scores"], abs=1e-6)


def predict_coverage(lab: Lab, flag: str, value: str) -> None:
    """Of as few calibration images as there are, half of them need none for sets, and 95 % need 19."""
    words = ("predict", "hues/red/0.png", "--artifact", lab.exported[0] / "openvino" / "fp32", "--json")
    without = lab.done(*words)
    assert "set" not in without.lines[0]
    assert "prediction sets are unproved" in without.err
    (prediction,) = lab.done(*words, flag, value).lines
    assert prediction["labels"][0]["name"] in prediction["set"]
    assert lab.call(*words, flag, "1").status == 2


def predict_top_k(lab: Lab, flag: str, value: str) -> None:
    words = ("predict", "noise/val/a/0.png", "--artifact", lab.train().path / "trained", "--json")
    (scored,), (two,), (one,) = (
        lab.done(*words, *more).lines for more in (("--scores",), (flag, value), (flag, "1", "--scores"))
    )
    ranked = sorted(scored["scores"], key=scored["scores"].get, reverse=True)
    assert two["labels"] == [{"name": name, "score": scored["scores"][name]} for name in ranked]
    assert "scores" not in two
    assert (one["labels"], one["scores"]) == (two["labels"][:1], scored["scores"])
    assert lab.call(*words[:-1], flag, value, "--out", lab.root / "top.jsonl").status == 2


def predict_csv(lab: Lab, flag: str, value: str) -> None:
    words = ("predict", "noise/val/a/0.png", "noise/val/b/1.png", "--artifact", lab.train().path / "trained")
    lines = lab.done(*words, "--json").lines
    read = list(csv.DictReader(io.StringIO(lab.done(*words, flag).out)))
    assert [(row["path"], row["label"]) for row in read] == [(one["path"], one["labels"][0]["name"]) for one in lines]
    assert [row["score"] for row in read] == [f"{one['labels'][0]['score']:.4f}" for one in lines]
    assert len(lab.done(*words, flag, "--top-k", "2").out.splitlines()) == 1 + 2 * 2
    assert lab.call(*words, flag, "--json").status == 2


def predict_json(lab: Lab, flag: str, value: str) -> None:
    words = ("predict", "noise/val/a/0.png", "--artifact", lab.train().path / "trained")
    assert lab.done(*words, flag).lines[0]["path"] == "noise/val/a/0.png"
    assert lab.done(*words).out.split()[:3] == ["image", "label", "score"]


def explain_images(lab: Lab, flag: str, value: str) -> None:
    """A picture of each that can be read, of the label that it is given."""
    broken, where = lab.root / "broken.png", ("--artifact", lab.train().path / "trained")
    broken.write_bytes(b"no image")
    said = lab.call("explain", "noise/val/b/1.png", broken, *where, "--out", lab.root / "pictures-of", "--json")
    assert said.status == 4
    good, bad = said.json["images"]
    assert bad["error"]
    (picture,) = good["pictures"]
    assert [picture["label"]] == [label["name"] for label in good["labels"]]
    with Image.open(picture["path"]) as drawn:
        assert drawn.size == (448, 448)
    assert lab.call("explain", broken, *where).status == 4
    assert lab.call("explain", "noise/val/b/none.png", *where).status == 2


def explain_artifact(lab: Lab, flag: str, value: str) -> None:
    words = ("explain", "hues/red/0.png", "--out", lab.root / "pictures-by", "--json", flag)
    said = lab.done(*words, lab.exported[0] / "dense").json["images"][0]["labels"][0]["name"]
    assert said in {"amber", "blue", "green", "red"}
    assert lab.done(*words, lab.train().path).json["images"][0]["labels"][0]["name"] in {"a", "b"}
    assert lab.call(*words, lab.exported[0] / "openvino" / "fp32").status == 2  # exported without maps


def explain_method(lab: Lab, flag: str, value: str) -> None:
    words = ("explain", "noise/val/a/0.png", "--artifact", lab.train().path, "--out", lab.root / "pictures-o")
    said = lab.done(*words, "--json", flag, value)
    assert said.json["method"] == value
    assert f"--method {value} still works; it is now written --map {value}" in said.err
    assert lab.call(*words, flag, value, "--map", value).status == 2


def explain_map(lab: Lab, flag: str, value: str) -> None:
    words = ("explain", "noise/val/a/0.png", "--artifact", lab.train().path, "--out", lab.root / "pictures-m", "--json")
    usual, other = (lab.done(*words, *more).json["images"][0]["pictures"][0] for more in ((), (flag, value)))
    assert (usual["label"], other["label"]) == (Path(usual["path"]).name.split(".")[-2], None)
    assert Path(usual["path"]).read_bytes() != Path(other["path"]).read_bytes()
    assert lab.call(*words, flag, "rolout").status == 2


def explain_label(lab: Lab, flag: str, value: str) -> None:
    words = ("explain", "noise/val/a/0.png", "--artifact", lab.train().path, "--out", lab.root / "pictures-l", "--json")
    both = lab.done(*words, flag, "a", flag, value).json["images"][0]["pictures"]
    assert [picture["label"] for picture in both] == ["a", "b"]
    assert lab.call(*words, flag, "c").status == 2


def explain_out(lab: Lab, flag: str, value: str) -> None:
    folder = lab.root / "pictures" / "new"
    lab.done("explain", "noise/val/a/0.png", "--artifact", lab.train().path, flag, folder)
    (picture,) = folder.iterdir()
    assert picture.name.startswith("0.png.")


def explain_json(lab: Lab, flag: str, value: str) -> None:
    words = ("explain", "noise/val/a/0.png", "--artifact", lab.train().path, "--out", lab.root / "pictures-j")
    assert lab.done(*words, flag).json["verb"] == "explain"
    assert lab.done(*words).out.split()[:4] == ["image", "label", "score", "picture"]


def report_runs(lab: Lab, flag: str, value: str) -> None:
    """One, by default the newest; two are compared, in the folder where one stands."""
    run = Path(shutil.copytree(lab.exported[0], lab.root / "reported", symlinks=True))
    one = lab.done("report", run, "--json").json
    assert Path(one["path"]) == run / "reports" / "report.html"
    assert "hues" not in one["verdict"]
    two = lab.done("report", run, lab.train().path, "--out", lab.root / "both.html", "--json").json
    assert len(two["verdicts"]) == 2
    assert "so their accuracies cannot be compared" in two["pairs"][0]
    assert lab.call("report", lab.root / "nowhere").status == 2


def report_out(lab: Lab, flag: str, value: str) -> None:
    run, page = lab.train().path, lab.root / "page.html"
    lab.done("report", run, flag, page)
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert not (run / "reports" / "report.html").exists()
    lab.done("report", run, flag, page)  # a report may be written again
    page.write_text("mine", encoding="utf-8")
    assert lab.call("report", run, flag, page).status == 2
    assert page.read_text(encoding="utf-8") == "mine"


def report_artifact(lab: Lab, flag: str, value: str) -> None:
    run = Path(shutil.copytree(lab.exported[0], lab.root / "reported-by", symlinks=True))
    for name in (value, "onnx"):
        lab.done("report", run, flag, name, "--out", lab.root / f"by-{name}.html")
        assert f"predicted by the {name} model in fp32" in (lab.root / f"by-{name}.html").read_text(encoding="utf-8")
    assert lab.call("report", run, flag, "dnse").status == 2
    other, page = Path(shutil.copytree(run, lab.root / "reported-by-too", symlinks=True)), lab.root / "both-by.html"
    for name, beside in ((value, "onnx"), ("onnx", value)):  # of several runs as well
        lab.done("report", run, other, flag, name, "--out", page)
        text = page.read_text(encoding="utf-8")
        assert f">{name}</td>" in text
        assert f">{beside}</td>" not in text
    assert lab.call("report", run, other, flag, "dnse", "--out", page).status == 2


def report_data(lab: Lab, flag: str, value: str) -> None:
    run = Path(shutil.copytree(lab.train().path, lab.root / "reported-moved", symlinks=True))
    shutil.rmtree(run / "reports" / "answers", ignore_errors=True)  # by which no image would be asked for
    manifest = json.loads((run / "run.json").read_text(encoding="utf-8"))
    here = lab.root / manifest["data_root"]
    (run / "run.json").write_text(json.dumps(manifest | {"data_root": "gone"}), encoding="utf-8")
    both = [Path(shutil.copytree(run, lab.root / f"reported-moved-{number}", symlinks=True)) for number in (1, 2)]
    page = lab.root / "moved.html"
    lab.done("report", run, "--out", page)
    assert "Images are not shown" in page.read_text(encoding="utf-8")
    assert lab.call("report", run, "--out", page, flag, lab.root / "nowhere").status == 2
    lab.done("report", run, "--out", page, flag, here)
    assert "data:image/jpeg" in page.read_text(encoding="utf-8")
    said = [lab.done("report", *both, "--out", page, *more).err for more in ((), (flag, here))]
    assert ["so their accuracies cannot be compared" in one for one in said] == [True, False]


def report_json(lab: Lab, flag: str, value: str) -> None:
    words = ("report", lab.train().path, "--out", lab.root / "json.html")
    said = lab.done(*words, flag).json
    assert said["verb"] == "report"
    assert said["size_bytes"] == (lab.root / "json.html").stat().st_size
    assert "Not ready" in lab.done(*words).out + lab.done(*words).err


def export_explain(lab: Lab, flag: str, value: str) -> None:
    """The same logits, and beside them the maps that the run gives in torch."""
    run = Path(shutil.copytree(lab.exported[0], lab.root / "explaining", symlinks=True))
    words = ("predict", "hues/red/0.png", "--scores", "--json", "--artifact", run / "openvino" / "fp32")
    before = lab.done(*words).lines[0]["scores"]
    lab.done("export", run, flag)
    after = lab.done(*words).lines[0]["scores"]
    np.testing.assert_allclose([after[name] for name in before], list(before.values()), atol=0.02)  # bf16 by default
    pictures = []
    for artifact in (run / "openvino" / "fp32", run):
        words = ("explain", "hues/red/0.png", "--artifact", artifact, "--out", lab.root / f"maps-{artifact.name}")
        with Image.open(lab.done(*words, "--json").json["images"][0]["pictures"][0]["path"]) as drawn:
            pictures.append(np.asarray(drawn).astype(int))
    exported, own = pictures
    assert np.abs(exported - own).mean() < 8  # grey levels: the graph's resize, and bf16 where the CPU has it
    assert lab.call("export", run, flag, "--base", lab.root / "no-base").status == 2


def validate_isa(lab: Lab, flag: str, value: str) -> None:
    folder = lab.exported[0] / "openvino" / "fp32"
    assert lab.done("validate", folder, "--json").json["sets"] == []
    found = lab.done("validate", folder, flag, value, "--json").json["sets"]
    assert {one["isa"] for one in found} >= {"avx2"}
    assert {one["artifact"] for one in found} == {"openvino/fp32"}
    assert lab.call("validate", folder, flag, "avx3").status == 2


def validate_openvino(lab: Lab, flag: str, value: str) -> None:
    run, wheels = lab.exported[0], lab.root / "wheels"
    write_wheel(wheels, "2025.4.1")
    release = ("--openvino", "2025.4", "--wheels", wheels)
    assert lab.done("validate", run, "--json").json["releases"] == []
    found = lab.done("validate", run, *release, "--json").json["releases"]
    assert {one["openvino"] for one in found} == {"2025.4.1"}
    assert {one["isa"] for one in found} == {this_set()}
    other = lab.call("validate", run, "--openvino", "2025.3", "--wheels", wheels)
    assert (other.status, "pip cannot install OpenVINO 2025.3" in other.err) == (3, True)
    assert lab.call("validate", run / "openvino" / "fp32", *release).status == 2
    alone = lab.call("validate", run, "--wheels", wheels)
    assert (alone.status, "--wheels is only for --openvino" in alone.err) == (2, True)


def with_verdict(lab: Lab, name: str, verdict: str) -> Path:
    """A copy of a model of which this machine found that."""
    folder = Path(shutil.copytree(lab.exported[0] / "openvino" / "fp32", lab.root / name))
    (folder / "proof.json").unlink(missing_ok=True)
    lab.done("validate", folder, "--json")
    edit_json(folder / "proof.json", lambda proof: proof["devices"][0].update(verdict=verdict))
    return folder


def validate_device(lab: Lab, flag: str, value: str) -> None:
    folder = lab.exported[0] / "openvino" / "fp32"
    assert lab.done("validate", folder, "--json").json["machine"]["device"] == "CPU"
    assert lab.done("validate", folder, flag, value, "--json").json["machine"]["device"] == value
    assert lab.call("validate", folder, flag, "GPU.9").status == 3


def predict_device(lab: Lab, flag: str, value: str) -> None:
    words = ("predict", "hues/red/0.png", "--artifact", with_verdict(lab, "proved-on-cpu", "proved"), "--json")
    assert "not validated" not in lab.done(*words).err
    assert f"not validated yet on {value}" in lab.done(*words, flag, value).err
    assert lab.call(*words, flag, "GPU.9").status == 3


def predict_require_proof(lab: Lab, flag: str, value: str) -> None:
    for verdict, status in (("proved", 0), ("unproved", 1)):
        words = ("predict", "hues/red/0.png", "--artifact", with_verdict(lab, f"{verdict}-here", verdict), "--json")
        assert lab.call(*words).status == 0
        assert lab.call(*words, flag).status == status


def predict_allow_failed(lab: Lab, flag: str, value: str) -> None:
    words = ("predict", "hues/red/0.png", "--artifact", with_verdict(lab, "failed-here", "failed"), "--json")
    assert lab.call(*words).status == 1
    assert lab.done(*words, flag).lines[0]["labels"]


def bench_device(lab: Lab, flag: str, value: str) -> None:
    folder = lab.exported[0] / "openvino" / "fp32"
    words = ("bench", folder, "--batch", "1", "--seconds", "0.03", "--json")
    assert lab.done(*words, flag, value).json["machine"]["device"] == value


def apply_require_proof(lab: Lab, flag: str, value: str) -> None:
    run, shipped = lab.shipped
    words = ("apply", run / "trained", shipped / "base", lab.root / "on-device-unproved")
    assert lab.call(*words, flag).status == 1
    assert not (lab.root / "on-device-unproved").exists()
    assert lab.done(*words, "--json").json["verdict"] == "unproved"


def apply_allow_failed(lab: Lab, flag: str, value: str) -> None:
    _, shipped = lab.shipped
    update, files = read_update(shipped / "one")
    logits = load(files[REFERENCE_LOGITS])
    logits["logits"] = -logits["logits"]
    failed = lab.root / "failed-there"
    write_update(failed, update, files | {REFERENCE_LOGITS: save(logits)})
    words = ("apply", failed, shipped / "base", lab.root / "on-device-failed")
    assert lab.call(*words).status == 1
    assert lab.done(*words, flag, "--json").json["verdict"] == "failed"


def _bench(lab: Lab, target: Path, *words: object) -> list[dict[str, Any]]:
    """Its rows; one setting of one model, but for what the words say."""
    given = {str(word) for word in words}
    one = [
        word
        for pair in (("--compute", "f32"), ("--batch", "1"), ("--threads", "1"), ("--streams", "1"))
        if pair[0] not in given
        for word in pair
    ]
    quick = [] if "--seconds" in given else ["--seconds", "0.03"]
    rows: list[dict[str, Any]] = lab.done("bench", target, *one, *quick, *words, "--json").json["rows"]
    return rows


def bench_target(lab: Lab, flag: str, value: str) -> None:
    run, _ = lab.exported
    rows = _bench(lab, run)
    assert {row["artifact"] for row in rows} == {"dense", "onnx", "openvino/fp32", "openvino/fp16"}
    assert {row["artifact"] for row in _bench(lab, run / "openvino" / "fp32")} == {"openvino/fp32"}


def bench_precision(lab: Lab, flag: str, value: str) -> None:
    run, _ = lab.exported
    assert {row["artifact"] for row in _bench(lab, run, flag, value)} == {"openvino/fp16"}
    assert lab.call("bench", run, flag, "fp61").status == 2


def bench_compute(lab: Lab, flag: str, value: str) -> None:
    folder = lab.exported[0] / "openvino" / "fp32"
    assert {row["compute"] for row in _bench(lab, folder, flag, value)} == {"f32"}
    (chosen,) = _bench(lab, folder, flag, "auto")
    assert chosen["compute"].startswith("auto:")
    assert lab.call("bench", folder, flag, "f23").status == 2


def bench_batch(lab: Lab, flag: str, value: str) -> None:
    rows = _bench(lab, lab.exported[0] / "openvino" / "fp32", flag, value, flag, "5")
    assert [row["batch"] for row in rows] == [3, 5]


def bench_threads(lab: Lab, flag: str, value: str) -> None:
    rows = _bench(lab, lab.exported[0] / "openvino" / "fp32", flag, value)
    assert [row["threads"] for row in rows] == [1]
    assert lab.call("bench", lab.exported[0], flag, 100_000).status == 2


def bench_streams(lab: Lab, flag: str, value: str) -> None:
    rows = _bench(lab, lab.exported[0] / "openvino" / "fp32", flag, value)
    assert [row["streams"] for row in rows] == [1]
    assert lab.call("bench", lab.exported[0], flag, 100_000).status == 2


def bench_seconds(lab: Lab, flag: str, value: str) -> None:
    folder = lab.exported[0] / "openvino" / "fp32"
    (short,), (long,) = _bench(lab, folder), _bench(lab, folder, flag, value)
    assert long["requests"] > 2 * short["requests"]


def bench_save(lab: Lab, flag: str, value: str) -> None:
    folder = Path(shutil.copytree(lab.exported[0] / "openvino" / "fp32", lab.root / "tuned"))
    _bench(lab, folder)
    assert not (folder / "tuning.json").exists()
    _bench(lab, folder, flag)
    (found,) = json.loads((folder / "tuning.json").read_text())["tuned"]
    assert found["latency"] == {"compute": "f32", "batch": 1, "threads": 1, "streams": 1}


def bench_json(lab: Lab, flag: str, value: str) -> None:
    folder = lab.exported[0] / "openvino" / "fp32"
    words = ("bench", folder, "--compute", "f32", "--batch", 1, "--threads", 1, "--streams", 1, "--seconds", 0.03)
    assert lab.done(*words, flag).json["verb"] == "bench"
    assert "p50 ms" in lab.done(*words).out


def export_base(lab: Lab, flag: str, value: str) -> None:
    run, shipped = lab.shipped
    assert json.loads((shipped / "base" / "card.json").read_text())["base"]["head"] == ["head.weight", "head.bias"]
    sizes = [(shipped / name / "model.bin").stat().st_size for name in ("base", "half")]
    assert 0.5 < sizes[1] / sizes[0] < 0.6
    assert lab.call("predict", "noise/val/a/0.png", "--artifact", shipped / "base").status == 2
    assert lab.call("export", run, flag, shipped / "base").status == 2  # it is there already
    assert lab.call("export", run, flag, shipped / "third", "--precision", "int8").status == 2
    with lab.moved("noise") as elsewhere:  # its reference images are the run's
        assert lab.call("export", run, flag, shipped / "fourth").status == 2
        lab.done("export", run, flag, shipped / "fourth", "--data", elsewhere)
    images = [(shipped / name / "reference.safetensors").read_bytes() for name in ("base", "fourth")]
    assert images[0] == images[1]


def export_as_update(lab: Lab, flag: str, value: str) -> None:
    run, shipped = lab.shipped
    lab.done("export", run, "--precision", "fp32")
    lab.done("apply", shipped / "one", shipped / "base", lab.root / "on-device-updated")
    for name in ("model.bin", "model.xml"):
        assert (lab.root / "on-device-updated" / name).read_bytes() == (run / "openvino" / "fp32" / name).read_bytes()
    assert lab.call("export", run, flag, lab.root / "on-device-another").status == 2  # of which base?


def export_after(lab: Lab, flag: str, value: str) -> None:
    _, shipped = lab.shipped
    sequences = []
    for name in ("one", "two"):
        with zipfile.ZipFile(shipped / name) as archive:
            sequences.append(json.loads(archive.read("update.json"))["sequence"])
    assert sequences == [1, 2]


def apply_adapter(lab: Lab, flag: str, value: str) -> None:
    run, shipped = lab.shipped
    updated = lab.done("apply", shipped / "one", shipped / "base", lab.root / "on-device-by-update", "--json").json
    plain = lab.done("apply", run / "trained", shipped / "base", lab.root / "on-device-by-folder", "--json").json
    assert (updated["exact"], plain["exact"], plain["verdict"]) == (True, None, "unproved")
    assert lab.call("apply", shipped / "none", shipped / "base", lab.root / "on-device-nothing").status == 2


def apply_base(lab: Lab, flag: str, value: str) -> None:
    run, shipped = lab.shipped
    half = lab.done("apply", run / "trained", shipped / "half", lab.root / "on-device-half", "--json").json
    assert half["weight_bound"] > 0
    assert (
        lab.call("apply", shipped / "one", shipped / "half", lab.root / "on-device-nothing").status == 2
    )  # another base IR


def apply_out(lab: Lab, flag: str, value: str) -> None:
    _, shipped = lab.shipped
    lab.done("apply", shipped / "one", shipped / "base", lab.root / "on-device-there")
    lab.done("apply", shipped / "two", shipped / "base", lab.root / "on-device-there")
    assert (lab.root / "on-device-there.previous" / "card.json").is_file()
    assert lab.done("predict", "noise/val/a/0.png", "--artifact", lab.root / "on-device-there", "--json").lines[0][
        "labels"
    ]


def apply_labels(lab: Lab, flag: str, value: str) -> None:
    run, shipped = lab.shipped
    words = ("apply", run / "trained", shipped / "base", lab.root / "on-device-named", flag)
    assert lab.call(*words, value).status == 2  # four for two outputs
    lab.done(*words, "u,v")
    said = lab.done("predict", "noise/val/a/0.png", "--artifact", lab.root / "on-device-named", "--scores", "--json")
    assert set(said.lines[0]["scores"]) == {"u", "v"}


def apply_rollback(lab: Lab, flag: str, value: str) -> None:
    _, shipped = lab.shipped
    for name in ("one", "two"):
        lab.done("apply", shipped / name, shipped / "base", lab.root / "on-device-back")
    assert lab.call("apply", shipped / "one", shipped / "base", lab.root / "on-device-back").status == 2  # it is older
    assert lab.done("apply", flag, lab.root / "on-device-back", "--json").json["sequence"] == 1


def apply_json(lab: Lab, flag: str, value: str) -> None:
    _, shipped = lab.shipped
    words = ("apply", shipped / "one", shipped / "base")
    assert lab.done(*words, lab.root / "on-device-object", flag).json["verb"] == "apply"
    assert "the server's weights" in lab.done(*words, lab.root / "on-device-sentence").err
