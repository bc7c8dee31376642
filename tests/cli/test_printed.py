"""What a person reads of a report, in words and figures; the reports are made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ftx.cli import console
from ftx.cli.adapters import print_adapters
from ftx.cli.apply import _print as print_applied
from ftx.cli.bench import print_bench
from ftx.cli.data import _print_list
from ftx.cli.eval import print_evaluation
from ftx.cli.export import print_export, setting
from ftx.cli.merge import _print_combined, print_merge
from ftx.cli.report import print_comparison, print_report
from ftx.cli.run import print_pipeline
from ftx.cli.train import _print_dry_run, _print_trained
from ftx.cli.tune import _print as print_tuned
from ftx.cli.validate import parse_bounds, parse_sets, print_parity, print_what_saturates, without_details
from ftx.core.errors import InputError
from ftx.evaluating.evaluate import ClassScore, EvalReport
from ftx.exporting import ExportReport
from ftx.exporting.export import ExportedArtifact
from ftx.merging.combine_adapters import CombineReport
from ftx.merging.compare_adapters import Adapter, AdaptersReport, ComparedLayer, Overlap
from ftx.merging.merge_and_prove import LayerProof, MergeReport
from ftx.pipeline import PipelineReport
from ftx.reporting.compare_runs import ComparisonReport
from ftx.reporting.report import ReportReport
from ftx.runs.artifacts import EXPORT_IR, IR_INT8_SAFE
from ftx.runs.bench_json import BenchReport, BenchRow, SavedSetting
from ftx.runs.compute_precision import F32
from ftx.runs.machine import INSTRUCTION_SETS, Machine, this_machine
from ftx.runs.parity_json import ClassDrop, Family, ParityReport, ParityRow, RowBound, SetVerdict
from ftx.runs.set_quality import SetQuality
from ftx.runs.train_jsonl import EPOCHS_FILE, Epoch, epoch_lines
from ftx.runs.tuning_json import OpenvinoSetting
from ftx.training.report import DryRunReport, PlannedLayer, TrainReport
from ftx.training.state import EpochEnd
from ftx.tuning.report import TriedTrial, TuneReport
from ftx.updating.apply import ApplyReport

Capture = pytest.CaptureFixture[str]


def words(text: str) -> list[list[str]]:
    """Those of each line that has some."""
    return [line.split() for line in text.splitlines() if line]


def adapters(count: int) -> AdaptersReport:
    """Layers of one kind change by 2 % each in the first adapter, by 1 % and 3 % in the second."""
    changes = {"blocks.0.mlp.fc1": [0.02, 0.01], "blocks.1.mlp.fc1": [0.02, 0.03], "neck": [0.5, None]}
    overlap = Overlap(first=0, second=1, inputs=0.25, outputs=0.125, inputs_by_chance=0.03, outputs_by_chance=0.04)
    one = Adapter(
        path="runs/a", kind="dora", layers=3, ranks=[8, 12, 16], parameters=1234, size_bytes=4936, change=0.02
    )
    layers = [
        ComparedLayer(layer=name, norms=row[:count], changes=row[:count], overlaps=[]) for name, row in changes.items()
    ]
    return AdaptersReport(base="vit", adapters=[one] * count, overlaps=[overlap] * (count - 1), layers=layers)


def test_adapters_by_kind_of_layer_and_by_layer(capsys: Capture) -> None:
    print_adapters(adapters(2), each_layer=False)
    lines = words(capsys.readouterr().out)
    assert lines[2] == ["1", "runs/a", "dora", "3", "8-16", "1,234", "0.00", "2.00%"]
    assert ["1", "2", "25.0%", "3.0%", "12.5%", "4.0%"] in lines
    # One figure where the layers of a kind agree, a span where they do not, a dash where there is no adapter.
    assert lines[-2:] == [["blocks.N.mlp.fc1", "2.00%", "1.00%", "to", "3.00%"], ["neck", "50.00%", "-"]]
    print_adapters(adapters(2), each_layer=True)
    lines = words(capsys.readouterr().out)
    assert [line[-2:] for line in lines[-3:]] == [["2.00%", "1.00%"], ["2.00%", "3.00%"], ["50.00%", "-"]]


def test_one_adapter_overlaps_with_none(capsys: Capture) -> None:
    print_adapters(adapters(1), each_layer=False)
    out = capsys.readouterr().out
    assert "overlap" not in out
    assert words(out)[-2] == ["blocks.N.mlp.fc1", "2.00%"]


def evaluation(confusion: list[list[int]] | None, count: int) -> EvalReport:
    figures = {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "false_positive_rate": 0.125, "support": 7}
    known: list[float | None] = [None] + [0.75] * (count - 1)
    return EvalReport(
        artifact="dense",
        runtime="torch",
        compute=F32,
        split="test",
        images=14,
        accuracy=0.5,
        accuracy_low=0.25,
        accuracy_high=0.75,
        metrics={"accuracy": 0.5, "macro_f1": 0.375},
        macro_f1=0.375,
        classes=[
            ClassScore.model_validate({"name": f"c{index}", "average_precision": value} | figures)
            for index, value in enumerate(known)
        ],
        confusion=confusion,
    )


@pytest.fixture
def details(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with ``-v``."""
    monkeypatch.setattr(console, "_details", True)


