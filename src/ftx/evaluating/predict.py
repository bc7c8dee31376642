"""``ftx predict``: labels for images, one answer an image, in the order in which they were named."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from glob import glob, has_magic
from itertools import count
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict

from ftx.core.addresses import Address, Location, as_typed, names_address, typed
from ftx.core.errors import DataError, EnvironmentFault, FtxError, ImageError, InputError
from ftx.core.processors import cores
from ftx.core.progress import SILENT, Progress
from ftx.data.image_store import EncodedImage, ImageStore, InMemory, in_memory
from ftx.data.shards.paths import archives_in, are_shards, images_root
from ftx.data.sources.listing import IMAGE_ENDINGS
from ftx.data.sources.shards import images_of, shard_names
from ftx.runs.run import Run
from ftx.runtimes import Predictor, load
from ftx.tasks.base import ScoredLabel, Task
from ftx.tasks.thresholds import Floats

# A file, a pattern or a folder; a file's bytes; pixels.
OneImage = Location | str | bytes | InMemory
_ONE = (Path, Address, str, bytes, Image.Image, np.ndarray)


class Prediction(BaseModel):
    """The answer for one image, or why there is none; ``scores`` holds every label where it was asked for.

    ``path`` of images that came as bytes is ``<bytes 1>`` for the first of them, ``<bytes 2>`` for the second.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    labels: list[ScoredLabel] = []
    scores: dict[str, float] | None = None
    error: str | None = None

    def to_line(self) -> str:
        """One line of JSON, without the parts that are not there."""
        return self.model_dump_json(exclude_none=True)


def predict(
    images: OneImage | Sequence[OneImage],
    artifact: Predictor | Run | Path | str | None = None,
    *,
    scores: bool = False,
    progress: Progress = SILENT,
) -> Iterator[Prediction]:
    """Label images: files, patterns, and folders, which stand for the images in and below them; or what is in memory.

    That is the bytes of a file, Pillow's image, or RGB of 8 bits (uint8 [height, width, 3]).

    What was named is looked up, and the model opened, before the first answer is asked for. An image
    that cannot be read, or is not there, gets a ``Prediction`` with its ``error``, and the rest go on.
    Raises: InputError if no image is there at all, or something else was given; RunError, ExportError for the model.
    """
    found = find_images(images)
    if artifact is None or isinstance(artifact, Run | Path | str):
        artifact = load(artifact, goal="throughput" if len(found) > cores() else "latency", progress=progress)
    return predictions_of(found, artifact, scores, progress)


def find_images(images: OneImage | Sequence[OneImage]) -> list[EncodedImage | Prediction]:
    """The images that were named, as ``predict`` takes them, and what is none, with its error.

    Raises: InputError if there is no image at all, or something else was given.
    """
    if not isinstance(images, (*_ONE, Iterable)) or isinstance(images, io.IOBase):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _no_image(images)
    given = [images] if isinstance(images, _ONE) else list(images)
    found = look_up(given)
    if not any(isinstance(item, EncodedImage) for item in found):
        raise no_images(given, [item for item in found if isinstance(item, Prediction)])
    return found


def look_up(given: Sequence[OneImage], *, by_hand: bool = True) -> list[EncodedImage | Prediction]:
    """As ``find_images``, also where there is none; an address is one that was named ``by_hand``.

    Raises: InputError if something else was given.
    """
    uploads = count(1)
    return [image for item in given for image in _expand(item, uploads, by_hand=by_hand)]


def no_images(given: Sequence[OneImage], found: Sequence[Prediction]) -> InputError:
    """What to tell where nothing that was named is an image, and why not."""
    return InputError(
        "there are no images",
        where=", ".join(as_typed(str(item)) for item in given[:5] if isinstance(item, Path | Address | str)) or None,
        found="; ".join(f"{item.path}: {item.error}" for item in found[:5]),
        fix=f"name images, or folders that hold some ({' '.join(sorted(IMAGE_ENDINGS))})",
    )


def predict_arriving(
    arrivals: Iterable[Sequence[Path | str]],
    artifact: Predictor | Run | Path | str | None = None,
    *,
    scores: bool = False,
    progress: Progress = SILENT,
) -> Iterator[Prediction]:
    """Label images as they come, a few at a time, by a model that is opened once: for answers soon, not for the most.

    Raises: RunError, ExportError for the model.
    """
    if artifact is None or isinstance(artifact, Run | Path | str):
        artifact = load(artifact, progress=progress)
    for some in arrivals:
        found = [image for item in some for image in _expand(item, count(1), by_hand=False)]
        yield from predictions_of(found, artifact, scores, SILENT)


