"""The images that a row names as the worst come in the order that a user looks at them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ftx.evaluating import validate
from ftx.runs.card_json import REFERENCE_FILE, read_card, write_card


def test_no_number_first_then_another_label_then_the_furthest(colour_model: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(colour_model.folder, tmp_path / "fp32"))
    card, tensors = read_card(folder), load_file(folder / REFERENCE_FILE)
    with safe_open(folder / REFERENCE_FILE, framework="np") as file:
        metadata = dict(file.metadata())
    logits = tensors["logits"]
    logits[9, 2] += 0.5
    logits[5, 2] += 50  # blue is blue all the more
    logits[7] = logits[7][[1, 0, 2]]  # green is called red: off by 3
    logits[2] = np.nan
    logits[10, 1] += 2
    save_file(tensors, folder / REFERENCE_FILE, metadata=metadata)
    write_card(folder, card)
    report = validate(folder)
    assert not report.ok
    for row in report.rows:
        assert row.worst == ["blue/2.png", "green/7.png", "blue/5.png", "green/10.png", "red/9.png"]
        assert row.max_abs is None
    assert "blue/2.png" in report.problems[0]
