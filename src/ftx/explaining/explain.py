"""``ftx explain``: pictures of what a model's predictions come from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

from pydantic import Field

from ftx.core.closed_model import ClosedModel
from ftx.core.command_report import CommandReport
from ftx.core.errors import ExportError, ImageError, InputError, listed, nearest, shown
from ftx.core.files import staged_file
from ftx.core.progress import SILENT, Progress
from ftx.data.image_store import EncodedImage, Item, open_image
from ftx.data.preprocess import Pixels, Preprocess, normalise, resize_crop
from ftx.evaluating.predict import OneImage, failed_prediction, find_images, to_prediction
from ftx.explaining.overlay import overlay
from ftx.runs.artifacts import DENSE, TRAINED
from ftx.runs.run import Run
from ftx.runs.run_json import is_run
from ftx.runtimes import Predictor, load, load_artifact
from ftx.tasks.base import ScoredLabel, Task
from ftx.tasks.thresholds import Floats

MapMethod = Literal["reciprocam", "rollout"]
# Of an image's name, and of a label's, in a picture's: file systems take 255 for all of it.
MOST_BYTES = 100
# In the name of a picture that is of no label.
ROLLOUT = "rollout"


class Picture(ClosedModel):
    """The picture of a saliency map."""

    label: str | None
    """The label that the map explains; null for ``rollout``, whose map is of the whole image."""
    score: float | None
    """The score of the label, from 0 to 1; null without a label."""
    path: str
    """The path of the picture."""


class Explanation(ClosedModel):
    """The prediction for one image with its maps, or an error."""

    path: str
    """The path of the image."""
    labels: list[ScoredLabel] = Field(default_factory=list[ScoredLabel])
    """The predicted labels, each with its score from 0 to 1."""
    pictures: list[Picture] = Field(default_factory=list[Picture])
    """One picture for each explained label, or one for the whole image."""
    error: str | None = None
    """Why the image is skipped; null if it is not."""


class ExplainReport(CommandReport):
    """The saliency maps that ``ftx explain`` drew."""

    verb: str = "explain"
    artifact: str
    """The model of the run, or the path of an exported folder."""
    method: MapMethod
    """How the maps are computed (``--map``)."""
    images: list[Explanation]
    """One entry for each image; an image that is skipped has an error."""


# Logits and maps of pixels of the network's size. Shape: [N, H, W, 3] to [N, C] and [N, C or 1, h, w].
ExplainFunction = Callable[[Pixels], tuple[Floats, Floats]]


@runtime_checkable
class MapPredictor(Protocol):
    """A predictor whose model may have been exported with maps."""

    has_maps: bool

    def explain(self, pixels_NHWC: Pixels) -> tuple[Floats, Floats]:
        """Logits and maps. Shape: [N, H, W, 3] of the network's size to [N, C] and [N, C, h, w]."""
        ...


@dataclass(frozen=True)
class Explainer:
    """A model that is ready to explain its predictions."""

    run: str | None
    name: str
    explain: ExplainFunction
    # Whether each label has a map of its own, or the image one for all.
    by_label: bool
    task: Task
    preprocess: Preprocess


def explain(
    images: OneImage | Sequence[OneImage],
    artifact: Run | Path | str | None = None,
    *,
    out: Path,
    method: MapMethod = "reciprocam",
    labels: Sequence[str] = (),
    progress: Progress = SILENT,
) -> ExplainReport:
    """Draw a map over each image for each label that is predicted, or for those that are named.

    Without an artifact the model of the latest run is used, in torch. An IR gives the maps that it was exported with. A
    file has the name of its image and its label; an earlier one is replaced.
    Raises: InputError for a label that the model does not have; ModelError if its network has no such map; ExportError
    for an IR without maps; RunError, EnvironmentFault as ``ftx.load``.
    """
    if method not in get_args(MapMethod):
        raise InputError(
            f"--map must be {' or '.join(get_args(MapMethod))}", found=shown(method), fix="use --map reciprocam"
        )
    if method == "rollout" and labels:
        raise InputError(
            "--label must not be given for --map rollout, whose map is of the whole image",
            found=shown(labels[0]),
            fix="run the command without --label, or with --map reciprocam",
        )
    if out.exists() and not out.is_dir():
        raise InputError(
            "--out must be a folder for the pictures", found=f"the file {out}", fix="name a folder: --out DIR"
        )
    found = _without_pictures(find_images(images), out)
    explainer = open_explainer(artifact, method, progress)
    _check_labels(labels, explainer.task)
    names = _Names(
        out, [item.name for item in found if isinstance(item.image, EncodedImage)], explainer.task.labels.names
    )
    labels = list(dict.fromkeys(labels))
    explanations: list[Explanation] = []
    with progress.track("Explaining", len(found)) as bar:
        for item in found:
            explanations.append(_explained(item, explainer, labels, names))
            bar.advance()
    return ExplainReport(run=explainer.run, artifact=explainer.name, method=method, images=explanations)


def open_explainer(artifact: Run | Path | str | None, method: MapMethod, progress: Progress) -> Explainer:
    """The model of a run in torch, merged or not; or an exported folder, with the maps in it.

    Raises: as ``explain``.
    """
    by_label = method == "reciprocam"
    if artifact is None or isinstance(artifact, Run) or is_run(Path(artifact)):
        run = artifact if isinstance(artifact, Run) else Run.open(artifact)
        of_run = DENSE if run.has(DENSE) else TRAINED
        model = load_artifact(run, of_run)
        return Explainer(str(run.path), of_run.name, _in_torch(model, method), by_label, model.task, model.preprocess)
    model = load(artifact, progress=progress, allow_failed=True)  # maps may show why it failed
    return Explainer(None, str(artifact), _of(model, method, artifact), by_label, model.task, model.preprocess)