def test_who_is_taken_for_whom(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    print_evaluation(evaluation([[5, 2, 0], [0, 7, 0], [1, 3, 3]], 3))
    lines = words(capsys.readouterr().out)
    assert "accuracy 50.0 %, with 95 % confidence 25.0 to 75.0 %".split() in lines
    assert "macro f1 37.5 %".split() in lines
    assert "c0 50.0 % 25.0 % 33.3 % 7".split() in lines
    assert lines[-3:] == [["1", "c0", "5", "2", "."], ["2", "c1", ".", "7", "."], ["3", "c2", "1", "3", "3"]]
    monkeypatch.setattr(console, "_details", True)
    print_evaluation(evaluation([[5, 2, 0], [0, 7, 0], [1, 3, 3]], 3))
    assert "c0 50.0 % 25.0 % 33.3 % 12.5 % - 7".split() in words(capsys.readouterr().out)


def test_prediction_sets_are_two_lines_of_an_evaluation(capsys: Capture) -> None:
    sets = SetQuality(images=240, coverage=0.9625, size=1.316, guarantee="prediction sets contain the label")
    print_evaluation(evaluation(None, 2).model_copy(update={"sets": sets}))
    lines = words(capsys.readouterr().out)
    assert "prediction sets coverage 96.2 %, with 1.32 labels on average".split() in lines
    assert "guarantee prediction sets contain the label".split() in lines


def test_of_many_classes_the_most_frequent_mistakes(capsys: Capture) -> None:
    """Thirteen columns beside a name are wider than a terminal."""
    confusion = [[5 * (row == column) for column in range(13)] for row in range(13)]
    confusion[2][4], confusion[8][1], confusion[12][11] = 1, 3, 2
    print_evaluation(evaluation(confusion, 13))
    assert words(capsys.readouterr().out)[-3:] == [["c8", "c1", "3"], ["c12", "c11", "2"], ["c2", "c4", "1"]]


def test_images_of_several_labels_have_no_confusion(capsys: Capture) -> None:
    print_evaluation(evaluation(None, 2))
    assert words(capsys.readouterr().out)[-1][0] == "c1"


def exports(*settings: dict[str, Any]) -> ExportReport:
    common = {"size_bytes": 12_340_000, "seconds": 1.5, "verdict": "proved", "summary": "3 of 3"}
    return ExportReport(
        run="runs/a",
        artifacts=[
            ExportedArtifact.model_validate({"artifact": "a", "precision": "int8", "path": "here"} | common | one)
            for one in settings
        ],
    )


def test_how_int8_was_made_stands_beside_it(capsys: Capture) -> None:
    share = {"int8_share": 0.85}
    print_export(
        exports(
            {"precision": "fp32"},
            share | {"smooth_quant_alpha": 0.5},
            share | {"smooth_quant_alpha": -1.0},
            share,
            share | {"preset": "mixed"},
        )
    )
    said = capsys.readouterr()
    assert words(said.out)[1:] == [["a", "12.3", "1.5", "here"]] * 5
    assert said.err == "next: ftx validate runs/a\n"
    print_export(exports({"precision": "int8"}).model_copy(update={"suggestion": "int8-checked does not pay"}))
    assert capsys.readouterr().err == "int8-checked does not pay\nnext: ftx validate runs/a\n"
    report = exports({"precision": "fp32"}, share, share | {"preset": "mixed"})
    made = ["", "85 % of layers are int8", "85 % of layers are int8, mixed preset"]
    assert [setting(one) for one in report.artifacts] == made


def test_every_setting_that_was_tried_stands_there(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    common = {"preset": None, "ranges": "mean", "bias_correction": True, "in_float": [], "accuracy_control": False}
    measured = {"images": 32, "work": 0.286}
    rows = [
        {"setting": "no SmoothQuant", "smooth_quant_alpha": -1, "mean_abs": None, "changed": 30, "chosen": False},
        {"setting": "SmoothQuant 0.5", "smooth_quant_alpha": 0.5, "mean_abs": 0.0541, "changed": 2, "chosen": True},
    ]
    searched = {
        "artifact": "openvino/int8",
        "machine": this_machine().model_dump(),
        "isa": "avx2",
        "candidates": [common | measured | row for row in rows],
        "sensitivities": [],
    }
    report = exports({"int8_share": 0.85, "smooth_quant_alpha": 0.5, "searched": searched})
    print_export(report)
    said = capsys.readouterr()
    assert "openvino/int8: 85 % of layers are int8, the best of 2 settings (-v shows them)\n" in said.err
    assert "logit error" not in said.out
    monkeypatch.setattr(console, "_details", True)
    print_export(report)
    said = capsys.readouterr()
    assert "a: verified on its reference images, 3 of 3" in said.err
    lines = words(said.out)
    assert "no SmoothQuant no number 30 of 32 0.29".split() in lines
    assert "SmoothQuant 0.5 0.0541 2 of 32 0.29 chosen".split() in lines


LAYERS = [LayerProof(layer="blocks.0.attn.qkv", relative_error=3e-8), LayerProof(layer="fc", relative_error=2e-8)]


def test_both_proofs_of_a_merge(capsys: Capture) -> None:
    print_merge(merged())
    said = capsys.readouterr()
    assert "logits  within 2.5e-06 of the trained model on 32 held-out images (bound 1e-04)\n" in said.out
    assert "layers  2, within 3.0e-08 of the unmerged computation in float64 (bound 1e-07)\n" in said.out
    assert said.err == (
        "the dense model has the same outputs as the trained one, except for rounding\n"
        "next: ftx export runs/a --precision fp32,int8\n"
    )
    print_merge(merged().model_copy(update={"layers": []}))
    assert "layers" not in capsys.readouterr().out  # of full fine-tuning


def merged() -> MergeReport:
    return MergeReport(
        run="runs/a",
        method="dora",
        path="runs/a/dense",
        size_bytes=22_100_000,
        layers=LAYERS,
        max_relative_error=3e-8,
        images=32,
        images_from="held-out images",
        max_logit_difference=2.5e-6,
        logit_bound=1e-4,
    )


def combined(shares: Sequence[float], **changed: Any) -> CombineReport:
    given: dict[str, Any] = {
        "adapters": ["runs/a", "runs/b"][: len(shares)],
        "shares": shares,
        "how": "linear",
        "density": None,
        "base": "the base",
        "architecture": "vit",
        "path": "my folder",
        "size_bytes": 22_100_000,
        "image_size": 32,
        "labels": 4,
        "layers": LAYERS,
        "max_relative_error": 3e-8,
        "max_logit_difference": 2.5e-6,
        "logit_bound": 1e-4,
    }
    return CombineReport.model_validate(given | changed)


def test_what_was_laid_over_what(capsys: Capture) -> None:
    _print_combined(combined([1.0]))
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "merged   runs/a",
        "into     the base: my folder, 22.1 MB, 4 classes at 32 px",
        "layers   2, within 3.0e-08 of the unmerged computation in float64 (bound 1e-07)",
        "outputs  within 2.5e-06 of the base with the adapters unmerged (bound 1e-04)",
    ]
    assert said.err == "next: ftx predict IMAGES --artifact 'my folder'\n"
    _print_combined(combined([0.7, 0.3], how="ties", labels=0))
    said = capsys.readouterr()
    assert "merged   0.7 x runs/a + 0.3 x runs/b by TIES\n" in said.out
    assert "no head, 32 px\n" in said.out
    assert "of the rule applied entry by entry" in said.out
    assert "ftx train --model vit --weights 'my folder/model.safetensors' --image-size 32" in said.err


def trained(**changed: Any) -> TrainReport:
    report = TrainReport(
        run="runs/a",
        method="dora",
        model="vit",
        precision="f32",
        classes=3,
        images={"train": 1500, "val": 30},
        unreadable=[],
        trainable_parameters=12_345,
        epochs=9,
        best_epoch=4,
        accuracy=0.5,
        metric="macro_f1",
        metrics={"accuracy": 0.5, "macro_f1": 0.375},
        loss=0.25,
        images_per_s=10.0,
        seconds=61.2,
        interrupted=False,
    )
    return report.model_copy(update=changed)


def test_how_a_training_went(capsys: Capture) -> None:
    _print_trained(trained())
    said = capsys.readouterr()
    assert "best epoch  4 of 9: macro f1 37.5 % on validation images, loss 0.250\n" in said.out
    assert "images      1,500 train, 30 val; 3 classes\n" in said.out
    assert said.out.endswith("run  runs/a\n")
    assert said.err == "next: ftx merge runs/a\n"


def epoch(number: int, reached: float, smoothed: float | None) -> Epoch:
    metrics = {"accuracy": 0.9, "macro_f1": reached}
    return Epoch(number, 0.5, 0.4, 0.9, metrics, lr=0.1, images_per_s=9, seconds=1, smoothed=smoothed)


def test_a_higher_epoch_that_was_not_kept_is_explained(tmp_path: Path, capsys: Capture) -> None:
    """By decision 18 the lower of an epoch's figure and its mean decides."""
    (tmp_path / "reports").mkdir()

    def told(*epochs: Epoch, **changed: Any) -> str:
        (tmp_path / EPOCHS_FILE).write_bytes(epoch_lines(epochs))
        _print_trained(trained(run=str(tmp_path), **changed))
        return capsys.readouterr().err.replace("\n", " ")

    lucky, kept = epoch(3, 0.625, 0.312), epoch(4, 0.375, 0.36)
    assert "epoch 3 had 62.5%, but its mean with up to two epochs before is 31.2%. ftx uses the lower" in told(
        lucky, kept
    )
    assert "ftx uses the lower" not in told(epoch(3, 0.375, 0.312), kept)
    assert "ftx uses the lower" not in told(epoch(3, 0.625, None), epoch(4, 0.375, None))  # an earlier ftx had no means


def test_an_epoch_says_its_figure_and_the_mean_that_it_counts_with() -> None:
    one, third = epoch(1, 0.5, 0.5), epoch(3, 0.625, 0.312)
    assert str(EpochEnd(one, 9, "macro_f1", one, "images")) == (
        "epoch 1: loss 0.500, validation macro f1 0.500, 9 images/s"
    )
    assert "validation macro f1 0.625 (mean of 3: 0.312), 9 images/s" in str(
        EpochEnd(third, 9, "macro_f1", one, "images")
    )
    assert "(mean of 2: 0.400)" in str(EpochEnd(epoch(2, 0.3, 0.4), 9, "macro_f1", one, "images"))


def dry_run(**changed: Any) -> DryRunReport:
    layer = PlannedLayer(name="blocks.0.mlp.fc1", targets=["fc1"], inputs=48, outputs=96, rank=4, parameters=576)
    report = DryRunReport(
        method="lora",
        model="vit",
        precision="f32",
        image_size=32,
        tokens={},
        augment="none",
        patch_dropout=0.0,
        counts={"a": {"train": 5, "val": 1}, "b": {"train": 4}},
        images={"train": 9, "val": 1},
        unreadable=[],
        layers=[layer, layer.model_copy(update={"name": "blocks.11.mlp.fc1"})],
        trainable_parameters=1152,
        trainable_share=0.02,
        memory_mb=900,
        free_mb=1000,
        epochs=3,
        seconds_before=0.4,
        seconds_per_epoch=10.0,
        seconds=30.4,
    )
    return report.model_copy(update=changed)


def test_what_a_training_would_do(capsys: Capture) -> None:
    _print_dry_run(dry_run())
    said = capsys.readouterr()
    lines = words(said.out)
    assert lines[:3] == [["class", "train", "val"], ["a", "5", "1"], ["b", "4", "0"]]
    assert ["blocks.N.mlp.fc1", "2", "fc1", "48", "96", "4", "1,152"] in lines
    assert "memory    about 900 MB; 1,000 MB are free\n" in said.out
    assert said.err == "nothing was trained; run the same command without --dry-run to train\n"
    assert "tokens" not in said.out
    assert "augment   unaugmented images\n" in said.out
    _print_dry_run(dry_run(augment="light", patch_dropout=0.25))
    assert "augment   crops and flips of images, 25% of the patches left out of a step\n" in capsys.readouterr().out
    _print_dry_run(dry_run(tokens={0: 257, 3: 181}))
    assert "tokens    257 from block 0 on, 181 from block 3 on\n" in capsys.readouterr().out
    _print_dry_run(dry_run(memory_mb=1001))
    assert "this does not fit into memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("epochs", "before", "each", "whole", "said"),
    [
        (3, 0.4, 10.0, 30.4, "about 30 s: 3 epochs of 10 s"),
        (1, 1.0, 9.4, 10.4, "about 10 s: 1 epoch of 9.4 s, and 1.0 s before"),
        (2, 24.0, 63.0, 150.0, "about 2 min: 2 epochs of 63 s, and 24 s before"),
        (50, 9.0, 100.0, 5009.0, "about 83 min: 50 epochs of 2 min, and 9.0 s before"),
        (100, 0.0, 72.0, 7200.0, "about 2.0 h: 100 epochs of 72 s"),
        (3, None, None, None, "not measured"),
    ],
)
def test_how_long_a_training_would_take(
    epochs: int, before: float | None, each: float | None, whole: float | None, said: str, capsys: Capture
) -> None:
    _print_dry_run(dry_run(epochs=epochs, seconds_before=before, seconds_per_epoch=each, seconds=whole))
    assert f"time      {said}\n" in capsys.readouterr().out


