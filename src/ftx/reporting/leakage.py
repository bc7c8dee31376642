"""Held-out images that are nearly the same as one used in training: the accuracy measured on them is too high."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from ftx.core.closed_model import ClosedModel
from ftx.core.progress import Progress
from ftx.core.untrusted_input import JsonError, read_json
from ftx.data.dataset import Entry
from ftx.data.fingerprints import Fingerprint, GreyStore, fingerprint
from ftx.data.image_store import ImageStore, open_image
from ftx.data.near_duplicates import NearDuplicate, seen_in_training
from ftx.data.threads import in_threads
from ftx.runs.run import Run

LEAKAGE_FILE = Path("reports", "near_duplicates.json")


class Leakage(ClosedModel):
    """``reports/near_duplicates.json``: the pairs, and the hash of the list of images that they were looked for in.

    In version 1, which had no number, images of test were compared only with train: they are looked for again.
    """

    schema_version: Literal[2]
    images: str
    pairs: list[NearDuplicate]


def leakage(run: Run, entries: Sequence[Entry], store: ImageStore, progress: Progress) -> list[NearDuplicate]:
    """Pairs of a held-out image and the training image that is nearly the same; searched once per run.

    Raises: DataError if an image cannot be read.
    """
    images = run.manifest.files["data.jsonl"]
    with suppress(OSError, JsonError, ValidationError):
        known = Leakage.model_validate(read_json(run.path / LEAKAGE_FILE))
        if known.images == images:
            return known.pairs
    found: dict[str, Fingerprint] = {}
    greys = GreyStore()
    with progress.track("searching near-duplicates", len(entries)) as bar:
        made = in_threads(lambda entry: fingerprint(open_image(store[entry]), greys), entries)
        for entry, one in zip(entries, made, strict=True):
            found[entry.path] = one
            bar.advance()
    pairs = seen_in_training(entries, found, progress)
    run.keep_report("near_duplicates", Leakage(schema_version=2, images=images, pairs=pairs), progress)
    return pairs
