"""Answers as a table in Parquet: path, labels with their scores, every label's score, or why there is no answer."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from ftx.evaluating.predict import Prediction

# Rows that are held, and make a group of the file.
_ROWS = 1 << 16


def require_parquet() -> None:
    """Find out before any work whether the package is there. Raises: ModuleNotFoundError, which names the extra."""
    import pyarrow.parquet  # noqa: F401  # pyright: ignore[reportUnusedImport]


def write_parquet(file: Path, lines: Iterable[bytes], *, scores: bool) -> None:
    """Write answers, given as lines of JSON, in groups of rows."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    label = pa.struct([("name", pa.string()), ("score", pa.float64())])
    columns: list[tuple[str, Any]] = [("path", pa.string()), ("labels", pa.list_(label))]
    columns += [("scores", pa.map_(pa.string(), pa.float64()))] if scores else []
    schema = pa.schema([*columns, ("error", pa.string())])
    given = iter(lines)
    with ParquetWriter(file, schema, compression="zstd") as writer:
        while rows := [Prediction.model_validate_json(line).model_dump() for line in islice(given, _ROWS)]:
            for row in rows:
                row["scores"] = None if row["scores"] is None else list(row["scores"].items())
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
