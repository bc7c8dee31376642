"""Which model of a run to predict with: the fastest that is proved on this machine, else the most exact."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ValidationError

from ftx.core.errors import GateFailed, RunError, shell_command
from ftx.core.files import sha256_file
from ftx.core.progress import Progress
from ftx.core.strict_json import JsonError, read_json
from ftx.recipe.schema import Recipe
from ftx.recipe.sections import MAX_DROP
from ftx.runs.card import CARD, PROOF, PROOF_SCHEMA
from ftx.runs.run import Run
from ftx.runtimes.machine import Machine, this_machine

# Without proof the most exact comes first: it is the likeliest to be what was trained.
IR_BY_EXACTNESS = ("openvino/fp32", "openvino/fp16", "openvino/int8")

REPORT = Path("reports", "parity.json")


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


def ask_for_proof(folder: Path, progress: Progress) -> None:
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
