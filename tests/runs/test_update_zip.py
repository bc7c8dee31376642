"""How large an update may be when it is unpacked: a zip can claim anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ftx.core.errors import ExportError
from ftx.runs import update_zip
from ftx.runs.update_zip import REFERENCE_LOGITS, Update, read_update, tensor_digest, write_update
from ftx.tasks.labels import Labels

UPDATE = Update(
    base_digest="0", base_ir_digest="1", image_size=32, sequence=3, tensors={}, dense_digest="2", max_drop=0.02,
    task="multiclass", labels=Labels.multiclass(["a", "b"]), files={},
)  # fmt: skip


@pytest.fixture
def update(tmp_path: Path) -> Path:
    """A megabyte of zeros, in a file of some kilobytes."""
    write_update(tmp_path / "update.zip", UPDATE, {REFERENCE_LOGITS: bytes(1_000_000)})
    assert (tmp_path / "update.zip").stat().st_size < 10_000
    return tmp_path / "update.zip"


@pytest.mark.parametrize(
    ("limits", "refused"),
    [
        ({}, False),
        # Twenty times its file is less, and what may always be is more.
        ({"SMALL_BYTES": 500_000}, True),
        ({"SMALL_BYTES": 500_000, "MOST_TIMES": 1000}, False),
        ({"SMALL_BYTES": 500_000, "MOST_TIMES": 1000, "MOST_BYTES": 900_000}, True),
        ({"MOST_BYTES": 900_000}, True),
        ({"MOST_TEXT_BYTES": 100}, True),
    ],
)
def test_each_limit_holds_by_itself(
    limits: dict[str, int], refused: bool, update: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, most in limits.items():
        monkeypatch.setattr(update_zip, name, most)
    if refused:
        with pytest.raises(ExportError, match="too large when unpacked"):
            read_update(update)
    else:
        read, files = read_update(update)
        assert (read.sequence, read.labels, files) == (3, UPDATE.labels, {REFERENCE_LOGITS: bytes(1_000_000)})


def test_a_tensor_is_known_by_its_values_as_f32_in_their_order() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert tensor_digest(values) == tensor_digest(values.astype(np.float64)) == tensor_digest(np.asfortranarray(values))
    assert tensor_digest(values) != tensor_digest(values.T)
    assert tensor_digest(values) != tensor_digest(values + np.float32(1e-3))