def row(**changed: Any) -> ParityRow:
    given: dict[str, Any] = {
        "artifact": "openvino/fp16",
        "runtime": "openvino",
        "view": "files",
        "compute": "f16",
        "images": 240,
        "max_abs": 0.0123,
        "mean_abs": 0.001,
        "cosine": 0.9999,
        "agreement": 1.0,
        "accuracy": 0.75,
        "accuracy_low": 0.7,
        "accuracy_high": 0.8,
        "latency_ms": 4.26,
        "bound": RowBound(max_abs=None, cosine=None, reason="free"),
        "ok": True,
        "verdict": "proved",
        "unit": "image",
        "labelled": 240,
        "lost": 2,
        "gained": 1,
        "drop": 1 / 240,
        "drop_low": 0.0,
        "drop_high": 0.01,
        "changed": 3 / 240,
        "changed_high": 0.03,
        "confidence": 0.95,
        "max_drop": 0.02,
        "needed_images": None,
        "worst_class": None,
        "worst": [],
    }
    return ParityRow.model_validate(given | changed)


def parity(*rows: ParityRow, **changed: Any) -> ParityReport:
    names = [one.artifact for one in rows]
    report = ParityReport(
        reference="trained",
        split="test",
        whole=True,
        max_drop=0.02,
        machine=Machine(cpu="a", instructions=(), openvino="1"),
        family=Family(alpha=0.05, artifacts=names, rows=len(rows)),
        verdicts={one.artifact: one.verdict for one in rows},
        summary=dict.fromkeys(names, "at most 1.0 points lost"),
        rows=list(rows),
        problems=[],
        faulty=[],
        digests={},
    )
    return report.model_copy(update=changed)


