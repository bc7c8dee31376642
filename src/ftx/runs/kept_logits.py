"""``reports/answers/``: an artifact's logits for the held-out images, so that no later command computes them again.

Shapes: N images, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ftx.core.errors import EnvironmentFault
from ftx.core.files import cached_sha256
from ftx.core.progress import SILENT, Progress
from ftx.runs.artifacts import Artifact
from ftx.runs.compute_precision import ComputePrecision, read_compute
from ftx.runs.machine import Machine, this_machine
from ftx.runs.reference_safetensors import sorted_header
from ftx.runs.run import Run
from ftx.tasks.thresholds import Floats

KEPT_LOGITS = Path("reports", "answers")
# Of 50,000 images and 1,000 labels the file would be this large: it is not kept then.
MOST_BYTES = 200_000_000


@dataclass(frozen=True)
class KeptLogits:
    """Logits [N, C] in the order of the run's held-out images, the precision that gave them, and where."""

    logits_NC: Floats
    compute: ComputePrecision
    machine: Machine


def keep_logits(
    run: Run, artifact: Artifact, compute: ComputePrecision, logits_NC: Floats, progress: Progress = SILENT
) -> None:
    """Keep an artifact's logits for all held-out images, each from its file; a run that cannot be written goes without.

    Shape: [N, C].
    """
    if logits_NC.nbytes > MOST_BYTES:
        return
    blob = save(
        {"logits": np.ascontiguousarray(logits_NC, dtype=np.float32)},
        metadata=_made_of(run, artifact) | {"compute": str(compute), "machine": this_machine().model_dump_json()},
    )
    try:
        run.write_file(_file(artifact), sorted_header(blob), progress)
    except EnvironmentFault as fault:
        progress.note(f"the logits of {artifact} are not kept: {fault.what} ({fault.found})")


def read_logits(run: Run, artifact: Artifact) -> KeptLogits | None:
    """An artifact's logits; None if none were kept, or those of another artifact or other images than now."""
    name = _file(artifact)
    path = run.path / name
    try:
        if cached_sha256(path) != run.manifest.files.get(name):
            return None
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            if any(metadata.get(name) != value for name, value in _made_of(run, artifact).items()):
                return None
            logits_NC = file.get_tensor("logits")
            machine = Machine.model_validate_json(metadata["machine"])
            compute = read_compute(metadata["compute"])
    except (OSError, SafetensorError, KeyError, ValueError):  # they are computed again
        return None
    shape = (len(run.report_entries()), len(run.manifest.labels))
    return KeptLogits(logits_NC, compute, machine) if logits_NC.shape == shape else None


def _file(artifact: Artifact) -> str:
    return f"{KEPT_LOGITS.as_posix()}/{artifact.name.replace('/', '-')}.safetensors"


def _made_of(run: Run, artifact: Artifact) -> dict[str, str]:
    manifest = run.manifest
    return {
        "artifact": artifact.name,
        "digest": manifest.digest(artifact),
        "images": manifest.files.get("data.jsonl", ""),
    }
