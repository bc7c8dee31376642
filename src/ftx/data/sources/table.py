"""CSV and JSON lines as data set: a line an image, with its path, its labels, and perhaps its side and subject.

    path,labels,split,group
    a/1.jpg,animal/cat;wet,train,farm 7

Paths count from the table's folder. Labels are separated by ``;`` (JSON lines may hold a list), and a label may be a
path in a tree. Images of one ``group`` (a patient, a part) never straddle the split.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from ftx.data.dataset import SPLITS
from ftx.data.sources.listing import Found, Listing, inside, label_name, refuse_outside, side_of
from ftx.errors import DataError, nearest, told

TABLE_ENDINGS = (".csv", ".jsonl")

# What a column is called here and elsewhere; file_name is what Hugging Face's metadata files say.
_COLUMNS = {
    "path": ("path", "file_name", "filename", "file", "image"),
    "labels": ("labels", "label", "class", "category"),
    "split": ("split", "subset"),
    "group": ("group", "subject", "patient"),
}


def metadata_tables(folder: Path) -> list[Path]:
    """The tables of a Hugging Face image folder: its own ``metadata.csv`` or ``.jsonl``, or one for each side.

    Raises: DataError if some sides have one and others have none or two, or a link leads out of the folder.
    """
    if own := _metadata(folder):
        return _only(own)
    sides = [side for side in sorted(folder.glob("*")) if side_of(side.name) and side.is_dir()]
    found = {side: _metadata(side) for side in sides}
    if not any(found.values()):
        return []
    for side, tables in found.items():
        if not tables:
            raise DataError("a side has no table, and others have", where=side, mend="add metadata.csv to it")
        refuse_outside(Path(os.path.realpath(folder)), side)
    return [table for tables in found.values() for table in _only(tables)]


def _metadata(folder: Path) -> list[Path]:
    return [table for ending in TABLE_ENDINGS if (table := folder / f"metadata{ending}").is_file()]


def _only(tables: list[Path]) -> list[Path]:
    if len(tables) > 1:
        raise DataError("there are two tables", where=tables[0].parent, found=" and ".join(t.name for t in tables))
    return tables


def read_tables(root: Path, tables: Sequence[Path]) -> Listing:
    """The images of all tables; one in a side's folder names that side's images.

    Raises: as ``read_table``, and DataError if a line there names another side.
    """
    if tables[0].parent == root:
        return read_table(tables[0])
    files: list[Found] = []
    for table in tables:
        side = side_of(table.parent.name)
        for file in read_table(table).files:
            if file.split not in (None, side):
                raise DataError(
                    "a line names another side than its folder's", where=table, found=f"{file.path}: {file.split}"
                )
            files.append(replace(file, path=f"{table.parent.name}/{file.path}", split=side))
    return Listing(root, "table", tuple(files))


def read_table(table: Path) -> Listing:
    """The images that a table names.

    Raises: DataError naming every line that does not hold: a column missing, no labels column, a path that is
    absolute or leaves the folder, an unknown side, one image twice with other labels.
    """
    within = inside(table.parent)
    found: dict[str, Found] = {}
    problems: list[str] = []
    for number, record in _records(table):
        try:
            image = _image(record, within)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
            continue
        known = found.setdefault(image.path, image)
        if known != image:
            problems.append(f"line {number}: {image.path} stands above with {';'.join(known.labels) or 'no labels'}")
    if problems:
        raise DataError(
            f"lines of the table that do not hold: {len(problems)}",
            where=table,
            found=told(problems),
            mend="a line holds path (below the table's folder), labels (separated by ;), and if wanted split and group",
        )
    if not found:
        raise DataError("the table names no images", where=table, mend="write a line an image: path,labels")
    return Listing(table.parent, "table", tuple(found.values()))


def _records(table: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            "the table is not UTF-8 text", where=table, found=str(error), mend="save it as UTF-8"
        ) from error
    if table.suffix.lower() == ".jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                record: object = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError("a line is not JSON", where=f"{table}, line {number}", found=str(error)) from error
            if not isinstance(record, dict):
                raise DataError("a line is no JSON object", where=f"{table}, line {number}", found=line[:60])
            yield number, _renamed(record, table)  # pyright: ignore[reportUnknownArgumentType]
        return
    if text.partition("\n")[0].count(";") > text.partition("\n")[0].count(","):
        raise DataError(
            "the table's columns are separated by ;", where=table, mend="separate columns by commas and labels by ;"
        )
    if "\t" in text.partition("\n")[0]:
        raise DataError("the table's columns are separated by tabs", where=table, mend="separate columns by commas")
    rows = csv.DictReader(io.StringIO(text), strict=True)
    try:
        for row in rows:
            if None in row or None in row.values():
                raise DataError(
                    "a line has another number of columns than the first",
                    where=f"{table}, line {rows.line_num}",
                    mend="quote cells that hold commas",
                )
            yield rows.line_num, _renamed(row, table)
    except csv.Error as error:
        raise DataError(
            "the table is no CSV", where=f"{table}, after line {rows.line_num}", found=str(error)
        ) from error


def _renamed(record: Mapping[str, object], table: Path) -> dict[str, object]:
    lowered = {str(key).strip().lower(): value for key, value in record.items()}
    named: dict[str, object] = {}
    for name, known in _COLUMNS.items():
        columns = [word for word in known if word in lowered]
        if len(columns) > 1 or len(lowered) < len(record):
            raise DataError(
                "two columns mean the same", where=table, found=", ".join(map(str, record)), mend=f"keep one of {known}"
            )
        if columns:
            named[name] = lowered[columns[0]]
        elif name in ("path", "labels"):
            alike = nearest(name, list(lowered))
            raise DataError(
                f"the table has no column {name}",
                where=table,
                found=", ".join(map(str, record)),
                mend=f"rename {alike} to {name}" if alike else f"call it {name}",
            )
    return named


def _image(record: Mapping[str, object], within: Callable[[str], str]) -> Found:
    if not isinstance(record["path"], str):
        raise ValueError(f"{record['path']!r} is no path")
    path = within(record["path"].strip())
    side = str(record.get("split") or "").strip()
    split = side_of(side)
    if side and split is None:
        raise ValueError(f"the side '{side}' is none of {', '.join(SPLITS)}")
    group = str(record.get("group") or "").strip() or None
    return Found(path, _labels(record["labels"]), split, group)


def _labels(cell: object) -> tuple[str, ...]:
    cells: list[object] = [cell]
    if isinstance(cell, list):
        cells = cast("list[object]", cell)
    if strange := [one for one in cells if isinstance(one, bool) or not isinstance(one, str | int | None)]:
        raise ValueError(f"{strange[0]!r} is no label")
    # A number is one of Hugging Face's: 0 is a label as well.
    parts = ["" if one is None else str(one) for one in cells]
    named = [part.strip().strip("/") for text in parts for part in (text.split(";") if cells == [cell] else [text])]
    # In one order, so that a copy with its labels written the other way round does not contradict.
    return tuple(sorted({label_name(name) for name in named if name}))
