"""``ftx predict``: labels for images, one answer an image, in the order in which they were named."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from ftx.core.errors import FtxError, ImageError, InputError
from ftx.core.progress import SILENT, Progress
from ftx.data.sources.listing import IMAGE_ENDINGS
from ftx.runs.run import Run
from ftx.runtimes import Predictor, load
from ftx.tasks.base import ScoredLabel
from ftx.tasks.thresholds import Floats


class Prediction(BaseModel):
    """The answer for one image, or why there is none; ``scores`` holds every label where it was asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    labels: list[ScoredLabel] = []
    scores: dict[str, float] | None = None
    error: str | None = None

    def to_line(self) -> str:
        """One line of JSON, without the parts that are not there."""
        return self.model_dump_json(exclude_none=True)


def predict(
    paths: Path | str | Sequence[Path | str],
    artifact: Predictor | Run | Path | str | None = None,
    *,
    scores: bool = False,
    progress: Progress = SILENT,
) -> Iterator[Prediction]:
    """Label images; folders stand for the images in and below them, sorted.

    What was named is looked up, and the model opened, before the first answer is asked for. An image
    that cannot be read, or is not there, gets a ``Prediction`` with its ``error``, and the rest go on.
    Raises: InputError if no image is there at all; RunError, ExportError for the model.
    """
    named = [Path(path) for path in ([paths] if isinstance(paths, Path | str) else paths)]
    found = [item for path in named for item in _expand(path)]
    if not any(isinstance(item, Path) for item in found):
        raise InputError(
            "there are no images to predict",
            where=", ".join(str(path) for path in named[:5]) or None,
            found="; ".join(f"{item.path}: {item.error}" for item in found[:5] if isinstance(item, Prediction)),
            mend=f"name images, or folders that hold some ({' '.join(sorted(IMAGE_ENDINGS))})",
        )
    predictor = _predictor(artifact, progress)
    return _answers(found, predictor, scores, progress)


def _predictor(artifact: Predictor | Run | Path | str | None, progress: Progress) -> Predictor:
    if artifact is None or isinstance(artifact, Run | Path | str):
        return load(artifact, progress=progress)
    return artifact


def _expand(path: Path) -> list[Path | Prediction]:
    """The images that a path stands for, or why there are none."""
    if not path.is_dir():
        # A file is tried whatever it is called; what is no image says so when it is opened.
        if path.is_file():
            return [path]
        error = "this is no regular file" if path.exists() else "there is no such file"
        return [Prediction(path=_text(path), error=error)]
    inside: list[Path | Prediction] = []

    def refused(error: OSError) -> None:
        where = Path(str(error.filename))
        inside.append(Prediction(path=_text(where), error=f"this folder cannot be read: {error.strerror}"))

    for folder, subfolders, names in os.walk(path, onerror=refused):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        children = [Path(folder) / name for name in names if not name.startswith(".")]
        inside += [child for child in children if child.suffix.lower() in IMAGE_ENDINGS and child.is_file()]
    inside.sort(key=lambda item: str(item.path) if isinstance(item, Prediction) else str(item))
    return inside or [Prediction(path=_text(path), error="there are no images in this folder")]


@dataclass(frozen=True)
class _Decoder:
    predictor: Predictor
    scores: bool

    def decode(self, path: Path, answer: Floats | ImageError) -> Prediction:
        if isinstance(answer, ImageError):
            return Prediction(path=_text(path), error=_one_line(answer))
        if not np.isfinite(answer).all():
            return Prediction(path=_text(path), error="the model answered with a number that is not finite")
        task = self.predictor.task
        scores_C = task.scores(answer[None])[0]
        every = dict(zip(task.labels.names, scores_C.tolist(), strict=True)) if self.scores else None
        return Prediction(path=_text(path), labels=task.decode(scores_C), scores=every)


def _answers(
    found: Sequence[Path | Prediction], predictor: Predictor, scores: bool, progress: Progress
) -> Iterator[Prediction]:
    answers = predictor.logits_from_files(item for item in found if isinstance(item, Path))
    decoder = _Decoder(predictor, scores)
    with progress.track("predicting", len(found)) as bar:
        for item in found:
            yield item if isinstance(item, Prediction) else decoder.decode(item, next(answers))
            bar.advance()


def _text(path: Path) -> str:
    """The path as text that JSON and a terminal take, whatever bytes its name is made of."""
    return str(path).encode(errors="surrogateescape").decode(errors="replace")


def _one_line(error: FtxError) -> str:
    return error.what + (f" ({error.found})" if error.found else "")
