"""Where images and their labels come from: a folder, a table, COCO, Datumaro, shards, or whatever Datumaro reads."""

from __future__ import annotations

from ftx.core.addresses import Address, Location
from ftx.core.errors import DataError
from ftx.core.progress import SILENT, Progress
from ftx.data.shards.paths import are_shards
from ftx.data.sources.annotation_files import annotation_files, read_annotations
from ftx.data.sources.coco import read_coco
from ftx.data.sources.csv_table import TABLE_ENDINGS, metadata_tables, read_table, read_tables
from ftx.data.sources.datumaro import read_datumaro, read_with_datumaro
from ftx.data.sources.folder import read_folder
from ftx.data.sources.listing import Layout, ListedImage, Listing
from ftx.data.sources.shards import read_shards

__all__ = ["Layout", "ListedImage", "Listing", "list_images"]


def list_images(
    path: Location, *, nested: bool = False, form: str = "auto", follow_links: bool = False, progress: Progress = SILENT
) -> Listing:
    """Every image of a data set with its labels; ``nested`` folders are a label tree.

    ``form`` auto recognizes folders, tables, COCO, Datumaro's own JSON and shards; another name is one of Datumaro's
    formats and is read by its package. Links that lead out of the data set are an error, unless they are followed.
    Raises: DataError if the data set is invalid; EnvironmentFault if the package is needed and not installed.
    """
    if isinstance(path, Address) and form != "auto":
        raise DataError(
            "data.format must be auto for a URL",
            where=path,
            found=f"format {form}",
            fix="run the command again without --format",
        )
    if isinstance(path, Address) or (form == "auto" and are_shards(path)):
        return read_shards(path, progress)
    if form != "auto":
        return read_with_datumaro(path, form, follow_links=follow_links)
    if path.is_file() and path.suffix.lower() in TABLE_ENDINGS:
        return read_table(path, follow_links=follow_links)
    if path.is_file() and path.suffix.lower() != ".json":
        raise DataError(
            "a data file must be a table, an annotation file or a shard",
            where=path,
            found=path.suffix or "no extension",
            fix="give a folder, .csv, .jsonl, the .json of COCO or Datumaro, or shards (.tar)",
        )
    if tables := metadata_tables(path, follow_links=follow_links):
        return read_tables(path, tables, follow_links=follow_links)
    if files := annotation_files(path, follow_links=follow_links):
        loaded = [(file, *read_annotations(file)) for file in files]
        contents = [(file, content) for file, _, content in loaded]
        read = read_coco if loaded[0][1] == "coco" else read_datumaro
        return read(path, contents, follow_links=follow_links)
    return read_folder(path, nested=nested, follow_links=follow_links)
