"""What ``ftx validate`` wrote is read whole or not at all: a key that it does not write is another schema's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.gates.faults import edit_json

from ftx.core.errors import ExportError
from ftx.runs.parity_json import PARITY_FILE, read_parity
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
    with pytest.raises(ExportError, match=r"proof\.json does not hold") as caught:
        read_proof(folder)
    assert "spare" in str(caught.value.found)
