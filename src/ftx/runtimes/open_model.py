"""From a run, a folder or nothing to a model that answers; a runtime is imported when its model is opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ftx.core.errors import ExportError, InputError, RunError, nearest
from ftx.core.processors import cores
from ftx.core.progress import SILENT, Progress
from ftx.core.user_cache import cache_folder, forget
from ftx.data.preprocess import Preprocess
from ftx.runs.artifacts import ARTIFACTS, DENSE, ONNX_FILE, TRAINED, Artifact
from ftx.runs.card_json import CARD_FILE
from ftx.runs.compute_precision import Compute
from ftx.runs.proof_json import ir_digest
from ftx.runs.run import Run
from ftx.runs.run_json import is_run
from ftx.runs.tuning_json import OpenvinoSetting, TuningGoal, tuned_here
from ftx.runtimes.choose_artifact import ask_for_proof, best_ir, best_of
from ftx.runtimes.predictor import Predictor
from ftx.tasks.base import Task

# Where ``ftx bench --save`` was not asked.
UNTUNED: Mapping[TuningGoal, OpenvinoSetting] = {
    "latency": OpenvinoSetting(batch=16),
    "throughput": OpenvinoSetting(batch=4, streams=cores()),
}
# By which timm and transformers know a folder (ftx.backbones.timm_config, which a device lacks).
DENSE_CONFIG = "config.json"


def load(
    artifact: Run | Path | str | None = None,
    *,
    compute: Compute = "auto",
    goal: TuningGoal = "latency",
    progress: Progress = SILENT,
) -> Predictor:
    """Open a model: an IR folder, a dense or ONNX folder, or the best IR of a run or of a folder of IRs.

    Without one the best of the latest run.

    An IR runs as ``ftx bench --save`` found it fastest on this machine for the ``goal``: one image, or many.

    Raises: RunError, ExportError if it is missing, altered or stale; EnvironmentFault if torch is missing.
    """
    if artifact is None or isinstance(artifact, Run):
        return _load_best(Run.open() if artifact is None else artifact, compute, goal, progress)
    if not isinstance(artifact, Path | str) or not str(artifact):  # pyright: ignore[reportUnnecessaryIsInstance]
        found = type(artifact).__name__ if artifact else "an empty name"
        raise InputError("a model is named by its folder", found=found, fix='ftx.load("runs/flowers/openvino/fp32")')
    folder = Path(artifact)
    if str(artifact) in ARTIFACTS and not folder.exists():  # as ftx eval names it
        return load_artifact(Run.open(), str(artifact), compute=compute)
    if is_run(folder):
        return _load_best(Run.open(folder), compute, goal, progress)
    if folder.is_dir() and not _is_model(folder) and any(folder.glob(f"*/{CARD_FILE}")):
        folder, why = best_of(folder)
        progress.note(f"model: {folder}, {why}")
    predictor = load_folder(folder, compute=compute, goal=goal)
    if predictor.name == "openvino":
        ask_for_proof(folder.parent if folder.is_file() else folder, progress)
    return predictor


def load_folder(folder: Path, *, compute: Compute = "auto", goal: TuningGoal | None = None) -> Predictor:
    """Open the model in one folder, or named by its file in it; without a goal as OpenVINO runs it by itself.

    A dense or ONNX folder inside a run is opened through the run, which knows its hashes and image path.
    Raises: ExportError if there is no model; RunError if the run does not vouch for it.
    """
    given, folder = folder, folder.parent if folder.is_file() else folder
    if (folder / CARD_FILE).is_file():
        Run.check_folder(folder)
        return _ir(folder, compute, goal)
    found = Run.around(folder)
    if found is not None:
        return load_artifact(*found, compute=compute, goal=goal)
    if (folder / DENSE_CONFIG).is_file():
        return _dense(folder)
    onnx_alone = (folder / ONNX_FILE).is_file()
    alike = None if folder.exists() else nearest(str(folder), ARTIFACTS)
    raise ExportError(
        "there is no model here that ftx can open",
        where=given,
        found="an ONNX file outside its run: its image path is in run.json" if onnx_alone else _what_is_there(given),
        fix=f"did you mean {alike}?" if alike else "name a run, or a folder that ftx export wrote (it holds card.json)",
    )


def load_artifact(
    run: Run, artifact: Artifact | str, *, compute: Compute = "auto", goal: TuningGoal | None = None
) -> Predictor:
    """Open one artifact of a run after its hashes and lineage hold; without a goal as OpenVINO runs it by itself.

    Raises: RunError if the run lacks it, or it is altered or stale.
    """
    chosen = artifact_named(run, artifact) if isinstance(artifact, str) else artifact
    folder, manifest = run.require(chosen), run.manifest
    if chosen == TRAINED:
        from ftx.runs.trained import load_trained
        from ftx.runtimes.torch import TorchPredictor

        return TorchPredictor(load_trained(run), manifest.preprocess, run.task)
    if chosen == DENSE:
        return _dense(folder, (manifest.preprocess, run.task))
    if chosen.runtime == "onnx":
        from ftx.runtimes.onnx import OnnxPredictor

        return OnnxPredictor(folder, manifest.preprocess, run.task)
    return _ir(folder, compute, goal)


def load_with_all_tokens(run: Run) -> Predictor:
    """The dense model of a run as timm and transformers open it: with all tokens, whatever it was trained to drop.

    Raises: as ``load_artifact``.
    """
    from ftx.runs.dense import load_dense
    from ftx.runtimes.torch import TorchPredictor

    return TorchPredictor(load_dense(run.require(DENSE), all_tokens=True), run.manifest.preprocess, run.task)


def artifact_named(run: Run, name: str) -> Artifact:
    """The artifact that a user names.

    Raises: RunError if there is none of this name.
    """
    if name not in ARTIFACTS:
        raise RunError(f"a run has no artifact '{name}'", where=run.path, fix=f"choose one of {', '.join(ARTIFACTS)}")
    return ARTIFACTS[name]


def _load_best(run: Run, compute: Compute, goal: TuningGoal, progress: Progress) -> Predictor:
    chosen, why = best_ir(run)
    predictor = load_artifact(run, chosen, compute=compute, goal=goal)
    progress.note(f"model: {run.folder(chosen)}, {why}")
    return predictor


def _ir(folder: Path, compute: Compute, goal: TuningGoal | None) -> Predictor:
    from ftx.runtimes.openvino import OpenVinoPredictor

    if goal is None:
        return OpenVinoPredictor(folder, compute)
    tuned = tuned_here(folder)
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
        )

    # By the digest of the card, which holds the hashes of all files: what OpenVINO goes by may miss other weights.
    cache = cache_folder("openvino", ir_digest(folder))
    if cache is None:
        return opened(None)
    try:
        return opened(cache)
    except ExportError:  # the model's fault, or that of a cache that was cut
        forget(cache)
        return opened(None)


def _dense(folder: Path, of_run: tuple[Preprocess, Task] | None = None) -> Predictor:
    """A dense model in torch; alone, it says itself what its images and logits are."""
    from ftx.runs.dense import load_dense, read_dense, require_fit
    from ftx.runtimes.torch import TorchPredictor

    own, meaning = read_dense(folder)
    preprocess, task = of_run or (own, meaning.open())
    if (own.height, own.width) != (preprocess.height, preprocess.width):
        found = f"{own.image_size} px, the run says {preprocess.image_size}"
        raise ExportError(
            "the dense model is of another image size", where=folder, found=found, fix=f"run: {DENSE.made_by}"
        )
    module = load_dense(folder)
    require_fit(module, folder, preprocess, len(task.labels))
    return TorchPredictor(module, preprocess, task)


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (CARD_FILE, DENSE_CONFIG, ONNX_FILE))


def _what_is_there(folder: Path) -> str:
    if folder.is_file():
        return "a file without a card.json beside it"
    if not folder.is_dir():
        return "no such folder"
    return ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "an empty folder"
