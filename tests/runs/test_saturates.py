"""When int8 counts as saturating on CPUs without VNNI."""

from __future__ import annotations

from pathlib import Path

import pytest

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
        summary={"openvino/int8": ""},
        rows=[],
        problems=[],
        faulty=[],
        digests={},
        sets=[
            SetVerdict(artifact="openvino/int8", isa=isa, emulated=True, verdict=verdict, summary="")  # type: ignore[arg-type]
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
    assert report(tmp_path, here, **sets).int8_saturates is expected