def test_a_line_for_each_model_as_it_is_deployed(capsys: Capture) -> None:
    """By image files and the precision that OpenVINO chooses; the time is that of one image."""
    one = row(artifact="openvino/int8", view="one_image", compute="auto:bf16", changed=0.0, latency_ms=3.3)
    files = row(artifact="openvino/int8", compute="auto:bf16", changed=0.025, accuracy=0.625, latency_ms=9.9)
    pinned = row(artifact="openvino/int8", compute="f32", changed=0.5, accuracy=0.5)
    fewer = row(artifact="dense", view="graph", images=128, compute="f32", latency_ms=5.0)
    print_parity(parity(row(artifact="trained", compute="f32"), fewer, files, pinned, one, run="runs/a"))
    said = capsys.readouterr()
    assert words(said.out)[-3:] == [
        "trained fp32 75.0 % 1.2 % 4.3 proved".split(),
        "dense fp32 - 1.2 % 5.0 proved".split(),
        "openvino/int8 bf16 62.5 % 2.5 % 3.3 proved".split(),
    ]
    assert "compared with the trained model on 240 test images\n" in said.out
    assert "openvino/int8: verified, at most 1.0 points lost\n" in said.err
    assert said.err.startswith("-: compared on only 128 images, too few for an accuracy\n")
    assert said.err.endswith("with -v, this command shows every comparison\nnext: ftx report runs/a\n")


