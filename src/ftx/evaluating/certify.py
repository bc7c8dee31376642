"""How far the float model moves the decisions of the quick one on calibration images: the bound of int8-checked.

Shapes: N images, C labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from ftx.core.errors import ExportError, ImageError
from ftx.core.files import check_writable
from ftx.core.progress import SILENT, Progress, ProgressTask
from ftx.data.image_store import EncodedImage, ImageLike, ImageStore
from ftx.evaluating.latency import files_latency_ms
from ftx.evaluating.measure import file_logits, stacked
from ftx.evaluating.parity_images import certifying_images
from ftx.evaluating.predict import look_up, no_images
from ftx.runs.card_json import read_card
from ftx.runs.certificate import Certificate, QuickModel
from ftx.runs.certificate_json import keep_certificates, read_certificates
from ftx.runs.machine import Machine, this_machine, this_set
from ftx.runs.proof_json import forget_calibrations
from ftx.runs.run import Run
from ftx.runs.views import KernelPath
from ftx.runtimes.openvino import OpenVinoPredictor, default_compute, kernel_paths
from ftx.tasks.decisions import margins, movements
from ftx.tasks.thresholds import Flags, Floats


def certify_run(run: Run, folder: Path, data: Path | None, progress: Progress = SILENT) -> None:
    """Certify the int8-checked model of a run in this process, on images that nothing else has used.

    A run without such images gets no certificate. Raises: as ``certify``.
    """
    entries, source = certifying_images(run)
    if entries:
        store = ImageStore(run.data_root(data))
        keep_certificates(folder, certify(folder, [store[entry] for entry in entries], source, progress), progress)


def certify_device(folder: Path, data: Path, progress: Progress = SILENT) -> None:
    """Certify an int8-checked folder in this process, on unlabelled images; copies of an image count once.

    Raises: InputError if there are none; ImageError for one that cannot be read; EnvironmentFault if the folder cannot
    be written.
    """
    check_writable(folder)
    distinct: dict[str, EncodedImage] = {}
    items = look_up([data])
    for item in items:
        if not isinstance(item.image, ImageError):
            with item.image.open() as file:
                distinct[sha256(file.read()).hexdigest()] = item.image
    if not distinct:
        raise no_images([data], items)
    keep_certificates(folder, certify(folder, list(distinct.values()), f"images in {data}", progress), progress)
    forget_calibrations(folder)  # of images that ran twice by the old bound


def is_certified(folder: Path) -> bool:
    """Whether each way in which this process may run an int8-checked folder has a certificate."""
    known = read_certificates(folder).measured(this_set(), default_compute().dtype, this_machine().openvino)
    # By number: with only AVX2, a model that is opened for batches has the kernels for single images too.
    return len(known) >= len(_ways(folder))


def _ways(folder: Path) -> list[tuple[QuickModel, KernelPath]]:
    """How this process may run the quick model of an int8-checked folder."""
    ways: list[tuple[QuickModel, KernelPath]] = [("int8", path) for path in kernel_paths(folder, "auto")]
    return [*ways, ("bf16", "batch")] if default_compute().dtype == "bf16" else ways


def certified_on(machine: Machine, folder: Path, max_drop: float) -> str | None:
    """Why at most ``max_drop`` of the labels of int8-checked differ from its float model's on a machine; or None.

    Only certificates that this machine measured count: another may compute other logits.
    """
    known = [one for one in read_certificates(folder).certificates if one.machine == machine]
    worst = max(known, key=lambda one: one.differ_at_most, default=None)
    return worst.at_most if worst is not None and worst.differ_at_most <= max_drop else None


def certify(folder: Path, images: Sequence[ImageLike], source: str, progress: Progress = SILENT) -> list[Certificate]:
    """A certificate for each way in which this machine runs an int8-checked model: many images, and single ones.

    ``images`` must not have trained the model, calibrated or chosen its int8 setting. Nothing is written.
    Raises: ExportError for the folder; ImageError, DataError for an image.
    """
    found: list[Certificate] = []
    ways = _ways(folder)
    with progress.track("Certifying", (len(ways) + 1) * len(images)) as bar:
        exact = OpenVinoPredictor(folder, part="fp32")
        exact_NC, exact_ms = file_logits(exact, images, bar), files_latency_ms(exact, images)
        for quick, path in ways:
            predictor = _opened(folder, quick, path)
            logits_NC, tied_N = _quick_logits(predictor, images, bar)
            time = files_latency_ms(predictor, images) / exact_ms
            found.append(certificate_of(predictor, quick, logits_NC, tied_N, exact_NC, source, time))
    return found


def _opened(folder: Path, quick: QuickModel, path: KernelPath) -> OpenVinoPredictor:
    """The quick model; of one that drops patches, the images whose patches tie run in float, as they always do."""
    if not read_card(folder).keep_tokens:
        return OpenVinoPredictor(folder, kernels=path, part=quick)
    predictor = OpenVinoPredictor(folder, kernels=path, quick=quick)
    assert predictor.checked is not None
    predictor.checked.bound = -math.inf
    return predictor


def _quick_logits(
    predictor: OpenVinoPredictor, images: Sequence[ImageLike], progress: ProgressTask
) -> tuple[Floats, Flags]:
    """The logits, and which images ran in float. Shape: [N, C] and [N]."""
    ran: list[bool] = []

    def logits() -> Iterator[Floats | ImageError]:
        for output in predictor.ran_from_files(images):
            if not isinstance(output, ImageError):
                ran.append(output[1] == "fp32")
            yield output if isinstance(output, ImageError) else output[0]

    return stacked(logits(), progress), np.array(ran)


def certificate_of(
    predictor: OpenVinoPredictor,
    quick: QuickModel,
    logits_NC: Floats,
    tied_N: Flags,
    exact_NC: Floats,
    source: str,
    time_vs_fp32: float,
) -> Certificate:
    """The certificate for the quick model as it is opened, by its logits and the float model's. Shape: [N, C] each.

    ``tied_N`` are the images that run in float whatever the bound is. ``time_vs_fp32`` is the time of one image without
    other second runs, divided by that of the float model.
    Raises: ExportError if a logit is not finite.
    """
    if not (np.isfinite(logits_NC).all() and np.isfinite(exact_NC).all()):
        raise ExportError(
            "the logits of a model must be finite",
            where=predictor.folder,
            found=f"NaN or infinity on {source}",
            fix="export another precision: --precision fp32",
        )
    task = predictor.task
    bound = max(0.0, float(movements(task, logits_NC, exact_NC).max()))
    doubtful_N = ~tied_N & (margins(task, logits_NC) <= bound)
    same_N = (task.predicted(logits_NC) == task.predicted(exact_NC)).all(axis=1)
    return Certificate(
        machine=this_machine(),
        isa=this_set(),
        quick=quick,
        compute=predictor.compute,
        kernels=predictor.kernel_path,
        source=source,
        images=len(same_N),
        bound=bound,
        changed=int((~same_N).sum()),
        twice=int((tied_N | doubtful_N).sum()),
        time_vs_fp32=time_vs_fp32 + float(doubtful_N.mean()),
    )
