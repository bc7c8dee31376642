"""Predictions as a Parquet table: path, labels with their scores, all scores if requested, the set, or an error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ftx.evaluating.predict import Prediction

# Rows in memory, which form a row group of the file; fewer if they have many scores.
_ROWS = 1 << 16
_SCORES = 1 << 20


def write_parquet(file: Path, lines: Iterable[bytes], *, scores: bool) -> None:
    """Write predictions, given as lines of JSON, in row groups."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    label = pa.struct([("name", pa.string()), ("score", pa.float64())])
    columns: list[tuple[str, Any]] = [("path", pa.string()), ("labels", pa.list_(label))]
    columns += [("scores", pa.map_(pa.string(), pa.float64()))] if scores else []
    columns += [("set", pa.list_(pa.string()))]
    schema = pa.schema([*columns, ("ran", pa.string()), ("error", pa.string())])
    with ParquetWriter(file, schema, compression="zstd") as writer:
        for rows in _groups(lines):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _groups(lines: Iterable[bytes]) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    held = 0
    for line in lines:
        row = Prediction.model_validate_json(line).model_dump()
        row["scores"] = None if row["scores"] is None else list(row["scores"].items())
        rows.append(row)
        held += len(row["scores"] or ())
        if len(rows) == _ROWS or held >= _SCORES:
            yield rows
            rows, held = [], 0
    if rows:
        yield rows
