"""Where images and their labels come from: a folder, a table, COCO, Datumaro, shards, or whatever Datumaro reads."""

from __future__ import annotations

from ftx.core.addresses import Address, Place
from ftx.core.errors import DataError
from ftx.core.progress import SILENT, Progress
from ftx.data.shards.paths import are_shards
from ftx.data.sources.annotation_files import annotation_files, read_annotations
from ftx.data.sources.coco import read_coco
from ftx.data.sources.csv_table import TABLE_ENDINGS, metadata_tables, read_table, read_tables
from ftx.data.sources.datumaro import read_datumaro
from ftx.data.sources.datumaro_package import read_with_datumaro
from ftx.data.sources.folder import read_folder
from ftx.data.sources.listing import Layout, ListedImage, Listing
from ftx.data.sources.shards import read_shards

__all__ = ["Layout", "ListedImage", "Listing", "list_images"]


def list_images(path: Place, *, nested: bool = False, form: str = "auto", progress: Progress = SILENT) -> Listing:
    """Every image of a data set with its labels; ``nested`` folders are a label tree.

    ``form`` auto knows folders, tables, COCO, Datumaro's own JSON and shards by what is there; another name is one of
    Datumaro's formats and is read by that package.
    Raises: DataError if the data set does not hold; EnvironmentFault if the package is wanted and not installed.
    """
    if isinstance(path, Address) or (form == "auto" and are_shards(path)):
        return read_shards(path, progress)
    if form != "auto":
        return read_with_datumaro(path, form)
    if path.is_file() and path.suffix.lower() in TABLE_ENDINGS:
        return read_table(path)
    if path.is_file() and path.suffix.lower() != ".json":
        raise DataError(
            "a data file is a table or an annotation file",
            where=path,
            found=path.suffix or "no ending",
            fix="give a .csv, a .jsonl, COCO's or Datumaro's .json, or shards (.tar)",
        )
    if tables := metadata_tables(path):
        return read_tables(path, tables)
    if files := annotation_files(path):
        loaded = [(file, *read_annotations(file)) for file in files]
        contents = [(file, content) for file, _, content in loaded]
        return (read_coco if loaded[0][1] == "coco" else read_datumaro)(path, contents)
    return read_folder(path, nested=nested)
