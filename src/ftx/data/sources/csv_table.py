"""CSV and JSON lines as data set: a line an image, with its path, its labels, and perhaps its split and group.

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

from ftx.core.errors import DataError, listed, nearest
from ftx.core.untrusted_input import read_file
from ftx.data.sources.listing import (
    ImageCollector,
    ListedImage,
    Listing,
    check_link_inside,
    labels_in,
    name_in,
    path_below,
    short,
    split_in,
    split_named,
)

TABLE_ENDINGS = (".csv", ".jsonl")
# Several million lines.
MAX_TABLE_BYTES = 1 << 29
_JSON_LINE = 'write each line as in {"path": "a.jpg", "labels": ["cat"]}'

# Names of a column here and elsewhere; file_name is that of Hugging Face's metadata files.
_COLUMNS = {
    "path": ("path", "file_name", "filename", "file", "image"),
    "labels": ("labels", "label", "class", "category"),
    "split": ("split", "subset"),
    "group": ("group", "subject", "patient"),
}


def metadata_tables(folder: Path, *, follow_links: bool = False) -> list[Path]:
    """The tables of a Hugging Face image folder: its own ``metadata.csv`` or ``.jsonl``, or one for each split.

    Raises: DataError if some splits have one and others have none or two, or a link leads out of the folder.
    """
    if own := _metadata(folder):
        return _only(own)
    splits = [path for path in sorted(folder.glob("*")) if split_named(path.name) and path.is_dir()]
    found = {path: _metadata(path) for path in splits}
    if not any(found.values()):
        return []
    for path, tables in found.items():
        if not tables:
            raise DataError(
                "each split must have a table if another split has one",
                where=path,
                found="no metadata.csv or metadata.jsonl",
                fix="add metadata.csv to this folder",
            )
        if not follow_links:
            check_link_inside(Path(os.path.realpath(folder)), path)
    return [table for tables in found.values() for table in _only(tables)]


def _metadata(folder: Path) -> list[Path]:
    return [table for ending in TABLE_ENDINGS if (table := folder / f"metadata{ending}").is_file()]


def _only(tables: list[Path]) -> list[Path]:
    if len(tables) > 1:
        raise DataError(
            "a folder must have only one table",
            where=tables[0].parent,
            found=" and ".join(t.name for t in tables),
            fix="remove one of the tables",
        )
    return tables


def read_tables(root: Path, tables: Sequence[Path], *, follow_links: bool = False) -> Listing:
    """The images of all tables; one in a split's folder names that split's images.

    Raises: as ``read_table``, and DataError if a line there names another split.
    """
    if tables[0].parent == root:
        return read_table(tables[0], follow_links=follow_links)
    files: list[ListedImage] = []
    repeated: list[str] = []
    for table in tables:
        split = split_named(table.parent.name)
        read = read_table(table, follow_links=follow_links)
        repeated += [f"{table.parent.name}/{table.name}, {one}" for one in read.repeated]
        for file in read.files:
            if file.split not in (None, split):
                raise DataError(
                    f"the split of a line must be that of its folder, {split}",
                    where=table,
                    found=f"{file.path}: {file.split}",
                    fix="correct the column split, or remove it",
                )
            files.append(replace(file, path=f"{table.parent.name}/{file.path}", split=split))
    return Listing(root, "table", tuple(files), repeated=tuple(repeated))


def read_table(table: Path, *, follow_links: bool = False) -> Listing:
    """The images that a table names.

    Raises: DataError naming every invalid line: a column missing, no labels column, a path that is
    absolute or leaves the folder, an unknown split, one image twice with other labels.
    """
    within = path_below(table.parent, follow_links=follow_links)
    found = ImageCollector()
    repeated: list[str] = []
    for number, record in _records(table):
        with found.entry(f"line {number}"):
            image = _image(record, within)
            known = found.images.setdefault(image.path, image)
            if known != image:
                raise ValueError(f"{image.path} is on an earlier line with {';'.join(known.labels) or 'no labels'}")
            if known is not image:
                repeated.append(f"line {number}: {image.path}")
    fix = "give each line a path below the table's folder, labels separated by ; and optionally split and group"
    found.check("the table has invalid lines", table, fix)
    if not found.images:
        raise DataError(
            "the table must name at least one image", where=table, fix="write one line per image: path,labels"
        )
    return Listing(table.parent, "table", tuple(found.images.values()), repeated=tuple(repeated))


def _records(table: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    try:
        text = read_file(table, MAX_TABLE_BYTES).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise DataError(
            "the table cannot be read", where=table, found=error.strerror, fix="check the path and its read permission"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            "the table must be UTF-8 text", where=table, found=str(error), fix="save the table as UTF-8"
        ) from error
    if table.suffix.lower() == ".jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                record: object = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    "a line must be a JSON object", where=f"{table}, line {number}", found=str(error), fix=_JSON_LINE
                ) from error
            if not isinstance(record, dict):
                raise DataError(
                    "a line must be a JSON object", where=f"{table}, line {number}", found=short(line), fix=_JSON_LINE
                )
            yield number, _renamed(record, table)  # pyright: ignore[reportUnknownArgumentType]
        return
    if text.partition("\n")[0].count(";") > text.partition("\n")[0].count(","):
        raise DataError(
            "the columns of the table must be separated by commas",
            where=table,
            found="semicolons",
            fix="separate columns by commas, and labels by semicolons",
        )
    if "\t" in text.partition("\n")[0]:
        raise DataError(
            "the columns of the table must be separated by commas",
            where=table,
            found="tabs",
            fix="save the table with commas between columns",
        )
    rows = csv.DictReader(io.StringIO(text), strict=True)
    try:
        for row in rows:
            if None in row or None in row.values():
                raise DataError(
                    "every line must have as many columns as the first",
                    where=f"{table}, line {rows.line_num}",
                    fix="put cells that contain commas in quotes",
                )
            yield rows.line_num, _renamed(row, table)
    except csv.Error as error:
        raise DataError(
            "the table must be valid CSV",
            where=f"{table}, after line {rows.line_num}",
            found=str(error),
            fix="correct this line",
        ) from error


def _renamed(record: Mapping[str, object], table: Path) -> dict[str, object]:
    lowered = {str(key).strip().lower(): value for key, value in record.items()}
    named: dict[str, object] = {}
    for name, known in _COLUMNS.items():
        columns = [word for word in known if word in lowered]
        if len(columns) > 1 or len(lowered) < len(record):
            raise DataError(
                "two columns must not have the same meaning",
                where=table,
                found=_columns(record),
                fix=f"keep only one of the columns {', '.join(known)}",
            )
        if columns:
            named[name] = lowered[columns[0]]
        elif name in ("path", "labels"):
            alike = nearest(name, list(lowered))
            raise DataError(
                f"the table must have a column {name}",
                where=table,
                found=_columns(record),
                fix=f"rename the column {alike} to {name}" if alike else f"add a column {name}",
            )
    return named


def _columns(record: Mapping[str, object]) -> str:
    return listed([short(str(name)) for name in record])


def _image(record: Mapping[str, object], within: Callable[[str], str]) -> ListedImage:
    if not isinstance(record["path"], str):
        raise ValueError(f"{short(record['path'])} is not a path")
    path = within(record["path"].strip())
    split = split_in(record.get("split"))
    return ListedImage(path, labels_in(record["labels"]), split, name_in(record.get("group"), "group") or None)
