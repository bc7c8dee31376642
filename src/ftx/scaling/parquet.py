"""Answers as a table in Parquet: path, labels with their scores, every label's score, or why there is no answer."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ftx.evaluating.predict import Prediction

# Rows that are held, and make a group of the file; fewer where each has many scores.
_ROWS = 1 << 16
_SCORES = 1 << 20


def write_parquet(file: Path, lines: Iterable[bytes], *, scores: bool) -> None:
    """Write answers, given as lines of JSON, in groups of rows."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    label = pa.struct([("name", pa.string()), ("score", pa.float64())])
    columns: list[tuple[str, Any]] = [("path", pa.string()), ("labels", pa.list_(label))]
    columns += [("scores", pa.map_(pa.string(), pa.float64()))] if scores else []
    schema = pa.schema([*columns, ("error", pa.string())])
    given = iter(lines)
    first = next(given, None)
    width = 0 if first is None else len(Prediction.model_validate_json(first).scores or ())
    given = chain([] if first is None else [first], given)
    held = max(1, min(_ROWS, _SCORES // max(width, 1)))
    with ParquetWriter(file, schema, compression="zstd") as writer:
        while rows := [Prediction.model_validate_json(line).model_dump() for line in islice(given, held)]:
            for row in rows:
                row["scores"] = None if row["scores"] is None else list(row["scores"].items())
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
