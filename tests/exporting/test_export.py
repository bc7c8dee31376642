from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftx.cli.app import run as ftx
from ftx.core.errors import ExportError, InputError, RunError
from ftx.exporting import ExportReport, export
from ftx.exporting.export import artifacts_of
from ftx.runs.artifacts import IR_FP32, IR_INT8
from ftx.runs.run import Run


@pytest.mark.parametrize(
    ("formats", "precisions", "wanted"),
    [
        (["onnx"], ["fp32"], ["onnx"]),
        (["openvino"], ["fp32"], ["openvino/fp32"]),
        (["openvino", "onnx"], ["int8"], ["onnx", "openvino/int8"]),
        (["openvino", "openvino"], ["int8", "fp32", "int8"], ["openvino/fp32", "openvino/int8"]),
    ],
)
def test_formats_and_precisions_name_artifacts(formats: list[str], precisions: list[str], wanted: list[str]) -> None:
    assert [str(artifact) for artifact in artifacts_of(formats, precisions)] == wanted


@pytest.mark.parametrize(
    ("formats", "precisions", "says"),
    [
        (["onnx"], ["fp16"], "--precision must be fp32 for --format onnx"),
        (["onnx"], ["fp32", "int8"], "--precision must be fp32 for --format onnx"),
        (["onxx"], ["fp32"], "did you mean 'onnx'"),
        (["openvino"], ["int4"], "did you mean 'int8'"),
        ([], ["fp32"], "format must be one of"),
        (["openvino"], [], "precision must be one of"),
    ],
)
def test_what_ftx_does_not_export_is_said(formats: list[str], precisions: list[str], says: str) -> None:
    with pytest.raises(InputError) as caught:
        artifacts_of(formats, precisions)
    assert says in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_report_lists_what_was_written(exported: Any) -> None:
    listed(exported.report, exported.run, {"onnx": "fp32", "openvino/fp32": "fp32", "openvino/fp16": "fp16"})


@pytest.mark.representative
def test_a_person_is_told_what_was_written(fresh_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert ftx(["export", str(fresh_run.path)]) == 0
    said = capsys.readouterr()
    header, row = said.out.splitlines()
    assert header.startswith("model ")
    assert row.split()[0] == "openvino/fp32"
    assert str(fresh_run.path / "openvino" / "fp32") in row
    assert f"next: ftx validate {fresh_run.path}\n" in said.err


def test_the_report_lists_the_setting_of_int8(exported: Any) -> None:
    listed(exported.int8, exported.run, {"openvino/int8": "int8"})


def listed(report: ExportReport, run: Run, artifacts: dict[str, str]) -> None:
    assert [(item.artifact, item.precision) for item in report.artifacts] == list(artifacts.items())
    assert (report.verb, report.ok, report.run) == ("export", True, str(run.path))
    for item in report.artifacts:
        models = [path for path in Path(item.path).iterdir() if path.name.startswith("model.")]
        assert item.size_bytes == sum(path.stat().st_size for path in models)
        assert (item.smooth_quant_alpha is None) == (item.precision != "int8") == (item.int8_share is None)
        assert item.preset is None  # a ViT has attention
        assert item.searched is None  # one setting was given
        if item.artifact == "onnx":
            assert item.summary.startswith("logits within")
        else:  # of the reference images, by the recipe's margin
            assert (item.verdict, "64 images): 0 lost, 0 gained; 149 images" in item.summary) == ("unproved", True)
        if item.precision == "int8":
            assert (item.smooth_quant_alpha, item.int8_share) == (0.5, pytest.approx(0.974, abs=0.03))


def test_a_run_that_was_not_merged_is_told_to(fresh_run: Run) -> None:
    manifest = fresh_run.manifest
    kept = {name: digest for name, digest in manifest.files.items() if not name.startswith("dense/")}
    (fresh_run.path / "run.json").write_text(manifest.model_copy(update={"files": kept}).model_dump_json())
    with pytest.raises(RunError, match="no dense/ yet") as caught:
        export(fresh_run, formats=["openvino"])
    assert "ftx merge" in str(caught.value)


def test_altered_dense_weights_are_refused(fresh_run: Run) -> None:
    config = fresh_run.path / "dense" / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(RunError, match="changed since ftx wrote it"):
        export(fresh_run, formats=["onnx"])
    assert not (fresh_run.path / "onnx").exists()


@pytest.mark.representative
def test_what_was_written_before_a_failure_stays_whole(fresh_run: Run) -> None:
    # Without training images there is nothing to calibrate with.
    lines = (fresh_run.path / "data.jsonl").read_text().splitlines(keepends=True)
    (fresh_run.path / "data.jsonl").write_text("".join(line for line in lines if '"train"' not in line))
    rehash(fresh_run, "data.jsonl")
    with pytest.raises(ExportError, match="--precision int8 needs at least 2"):
        export(fresh_run, formats=["openvino"], precisions=["fp32", "int8"])
    assert fresh_run.require(IR_FP32).is_dir()
    assert [path.name for path in (fresh_run.path / "openvino").iterdir()] == ["fp32"]
    assert not fresh_run.has(IR_INT8)


def rehash(run: Run, name: str) -> None:
    from ftx.core.files import sha256_file

    manifest = run.manifest
    files = manifest.files | {name: sha256_file(run.path / name)}
    (run.path / "run.json").write_text(manifest.model_copy(update={"files": files}).model_dump_json())
