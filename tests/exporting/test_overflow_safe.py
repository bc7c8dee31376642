"""When a run is given the INT8 model for CPUs without VNNI."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import Listener

from ftx.exporting.overflow_safe import make_safe, saturates
from ftx.runs.machine import this_machine
from ftx.runs.parity_json import Family, ParityReport, SetVerdict, Verdict


def report(run: Path, here: Verdict, **sets: Verdict) -> ParityReport:
    """What was found of int8: on this machine, and on emulated sets."""
    return ParityReport(
        run=str(run),
        reference="trained",
        split="test",
        whole=True,
        max_drop=0.02,
        machine=this_machine(),
        family=Family(alpha=0.05, artifacts=[], rows=0),
        verdicts={"openvino/int8": here},
        said={"openvino/int8": ""},
        rows=[],
        problems=[],
        faulty=[],
        digests={},
        sets=[
            SetVerdict(artifact="openvino/int8", isa=isa, emulated=True, verdict=verdict, said="")  # type: ignore[arg-type]
            for isa, verdict in sets.items()
        ],
    )


@pytest.mark.parametrize(
    ("here", "sets", "expected"),
    [
        ("proved", {"avx2": "failed", "avx512_vnni": "proved"}, True),
        ("unproved", {"avx2": "failed", "avx512": "failed"}, True),
        ("proved", {"avx2": "proved", "avx512": "unproved"}, False),
        ("proved", {}, False),
        # A model that fails with VNNI too does not saturate, and 7 bits would be worse.
        ("proved", {"avx2": "failed", "avx2_vnni": "failed"}, False),
        ("failed", {"avx2": "failed"}, False),
    ],
)
def test_it_saturates_where_it_fails_without_vnni_alone(
    here: Verdict, sets: dict[str, Verdict], expected: bool, tmp_path: Path
) -> None:
    assert saturates(report(tmp_path, here, **sets)) is expected


def test_a_run_that_has_one_gets_no_other(tmp_path: Path) -> None:
    """The models that are there were validated: one of 7 bits was among them, whatever its own verdict."""
    made = Listener()
    without, having = (report(tmp_path / "gone", "proved", avx2="failed") for _ in range(2))
    having.verdicts["openvino/int8-overflow-safe"] = "unproved"
    assert not make_safe(having, progress=made)
    assert not made.said
    make_safe(without, progress=made)
    assert "making openvino/int8-overflow-safe" in made.said[0]


def test_a_model_that_cannot_be_made_leaves_the_report(tmp_path: Path) -> None:
    """There is no run: what was measured must not be lost for it."""
    assert not make_safe(report(tmp_path / "gone", "proved", avx2="failed"))
    assert not list(tmp_path.iterdir())