def test_a_line_for_each_comparison(capsys: Capture, details: None) -> None:
    """In a pipe with every column; a dash for what is not known or not held to a bound."""
    unknown = row(artifact="onnx", verdict="failed", accuracy=None, max_abs=None, ok=False)
    print_parity(parity(row(), unknown, problems=["onnx: a logit is not finite"], ok=False))
    said = capsys.readouterr()
    held = ["files", "fp16", "1.2e-02", "-", "1.0e-03", "0.999900", "100.0", "75.0", "70.0-80.0", "2", "1", "4.3"]
    lines = words(said.out)
    assert lines[-2] == ["openvino/fp16", *held, "proved"]
    assert lines[-1] == ["onnx", *held[:2], "-", *held[3:7], "-", *held[9:], "FAILED"]
    assert "240 (files) images\n" in said.out
    assert "openvino/fp16: verified, at most 1.0 points lost\n" in said.err
    assert "onnx: FAILED, at most" in said.err
    assert "onnx: a logit is not finite\n" in said.err


def test_accuracies_beside_each_other_are_of_the_same_images(capsys: Capture, details: None) -> None:
    """In f32 a graph is asked about some of the images alone, whose accuracy would look like a gain or a loss."""
    fewer = row(artifact="dense", view="graph", images=128, accuracy=0.9, accuracy_low=0.83, accuracy_high=0.94)
    print_parity(parity(fewer, row(), row(artifact="onnx", accuracy=0.7)))
    said = capsys.readouterr()
    assert [line[8:-4] for line in words(said.out)[-3:]] == [["-"], ["75.0", "70.0-80.0"], ["70.0", "70.0-80.0"]]
    assert "accuracy is on all 240 images; rows with fewer images have none\n" in said.err
    print_parity(parity(row(), row(artifact="onnx")))
    assert "accuracy is on" not in capsys.readouterr().err


