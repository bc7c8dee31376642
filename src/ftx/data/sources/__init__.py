"""Where images and their labels come from: a folder, a table, COCO, Datumaro, or whatever Datumaro reads."""

from __future__ import annotations

from pathlib import Path

from ftx.core.errors import DataError
from ftx.data.sources.annotation_files import annotation_files, read_annotations
from ftx.data.sources.coco import read_coco
from ftx.data.sources.csv_table import TABLE_ENDINGS, metadata_tables, read_table, read_tables
from ftx.data.sources.datumaro import read_datumaro
from ftx.data.sources.datumaro_package import read_with_datumaro
from ftx.data.sources.folder import read_folder
from ftx.data.sources.listing import Layout, ListedImage, Listing

__all__ = ["Layout", "ListedImage", "Listing", "list_images"]


def list_images(path: Path, *, nested: bool = False, form: str = "auto") -> Listing:
    """Every image of a data set with its labels; ``nested`` folders are a label tree.

    ``form`` auto knows folders, tables, COCO and Datumaro's own JSON by what is there; another name is one of
    Datumaro's formats and is read by that package.
    Raises: DataError if the data set does not hold; EnvironmentFault if the package is wanted and not installed.
    """
    if form != "auto":
        return read_with_datumaro(path, form)
    if path.is_file() and path.suffix.lower() in TABLE_ENDINGS:
        return read_table(path)
    if path.is_file() and path.suffix.lower() != ".json":
        raise DataError(
            "a data file is a table or an annotation file",
            where=path,
            found=path.suffix or "no ending",
            fix="give a .csv, a .jsonl, or COCO's or Datumaro's .json",
        )
    if tables := metadata_tables(path):
        return read_tables(path, tables)
    if files := annotation_files(path):
        loaded = [(file, *read_annotations(file)) for file in files]
        contents = [(file, content) for file, _, content in loaded]
        return (read_coco if loaded[0][1] == "coco" else read_datumaro)(path, contents)
    return read_folder(path, nested=nested)
