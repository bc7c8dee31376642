"""``ftx predict``: one prediction per image, in the order in which the images were named.

The way of an image: ``find_images`` lists it as an ``Item``, ``Predictor.logits_from_files`` decodes it, puts it into a
batch and computes its logits, ``to_prediction`` turns these into labels. An error takes the same way in its place.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from glob import glob, has_magic
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Unpack

import numpy as np
from PIL import Image

from ftx.core.addresses import Address, Location, as_typed, names_address, typed
from ftx.core.closed_model import ClosedModel
from ftx.core.errors import DataError, EnvironmentFault, FtxError, ImageError, InputError
from ftx.core.processors import cores
from ftx.core.progress import SILENT, Progress
from ftx.data.image_store import EncodedImage, ImageStore, InMemory, Item, in_memory
from ftx.data.shards.paths import archives_in, are_shards, images_root
from ftx.data.sources.listing import IMAGE_ENDINGS
from ftx.data.sources.shards import images_of, shard_names
from ftx.runs.run import Run
from ftx.runs.tuning_json import TuningGoal
from ftx.runtimes import LoadOptions, Predictor, load
from ftx.runtimes.predictor import RanModel, with_ran
from ftx.runtimes.uncertainty import Uncertainty
from ftx.tasks.base import ScoredLabel, Task
from ftx.tasks.thresholds import Floats

# A file, a pattern or a folder; a file's bytes; pixels.
OneImage = Location | str | bytes | InMemory
_ONE = (Path, Address, str, bytes, Image.Image, np.ndarray)


class Prediction(ClosedModel):
    """The predicted labels of one image, or an error."""

    path: str
    """The path of the image; ``<bytes 1>`` for the first image that is given as bytes."""
    labels: list[ScoredLabel] = []  # noqa: RUF012  pydantic copies it
    """The predicted labels, each with its score from 0 to 1."""
    scores: dict[str, float] | None = None
    """The score of every label, from 0 to 1; null without ``--scores``."""
    set: list[str] | None = None
    """The prediction set: the labels that the image may have. For a label tree: the predicted labels that are certain
    enough. null if the model was not calibrated.
    """
    ran: RanModel | None = None
    """Only for int8-checked: the model whose prediction this is. ``fp32`` runs if the first labels are doubtful."""
    error: str | None = None
    """Why there is no prediction; null if there is one."""

    def to_line(self) -> str:
        """One line of JSON, without the parts that are not there."""
        return self.model_dump_json(exclude_none=True)


def with_best(prediction: Prediction, count: int, *, scores: bool) -> Prediction:
    """A prediction with the ``count`` labels of the highest scores; it has a score for every label.

    ``scores``: it keeps all of them.
    """
    every = prediction.scores or {}
    best = sorted(every, key=lambda name: -every[name])[:count]
    labels = [ScoredLabel(name, every[name]) for name in best]
    return prediction.model_copy(update={"labels": labels, "scores": prediction.scores if scores else None})


def predict(
    images: OneImage | Sequence[OneImage],
    artifact: Predictor | Run | Path | str | None = None,
    *,
    scores: bool = False,
    progress: Progress = SILENT,
    **options: Unpack[LoadOptions],
) -> Iterator[Prediction]:
    """Label images: files, patterns, and folders, which stand for the images in and below them; or images in memory.

    Images in memory are the bytes of a file, Pillow's image, or RGB of 8 bits (uint8 [height, width, 3]).

    The images are listed, and the model is opened, before the first prediction is computed. An image that cannot be
    read, or does not exist, gets a ``Prediction`` with its ``error``, and the others are predicted. ``options`` are
    those of ``load``.
    Raises: InputError if there is no image at all, or something else was given; as ``load`` for the model.
    """
    items = find_images(images)
    if artifact is None or isinstance(artifact, Run | Path | str):
        goal: TuningGoal = "throughput" if len(items) > cores() else "latency"
        artifact = load(artifact, goal=goal, progress=progress, **options)
    return predictions_of(items, artifact, scores, progress)


def find_images(images: OneImage | Sequence[OneImage]) -> list[Item]:
    """The images that were named, as ``predict`` takes them, and an error for what is no image.

    Raises: InputError if there is no image at all, or something else was given.
    """
    if not isinstance(images, (*_ONE, Iterable)) or isinstance(images, io.IOBase):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _no_image(images)
    given = [images] if isinstance(images, _ONE) else list(images)
    items = look_up(given)
    if all(isinstance(item.image, ImageError) for item in items):
        raise no_images(given, items)
    return items


def look_up(given: Sequence[OneImage], *, by_hand: bool = True) -> list[Item]:
    """As ``find_images``, also if there is no image; only what was named ``by_hand`` may be an address.

    Raises: InputError if something else was given.
    """
    uploads = count(1)
    return [item for one in given for item in _expand(one, uploads, by_hand=by_hand)]


def no_images(given: Sequence[OneImage], items: Sequence[Item]) -> InputError:
    """The error if nothing that was named is an image."""
    failed = [failed_prediction(item.name, item.image) for item in items[:5] if isinstance(item.image, ImageError)]
    return InputError(
        "there are no images",
        where=", ".join(as_typed(str(item)) for item in given[:5] if isinstance(item, Path | Address | str)) or None,
        found="; ".join(f"{one.path}: {one.error}" for one in failed),
        fix=f"name images, or folders that contain some ({' '.join(sorted(IMAGE_ENDINGS))})",
    )


def predict_arriving(
    arrivals: Iterable[Sequence[Path | str]],
    artifact: Predictor | Run | Path | str | None = None,
    *,
    scores: bool = False,
    progress: Progress = SILENT,
    **options: Unpack[LoadOptions],
) -> Iterator[Prediction]:
    """Label images as they come, a few at a time, with a model that is opened once and runs for low latency.

    Raises: as ``load``.
    """
    if artifact is None or isinstance(artifact, Run | Path | str):
        artifact = load(artifact, progress=progress, **options)
    for some in arrivals:
        yield from predictions_of(look_up(some, by_hand=False), artifact, scores, SILENT)


def _expand(given: OneImage, uploads: Iterator[int], *, by_hand: bool) -> Sequence[Item]:
    """The images that one argument stands for, or why there are none; ``uploads`` numbers those that are in no file."""
    if isinstance(given, bytes):
        return [Item.of(replace(EncodedImage.of(given), name=f"<bytes {next(uploads)}>"))]
    if isinstance(given, Image.Image | np.ndarray):
        return [Item.of(in_memory(given, f"<image {next(uploads)}>"))]
    if not isinstance(given, Path | str | Address):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _no_image(given)
    name = str(given)
    try:
        if not by_hand and names_address(name) and not Path(name).exists():
            return [_failed(name, "a list of images must not contain a URL")]
        return _named(typed(given) if by_hand else Path(name))
    except OSError as error:  # a name that is too long, a folder above it that may not be entered
        return [_failed(name, f"this path cannot be read: {error.strerror}")]
    except UnicodeError:  # half a character
        return [_failed(ascii(name)[1:-1], "this is no path of a file")]
    except (InputError, EnvironmentFault) as error:  # shards that are not there
        return [_failed(as_typed(name), error)]


def _failed(name: str, error: FtxError | str) -> Item:
    """Raises: UnicodeError for a name that is no path."""
    cause = ImageError(error) if isinstance(error, str) else ImageError(error.what, found=error.found)
    return Item(path_text(name), cause)


def _no_image(given: object) -> InputError:
    found = type(given).__name__
    fix = "read the file: file.read()" if isinstance(given, io.IOBase) else "give the path of an image file"
    return InputError("an image must be a path, bytes, a Pillow image or an RGB array", found=found, fix=fix)


def _named(path: Location) -> Sequence[Item]:
    """The images that a path or a pattern stands for, or why there are none."""
    if isinstance(path, Address) and PurePosixPath(path.name).suffix.lower() in IMAGE_ENDINGS:
        return [_failed(str(path), "ftx reads only shards from a URL, not single images")]
    if isinstance(path, Address) or are_shards(path):
        return in_shards(path)
    if path.is_dir():
        return _inside(path)
    # A file is tried whatever its name is; if it is no image, opening it raises the error.
    if path.is_file():
        return [Item.of(EncodedImage.of(path))]
    if matching := matched(path):
        return [item for one in matching for item in _named(one)]  # on this machine, whatever its name is
    return [_failed(str(path), "this is no regular file" if path.exists() else "there is no such file")]


def matched(path: Path) -> list[Path]:
    """What a pattern that no shell has expanded stands for; nothing for a path that exists, or is no pattern."""
    if not has_magic(str(path)) or are_shards(path) or path.exists():
        return []
    return [Path(one) for one in sorted(glob(str(path), recursive=True))]  # noqa: PTH207  Path's takes no absolute one


def in_shards(path: Location) -> list[Item]:
    """The images in the shards that a path names, and an error for each damaged shard.

    Raises: DataError if the path names none; EnvironmentFault if another machine cannot be reached.
    """
    root, items = images_root(path), list[Item]()
    for name in shard_names(path):
        try:
            items += [Item.of(ImageStore(root).at(one)) for one in images_of(root, name)]
        except DataError as error:
            items.append(_failed(str(root / name), error))
    return items


def _inside(path: Path) -> Sequence[Item]:
    """The images in and below a folder, and an error for each folder there that cannot be read."""
    items: list[Item] = []

    def unreadable(error: OSError) -> None:
        items.append(_failed(str(error.filename), f"this folder cannot be read: {error.strerror}"))

    for folder, subfolders, names in os.walk(path, onerror=unreadable):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        children = [Path(folder) / name for name in names if not name.startswith(".")]
        kept = [child for child in children if child.suffix.lower() in IMAGE_ENDINGS and child.is_file()]
        items += [Item.of(EncodedImage.of(child)) for child in kept]
    if items:
        return sorted(items, key=lambda item: item.name)
    named = archives_in(path)
    error = "there are no images in this folder" + (f"; its archives are named: {named}" if named else "")
    return [_failed(str(path), error)]


def predictions_of(
    items: Sequence[Item], predictor: Predictor, scores: bool, progress: Progress
) -> Iterator[Prediction]:
    """The prediction for each item, in order."""
    sure = predictor.uncertainty
    outcomes = with_ran(predictor, (item.image for item in items))
    with progress.track("Predicting", len(items)) as bar:
        for item, (outcome, ran) in zip(items, outcomes, strict=True):
            yield to_prediction(item.name, outcome, predictor.task, scores=scores, ran=ran, sure=sure)
            bar.advance()


def to_prediction(
    name: str,
    outcome: Floats | ImageError,
    task: Task,
    *,
    scores: bool = False,
    ran: RanModel | None = None,
    sure: Uncertainty | None = None,
) -> Prediction:
    """The labels that logits [C] give an image, or why it has none."""
    if isinstance(outcome, ImageError):
        return failed_prediction(name, outcome)
    if not np.isfinite(outcome).all():
        return failed_prediction(name, ImageError("the model computed NaN or infinity"))
    scores_C = task.scores(outcome[None])[0]
    every = dict(zip(task.labels.names, scores_C.tolist(), strict=True)) if scores else None
    chosen = None if sure is None else sure.prediction_set(outcome)
    return Prediction(path=path_text(name), labels=task.decode(scores_C), scores=every, set=chosen, ran=ran)


def failed_prediction(name: str, error: ImageError) -> Prediction:
    """Why an image has no labels."""
    return Prediction(path=path_text(name), error=error.what + (f" ({error.found})" if error.found else ""))


def path_text(path: str) -> str:
    """The path as text that JSON and a terminal take, whatever bytes its name is made of."""
    return path.encode(errors="surrogateescape").decode(errors="replace")