def test_a_whole_run_by_its_status_and_its_accuracies(capsys: Capture) -> None:
    report = PipelineReport(
        run="runs/a", seconds=61.2, train=trained(), merge=merged(), export=exports({}), parity=parity(row())
    )
    assert console.show(report, print_pipeline, json=False) == 0
    out = capsys.readouterr().out
    assert "run      runs/a\n" in out
    assert words(out)[-1][:2] == ["openvino/fp16", "fp16"]
    assert console.show(report, print_pipeline, json=True) == 0
    assert PipelineReport.model_validate_json(capsys.readouterr().out) == report
    failed = report.model_copy(update={"ok": False})
    assert [console.show(failed, print_pipeline, json=as_json) for as_json in (False, True)] == [1, 1]


def test_instruction_sets_with_the_row_that_says_least_in_their_favour(capsys: Capture) -> None:
    """Of a model by several ways of its kernels; the time is that of one image."""
    held = {"isa": "avx2", "emulated": True, "artifact": "openvino/int8", "compute": "auto:f32"}
    graph = row(**held, view="graph", changed=0.25, max_abs=0.5, latency_ms=12.4, primitives={"a": 1})
    one = row(**held, view="one_image", changed=0.125, latency_ms=33.6, primitives={"jit:avx2": 20, "brg": 3, "x": 3})
    pinned = row(**held | {"compute": "f32"}, view="graph", changed=0.75, latency_ms=99.0)
    own = row(artifact="openvino/int8", isa="avx512_vnni", compute="auto:f32", view="graph", changed=0.0)
    common = {"artifact": "openvino/int8", "summary": "between 3 and 5 points lost"}
    sets = [
        SetVerdict.model_validate(common | {"isa": "avx512_vnni", "emulated": False, "verdict": "proved"}),
        SetVerdict.model_validate(common | {"isa": "avx2", "emulated": True, "verdict": "failed"}),
        SetVerdict.model_validate(common | {"isa": "amx", "emulated": False, "verdict": "not_run"}),
    ]
    print_parity(parity(own, graph, one, pinned, sets=sets))
    said = capsys.readouterr()
    lines = words(said.out)[-3:]
    assert lines[0][:6] == ["avx512_vnni", "openvino/int8", "fp32", "1.2e-02", "0.0", "4"]
    assert lines[1] == ["avx2", "openvino/int8", "fp32", "5.0e-01", "25.0", "34", "a", "failed"]
    assert lines[2] == ["amx", "openvino/int8", *"-----", "not_run"]
    assert "openvino/int8 on avx2: failed: between 3 and 5 points lost\n" in said.err
    assert "on amx" not in said.err
    # The rows of this machine alone stand above, and the way out is said of a folder, whose run is elsewhere.
    assert "on 240 test images\n" in said.out
    print_what_saturates(parity(own, graph, one, pinned, sets=sets), None)
    safe = f"on the server, {EXPORT_IR} --precision {IR_INT8_SAFE.variant}\n"
    assert safe in capsys.readouterr().err
    worse = one.model_copy(update={"changed": 0.375})
    print_parity(parity(own, graph, worse, pinned, sets=sets, run="runs/a"))
    said = capsys.readouterr()
    last = ["avx2", "openvino/int8", "fp32", "1.2e-02", "37.5", "34", "jit:avx2,", "+2", "failed"]
    assert words(said.out)[-2] == last
    print_what_saturates(parity(own, graph, worse, pinned, sets=sets, run="runs/a"), Path("my photos"))
    safe = f"7 bits they do not: {EXPORT_IR} runs/a --precision {IR_INT8_SAFE.variant} --data 'my photos'\n"
    assert safe in capsys.readouterr().err
    has_one = parity(own, graph, worse, pinned, sets=sets, run="runs/a")
    has_one.verdicts[IR_INT8_SAFE.name], has_one.summary[IR_INT8_SAFE.name] = "unproved", "few images"
    print_what_saturates(has_one, None)
    assert not capsys.readouterr().err


