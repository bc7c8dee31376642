"""From a run, a folder or nothing to a model that answers; a runtime is imported when its model is opened."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ValidationError

from ftx.card import CARD, PROOF, PROOF_SCHEMA
from ftx.data.preprocess import Preprocess
from ftx.errors import ExportError, GateFailed, RunError, shell_command
from ftx.files import sha256_file
from ftx.progress import SILENT, Progress
from ftx.recipe import MAX_DROP, Recipe
from ftx.run import MADE_BY, Run
from ftx.runtimes.base import Compute, Predictor
from ftx.runtimes.machine import Machine, this_machine
from ftx.strict_json import JsonError, read_json
from ftx.tasks import Task

# Without proof the most exact comes first: it is the likeliest to be what was trained.
IR_BY_EXACTNESS = ("openvino/fp32", "openvino/fp16", "openvino/int8")

RUN = "run.json"
REPORT = Path("reports", "parity.json")
DENSE_CONFIG = "config.json"
ONNX_MODEL = "model.onnx"


def load(
    artifact: Run | Path | str | None = None, *, compute: Compute = "auto", progress: Progress = SILENT
) -> Predictor:
    """Open a model: an IR folder, a dense or ONNX folder, or the best IR of a run (of the latest run by default).

    Raises: RunError, ExportError if it is missing, altered or stale; EnvironmentFault if torch is missing.
    """
    if artifact is None or isinstance(artifact, Run):
        return _load_best(Run.open() if artifact is None else artifact, compute, progress)
    folder = Path(artifact)
    if str(artifact) in MADE_BY and not folder.exists():  # as ftx eval names it
        return load_artifact(Run.open(), str(artifact), compute=compute)
    if (folder / RUN).is_file():
        return _load_best(Run.open(folder), compute, progress)
    predictor = load_folder(folder, compute=compute)
    if predictor.name == "openvino":
        _ask_for_proof(folder.parent if folder.is_file() else folder, progress)
    return predictor


class _Found(BaseModel):
    machine: Machine
    verdict: str
    max_drop: float


class _Proof(BaseModel):
    """What is read here of proof.json."""

    schema_version: int
    ir: str
    run: _Found | None = None
    devices: list[_Found] = []


def _ask_for_proof(folder: Path, progress: Progress) -> None:
    """Say where nobody has validated this very model on this kind of machine, or where it is not proved."""
    found = _found_here(folder)
    again = shell_command("ftx validate", folder)
    if found is None:
        progress.note(f"nobody has validated this model on this CPU and version of OpenVINO: {again}")
    elif found.verdict != "proved":
        progress.note(f"this model is {found.verdict} on this machine: {again}")


def _found_here(folder: Path) -> _Found | None:
    """What this machine found of the model, by the margin of its run or a narrower one; None where it found nothing."""
    try:
        proof = _Proof.model_validate(read_json(folder / PROOF))
    except (OSError, JsonError, ValidationError):
        return None
    if (proof.schema_version, proof.ir) != (PROOF_SCHEMA, sha256_file(folder / CARD)):
        return None
    margin = proof.run.max_drop if proof.run else MAX_DROP
    known = [*proof.devices, *([proof.run] if proof.run else [])]
    return next((one for one in known if one.machine == this_machine() and one.max_drop <= margin), None)


def load_folder(folder: Path, *, compute: Compute = "auto") -> Predictor:
    """Open the model in one folder, or named by its file in it.

    A dense or ONNX folder inside a run is opened through the run, which knows its hashes and image path.
    Raises: ExportError if there is no model; RunError if the run does not vouch for it.
    """
    if folder.is_file():
        folder = folder.parent
    if (folder / CARD).is_file():
        from ftx.runtimes.openvino import OpenVinoPredictor

        return OpenVinoPredictor(folder, compute)
    inside_run = (folder.absolute().parent / RUN).is_file()
    if inside_run and folder.name in ("trained", "dense", "onnx"):
        return load_artifact(Run.open(folder.parent), folder.name, compute=compute)
    if (folder / DENSE_CONFIG).is_file():
        return _dense(folder)
    onnx_alone = (folder / ONNX_MODEL).is_file()
    raise ExportError(
        "there is no model here that ftx can open",
        where=folder,
        found="an ONNX file outside its run: its image path is in run.json" if onnx_alone else _what_is_there(folder),
        mend="name a run, or a folder that ftx export wrote (it holds card.json)",
    )


def load_artifact(run: Run, artifact: str, *, compute: Compute = "auto") -> Predictor:
    """Open one artifact of a run after its hashes and lineage hold.

    Raises: RunError if the run lacks it, or it is altered or stale.
    """
    if artifact not in MADE_BY:
        raise RunError(
            f"a run has no artifact '{artifact}'", where=run.path, mend=f"choose one of {', '.join(MADE_BY)}"
        )
    folder = run.require(artifact)
    manifest = run.manifest
    if artifact == "trained":
        from ftx.runtimes.torch import TorchPredictor
        from ftx.training.trained import load_trained

        return TorchPredictor(load_trained(run), manifest.preprocess, run.task)
    if artifact == "dense":
        return _dense(folder, (manifest.preprocess, run.task))
    if artifact == "onnx":
        from ftx.runtimes.onnx import OnnxPredictor

        return OnnxPredictor(folder, manifest.preprocess, run.task)
    return load_folder(folder, compute=compute)


def best_ir(run: Run) -> tuple[str, str]:
    """The IR of a run to predict with, and why: the fastest that is proved on this machine, else the most exact.

    Raises: RunError if the run holds none; GateFailed if all have failed.
    """
    held = [name for name in IR_BY_EXACTNESS if run.has(name)]
    if not held:
        raise RunError(
            "this run has no OpenVINO model yet",
            where=run.path,
            found=f"it holds {', '.join(run.artifacts())}",
            mend=f"run: {shell_command('ftx export --format openvino', run.path)}",
        )
    parity = _read_parity(run)
    why = parity.why_not(run) if parity else "nothing was validated yet"
    latency_ms = parity.proved(run) if parity and why is None else {}
    if latency_ms:
        name = min(latency_ms, key=lambda name: latency_ms[name])
        others = [f"{other} {ms:.1f} ms" for other, ms in latency_ms.items() if other != name]
        beside = f"; {', '.join(others)}" if others else ", the only one"
        return name, f"the fastest proved one on this machine: {latency_ms[name]:.1f} ms an image{beside}"
    failed = parity.failed(run) if parity else set()
    left = [name for name in held if name not in failed]
    if not left:
        raise GateFailed(
            "every OpenVINO model of this run failed ftx validate",
            where=run.path / REPORT,
            mend=f"export it again, or name one to use it all the same: --artifact {run.path / held[0]}",
        )
    again = shell_command("ftx validate", run.path)
    return left[0], f"the most exact, as {why or 'none is proved'}: {again}"


def furthest(run: Run) -> str:
    """The artifact of a run nearest to the edge: its best IR that has not failed, else dense, else what was trained."""
    if any(run.has(name) for name in IR_BY_EXACTNESS):
        try:
            return best_ir(run)[0]
        except GateFailed:  # each failed: the model that they were made from is the nearest that did not
            pass
    return "dense" if run.has("dense") else "trained"


class _Row(BaseModel):
    artifact: str
    view: str
    compute: str
    latency_ms: float


class _Parity(BaseModel):
    """What is read here of reports/parity.json."""

    rows: list[_Row]
    verdicts: dict[str, str]
    max_drop: float
    machine: Machine
    digests: dict[str, str]

    def why_not(self, run: Run) -> str | None:
        """Why what is proved there is not proved here; None where it is."""
        if self.machine != this_machine():
            return f"ftx validate ran on another machine ({self.machine})"
        if self.max_drop > MAX_DROP and self.max_drop > Recipe.load(run.file("recipe.yaml")).validation.max_drop:
            return f"ftx validate was asked with a wider margin than the recipe's (--max-drop {self.max_drop:g})"
        return None

    def proved(self, run: Run) -> dict[str, float]:
        """Milliseconds an image of each IR that is proved, as it is deployed."""
        names = [name for name, verdict in self.verdicts.items() if verdict == "proved" and self._still(run, name)]
        return {
            row.artifact: row.latency_ms
            for row in self.rows
            if row.artifact in names and row.view == "graph" and row.compute.startswith("auto:")
        }

    def failed(self, run: Run) -> set[str]:
        """The artifacts that failed, on whatever machine, and are the same files still."""
        return {name for name, verdict in self.verdicts.items() if verdict == "failed" and self._still(run, name)}

    def _still(self, run: Run, name: str) -> bool:
        """Whether it is the artifact that was asked, and made from the dense model that the run holds now."""
        manifest = run.manifest
        line = manifest.lineage.get(name)
        fresh = line is not None and line.digest == manifest.digest(line.made_from)
        return fresh and run.has(name) and manifest.digest(name) == self.digests.get(name)


def _read_parity(run: Run) -> _Parity | None:
    """The last validation of a run; None where there is none, or one by another version."""
    try:
        return _Parity.model_validate(read_json(run.path / REPORT))
    except (OSError, JsonError, ValidationError):
        return None


def _load_best(run: Run, compute: Compute, progress: Progress) -> Predictor:
    name, why = best_ir(run)
    progress.note(f"model: {run.path / name}, {why}")
    return load_artifact(run, name, compute=compute)


def _dense(folder: Path, of_run: tuple[Preprocess, Task] | None = None) -> Predictor:
    """A dense model in torch; alone, it says itself what its images and logits are."""
    from ftx.backbones.dense import load_dense, read_dense, require_fit
    from ftx.runtimes.torch import TorchPredictor

    own, meaning = read_dense(folder)
    preprocess, task = of_run or (own, meaning.open())
    if (own.height, own.width) != (preprocess.height, preprocess.width):
        found = f"{own.image_size} px, the run says {preprocess.image_size}"
        raise ExportError("the dense model is of another image size", where=folder, found=found, mend="run: ftx merge")
    module = load_dense(folder)
    require_fit(module, folder, preprocess, len(task.labels))
    return TorchPredictor(module, preprocess, task)


def _what_is_there(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    return ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "an empty folder"
