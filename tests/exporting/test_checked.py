"""``ftx export --precision int8-checked``: both models, and a bound from images that nothing else has used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import Listener, one_int8_setting
from tests.gates.faults import edit_json

from ftx.core.errors import InputError
from ftx.data.dataset import Entry, Split
from ftx.evaluating import validate
from ftx.evaluating.parity_images import certifying_images, certifying_rows
from ftx.exporting import export
from ftx.exporting.ovms import export_ovms
from ftx.runs.artifacts import IR_INT8_CHECKED
from ftx.runs.card_json import CERTIFICATE_FILE
from ftx.runs.certificate_json import read_certificates
from ftx.runs.run import Run
from ftx.runtimes import load
from ftx.runtimes.openvino import OpenVinoPredictor, default_compute
from ftx.tasks.decisions import movements


@pytest.mark.slow
def test_it_is_exported_certified_and_validated(fresh_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with one_int8_setting():
        alone = export(fresh_run, formats=["openvino"], precisions=["int8"])
        report = export(fresh_run, formats=["openvino"], precisions=["fp32", "int8", "int8-checked"])
    fp32, checked, int8 = (fresh_run.path / one.path for one in report.artifacts)
    assert checked == fresh_run.require(IR_INT8_CHECKED)
    # The same int8 and the same float model as alone.
    assert (checked / "model.bin").read_bytes() == (int8 / "model.bin").read_bytes()
    assert (checked / "float.bin").read_bytes() == (fp32 / "model.bin").read_bytes()
    assert not any(path.is_symlink() for path in checked.iterdir())
    exported = report.artifacts[1]
    assert exported.size_bytes == sum(path.stat().st_size for path in checked.glob("*.[xb]*") if path.suffix != ".json")
    certificate, *others = read_certificates(checked).certificates
    assert (certificate.images, certificate.source, certificate.quick) == (12, "val", "int8")
    assert [one.quick for one in others] == (["bf16"] if default_compute().dtype == "bf16" else [])
    assert [certificate, *others] == exported.certificates
    # With int8 and no int8-checked, a hint from the same measurement.
    assert f"of {certificate.changed or 'none'} of 12 images" in (alone.suggestion or "")
    assert report.suggestion is None
    # By the logits of both for the same images, in numpy.
    store = [Path(fresh_run.manifest.data_root) / entry.path for entry in fresh_run.entries("val")]
    quick, exact = (OpenVinoPredictor(checked, part=part) for part in ("int8", "fp32"))
    quick_NC, exact_NC = (np.stack([np.asarray(row) for row in one.logits_from_files(store)]) for one in (quick, exact))
    assert certificate.bound == pytest.approx(max(0, movements(quick.task, quick_NC, exact_NC).max()), abs=1e-5)
    # On the test images: the bound may be exceeded, in at most 22 % of cases with 12 images.
    found = validate(fresh_run)
    assert found.verdicts["openvino/int8-checked"] != "failed"
    assert [row.subject for row in found.rows if row.subject == IR_INT8_CHECKED]
    # Without test images, it is judged by the half of val that did not give its bound, and the others by all of val.
    without_test = tuple(entry for entry in fresh_run.entries() if entry.split != "test")

    def entries(run: Run, split: Split | None = None) -> tuple[Entry, ...]:
        return tuple(one for one in without_test if split in (None, one.split))

    with monkeypatch.context() as patch:
        patch.setattr(Run, "entries", entries)
        rows = validate(fresh_run).rows
    images = {(row.artifact, row.images) for row in rows if row.view == "files" and row.subject.precision == "int8"}
    assert images == {("openvino/int8", 12), ("openvino/int8-checked", 6)}
    # Whoever opens the run is told as well.
    (checked / CERTIFICATE_FILE).unlink()
    unused = ("openvino/fp32/", "openvino/int8/")

    def without(raw: Any) -> None:
        raw["files"] = {name: digest for name, digest in raw["files"].items() if not name.startswith(unused)}

    edit_json(fresh_run.path / "run.json", without)
    listener = Listener()
    load(Run.open(fresh_run.path), progress=listener)
    note = "int8-checked is not certified on this CPU and version of OpenVINO: each image also runs in fp32"
    assert note in listener.said
    with pytest.raises(InputError) as caught:
        export_ovms(fresh_run, fresh_run.path / "ovms", precisions=["int8-checked"])
    assert "ftx serve" in str(caught.value.fix)


def test_images_that_bound_it_are_neither_trained_on_nor_reported(
    fresh_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = fresh_run.entries()
    val = [entry for entry in entries if entry.split == "val"]
    assert certifying_images(fresh_run) == (tuple(sorted(val, key=lambda entry: entry.sha256)), "val")

    def given(*changed: Entry) -> None:
        def found(run: Run, split: Split | None = None) -> tuple[Entry, ...]:
            return tuple(one for one in changed if split in (None, one.split))

        monkeypatch.setattr(Run, "entries", found)

    # Without test images half of them are left for reports.
    given(*(one for one in entries if one.split != "test"))
    some, source = certifying_images(fresh_run)
    assert (len(some), source) == (6, "half of val")
    assert certifying_rows(fresh_run, val) == {row for row, entry in enumerate(val) if entry in some}
    # An image that was trained on counts for nothing, and a group as one.
    train = next(one for one in entries if one.split == "train")
    given(*entries, replace(train, split="val"))
    assert len(certifying_images(fresh_run)[0]) == 12
    given(*(replace(one, group="a" if index % 2 else f"{index}") for index, one in enumerate(val)), train, entries[-1])
    assert len(certifying_images(fresh_run)[0]) == 7