def test_the_label_that_lost_most_and_what_proof_would_take(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def label(name: str, drop: float, high: float) -> ClassDrop:
        figures = {"labelled": 8, "lost": 2.5, "gained": 1, "drop": drop, "drop_low": -0.1, "drop_high": high}
        return ClassDrop.model_validate({"name": name, **figures})

    rows = [
        row(worst_class=label("cat", 0.2, 0.3)),
        row(artifact="onnx", compute="f32", view="graph", worst_class=label("dog", 0.2, 0.4)),
        row(artifact="trained", worst_class=label("cow", 0.9, 0.95)),
    ]
    monkeypatch.setattr(console, "_details", True)
    print_parity(parity(*rows))
    said = capsys.readouterr().err
    counts = "2.5 lost, 1 gained of its 8; at most 40.0 points lost (95 %)"
    assert f"worst label: dog, onnx (graph view, fp32): {counts}\n" in said
    assert "openvino/fp16, onnx, trained are tested together" in said
    assert "to prove more, use more test images" not in said
    unproved = row(verdict="unproved", needed_images=300)
    print_parity(parity(unproved, run="runs/a"))
    assert "to prove more, use more test images" in capsys.readouterr().err
    print_parity(parity(unproved))  # an IR on a device has no run, and no other images
    said = capsys.readouterr().err
    assert "to prove more, use more test images" not in said
    assert "tested together" not in said


def test_bounds_and_instruction_sets_as_they_are_written(capsys: Capture) -> None:
    assert parse_bounds(["int8.graph.max_abs=2", " fp16.files.cosine = 0.5"]) == {
        "int8.graph.max_abs": 2.0,
        "fp16.files.cosine": 0.5,
    }
    with pytest.raises(InputError, match="--bound must be KEY=VALUE"):
        parse_bounds(["a=1", "x"])
    first, *others = INSTRUCTION_SETS
    assert parse_sets([f"{first}, {others[-1]}", others[0]]) == [first, others[-1], others[0]]
    assert parse_sets(["all"]) == list(INSTRUCTION_SETS)
    with pytest.raises(InputError) as refused:
        parse_sets([first, "avx3"])
    assert refused.value.found == "avx3"


def test_a_bench_says_what_it_kept_for_one_image_and_for_many(capsys: Capture) -> None:
    given = {
        "artifact": "openvino/fp32", "runtime": "openvino", "compute": "f32", "isa": "avx2", "primitives": {},
        "batch": 3, "threads": 5, "streams": 7, "requests": 900, "p50_ms": 1.25, "p90_ms": 2.26, "p99_ms": 3.36,
        "images_per_s": 123.44, "compile_ms": 411.6, "compile_cached_ms": 33.3, "first_ms": 22.4,
        "peak_bytes": 154_600_000,
    }  # fmt: skip
    kept = SavedSetting(
        artifact="openvino/fp32",
        path="here",
        latency=OpenvinoSetting(compute="f32", batch=1, threads=4, streams=2),
        p50_ms=1.5,
        throughput=OpenvinoSetting(compute="auto", batch=16, threads=8, streams=6),
        images_per_s=250.06,
    )
    report = BenchReport(
        machine=Machine(cpu="a CPU", instructions=(), openvino="1"),
        processors=9,
        image_size=32,
        seconds=3.0,
        rounds=3,
        tried=11,
        rows=[BenchRow.model_validate(given), BenchRow.model_validate(given | {"compile_ms": None, "isa": None})],
        saved=[kept],
        notes=["another program was at work"],
    )
    print_bench(report)
    said = capsys.readouterr()
    assert said.out.startswith("32 px, 9 processors, avx2; a CPU\n")
    figures = ["openvino/fp32", "fp32", "3", "5", "7", "1.2", "2.3", "3.4", "123.4"]
    assert words(said.out)[2:] == [[*figures, "412", "33", "22", "155"], [*figures, "-", "33", "22", "155"]]
    assert said.err == (
        "another program was at work\n"
        "fastest for one image: openvino/fp32, 1.2 ms; for many images: openvino/fp32, 123 images/s\n"
        "openvino/fp32: on this machine ftx predict now uses fp32, batch 1, threads 4, streams 2 for one image "
        "(1.5 ms), and auto, batch 16, threads 8, streams 6 for many (250.1 images/s)\n"
    )


def test_the_best_trials_first_and_how_many_there_are(capsys: Capture) -> None:
    def tried(number: int, metric: float | None, state: str = "complete", **changed: Any) -> TriedTrial:
        given = {"keys": {"train.lr": 0.00123456}, "latency_ms": 2.26, "epochs": 7, "run": None} | changed
        return TriedTrial.model_validate({"number": number, "state": state, "metric": metric, **given})

    trials = [tried(0, 0.5), tried(1, 0.75), tried(2, None, "failed", epochs=None, latency_ms=None, keys={})]
    trials += [tried(3, 0.625, "pruned"), tried(4, None, "running", keys={"train.lr": 3}), tried(5, None, "failed")]
    report = TuneReport(
        study="ftx",
        storage="sqlite",
        metric="macro_f1",
        objectives=["metric", "latency"],
        searched={"train.lr": [1, 2]},
        trials=trials,
        best=[0],
        best_recipe="best.yaml",
        seconds=3.0,
        run="runs/my trial",
    )
    print_tuned(report)
    said = capsys.readouterr()
    lines = words(said.out)
    assert lines[0] == ["trial", "train.lr", "macro", "f1", "ms", "epochs", "state"]
    assert lines[1] == ["0", "0.00123", "0.5000", "2.3", "7", "complete"]
    assert [line[0] for line in lines[1:7]] == ["0", "1", "3", "2", "4", "5"]
    assert lines[4] == ["2", *"----", "failed"]
    assert "trials  3, 2 failed, 1 running\n" in said.out
    assert "best recipe  best.yaml\n" in said.out
    assert said.err == "next: ftx merge 'runs/my trial'\n"
    print_tuned(report.model_copy(update={"objectives": ["metric"], "best_recipe": None}))
    said = capsys.readouterr()
    assert words(said.out)[1] == ["0", "0.00123", "0.5000", "7", "complete"]
    assert said.err == ""


def test_a_report_says_its_verdict_and_where_the_page_is(capsys: Capture) -> None:
    print_report(
        ReportReport(
            path="page.html", size_bytes=1_260_000, verdict="Ready", lacks=["a bench"], faults=["a hash"], notes=["old"]
        )
    )
    said = capsys.readouterr()
    assert said.out == "page  page.html\nsize  1.3 MB\n"
    assert said.err == "Ready\nproblem: a hash\nmissing: a bench\nold\n"
    verdicts = {"runs/a": "Ready", "runs/b": "Not ready"}
    print_comparison(ComparisonReport(path="both.html", size_bytes=2_240_000, verdicts=verdicts, pairs=["b is better"]))
    said = capsys.readouterr()
    assert said.out == "page  both.html\nsize  2.2 MB\n"
    assert said.err == "runs/a: Ready\nruns/b: Not ready\nb is better\n"


def applied(**changed: Any) -> ApplyReport:
    report = ApplyReport(
        path="model", base="base", exact=True, weight_bound=None, max_abs=1e-5, bytes_shipped=1_260_000, seconds=2.26,
        verdict="proved", summary="3 of 3", sequence=4, layers=24, labels=7,
    )  # fmt: skip
    return report.model_copy(update=changed)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "model: 24 layers, 7 labels, the server's weights, 1.26 MB shipped, 2.3 s"),
        ({"exact": None}, "model: 24 layers, 7 labels, merged, 1.26 MB shipped, 2.3 s"),
        (
            {"exact": False, "weight_bound": 0.00123},
            "model: 24 layers, 7 labels, weights within 1.2e-03, 1.26 MB shipped, 2.3 s",
        ),
        ({"layers": 0}, "model: nothing to merge, 1.26 MB shipped, 2.3 s"),
        ({"rolled_back": True}, "model: update 4 again, in 2.3 s"),
        ({"rolled_back": True, "sequence": None}, "model: the model before again, in 2.3 s"),
    ],
)
def test_what_came_of_an_update(changed: dict[str, Any], said: str, capsys: Capture) -> None:
    print_applied(applied(**changed))
    assert capsys.readouterr().err == f"{said}\nverified: 3 of 3\n"


