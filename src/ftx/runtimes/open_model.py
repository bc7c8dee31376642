"""Opens a model by its run or folder, or the newest one; a runtime is imported when its model is opened."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict, Unpack

from ftx.core.errors import ExportError, GateFailed, InputError, RunError, nearest, shell_command
from ftx.core.processors import cores
from ftx.core.progress import SILENT, Progress
from ftx.core.user_cache import cache_folder, forget
from ftx.runs.artifacts import ARTIFACTS, DENSE, EXPORT_IR, IRS, ONNX, ONNX_FILE, TRAINED, Artifact
from ftx.runs.calibration import COVERAGE
from ftx.runs.card_json import CARD_FILE
from ftx.runs.compute_precision import Compute
from ftx.runs.machine import CPU, this_machine, this_set
from ftx.runs.proof_json import ir_digest, read_proof
from ftx.runs.run import Run
from ftx.runs.run_json import is_run
from ftx.runs.tuning_json import OpenvinoSetting, TuningGoal, tuned_here
from ftx.runtimes.choose_artifact import best_ir, best_of, check_proof
from ftx.runtimes.predictor import Predictor
from ftx.runtimes.uncertainty import Uncertainty

# Without ``ftx bench --save``.
UNTUNED: Mapping[TuningGoal, OpenvinoSetting] = {
    "latency": OpenvinoSetting(batch=16),
    "throughput": OpenvinoSetting(batch=4, streams=cores()),
}
# By which timm and transformers know a folder (ftx.backbones.timm_config, which a device lacks).
DENSE_CONFIG = "config.json"


class LoadOptions(TypedDict, total=False):
    """Where a model runs, and what verdict on it there is enough."""

    device: str
    """The device of OpenVINO: CPU (the default), GPU, NPU or AUTO."""
    require_proof: bool
    """Whether a model that is not proved on this machine is an error."""
    coverage: float
    """The fraction of images whose prediction set contains their label, on average over calibration sets."""
    allow_failed: bool
    """Whether a model that failed on this machine is no error."""


def load(
    artifact: Run | Path | str | None = None,
    *,
    compute: Compute = "auto",
    goal: TuningGoal = "latency",
    progress: Progress = SILENT,
    **options: Unpack[LoadOptions],
) -> Predictor:
    """Open a model: an IR folder, a dense or ONNX folder, or the best IR of a run or of a folder of IRs.

    The default is the best of the latest run. An IR uses the settings that ``ftx bench --save`` found fastest on this
    machine for the ``goal``: one image, or many. ``device`` is OpenVINO's name of what runs it, by default the CPU.

    Raises: RunError, ExportError if it is missing, altered or stale; EnvironmentFault if torch or the device is
    missing; GateFailed if it failed ``ftx validate`` on this machine, except with ``allow_failed``, or, with
    ``require_proof``, is not proved there.
    """
    device = options.get("device", CPU)
    if artifact is None or isinstance(artifact, Run):
        return _load_best(Run.open() if artifact is None else artifact, compute, goal, progress, options)
    if not isinstance(artifact, Path | str) or not str(artifact):  # pyright: ignore[reportUnnecessaryIsInstance]
        found = type(artifact).__name__ if artifact else "an empty name"
        raise InputError(
            "the model must be the path of its folder",
            found=found,
            fix='give the path, for example ftx.load("runs/flowers/openvino/fp32")',
        )
    folder = Path(artifact)
    if str(artifact) in ARTIFACTS and not folder.exists():  # as for ftx eval
        predictor = load_artifact(Run.open(), str(artifact), compute=compute, device=device)
        _check_verdict(predictor, progress, options)
        return predictor
    if is_run(folder):
        return _load_best(Run.open(folder), compute, goal, progress, options)
    if folder.is_dir() and not _is_model(folder) and any(folder.glob(f"*/{CARD_FILE}")):
        folder, why = best_of(folder, device)
        progress.note(f"model: {folder}, {why}")
    predictor = load_folder(folder, compute=compute, goal=goal, device=device)
    _check_verdict(predictor, progress, options)
    return predictor


def _check_verdict(predictor: Predictor, progress: Progress, options: LoadOptions) -> None:
    """Check what ``ftx validate`` found of the model on this machine. Raises: GateFailed, as ``load``."""
    from ftx.runtimes.openvino import OpenVinoPredictor

    if isinstance(predictor, OpenVinoPredictor):
        _check_proof(predictor.folder, progress, options)
        _note_doubts(predictor, progress, options)
    elif options.get("require_proof"):
        raise GateFailed(
            "--require-proof needs an OpenVINO model: ftx validate verifies only these for a machine",
            found=predictor.name,
            fix=f"export one: {EXPORT_IR}",
        )


def _check_proof(folder: Path, progress: Progress, options: LoadOptions) -> None:
    check_proof(
        folder,
        progress,
        device=options.get("device", CPU),
        require_proof=options.get("require_proof", False),
        allow_failed=options.get("allow_failed", False),
    )


def _note_doubts(predictor: Predictor, progress: Progress, options: LoadOptions) -> None:
    """Set the coverage of prediction sets, and note what is guaranteed; also of the bound of int8-checked.

    Later, note if the images are not those that the bound was measured on. Raises: InputError for the coverage.
    """
    from ftx.runtimes.openvino import OpenVinoPredictor

    coverage = options.get("coverage", COVERAGE)
    if not 0 < coverage < 1:
        raise InputError("--coverage must be between 0 and 1", found=f"{coverage:g}", fix="use --coverage 0.95")
    if not isinstance(predictor, OpenVinoPredictor):
        return
    predictor.uncertainty = uncertainty_of(predictor, coverage)
    if predictor.uncertainty is not None:
        progress.note(predictor.uncertainty.guarantee)
    if not predictor.checked:
        return
    again = f"{shell_command('ftx validate', predictor.folder)} --data DIR"
    predictor.checked.note = lambda text: progress.note(f"{text}: {again}")
    if predictor.certificate is None:
        known = predictor.checked.bound < math.inf
        instead = "it uses the largest bound of others" if known else "each image also runs in fp32"
        progress.note(f"int8-checked is not certified on this CPU and version of OpenVINO: {instead}")


def uncertainty_of(predictor: Predictor, coverage: float = COVERAGE) -> Uncertainty | None:
    """By the calibration for the kernels that it runs with; else by the first one, unproved. None without any.

    Raises: ExportError if the file of the calibrations is damaged.
    """
    from ftx.runtimes.openvino import OpenVinoPredictor

    if not isinstance(predictor, OpenVinoPredictor):
        return None
    known = read_proof(predictor.folder).calibrations
    way = (this_set(), predictor.compute.dtype, predictor.kernel_path, this_machine().openvino, predictor.device)
    here = next((one for one in known if one.way == way), None)
    if here is not None:
        return Uncertainty(predictor.task, here, coverage)
    return Uncertainty(predictor.task, known[0], coverage, elsewhere=True) if known else None


def load_folder(
    folder: Path, *, compute: Compute = "auto", goal: TuningGoal | None = None, device: str = CPU
) -> Predictor:
    """Open the model in one folder, or named by its file in it; without a goal with OpenVINO's own settings.

    A dense or ONNX folder inside a run is opened through the run, which has its hashes and preprocessing.
    Raises: ExportError if there is no model; RunError if the run has other hashes for it.
    """
    given, folder = folder, folder.parent if folder.is_file() else folder
    if (folder / CARD_FILE).is_file():
        Run.check_folder(folder)
        return _ir(folder, compute, goal, device)
    found = Run.around(folder)
    if found is not None:
        return load_artifact(*found, compute=compute, goal=goal, device=device)
    if (folder / DENSE_CONFIG).is_file():
        return _dense(None, folder)
    onnx_outside = (folder / ONNX_FILE).is_file()
    alike = None if folder.exists() else nearest(str(folder), ARTIFACTS)
    raise ExportError(
        "there is no model here that ftx can open",
        where=given,
        found="an ONNX file outside its run: its preprocessing is in run.json"
        if onnx_outside
        else _what_is_there(given),
        fix=f"did you mean {alike}?"
        if alike
        else "name a run, or a folder that ftx export wrote (it contains card.json)",
    )


def load_artifact(
    run: Run,
    artifact: Artifact | str,
    *,
    compute: Compute = "auto",
    goal: TuningGoal | None = None,
    device: str = CPU,
) -> Predictor:
    """Check the hashes and lineage of one artifact of a run, and open it; without a goal with OpenVINO's own settings.

    Raises: RunError if the run lacks it, or it is altered or stale; InputError if it cannot run on the device.
    """
    chosen = artifact_named(run, artifact) if isinstance(artifact, str) else artifact
    folder = run.require(chosen)
    if chosen in IRS.values():
        return _ir(folder, compute, goal, device)
    if device != CPU:
        raise InputError(
            "--device needs an OpenVINO model",
            where=folder,
            found=device,
            fix=f"export one: {EXPORT_IR}; or use --device {CPU}",
        )
    return OPENERS[chosen](run, folder)


def load_with_all_tokens(run: Run) -> Predictor:
    """The dense model of a run as timm and transformers open it: with all tokens, also those it was trained to drop.

    Raises: as ``load_artifact``.
    """
    from ftx.runs.dense import load_dense
    from ftx.runtimes.torch import TorchPredictor

    return TorchPredictor(load_dense(run.require(DENSE), all_tokens=True), run.manifest.preprocess, run.task)


def artifact_named(run: Run, name: str) -> Artifact:
    """The artifact of this name.

    Raises: RunError if there is none.
    """
    if name not in ARTIFACTS:
        raise RunError(f"a run has no artifact '{name}'", where=run.path, fix=f"choose from {', '.join(ARTIFACTS)}")
    return ARTIFACTS[name]


def _load_best(run: Run, compute: Compute, goal: TuningGoal, progress: Progress, options: LoadOptions) -> Predictor:
    device = options.get("device", CPU)
    chosen, why = best_ir(run, device)
    progress.note(f"model: {run.folder(chosen)}, {why}")
    _check_proof(run.folder(chosen), SILENT, options)
    predictor = load_artifact(run, chosen, compute=compute, goal=goal, device=device)
    _note_doubts(predictor, progress, options)
    return predictor


def _trained(run: Run, folder: Path) -> Predictor:
    from ftx.runs.trained import load_trained
    from ftx.runtimes.torch import TorchPredictor

    return TorchPredictor(load_trained(run), run.manifest.preprocess, run.task)


def _dense(run: Run | None, folder: Path) -> Predictor:
    """A dense model in torch; without a run, by the labels and preprocessing in the folder itself."""
    from ftx.runs.dense import load_dense, read_dense, require_fit
    from ftx.runtimes.torch import TorchPredictor

    own, meaning = read_dense(folder)
    preprocess, task = (run.manifest.preprocess, run.task) if run else (own, meaning.open())
    if (own.height, own.width) != (preprocess.height, preprocess.width):
        found = f"{own.image_size} px, the run has {preprocess.image_size}"
        raise ExportError(
            "the dense model must have the image size of its run",
            where=folder,
            found=found,
            fix=f"merge again: {DENSE.made_by}",
        )
    module = load_dense(folder)
    require_fit(module, folder, preprocess, len(task.labels))
    return TorchPredictor(module, preprocess, task)


def _onnx(run: Run, folder: Path) -> Predictor:
    from ftx.runtimes.onnx import OnnxPredictor

    return OnnxPredictor(folder, run.manifest.preprocess, run.task)


def _ir(folder: Path, compute: Compute, goal: TuningGoal | None, device: str) -> Predictor:
    from ftx.runtimes.openvino import OpenVinoPredictor

    if goal is None:
        return OpenVinoPredictor(folder, compute, device=device)
    tuned = tuned_here(folder) if device == CPU else None
    setting = tuned.setting(goal) if tuned else UNTUNED[goal]

    def opened(cache: Path | None) -> Predictor:
        return OpenVinoPredictor(
            folder,
            setting.compute if compute == "auto" else compute,
            threads=setting.threads,
            streams=setting.streams,
            batch=setting.batch,
            cache=cache,
            kernels="single" if goal == "latency" else "batch",
            device=device,
        )

    # By the digest of the card, which contains the hashes of all files: OpenVINO's own key may miss other weights.
    cache = cache_folder("openvino", ir_digest(folder))
    try:
        return opened(cache)
    except ExportError:  # because of the model, or of a cache that was cut
        if cache is None:
            raise
        forget(cache)
        return opened(None)


# What opens each artifact of a run in its folder, except the IRs.
OPENERS: Mapping[Artifact, Callable[[Run, Path], Predictor]] = {TRAINED: _trained, DENSE: _dense, ONNX: _onnx}


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (CARD_FILE, DENSE_CONFIG, ONNX_FILE))


def _what_is_there(folder: Path) -> str:
    if folder.is_file():
        return "a file without a card.json next to it"
    if not folder.is_dir():
        return "no such folder"
    return ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "an empty folder"