def _expand(given: OneImage, uploads: Iterator[int], *, by_hand: bool) -> Sequence[EncodedImage | Prediction]:
    """The images that one item stands for, or why there are none; ``uploads`` numbers those that are in no file.

    It may be an address where it was named ``by_hand``, and not by another program.
    """
    if isinstance(given, bytes):
        return [replace(EncodedImage.of(given), name=f"<bytes {next(uploads)}>")]
    if isinstance(given, Image.Image | np.ndarray):
        return [in_memory(given, f"<image {next(uploads)}>")]
    if not isinstance(given, Path | str | Address):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _no_image(given)
    try:
        if not by_hand and names_address(str(given)) and not Path(str(given)).exists():
            return [Prediction(path=path_text(str(given)), error="a list of images must not contain an address")]
        return _named(typed(given) if by_hand else Path(str(given)))
    except OSError as error:  # a name that is too long, a folder above it that may not be entered
        return [Prediction(path=path_text(str(given)), error=f"this path cannot be read: {error.strerror}")]
    except UnicodeError:  # half a character
        return [Prediction(path=ascii(str(given))[1:-1], error="this is no path of a file")]
    except (InputError, EnvironmentFault) as error:  # shards that are not there
        return [_unread(as_typed(str(given)), error)]


def _no_image(given: object) -> InputError:
    found = type(given).__name__
    fix = "read it: file.read()" if isinstance(given, io.IOBase) else None
    return InputError("an image is a file's name or its bytes, Pillow's, or an RGB array", found=found, fix=fix)


def _named(path: Location) -> Sequence[EncodedImage | Prediction]:
    """The images that a path or a pattern stands for, or why there are none."""
    if isinstance(path, Address) and PurePosixPath(path.name).suffix.lower() in IMAGE_ENDINGS:
        return [Prediction(path=str(path), error="an image at an address is not fetched: shards are")]
    if isinstance(path, Address) or are_shards(path):
        return in_shards(path)
    if path.is_dir():
        return _inside(path)
    # A file is tried whatever it is called; what is no image says so when it is opened.
    if path.is_file():
        return [EncodedImage.of(path)]
    if matching := matched(path):
        return [image for one in matching for image in _named(one)]  # on this machine, whatever it is called
    error = "this is no regular file" if path.exists() else "there is no such file"
    return [Prediction(path=path_text(str(path)), error=error)]


def matched(path: Path) -> list[Path]:
    """What a pattern that no shell has expanded stands for; nothing for a path that is there, or is no pattern."""
    if not has_magic(str(path)) or are_shards(path) or path.exists():
        return []
    return [Path(one) for one in sorted(glob(str(path), recursive=True))]  # noqa: PTH207  Path's takes no absolute one


def _unread(where: str, error: FtxError) -> Prediction:
    return Prediction(path=path_text(where), error=error.what + (f" ({error.found})" if error.found else ""))


def in_shards(path: Location) -> list[EncodedImage | Prediction]:
    """The images in the shards that a path names, and the shards that do not hold.

    Raises: DataError if the path names none; EnvironmentFault if another machine does not answer.
    """
    root, inside = images_root(path), list[EncodedImage | Prediction]()
    for name in shard_names(path):
        try:
            inside += map(ImageStore(root).at, images_of(root, name))
        except DataError as error:
            inside.append(_unread(str(root / name), error))
    return inside


def _inside(path: Path) -> Sequence[EncodedImage | Prediction]:
    """The images in and below a folder, and the folders there that cannot be read."""
    inside: list[EncodedImage | Prediction] = []

    def refused(error: OSError) -> None:
        where = str(error.filename)
        inside.append(Prediction(path=path_text(where), error=f"this folder cannot be read: {error.strerror}"))

    for folder, subfolders, names in os.walk(path, onerror=refused):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        children = [Path(folder) / name for name in names if not name.startswith(".")]
        kept = [child for child in children if child.suffix.lower() in IMAGE_ENDINGS and child.is_file()]
        inside += map(EncodedImage.of, kept)
    inside.sort(key=lambda item: item.path if isinstance(item, Prediction) else item.name)
    if inside:
        return inside
    named = archives_in(path)
    error = "there are no images in this folder" + (f"; its archives are named: {named}" if named else "")
    return [Prediction(path=path_text(str(path)), error=error)]


def predictions_of(
    found: Sequence[EncodedImage | Prediction], predictor: Predictor, scores: bool, progress: Progress
) -> Iterator[Prediction]:
    """The answers for what was found, in its order: what is none already is asked of the model."""
    answers = predictor.logits_from_files(item for item in found if isinstance(item, EncodedImage))
    with progress.track("predicting", len(found)) as bar:
        for item in found:
            if isinstance(item, EncodedImage):
                yield to_prediction(item.name, next(answers), predictor.task, scores=scores)
            else:
                yield item
            bar.advance()


def to_prediction(name: str, answer: Floats | ImageError, task: Task, *, scores: bool = False) -> Prediction:
    """What logits [C] say of an image, or why it has none."""
    path = path_text(name)
    if isinstance(answer, ImageError):
        return Prediction(path=path, error=answer.what + (f" ({answer.found})" if answer.found else ""))
    if not np.isfinite(answer).all():
        return Prediction(path=path, error="the model answered with a number that is not finite")
    scores_C = task.scores(answer[None])[0]
    every = dict(zip(task.labels.names, scores_C.tolist(), strict=True)) if scores else None
    return Prediction(path=path, labels=task.decode(scores_C), scores=every)


def path_text(path: str) -> str:
    """The path as text that JSON and a terminal take, whatever bytes its name is made of."""
    return path.encode(errors="surrogateescape").decode(errors="replace")