def test_what_is_not_listed_is_counted(capsys: Capture) -> None:
    _print_list("images: 13", [f"{number}.png" for number in range(13)])
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["", "images: 13", "  0.png"]
    assert lines[-2:] == ["  9.png", "  and 3 more; --json lists all"]
    _print_list("images: 10", [f"{number}.png" for number in range(10)])
    assert capsys.readouterr().err.splitlines()[-1] == "  9.png"


@pytest.mark.parametrize(
    ("summary", "short"),
    [
        (
            "at most 1.5 points lost (95 % confidence, 9 images): 4 lost, 2 gained",
            "at most 1.5 points lost (95 % confidence, 9 images)",
        ),
        (
            "at most 5 points lost (95 % confidence, 9 groups): 1.5 lost, 0 gained; 386 groups ...",
            "at most 5 points lost (95 % confidence, 9 groups); 386 groups ...",
        ),
        (
            "logits within 2.9e-06 of the trained model's (bound 8.2e-04), 0 % of labels changed",
            "0 % of labels changed",
        ),
        ("at most 1 points lost (95 %): 2 lost, 2 gained of 900", "at most 1 points lost (95 %)"),  # of an earlier ftx
        ("a logit is off by 1, the bound is 0.5", "a logit is off by 1, the bound is 0.5"),
    ],
)
def test_a_verdict_is_short_without_details(summary: str, short: str) -> None:
    assert without_details(summary) == short


def test_a_validation_without_rows_is_printed(capsys: Capture) -> None:
    print_parity(parity())
    assert "compared with the trained model on 0 test images\n" in capsys.readouterr().out
