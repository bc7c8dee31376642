"""THE table of artifacts: in the order of the pipeline, with a writer each, and written down nowhere else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ftx
from ftx.core.errors import InputError
from ftx.exporting import export
from ftx.runs.artifacts import ARTIFACTS, DENSE, EXPORTED, FORMATS, IRS, TRAINED, finer_variants
from ftx.runs.card_json import Card

SOURCE = Path(ftx.__file__).parent


def test_each_is_made_from_one_that_comes_before_it() -> None:
    order = list(ARTIFACTS.values())
    assert order[0] == TRAINED
    for place, artifact in enumerate(order[1:], 1):
        assert artifact.made_from in order[:place]
    assert order == [TRAINED, DENSE, *EXPORTED]


def test_each_that_is_exported_has_a_format_and_a_writer() -> None:
    from ftx.exporting.writers import WRITERS

    assert set(WRITERS) == set(EXPORTED)
    assert {artifact.runtime for artifact in EXPORTED} == set(FORMATS)


def test_the_command_is_the_one_that_makes_it(tmp_path: Path) -> None:
    assert TRAINED.command(tmp_path) == "ftx train"
    assert DENSE.command(tmp_path) == f"ftx merge {tmp_path}"
    for variant, artifact in IRS.items():
        assert artifact.name == f"openvino/{variant}"
        assert artifact.command(tmp_path) == f"ftx export --precision {variant} {tmp_path}"


def test_irs_come_by_exactness() -> None:
    assert [finer_variants(artifact) for artifact in IRS.values()] == [
        [],
        ["fp32"],
        ["fp32", "fp16"],
        ["fp32", "fp16", "int8-weights"],
        ["fp32", "fp16", "int8-weights", "int8-checked"],
        ["fp32", "fp16", "int8-weights", "int8-checked", "int8"],
    ]
    assert finer_variants(DENSE) == []


def test_what_is_asked_for_is_one_of_the_table() -> None:
    with pytest.raises(InputError, match="precision must be one of") as caught:
        export("nowhere", formats=FORMATS, precisions=["none"])
    assert caught.value.what == f"--precision must be one of {', '.join(IRS)}"
    assert Card.model_json_schema()["properties"]["precision"]["enum"] == list(IRS)


def texts(file: Path) -> Iterator[str]:
    """The strings of a source file that are no docstrings."""
    tree = ast.parse(file.read_text())
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.value


def test_no_other_file_names_an_ir_or_how_it_is_made() -> None:
    known = {artifact.name for artifact in IRS.values()} | {artifact.made_by for artifact in EXPORTED} | {"openvino/"}
    found = {
        (str(file.relative_to(SOURCE)), text)
        for file in SOURCE.rglob("*.py")
        for text in texts(file)
        if text in known and file.name != "artifacts.py"
    }
    assert found == set()
