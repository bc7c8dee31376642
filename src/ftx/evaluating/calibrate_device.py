"""Calibrate an exported model on a device, with labelled images from there."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from ftx.core.errors import DataError, listed
from ftx.core.files import check_writable
from ftx.core.progress import SILENT, Progress
from ftx.data.image_store import EncodedImage, ImageStore
from ftx.data.sources import list_images
from ftx.evaluating.calibrate import calibrate
from ftx.evaluating.certify import certify_device
from ftx.runs.artifacts import IR_INT8_CHECKED
from ftx.runs.calibration import COVERAGE
from ftx.runs.card_json import read_card
from ftx.runs.proof_json import keep_calibrations
from ftx.runtimes.uncertainty import Uncertainty
from ftx.tasks.output_meaning import TASKS


def prepare_device(folder: Path, data: Path, progress: Progress = SILENT) -> None:
    """Certify int8-checked on images, which need no labels; and calibrate the model if they have labels.

    Raises: as ``certify_device``; and as ``calibrate_device`` for other models, which need labels.
    """
    checked = read_card(folder).artifact == IR_INT8_CHECKED
    if checked:
        certify_device(folder, data, progress)
    try:
        calibrate_device(folder, data, progress)
    except DataError as error:
        if not checked:
            raise
        progress.note(f"prediction sets are unproved: {error}")


def calibrate_device(folder: Path, data: Path, progress: Progress = SILENT) -> None:
    """Calibrate a model in this process. Copies of an image, and images of one group, count once; train is left out.

    Raises: DataError if images have no labels, or others than the model; ImageError for one that cannot be read;
    EnvironmentFault if the folder cannot be written.
    """
    check_writable(folder)
    card = read_card(folder)
    task, listing = card.meaning.open(), list_images(data, nested=TASKS[card.task].nested_folders, progress=progress)
    _, named = TASKS[card.task].relate({one.path: one.labels for one in listing.files}, listing.declared, data)
    unknown = sorted({name for names in named for name in names} - set(task.labels.names))
    if unknown:
        raise DataError(
            "the images must have the labels of the model",
            where=data,
            found=listed(unknown),
            fix=f"use these labels: {listed(task.labels.names)}",
        )
    store = ImageStore(listing.root)
    distinct: dict[str, tuple[EncodedImage, tuple[str, ...]]] = {}
    for one, names in zip(listing.files, named, strict=True):
        if one.split != "train":
            image = store.at(one.path)
            with image.open() as file:
                distinct.setdefault(one.group or sha256(file.read()).hexdigest(), (image, tuple(names)))
    images, labels = zip(*distinct.values(), strict=True) if distinct else ((), ())
    if not images:
        raise DataError("there are no images to calibrate with", where=data, fix="use validation or test images")
    found = calibrate(folder, images, task.targets(labels), f"images in {data}", progress)
    keep_calibrations(folder, found, progress)
    progress.note(Uncertainty(task, found[0], COVERAGE).guarantee)
