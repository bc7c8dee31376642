"""The precision that a model computes in is typed in Python, and a text in reports."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from pydantic import BaseModel, ValidationError

from ftx.runs.compute_precision import ComputeField, ComputePrecision, Dtype, read_compute


class Row(BaseModel):
    compute: ComputeField


@pytest.mark.parametrize("dtype", get_args(Dtype))
@pytest.mark.parametrize("chosen", [False, True])
def test_the_text_of_a_report_says_all_of_it(dtype: Dtype, chosen: bool) -> None:
    compute = ComputePrecision(dtype, chosen_by_runtime=chosen)
    text = f"auto:{dtype}" if chosen else dtype
    assert str(compute) == text
    assert read_compute(text) == compute
    row = Row(compute=compute)
    assert json.loads(row.model_dump_json()) == row.model_dump() == {"compute": text}
    assert Row.model_validate_json(row.model_dump_json()) == row


def test_the_schema_of_a_report_shows_a_text() -> None:
    for mode in ("validation", "serialization"):
        schema = Row.model_json_schema(mode=mode)
        assert schema["properties"]["compute"] == {"title": "Compute", "type": "string"}


@pytest.mark.parametrize("text", ["", "f64", "auto", "auto:", "auto:f64", "bf16:auto", "auto:auto:f32", 32, None])
def test_any_other_text_is_refused(text: object) -> None:
    with pytest.raises(ValidationError, match="must be one of"):
        Row.model_validate({"compute": text})
