"""Whether int8-checked is suggested: by certificates that are measured at export, and then deleted."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import one_int8_setting

from ftx.core.progress import SILENT
from ftx.exporting import suggest_checked as suggesting
from ftx.exporting.export_source import Source
from ftx.exporting.suggest_checked import hint, suggest_checked
from ftx.runs.artifacts import IR_INT8_CHECKED
from ftx.runs.certificate import Certificate, QuickModel
from ftx.runs.compute_precision import F32
from ftx.runs.machine import this_machine
from ftx.runs.run import Run


def certificate(quick: QuickModel, changed: int, time_vs_fp32: float) -> Certificate:
    return Certificate(
        machine=this_machine(),
        isa="amx",
        quick=quick,
        compute=F32,
        kernels="batch",
        source="val",
        images=299,
        bound=0.5,
        changed=changed,
        twice=30,
        time_vs_fp32=time_vs_fp32,
    )


@pytest.mark.parametrize(
    ("int8", "bf16", "said"),
    [
        ((3, 0.804), None, "of 3 of 299 images; int8-checked does not pay on this machine: it takes about 0.80 of the"),
        ((3, 0.8), None, "of 3 of 299 images; int8-checked keeps those of fp32, in about 0.80 of its time: ftx export"),
        ((3, 0.9), (1, 0.6), "of 3 of 299 images; int8-checked keeps those of fp32, in about 0.60 of its time"),
        ((3, 0.7), (1, 0.9), "of 3 of 299 images; int8-checked keeps those of fp32, in about 0.70 of its time"),
        ((0, 0.5), (1, 0.4), "of none of 299 images: you do not need int8-checked"),
    ],
)
def test_it_is_suggested_where_one_image_takes_less(
    int8: tuple[int, float], bf16: tuple[int, float] | None, said: str
) -> None:
    known = [certificate("int8", *int8), *([certificate("bf16", *bf16)] if bf16 else [])]
    assert hint(Path("runs/x"), known).startswith(f"int8 changes the labels {said}")


@pytest.mark.representative
def test_it_is_measured_on_validation_images_and_leaves_nothing(
    fresh_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suggesting, "IMAGES", 7)
    with one_int8_setting():
        source = Source(fresh_run, None, SILENT)
        assert " of 7 images" in (suggest_checked(source) or "")
    assert not fresh_run.folder(IR_INT8_CHECKED).exists()
    val = fresh_run.entries("val")
    for entry in val:
        (Path(fresh_run.manifest.data_root) / entry.path).unlink()
    said = suggest_checked(source) or ""
    assert said.startswith("int8-checked was not measured: ")
    monkeypatch.setattr(Run, "entries", lambda run, split=None: ())
    assert suggest_checked(source) is None
