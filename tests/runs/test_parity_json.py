"""What ``ftx validate`` wrote is read whole or not at all: a key that it does not write is another schema's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.gates.faults import edit_json

from ftx.core.errors import ExportError
from ftx.runs.compute_precision import read_compute
from ftx.runs.parity_json import PARITY_FILE, ParityRow, RowBound, SetVerdict, latency_rows, read_parity
from ftx.runs.proof_json import read_proof

WRITTEN = Path(__file__).parents[1] / "written" / "v1" / "multiclass-dora"
# Where in the document a key is added that nobody writes.
PLACES: dict[str, Callable[[Any], Any]] = {
    "row": lambda found: found["rows"][0],
    "bound": lambda found: found["rows"][0]["bound"],
    "family": lambda found: found["family"],
}


@pytest.mark.parametrize("place", PLACES)
def test_a_key_that_no_ftx_writes_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    report = Path(shutil.copy(WRITTEN / PARITY_FILE, tmp_path / PARITY_FILE))
    assert read_parity(tmp_path) is not None
    edit_json(report, lambda found: PLACES[place](found).update(spare=1))
    assert read_parity(tmp_path) is None
    folder = Path(shutil.copytree(WRITTEN / "openvino" / "fp32", tmp_path / "fp32"))
    assert read_proof(folder).run is not None
    edit_json(folder / "proof.json", lambda found: PLACES[place](found["run"]).update(spare=1))
    with pytest.raises(ExportError, match=r"proof\.json is damaged") as caught:
        read_proof(folder)
    assert "spare" in str(caught.value.found)


def row_of(**changed: Any) -> ParityRow:
    found = read_parity(WRITTEN)
    assert found is not None
    return found.rows[0].model_copy(update=changed)


@pytest.mark.parametrize(
    ("max_abs", "cosine", "said"),
    [
        (0.25, 0.875, []),  # a bound may be reached
        (0.5, 0.9, ["a logit is off by 0.5, the bound is 0.25"]),
        (0.1, 0.75, ["the mean cosine is 0.75000, the bound is 0.87500"]),
        (0.5, 0.75, ["a logit is off by 0.5, the bound is 0.25", "the mean cosine is 0.75000, the bound is 0.87500"]),
        (None, 1.0, ["logits contain NaN or infinity"]),
        (0.0, None, ["logits contain NaN or infinity"]),
    ],
)
def test_each_measure_has_its_own_bound(max_abs: float | None, cosine: float | None, said: list[str]) -> None:
    assert RowBound(max_abs=0.25, cosine=0.875, reason="as given").exceeded(max_abs, cosine) == said


def test_a_measure_without_a_bound_is_free() -> None:
    assert RowBound(max_abs=None, cosine=0.875, reason="as given").exceeded(99.0, 0.9) == []
    assert RowBound(max_abs=0.25, cosine=None, reason="as given").exceeded(0.1, -1.0) == []


def test_the_latency_is_that_of_one_image_as_it_runs_deployed() -> None:
    """Of a model as it is opened for one image where it was asked so, in each precision; never of files."""

    def row(artifact: str, view: str, compute: str, ms: float, **changed: Any) -> ParityRow:
        asked = {"artifact": artifact, "view": view, "compute": read_compute(compute), "latency_ms": ms}
        return row_of(**asked, **({"isa": "avx2", "emulated": False} | changed))

    rows = [
        row("openvino/int8", "one_image", "auto:bf16", 2.0),
        row("openvino/int8", "graph", "auto:bf16", 3.0),
        row("openvino/int8", "graph", "f32", 5.0),
        row("openvino/int8", "files", "auto:bf16", 1.0),
        row("openvino/fp32", "graph", "auto:f32", 7.0),
        row("openvino/fp32", "graph", "f32", 8.0),
        row("openvino/fp32", "graph", "f32", 9.0, isa="avx512"),
        row("openvino/fp32", "graph", "f32", 11.0, emulated=True),
        row("onnx", "files", "f32", 4.0),
    ]
    for order in (rows, rows[::-1]):
        found = {
            (one.artifact, one.compute.dtype, one.isa, one.emulated): one.latency_ms for one in latency_rows(order)
        }
        assert found == {
            ("openvino/int8", "bf16", "avx2", False): 2.0,
            ("openvino/int8", "f32", "avx2", False): 5.0,
            ("openvino/fp32", "f32", "avx2", False): 7.0,  # as it is deployed, where both compute in f32
            ("openvino/fp32", "f32", "avx512", False): 9.0,
            ("openvino/fp32", "f32", "avx2", True): 11.0,
        }


def test_rows_of_other_sets_are_none_of_the_machine_as_it_is() -> None:
    report = read_parity(WRITTEN)
    assert report is not None
    rows = [row_of(emulated=False, latency_ms=1.0), row_of(emulated=True, latency_ms=2.0)]
    assert [row.latency_ms for row in report.model_copy(update={"rows": rows}).own_rows] == [1.0]


@pytest.mark.parametrize(
    ("verdict", "emulated", "said"),
    [
        ("proved", True, "proved (emulated)"),
        ("proved", False, "proved"),
        ("failed", True, "failed"),
        ("not_run", False, "not_run"),
    ],
)
def test_a_proof_in_a_process_that_was_held_says_so(verdict: Any, emulated: bool, said: str) -> None:
    assert str(SetVerdict(artifact="onnx", isa="avx2", emulated=emulated, verdict=verdict, summary="")) == said