def _of(model: Predictor, method: MapMethod, artifact: Path | str) -> ExplainFunction:
    """The logits and maps of the model of a folder.

    Raises: ExportError for an exported model without maps; InputError for a method that needs torch.
    """
    if model.name == "torch":
        return _in_torch(model, method)
    if method == "rollout":
        raise InputError(
            "--map rollout needs a run: an exported model does not output its attention",
            where=artifact,
            fix="run again with the run of this model: --artifact RUN",
        )
    if isinstance(model, MapPredictor) and model.has_maps:
        return model.explain
    raise ExportError(
        "the model must have an output for saliency maps",
        where=artifact,
        fix="export it with maps: ftx export RUN --explain; or run again with the run of this model: --artifact RUN",
    )


def _in_torch(model: Predictor, method: MapMethod) -> ExplainFunction:
    import torch

    from ftx.explaining.reciprocam import exclusive_groups, explained
    from ftx.explaining.rollout import Rollout
    from ftx.runtimes.torch import TorchPredictor

    assert isinstance(model, TorchPredictor)
    pre = model.preprocess
    groups = exclusive_groups(model.task.labels)
    network = Rollout(model.module) if method == "rollout" else explained(model.module, groups, pre)

    def explain(pixels_NHWC: Pixels) -> tuple[Floats, Floats]:
        with torch.inference_mode():
            logits_NC, maps_NChw, *_ = network(torch.from_numpy(normalise(pixels_NHWC, pre)))
        return logits_NC.float().numpy(), maps_NChw.float().numpy()

    return explain


def _check_labels(labels: Sequence[str], task: Task) -> None:
    for label in labels:
        if label not in task.labels.names:
            alike = nearest(label, task.labels.names)
            fix = f"did you mean '{alike}'?" if alike else f"choose from {listed(task.labels.names)}"
            raise InputError("--label must be a label of the model", found=shown(label), fix=fix)


def _explained(item: Item, explainer: Explainer, labels: Sequence[str], names: _Names) -> Explanation:
    try:
        if isinstance(item.image, ImageError):
            raise item.image
        image = open_image(item.image)
    except ImageError as error:
        prediction = failed_prediction(item.name, error)
        return Explanation(path=prediction.path, error=prediction.error)
    logits_NC, maps_NChw = explainer.explain(resize_crop(image, explainer.preprocess)[None])
    prediction = to_prediction(item.name, logits_NC[0], explainer.task)
    if prediction.error is not None:
        return Explanation(path=prediction.path, error=prediction.error)
    scores_C = explainer.task.scores(logits_NC)[0]
    of_label: Sequence[str | None] = [None]
    if explainer.by_label:  # of independent labels of which none is predicted, the nearest to it
        best = explainer.task.labels.names[int(scores_C.argmax())]
        of_label = labels or [label.name for label in prediction.labels] or [best]
    pictures: list[Picture] = []
    for label in of_label:
        index = 0 if label is None else explainer.task.labels.names.index(label)
        path = names.of(item.name, label)
        with staged_file(path) as staged:
            overlay(image, maps_NChw[0, index], explainer.preprocess).save(staged, format="PNG")
        score = None if label is None else float(scores_C[index])
        pictures.append(Picture(label=label, score=score, path=str(path)))
    return Explanation(path=prediction.path, labels=prediction.labels, pictures=pictures)


class _Names:
    """Names of pictures in one folder, by image and label, in letters that every file system takes."""

    def __init__(self, folder: Path, images: Sequence[str], labels: Sequence[str]) -> None:
        self._folder = folder
        self._images = _plain({image: Path(image).name for image in images})
        self._labels = _plain({label: label for label in (*labels, ROLLOUT)})

    def of(self, image: str, label: str | None) -> Path:
        """The picture of a label, or of the whole image: the same in each call for the same image and labels."""
        return self._folder / f"{self._images[image]}.{self._labels[label or ROLLOUT]}.png"


def _plain(texts: Mapping[str, str]) -> dict[str, str]:
    """Each text in plain letters; with a part of its key's hash where that changed it, or others look the same."""
    short = {
        key: re.sub(r"[^\w.-]+", "_", text).encode()[:MOST_BYTES].decode(errors="ignore").strip(".")
        for key, text in texts.items()
    }
    alike = Counter(text.casefold() for text in short.values())
    return {
        key: plain
        if plain == texts[key] and alike[plain.casefold()] == 1
        else f"{plain}-{sha256(key.encode(errors='surrogateescape')).hexdigest()[:8]}"
        for key, plain in short.items()
    }


def _without_pictures(found: Sequence[Item], out: Path) -> Sequence[Item]:
    """The images that were named, without those in the folder that pictures go into: earlier pictures.

    Raises: InputError where there are no others.
    """
    folder = out.resolve()
    others = [
        item for item in found if isinstance(item.image, ImageError) or folder not in Path(item.name).resolve().parents
    ]
    if all(isinstance(item.image, ImageError) for item in others):
        raise InputError(
            "--out must not be the folder of the images", found=str(out), fix="name another folder: --out DIR"
        )
    return others
